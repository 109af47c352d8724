//! From rows of a grid and signs to the values of NEON registers.

use super::intrinsics::*;
use super::unpack::{ROWS, Rows256, groups, halves, transpose};
use crate::quant::format::grids::OnGrid;

impl<B: OnGrid> Rows256 for B {
    const MAX: i32 = B::LARGEST;
    const OFFSET: i32 = 0;
    const GROUP: usize = 16;

    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        let [a, b] = part(self, 2 * J);
        let [c, d] = part(self, 2 * J + 1);
        [a, b, c, d]
    }

    #[inline(always)]
    fn scales(rows: [&Self; ROWS]) -> [int16x4_t; 16] {
        groups(transpose(each(rows, |block| load_u8(&block.scales()))))
    }

    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        vmulq_n_f32(halves(each(rows, OnGrid::d)), B::FACTOR)
    }
}

/// Values `32 i..32 i + 32`.
#[inline(always)]
fn part<B: OnGrid>(block: &B, i: usize) -> [int8x16_t; 2] {
    const BYTES: [[u64; 2]; 2] = [
        [0, 0x0101_0101_0101_0101],
        [0x0202_0202_0202_0202, 0x0303_0303_0303_0303],
    ];
    let part = block.part(i);
    let signs = vreinterpretq_u8_u32(vdupq_n_u32(part.signs));
    let bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let mut values = [vdupq_n_s8(0); 2];
    for (v, values) in values.iter_mut().enumerate() {
        let rows = vreinterpretq_u8_u64(load_u64(&[part.rows[2 * v], part.rows[2 * v + 1]]));
        let signs = vqtbl1q_u8(signs, vreinterpretq_u8_u64(load_u64(&BYTES[v])));
        let values_of =
            |rows, minus| vsubq_s8(vreinterpretq_s8_u8(rows), vreinterpretq_s8_u8(minus));
        *values = if B::MOVED {
            // less -1, or less 1 where the bit is set
            let plus = vceqzq_u8(vandq_u8(signs, bits));
            values_of(rows, vorrq_u8(plus, vdupq_n_u8(1)))
        } else {
            let minus = vtstq_u8(signs, bits);
            values_of(veorq_u8(rows, minus), minus)
        };
    }
    values
}
