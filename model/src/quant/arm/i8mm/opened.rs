//! Four rows of 256 weights, unpacked for any number of columns, and their product with some pairs of columns.
//!
//! Every vector has two rows, and every sum two rows of two columns: element `2 c + r` is row `r` of column `c`. What is of a
//! row alone (scales) lies as rows 0, 1, 0, 1, and what is of a column alone as columns 0, 0, 1, 1.

use super::pairs::{self, PAIRS};
use super::smmla::Smmla;
use crate::quant::arm::intrinsics::*;
use crate::quant::format::activations::{Activations, Q8Tile, Q8kTile};

/// One vector for each pair of the four rows.
pub(super) type Two<T> = [T; 2];

/// Weights that are unpacked.
pub(super) trait Opened {
    /// What 256 values of sixteen columns lie in.
    type Tile;
    /// Room for them, with nothing in it yet.
    fn empty() -> Self;
    /// The chunks of tile `t`.
    fn tile(activations: &Activations, t: usize) -> &[Self::Tile];
    /// Multiplies them with pairs `pair..pair + C` of columns, and adds that to the first `C` of `acc`.
    fn multiply<const C: usize>(
        &self,
        smmla: Smmla,
        x: &Self::Tile,
        pair: usize,
        acc: &mut [Two<float32x4_t>],
    );
}

/// At most eight blocks of 32: `w = d * value`, plus `m` where the format has one.
pub(super) struct Of32<const HAS_MIN: bool> {
    /// How many blocks there are.
    pub(super) blocks: usize,
    /// The values of each block, eight at a time.
    pub(super) values: [[Two<int8x16_t>; 4]; 8],
    pub(super) d: [Two<float32x4_t>; 8],
    pub(super) m: [Two<float32x4_t>; 8],
}

/// A block of 256 in groups of `GROUP`: `w = d * scale * value`, less `dmin * min` where the format has one.
pub(super) struct Of256<const GROUP: usize, const HAS_MIN: bool> {
    /// The values, eight at a time.
    pub(super) values: [Two<int8x16_t>; 32],
    /// The scale of each group; the first `256 / GROUP` count.
    pub(super) scales: [Two<int32x4_t>; 16],
    /// The mins of eight groups; the first `256 / GROUP` mins count.
    pub(super) mins: [Two<int8x16_t>; 2],
    pub(super) d: Two<float32x4_t>,
    pub(super) dmin: Two<float32x4_t>,
}

impl<const HAS_MIN: bool> Opened for Of32<HAS_MIN> {
    type Tile = Q8Tile;

    fn empty() -> Self {
        Self {
            blocks: 0,
            values: [[[vdupq_n_s8(0); 2]; 4]; 8],
            d: [[vdupq_n_f32(0.0); 2]; 8],
            m: [[vdupq_n_f32(0.0); 2]; 8],
        }
    }

    fn tile(activations: &Activations, t: usize) -> &[Q8Tile] {
        activations.q8_tile(t)
    }

    #[inline(always)]
    fn multiply<const C: usize>(
        &self,
        smmla: Smmla,
        x: &Q8Tile,
        pair: usize,
        acc: &mut [Two<float32x4_t>],
    ) {
        assert!(pair + C <= PAIRS && acc.len() >= C && self.blocks <= 8);
        let q = pairs::values(&x.q);
        let mut sums = [[vdupq_n_f32(0.0); 2]; C];
        sums.copy_from_slice(&acc[..C]);
        for b in 0..self.blocks {
            let mut products = [[vdupq_n_s32(0); 2]; C];
            for e in 0..4 {
                let w = self.values[b][e];
                for c in 0..C {
                    let x = load_s8(&q[4 * b + e][pair + c]);
                    products[c][0] = smmla.add(products[c][0], x, w[0]);
                    products[c][1] = smmla.add(products[c][1], x, w[1]);
                }
            }
            for c in 0..C {
                let scale = of_columns(&x.scale[b], pair + c);
                for r in 0..2 {
                    let scale = vmulq_f32(self.d[b][r], scale);
                    sums[c][r] = vfmaq_f32(sums[c][r], vcvtq_f32_s32(products[c][r]), scale);
                }
                if HAS_MIN {
                    let sum = of_columns(&x.scaled_sum[b], pair + c);
                    for r in 0..2 {
                        sums[c][r] = vfmaq_f32(sums[c][r], self.m[b][r], sum);
                    }
                }
            }
        }
        acc[..C].copy_from_slice(&sums);
    }
}

