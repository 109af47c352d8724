//! GPT-2's alphabet, in which each byte is written as one printable character.
//!
//! The table is that of `bytes_to_unicode` in OpenAI's `gpt-2/src/encoder.py`: bytes that print in Latin-1 stand for
//! themselves, and the other 68 are U+0100 and those after it, in order.

const fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character of each byte.
const CHARS: [char; 256] = {
    let mut table = ['\0'; 256];
    let (mut byte, mut next) = (0usize, 0x100u32);
    while byte < 256 {
        table[byte] = if prints(byte as u8) {
            byte as u8 as char
        } else {
            next += 1;
            match char::from_u32(next - 1) {
                Some(c) => c,
                None => panic!("U+0100..U+0144 are characters"),
            }
        };
        byte += 1;
    }
    table
};

/// The byte of each character, none where the character stands for no byte. U+0143 is the last that does.
static BYTES: [Option<u8>; 0x144] = {
    let mut table = [None; 0x144];
    let mut byte = 0;
    while byte < 256 {
        table[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    table
};

/// The character that stands for `byte`.
#[cfg(test)]
pub(super) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte that `c` stands for.
fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

/// Appends the bytes that a token of this alphabet stands for. A character that stands for no byte means itself; gives whether
/// there was none of these.
pub(super) fn decode(token: &str, out: &mut Vec<u8>) -> bool {
    let mut all = true;
    for c in token.chars() {
        if let Some(byte) = byte_of(c) {
            out.push(byte);
        } else {
            all = false;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn known_letters() {
        for (byte, c) in [
            (b'A', 'A'),
            (b' ', 'Ġ'),
            (b'\n', 'Ċ'),
            (b'\t', 'ĉ'),
            (0, 'Ā'),
            (0xE2, 'â'),
            (0xAD, 'Ń'),
        ] {
            assert_eq!(char_of(byte), c);
        }
    }

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        for c in [' ', '\u{AD}', '\u{144}', '▁', '\u{10FFFF}'] {
            assert_eq!(byte_of(c), None, "{c:?}");
            let mut bytes = Vec::new();
            assert!(!decode(&format!("A{c}B"), &mut bytes));
            assert_eq!(bytes, format!("A{c}B").as_bytes());
        }
        let (mut bytes, all) = (Vec::new(), (0..=255).map(char_of).collect::<String>());
        assert!(decode(&all, &mut bytes));
        assert!(bytes.iter().copied().eq(0..=255));
    }
}
