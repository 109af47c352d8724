//! Multiplying by `smull` and `smlal`, in int16: what the neon level multiplies with.

use super::interleaved::Words;
use super::intrinsics::*;
use super::rows::{Dot, reduce};
use super::unpack::ROWS;

/// Products of eight values at a time. As many of them are added in int16 as cannot overflow.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Smull;

const I16: i32 = i16::MAX as i32;

impl Dot for Smull {
    #[inline(always)]
    fn four_32(self, w: [[int8x16_t; 2]; ROWS], x: [int8x16_t; 2], max: i32) -> int32x4_t {
        if 4 * max * 127 <= I16 {
            // four products in each lane
            let mut p = [vdupq_n_s16(0); ROWS];
            for (p, w) in p.iter_mut().zip(w) {
                *p = add_products(products(w[0], x[0]), w[1], x[1]);
            }
            sum_lanes(p, 4 * max * 127)
        } else {
            // two products in each lane: 2 * 128 * 127 = 32512 fits i16
            let mut p = [vdupq_n_s32(0); ROWS];
            for (p, w) in p.iter_mut().zip(w) {
                *p = vpadalq_s16(vpaddlq_s16(products(w[0], x[0])), products(w[1], x[1]));
            }
            reduce(p)
        }
    }

    #[inline(always)]
    fn four_16(self, w: [int8x16_t; ROWS], x: int8x16_t, max: i32) -> int32x4_t {
        // two products in each lane: 2 * 128 * 127 = 32512 fits i16
        let mut p = [vdupq_n_s16(0); ROWS];
        for (p, w) in p.iter_mut().zip(w) {
            *p = products(w, x);
        }
        sum_lanes(p, 2 * max * 127)
    }
}

impl Words for Smull {
    #[inline(always)]
    fn run<const N: usize>(self, w: [[int8x16_t; 4]; N], x: [int8x16_t; N], max: i32) -> int32x4_t {
        let bound = 4 * N as i32 * max * 127;
        if bound > I16 {
            // two words a sum: 2 * 128 * 127 = 32512 fits i16
            let mut sums = [vdupq_n_s32(0); 2];
            for n in 0..N {
                for i in [0, 2] {
                    let p = word_products(w[n][i], x[n], i);
                    let p = add_word(p, w[n][i + 1], x[n], i + 1);
                    sums = [vpadalq_s16(sums[0], p[0]), vpadalq_s16(sums[1], p[1])];
                }
            }
            return vpaddq_s32(sums[0], sums[1]);
        }
        let mut p = word_products(w[0][0], x[0], 0);
        for n in 0..N {
            for i in usize::from(n == 0)..4 {
                p = add_word(p, w[n][i], x[n], i);
            }
        }
        if 2 * bound <= I16 {
            vpaddlq_s16(vpaddq_s16(p[0], p[1]))
        } else {
            vpaddq_s32(vpaddlq_s16(p[0]), vpaddlq_s16(p[1]))
        }
    }
}

/// The sums of two products in each lane.
#[inline(always)]
fn products(w: int8x16_t, x: int8x16_t) -> int16x8_t {
    mlal_high(mull_low(w, x), w, x)
}

/// Adds two more products in each lane.
#[inline(always)]
fn add_products(p: int16x8_t, w: int8x16_t, x: int8x16_t) -> int16x8_t {
    mlal_high(mlal_low(p, w, x), w, x)
}

/// Sums the elements of each of four vectors whose elements are at most `bound` in magnitude, with as many of the three
/// halvings in int16 as cannot overflow.
#[inline(always)]
fn sum_lanes(p: [int16x8_t; 4], bound: i32) -> int32x4_t {
    if 4 * bound <= I16 {
        vpaddlq_s16(vpaddq_s16(vpaddq_s16(p[0], p[1]), vpaddq_s16(p[2], p[3])))
    } else if 2 * bound <= I16 {
        let low = vpaddlq_s16(vpaddq_s16(p[0], p[1]));
        vpaddq_s32(low, vpaddlq_s16(vpaddq_s16(p[2], p[3])))
    } else {
        reduce(each(p, vpaddlq_s16))
    }
}

/// The products of one word of four rows, with two rows in each vector.
#[inline(always)]
fn word_products(w: int8x16_t, x: int8x16_t, i: usize) -> [int16x8_t; 2] {
    let x = every(x, i);
    [mull_low(w, x), mull_high(w, x)]
}

/// Adds the products of another word to `p`.
#[inline(always)]
fn add_word(p: [int16x8_t; 2], w: int8x16_t, x: int8x16_t, i: usize) -> [int16x8_t; 2] {
    let x = every(x, i);
    [mlal_low(p[0], w, x), mlal_high(p[1], w, x)]
}

/// Bytes `4 i..4 i + 4` of `x`, four times.
#[inline(always)]
fn every(x: int8x16_t, i: usize) -> int8x16_t {
    let x = vreinterpretq_s32_s8(x);
    vreinterpretq_s8_s32(match i {
        0 => vdupq_laneq_s32::<0>(x),
        1 => vdupq_laneq_s32::<1>(x),
        2 => vdupq_laneq_s32::<2>(x),
        _ => vdupq_laneq_s32::<3>(x),
    })
}