impl<const GROUP: usize, const HAS_MIN: bool> Opened for Of256<GROUP, HAS_MIN> {
    type Tile = Q8kTile;

    fn empty() -> Self {
        Self {
            values: [[vdupq_n_s8(0); 2]; 32],
            scales: [[vdupq_n_s32(0); 2]; 16],
            mins: [[vdupq_n_s8(0); 2]; 2],
            d: [vdupq_n_f32(0.0); 2],
            dmin: [vdupq_n_f32(0.0); 2],
        }
    }

    fn tile(activations: &Activations, t: usize) -> &[Q8kTile] {
        activations.q8k_tile(t)
    }

    #[inline(always)]
    fn multiply<const C: usize>(
        &self,
        smmla: Smmla,
        x: &Q8kTile,
        pair: usize,
        acc: &mut [Two<float32x4_t>],
    ) {
        assert!(pair + C <= PAIRS && acc.len() >= C);
        let q = pairs::values(&x.q);
        let mut sums = [[vdupq_n_s32(0); 2]; C];
        for g in 0..256 / GROUP {
            let mut products = [[vdupq_n_s32(0); 2]; C];
            for e in GROUP / 8 * g..GROUP / 8 * (g + 1) {
                let w = self.values[e];
                for c in 0..C {
                    let x = load_s8(&q[e][pair + c]);
                    products[c][0] = smmla.add(products[c][0], x, w[0]);
                    products[c][1] = smmla.add(products[c][1], x, w[1]);
                }
            }
            for c in 0..C {
                for r in 0..2 {
                    sums[c][r] = vmlaq_s32(sums[c][r], products[c][r], self.scales[g][r]);
                }
            }
        }
        for c in 0..C {
            let scale = of_columns(&x.scale, pair + c);
            for r in 0..2 {
                let d = vmulq_f32(self.d[r], scale);
                acc[c][r] = vfmaq_f32(acc[c][r], vcvtq_f32_s32(sums[c][r]), d);
                if HAS_MIN {
                    let mins = self.of_mins(smmla, x, pair + c, r);
                    let dmin = vmulq_f32(self.dmin[r], scale);
                    acc[c][r] = vfmsq_f32(acc[c][r], vcvtq_f32_s32(mins), dmin);
                }
            }
        }
    }
}

impl<const GROUP: usize, const HAS_MIN: bool> Of256<GROUP, HAS_MIN> {
    /// The sum over the groups: each group's sum of activations times its min, the high parts of the sums first.
    #[inline(always)]
    fn of_mins(&self, smmla: Smmla, x: &Q8kTile, pair: usize, r: usize) -> int32x4_t {
        let mut sum = vdupq_n_s32(0);
        if GROUP == 32 {
            let [high, low] = pairs::sums_32(x);
            sum = smmla.add(sum, load_s8(&high[pair]), self.mins[0][r]);
            return smmla.add(vshlq_n_s32::<7>(sum), load_s8(&low[pair]), self.mins[0][r]);
        }
        let eights = pairs::sums_16(x);
        for (mins, [high, _]) in self.mins.iter().zip(eights) {
            sum = smmla.add(sum, load_s8(&high[pair]), mins[r]);
        }
        sum = vshlq_n_s32::<7>(sum);
        for (mins, [_, low]) in self.mins.iter().zip(eights) {
            sum = smmla.add(sum, load_s8(&low[pair]), mins[r]);
        }
        sum
    }
}

/// The numbers of both columns of a pair, each twice.
#[inline(always)]
fn of_columns(x: &[f32; 2 * PAIRS], pair: usize) -> float32x4_t {
    let two = vreinterpretq_f32_u64(vdupq_n_u64(bytemuck::cast(x.as_chunks::<2>().0[pair])));
    vzip1q_f32(two, two)
}

/// The numbers of four rows, two rows to a vector, twice.
#[inline(always)]
pub(super) fn of_rows(x: float32x4_t) -> Two<float32x4_t> {
    let x = vreinterpretq_u64_f32(x);
    [
        vreinterpretq_f32_u64(vzip1q_u64(x, x)),
        vreinterpretq_f32_u64(vzip2q_u64(x, x)),
    ]
}

/// The numbers of four rows, two rows to a vector, twice.
#[inline(always)]
pub(super) fn of_rows_s32(x: int32x4_t) -> Two<int32x4_t> {
    let x = vreinterpretq_u64_s32(x);
    [
        vreinterpretq_s32_u64(vzip1q_u64(x, x)),
        vreinterpretq_s32_u64(vzip2q_u64(x, x)),
    ]
}
