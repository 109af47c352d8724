//! From rows of a grid and signs to unsigned bytes.

use super::unpack::Block256;
use crate::quant::format::grids::{OnGrid, Part};
use std::arch::x86_64::*;

impl<B: OnGrid> Block256 for B {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes(&self) -> [__m256i; 8] {
        let mut q = [_mm256_setzero_si256(); 8];
        for i in 0..8 {
            let Part { rows, signs } = self.part(i);
            let [a, b, c, d] = rows.map(u64::cast_signed);
            let (rows, minus) = (_mm256_set_epi64x(d, c, b, a), minus(signs));
            let offset = Self::ADDED as i8;
            q[i] = if B::MOVED {
                // one more, or two less than that
                let more = _mm256_add_epi8(rows, _mm256_set1_epi8(offset + 1));
                _mm256_add_epi8(more, _mm256_add_epi8(minus, minus))
            } else {
                let more = _mm256_sub_epi8(_mm256_set1_epi8(offset), minus);
                _mm256_add_epi8(more, _mm256_xor_si256(rows, minus))
            };
        }
        q
    }
}

/// -1 for each bit that is set, and 0 for the others.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn minus(signs: u32) -> __m256i {
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let byte = _mm256_set_epi64x(
        0x0303_0303_0303_0303,
        0x0202_0202_0202_0202,
        0x0101_0101_0101_0101,
        0,
    );
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(signs.cast_signed()), byte);
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
}
