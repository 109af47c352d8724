//! A bounded cursor over bytes that nobody vouches for. It allocates nothing, and checks every length against its limit and
//! against the bytes that are left before it is used.

use super::GgufError;

/// The bytes, and how far they have been read.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

/// Why a read did not succeed; [`ReadError::at`] adds the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Fewer bytes are left than are needed.
    Short,
    /// A length is above its limit.
    TooLong { got: u64, limit: u64 },
    /// A string is not valid UTF-8.
    NotUtf8,
    /// The id is not that of a metadata value type.
    UnknownType(u32),
    /// A value is not one that its type allows.
    Invalid(&'static str),
}

impl ReadError {
    /// Makes the public error, which says what was being read.
    pub(super) fn at(self, what: impl std::fmt::Display) -> GgufError {
        let what = what.to_string();
        match self {
            Self::Short => GgufError::Truncated { what },
            Self::TooLong { got, limit } => GgufError::Limit {
                what: format!("the length of {what}"),
                got,
                limit,
            },
            Self::NotUtf8 => GgufError::invalid(what, "is not UTF-8"),
            Self::UnknownType(id) => {
                GgufError::invalid(what, format_args!("has the unknown value type {id}"))
            }
            Self::Invalid(why) => GgufError::invalid(what, why),
        }
    }
}

impl<'a> Reader<'a> {
    /// Starts at `pos`, which may be anywhere; past the end nothing is left.
    pub(super) fn new(bytes: &'a [u8], pos: usize) -> Self {
        Self { bytes, pos }
    }

    /// Offset of the next byte from the start of the slice.
    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    /// How many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.pos)
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], ReadError> {
        let end = self.pos.checked_add(n).ok_or(ReadError::Short)?;
        let out = self.bytes.get(self.pos..end).ok_or(ReadError::Short)?;
        self.pos = end;
        Ok(out)
    }

    /// The next `N` bytes as an array.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (out, _) = self
            .take(N)?
            .split_first_chunk::<N>()
            .ok_or(ReadError::Short)?;
        Ok(*out)
    }

    /// The next four bytes as a little-endian number.
    pub(super) fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a little-endian number.
    pub(super) fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a 64-bit count of things of at least `each` bytes: at most `cap`, and no more than can still follow.
    pub(super) fn count(&mut self, cap: usize, each: usize) -> Result<usize, ReadError> {
        let got = self.u64()?;
        let limit = cap as u64;
        if got > limit {
            return Err(ReadError::TooLong { got, limit });
        }
        let count = usize::try_from(got).map_err(|_| ReadError::Short)?;
        match count.checked_mul(each) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(ReadError::Short),
        }
    }

    /// Reads a 64-bit length and a string of that many bytes, at most `cap`.
    pub(super) fn str(&mut self, cap: usize) -> Result<&'a str, ReadError> {
        let len = self.count(cap, 1)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| ReadError::NotUtf8)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(len: u64, body: &[u8]) -> Vec<u8> {
        [&len.to_le_bytes()[..], body].concat()
    }

    #[test]
    fn a_length_is_held_against_the_cap_and_against_what_is_left() {
        for (bytes, cap, want) in [
            (string(3, b"abc"), 3, Ok("abc")),
            (
                string(3, b"abc"),
                2,
                Err(ReadError::TooLong { got: 3, limit: 2 }),
            ),
            (string(3, b"ab"), 3, Err(ReadError::Short)),
            (
                string(u64::MAX, b"ab"),
                9,
                Err(ReadError::TooLong {
                    got: u64::MAX,
                    limit: 9,
                }),
            ),
            (string(1 << 31, b"ab"), usize::MAX, Err(ReadError::Short)),
            (string(1, b"\xff"), 9, Err(ReadError::NotUtf8)),
            (vec![1, 0, 0], 9, Err(ReadError::Short)),
            (string(0, b""), 0, Ok("")),
        ] {
            assert_eq!(Reader::new(&bytes, 0).str(cap), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_count_is_multiplied_without_wrapping() {
        let bytes = string(usize::MAX as u64 / 2, b"");
        assert_eq!(
            Reader::new(&bytes, 0).count(usize::MAX, 8),
            Err(ReadError::Short)
        );
        let bytes = string(2, &[0; 16]);
        assert_eq!(Reader::new(&bytes, 0).count(2, 8), Ok(2));
        assert_eq!(Reader::new(&bytes, 0).count(2, 9), Err(ReadError::Short));
    }

    #[test]
    fn a_start_past_the_end_has_nothing_left() {
        let mut reader = Reader::new(b"abc", usize::MAX);
        assert_eq!(reader.remaining(), 0);
        assert_eq!(reader.take(1), Err(ReadError::Short));
        assert_eq!(Reader::new(b"abc", 4).take(0), Err(ReadError::Short));
    }

    proptest! {
        /// Reads anything in any order: that never panics, and never takes more bytes than there were.
        #[test]
        fn any_bytes_any_order(bytes in proptest::collection::vec(any::<u8>(), 0..64), ops in proptest::collection::vec((0u8..5, 0usize..40), 0..16)) {
            let mut reader = Reader::new(&bytes, 0);
            for (op, n) in ops {
                let before = reader.remaining();
                let read = match op {
                    0 => reader.take(n).map(<[u8]>::len).ok(),
                    1 => reader.u32().map(|_| 4).ok(),
                    2 => reader.u64().map(|_| 8).ok(),
                    3 => reader.str(n).map(|s| 8 + s.len()).ok(),
                    _ => reader.count(n, 1).map(|_| 8).ok(),
                };
                if let Some(read) = read {
                    prop_assert_eq!(before - reader.remaining(), read);
                }
                prop_assert!(reader.pos() <= bytes.len());
            }
        }
    }
}
