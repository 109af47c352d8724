//! From rows of a grid and signs to unsigned bytes.

use super::unpack::Block256;
use crate::quant::format::grids::OnGrid;
use crate::quant::x86::group_scales::Grouped;
use std::arch::x86_64::*;

impl<B: OnGrid> Block256 for B {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bytes(&self) -> [__m512i; 4] {
        let mut q = [_mm512_setzero_si512(); 4];
        for i in 0..4 {
            let (first, second) = (self.part(2 * i), self.part(2 * i + 1));
            let [a, b, c, d] = first.rows.map(u64::cast_signed);
            let [e, f, g, h] = second.rows.map(u64::cast_signed);
            let rows = _mm512_set_epi64(h, g, f, e, d, c, b, a);
            let minus = u64::from(second.signs) << 32 | u64::from(first.signs);
            let offset = _mm512_set1_epi8(<B as Grouped>::OFFSET as i8);
            q[i] = if B::MOVED {
                let one = _mm512_set1_epi8(1);
                let (more, less) = (_mm512_add_epi8(offset, one), _mm512_sub_epi8(offset, one));
                _mm512_add_epi8(rows, _mm512_mask_mov_epi8(more, minus, less))
            } else {
                _mm512_mask_sub_epi8(_mm512_add_epi8(offset, rows), minus, offset, rows)
            };
        }
        q
    }
}
