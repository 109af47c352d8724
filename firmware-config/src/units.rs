//! Numbers that carry their units.

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Reads `1400 MiB`, `1.5 GiB`, `800 MB` or a number of bytes. Gives none if it is no size, 0, or larger than any memory.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = match unit {
            "" | "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return None,
        };
        let total = number.trim().parse::<f64>().ok()? * unit;
        // above 2^53 a float no longer counts single bytes
        (1.0..9e15).contains(&total).then_some(Self(total as u64))
    }
}

/// A temperature in degrees Celsius.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Celsius(pub u8);

/// How much a core computes compared with the others, as the kernel's `cpu_capacity` has it. The fastest core of a system has
/// [`Capacity::FULL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capacity(pub u16);

impl Capacity {
    /// Capacity of the fastest core.
    pub const FULL: Self = Self(1024);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("1400 MiB", Some(1400 << 20)),
            ("1.5GiB", Some(3 << 29)),
            (" 800 MB ", Some(800_000_000)),
            ("7", Some(7)),
            ("8 kB", Some(8000)),
            ("0", None),
            ("-1 GiB", None),
            ("1e9 GiB", None),
            ("nan", None),
            ("5 apples", None),
            ("MiB", None),
            ("", None),
        ] {
            assert_eq!(Bytes::parse(text), bytes.map(Bytes), "{text:?}");
        }
    }
}
