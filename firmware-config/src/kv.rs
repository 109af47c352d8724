//! Formats of the KV cache, and the bytes of a page of it.

use crate::limits::PAGE_TOKENS;

/// How keys or values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// `f16`: floats of half precision.
    F16,
    /// `q8_0`: blocks of 32 signed bytes with a half-float scale.
    Q8_0,
    /// `q4_0`: blocks of 32 nibbles (the value plus 8) with a half-float scale. It is for values only, because keys lose too
    /// much by it.
    Q4_0,
}

impl KvFormat {
    /// Values that share a scale. A head's size must be a multiple of this.
    pub const BLOCK: usize = 32;

    /// The name of the format in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// Whether a head of this size can be stored in this format.
    #[must_use]
    pub const fn takes(self, head_dim: usize) -> bool {
        matches!(self, Self::F16) || head_dim.is_multiple_of(Self::BLOCK)
    }

    /// Bytes of one head's key (or value) of one token: those of the quants, then those of the scales.
    #[must_use]
    pub const fn row_bytes(self, head_dim: usize) -> [usize; 2] {
        let scales = head_dim / Self::BLOCK * 2;
        match self {
            Self::F16 => [head_dim * 2, 0],
            Self::Q8_0 => [head_dim, scales],
            Self::Q4_0 => [head_dim / 2, scales],
        }
    }

    /// Bytes of one head's keys (or values) in one page: [`PAGE_TOKENS`] rows of quants, then as many rows of scales.
    #[must_use]
    pub const fn head_bytes(self, head_dim: usize) -> usize {
        let [quants, scales] = self.row_bytes(head_dim);
        PAGE_TOKENS * (quants + scales)
    }
}

/// What is wrong with a text that [`formats`] does not read.
pub const FORMATS: &str =
    "is not `f16`, `q8_0`, or one of these for keys, `/`, and `f16`, `q8_0` or `q4_0` for values";

/// Reads the formats of keys and of values: one name for both, or two with `/` between them. Gives none for other texts; see
/// [`FORMATS`].
#[must_use]
pub fn formats(text: &str) -> Option<(KvFormat, KvFormat)> {
    let (k, v) = text.split_once('/').unwrap_or((text, text));
    let named = |name: &str, formats: &[KvFormat]| {
        formats.iter().copied().find(|format| format.name() == name)
    };
    let (f16, q8, q4) = (KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0);
    Some((named(k, &[f16, q8])?, named(v, &[f16, q8, q4])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_1_5b_costs_what_its_blocks_cost() {
        // 28 layers, 2 heads of 128, keys and values
        let token = |k: KvFormat, v: KvFormat| {
            28 * 2 * (k.head_bytes(128) + v.head_bytes(128)) / PAGE_TOKENS
        };
        assert_eq!(token(KvFormat::F16, KvFormat::F16), 28_672);
        assert_eq!(token(KvFormat::Q8_0, KvFormat::Q8_0), 15_232);
        assert_eq!(token(KvFormat::Q8_0, KvFormat::Q4_0), 11_648);
    }

    #[test]
    fn what_a_page_is_cut_into_is_aligned_for_any_vector() {
        for format in [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0] {
            for head_dim in [32, 64, 96, 128, 256] {
                assert!(format.takes(head_dim));
                assert!(format.head_bytes(head_dim).is_multiple_of(64));
            }
            assert_eq!(format.takes(80), format == KvFormat::F16);
        }
    }
}
