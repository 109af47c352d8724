//! Bytes as hexadecimal digits.

/// Writes bytes as digits, in lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads `N` bytes from exactly twice as many digits, of either case.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_nothing_else_is_digits() {
        let bytes = [0, 0x1f, 0xa0, 0xff];
        assert_eq!(hex(&bytes), "001fa0ff");
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("001FA0FF"), Some(bytes));
        for other in [
            "001fa0f",
            "001fa0fff",
            "001fa0f+",
            "+01fa0ff",
            "001fa0fg",
            "",
        ] {
            assert_eq!(unhex::<4>(other), None, "{other}");
        }
    }
}
