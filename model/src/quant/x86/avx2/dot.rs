//! How the products of bytes are summed: in int16 by AVX2, in int32 by VNNI. The sums are exact, so that both give the same bits.

use std::arch::asm;
use std::arch::x86_64::*;

/// The instructions that a level of 256 bits multiplies bytes with.
pub(super) trait Dot {
    /// Whether products are added in int16, of which only so many fit.
    const NARROW: bool;
    /// Adds to `sum` the products of the four unsigned bytes of `w` and the four signed ones of `x` in each element; two by two
    /// if narrow.
    ///
    /// # Safety
    /// The machine has the level's features.
    unsafe fn more(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// Adds to `acc` the products of pairs of int16.
    ///
    /// # Safety
    /// The machine has the level's features.
    unsafe fn pairs(acc: __m256i, a: __m256i, b: __m256i) -> __m256i;
    /// `acc + sum * scale` for sums of [`Self::more`]. The scale is in both int16 of each element.
    ///
    /// # Safety
    /// The machine has the level's features.
    unsafe fn scaled(acc: __m256i, sum: __m256i, scale: __m256i) -> __m256i;
    /// `acc + sum` for sums of [`Self::more`].
    ///
    /// # Safety
    /// The machine has the level's features.
    unsafe fn whole(acc: __m256i, sum: __m256i) -> __m256i;
}

/// How many words' products may be added before they are scaled: `narrow` of them in int16, else `all` that share a scale.
#[inline(always)]
pub(super) const fn run<D: Dot>(narrow: usize, all: usize) -> usize {
    if D::NARROW { narrow } else { all }
}

/// What AVX2 has: `vpmaddubsw` and `vpmaddwd`.
pub(super) struct Madd;

impl Dot for Madd {
    const NARROW: bool = true;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn more(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pairs(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(a, b))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scaled(acc: __m256i, sum: __m256i, scale: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(sum, scale))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn whole(acc: __m256i, sum: __m256i) -> __m256i {
        _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)))
    }
}

/// Defines the same with `vpdpbusd` and `vpdpwssd` in one of their two encodings. They are written out because a function of
/// this level's features cannot inline an intrinsic that needs more.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $encoding:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl Dot for $name {
            const NARROW: bool = false;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn more(mut sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: the instruction works on registers only, and the caller vouches that the machine has it
                unsafe {
                    asm!(concat!($encoding, " vpdpbusd {0}, {1}, {2}"), inout(ymm_reg) sum, in(ymm_reg) w, in(ymm_reg) x,
                        options(pure, nomem, nostack, preserves_flags));
                }
                sum
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn pairs(mut acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: the instruction works on registers only, and the caller vouches that the machine has it
                unsafe {
                    asm!(concat!($encoding, " vpdpwssd {0}, {1}, {2}"), inout(ymm_reg) acc, in(ymm_reg) a, in(ymm_reg) b,
                        options(pure, nomem, nostack, preserves_flags));
                }
                acc
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn scaled(acc: __m256i, sum: __m256i, scale: __m256i) -> __m256i {
                let scale = _mm256_srai_epi32::<16>(scale);
                _mm256_add_epi32(acc, _mm256_mullo_epi32(sum, scale))
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn whole(acc: __m256i, sum: __m256i) -> __m256i {
                _mm256_add_epi32(acc, sum)
            }
        }
    };
}
vnni!(
    /// AVX-VNNI, which processors without AVX-512 have: Alder Lake, its small N series, and what came after.
    Vex,
    "{{vex}}"
);
vnni!(
    /// The same instructions as AVX-512 VNNI encodes them, for machines that have only those. They would choose AVX-512, but can
    /// run this level, so that it is tested on them too.
    Evex,
    "{{evex}}"
);
