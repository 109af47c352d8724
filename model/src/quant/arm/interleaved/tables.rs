//! Formats whose nibbles stand for the values of a table.

use super::{
    Interleaved, Interleaved32, Words, floats, interleaved256, scaled, signed_byte, vector,
};
use crate::quant::arm::intrinsics::*;
use crate::quant::arm::unpack::{high, looked_up, low};
use crate::quant::format::activations::{Activations, Q8kChunk};
use crate::quant::format::blocks::{FP4_VALUES, IQ4_NL_VALUES, e8m0};
use crate::quant::format::interleaved::{Halves, Iq4Xs, Mxfp4, Word};
use bytemuck::cast_ref;

/// The values of a block of 32 in vector `at`: word `i` has values `4 i..4 i + 4`.
#[inline(always)]
fn values(table: &[i8; 16], qs: &[Word; 4], at: usize) -> [[int8x16_t; 4]; 2] {
    let mut values = [[vdupq_n_s8(0); 4]; 2];
    for i in 0..4 {
        let q = vector(&qs[i], at);
        [values[0][i], values[1][i]] = looked_up(table, [low(q), high(q)]);
    }
    values
}

impl Interleaved32 for Mxfp4 {
    const MAX: i32 = 12;
    const OFFSET: i32 = 0;
    #[inline(always)]
    fn values(&self, _: usize, at: usize) -> [[int8x16_t; 4]; 2] {
        values(&FP4_VALUES, &self.qs, at)
    }
    #[inline(always)]
    fn d(&self, at: usize) -> float32x4_t {
        let four: &[[u8; 4]; 4] = cast_ref(&self.e);
        load_f32(&each(four[at], e8m0))
    }
}

/// What `crate::quant::format::blocks::iq4xs_scales` unpacks, for four rows at once, with one signed byte per group of 32 in
/// each lane: groups 0..4, then groups 4..8.
#[inline(always)]
pub(in crate::quant) fn iq4xs_scales(block: &Iq4Xs, at: usize) -> [uint8x16_t; 2] {
    // vector `at` of the halves is half of these bytes
    let halves: &[[u8; 16]; 2] = cast_ref::<Halves, _>(&block.scales_h);
    let halves = load_u8(&halves[at / 2]);
    let words = vector(&block.scales_l, at);
    let mut scales = [vdupq_n_u8(0); 2];
    for i in 0..2 {
        let nibbles = vshlq_u8(vqtbl1q_u8(words, load_u8(&PAIRS[i])), load_s8(&NIBBLES));
        let bits = vshlq_u8(
            vqtbl1q_u8(halves, load_u8(&FOURS[at % 2][i])),
            load_s8(&TWOS),
        );
        let four = vdupq_n_u8(48);
        let scale = vorrq_u8(low(nibbles), vandq_u8(bits, four));
        scales[i] = vsubq_u8(scale, vdupq_n_u8(32));
    }
    scales
}

/// Indices that put bytes `2 i` and `2 i + 1` of each lane in its bytes, each twice: `PAIRS[i]`.
const PAIRS: [[u8; 16]; 2] = {
    let mut pairs = [[0; 16]; 2];
    let mut i = 0;
    while i < 32 {
        let (pair, j) = (i / 16, i % 16);
        pairs[pair][j] = (j / 4 * 4 + 2 * pair + j % 4 / 2) as u8;
        i += 1;
    }
    pairs
};

/// Shifts that make both nibbles of a byte that is there twice.
const NIBBLES: [i8; 16] = [0, -4, 0, -4, 0, -4, 0, -4, 0, -4, 0, -4, 0, -4, 0, -4];

/// Indices that put byte `i` of four neighbouring halves in all bytes of a lane: those of the first four, or of the second four
/// of eight halves.
const FOURS: [[[u8; 16]; 2]; 2] = {
    let mut fours = [[[0; 16]; 2]; 2];
    let mut i = 0;
    while i < 64 {
        let (part, byte, j) = (i / 32, i / 16 % 2, i % 16);
        fours[part][byte][j] = (8 * part + 2 * (j / 4) + byte) as u8;
        i += 1;
    }
    fours
};

/// Shifts that bring each two bits of a byte that is there four times to bits 4 and 5.
const TWOS: [i8; 16] = [4, 2, 0, -2, 4, 2, 0, -2, 4, 2, 0, -2, 4, 2, 0, -2];

interleaved256!(Iq4Xs, iq4xs);

#[inline(always)]
fn iq4xs<S: Words, const V: usize, const C: usize>(
    s: S,
    block: &Iq4Xs,
    at: usize,
    x: [&Q8kChunk; C],
    acc: &mut [[float32x4_t; C]; V],
) {
    for v in 0..V {
        let scales = iq4xs_scales(block, at + v);
        let mut sum = [vdupq_n_s32(0); C];
        for g in 0..8 {
            let w = values(&IQ4_NL_VALUES, &block.qs[g], at + v);
            let scale = signed_byte(scales[g / 4], g % 4);
            for c in 0..C {
                let products = s.run(w, load_x::<2>(&x[c].q, 32 * g), 127);
                sum[c] = vmlaq_s32(sum[c], products, scale);
            }
        }
        let d = floats(&block.d, at + v);
        for c in 0..C {
            acc[v][c] = scaled(acc[v][c], sum[c], d, x[c].scale);
        }
    }
}
