//! The product of many columns with `sdot`: a tile of sixteen columns lies in the elements of four vectors.
//!
//! `sdot` by element multiplies the same four weights with four values of four columns, so nothing has to be added
//! across elements, and a vector of activations serves two rows at a time.
//!
//! For 256 weights of a row and one column of Q4_K that takes 34 instructions (`objdump`): 16 `sdot`, 9 loads, 2 `mla`,
//! 2 `movi`, and a sixteenth of about 90 for unpacking. [`super::rows`] takes 41 with four columns at a time: 16 `sdot`,
//! 8 `movi`, 6 `addp`, 2 `mla`, and a quarter of the unpacking. For Q6_K it is 36 and 57.

use super::intrinsics::*;
use super::sdot::Sdot;
use super::unpack::{ROWS, Rows32, Rows256};
use crate::pool::RowTile;
use crate::quant::format::activations::{Q8Tile, Q8kTile, TILE};
use crate::quant::kernels::Product;

/// Vectors of four columns in a tile.
const FOURS: usize = TILE / 4;
/// Rows that share a load of activations. With two, their products, sums and weights fit the 32 registers.
const PAIR: usize = 2;

/// The wanted columns that lie in one tile.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Part {
    /// The number of the tile.
    pub(in crate::quant) tile: usize,
    /// The first wanted column of the tile.
    pub(in crate::quant) lane: usize,
    /// Which column of the result that is.
    pub(in crate::quant) to: usize,
    /// How many columns are wanted.
    pub(in crate::quant) cols: usize,
}

type Sums<T> = [[T; FOURS]; ROWS];

#[inline(always)]
pub(in crate::quant) fn matmul_32<B: Rows32>(
    dot: Sdot,
    product: &Product<'_>,
    part: Part,
    out: &mut RowTile<'_>,
) {
    let (w, blocks) = (product.blocks::<B>(out.rows()), product.row_blocks());
    for row in (0..out.rows()).step_by(ROWS) {
        let sums = sweep_32(
            dot,
            rows(w, blocks, row),
            product.activations.q8_tile(part.tile),
        );
        store(out, row, part, &sums);
    }
}

#[inline(always)]
pub(in crate::quant) fn matmul_256<B: Rows256>(
    dot: Sdot,
    product: &Product<'_>,
    part: Part,
    out: &mut RowTile<'_>,
) {
    let (w, blocks) = (product.blocks::<B>(out.rows()), product.row_blocks());
    for row in (0..out.rows()).step_by(ROWS) {
        let sums = sweep_256(
            dot,
            rows(w, blocks, row),
            product.activations.q8k_tile(part.tile),
        );
        store(out, row, part, &sums);
    }
}

/// The four rows from `row` on, with the last one repeated past the end.
#[inline(always)]
fn rows<B>(w: &[B], blocks: usize, row: usize) -> [&[B]; ROWS] {
    let last = w.len() / blocks - 1;
    each([0, 1, 2, 3], |r| {
        &w[(row + r).min(last) * blocks..][..blocks]
    })
}

#[inline(always)]
fn store(out: &mut RowTile<'_>, row: usize, part: Part, sums: &Sums<float32x4_t>) {
    let rows = ROWS.min(out.rows() - row);
    let elements = each(*sums, |row| each(row, to_array));
    for c in 0..part.cols {
        let lane = part.lane + c;
        let column = &mut out.column(part.to + c)[row..][..rows];
        for (y, elements) in column.iter_mut().zip(&elements) {
            *y = elements[lane / 4][lane % 4];
        }
    }
}

/// Adds the products of sixteen values of two rows and sixteen columns.
#[inline(always)]
fn sixteen(
    dot: Sdot,
    sums: &mut [[int32x4_t; FOURS]; PAIR],
    w: [int8x16_t; PAIR],
    x: &[[[i8; 4]; TILE]],
) {
    four::<0>(dot, sums, w, &x[0]);
    four::<1>(dot, sums, w, &x[1]);
    four::<2>(dot, sums, w, &x[2]);
    four::<3>(dot, sums, w, &x[3]);
}

/// Adds the products of values `4 I..4 I + 4` of the sixteen.
#[inline(always)]
fn four<const I: i32>(
    dot: Sdot,
    sums: &mut [[int32x4_t; FOURS]; PAIR],
    w: [int8x16_t; PAIR],
    x: &[[i8; 4]; TILE],
) {
    let x: &[[i8; 16]; FOURS] = bytemuck::cast_ref(x);
    for (f, x) in x.iter().enumerate() {
        let x = load_s8(x);
        for (sums, w) in sums.iter_mut().zip(&w) {
            sums[f] = dot.add_by_element::<I>(sums[f], x, *w);
        }
    }
}

/// Multiplies four rows by sixteen columns.
#[inline(always)]
fn sweep_32<B: Rows32>(dot: Sdot, w: [&[B]; ROWS], x: &[Q8Tile]) -> Sums<float32x4_t> {
    let blocks = w[0].len();
    let w = each(w, |row| &row[..blocks]);
    let mut acc = [[vdupq_n_f32(0.0); FOURS]; ROWS];
    let parts = blocks * B::PARTS;
    for (x, first) in x.iter().zip((0..parts).step_by(8)) {
        for i in 0..8.min(parts - first) {
            let (b, part) = ((first + i) / B::PARTS, i % B::PARTS);
            let rows = each(w, |row| &row[b]);
            let (d, m) = (B::d(rows), B::m(rows));
            let (scale, scaled_sum) = (floats(&x.scale[i]), floats(&x.scaled_sum[i]));
            let x = &x.q[8 * i..][..8];
            for (pair, acc) in acc.as_chunks_mut::<PAIR>().0.iter_mut().enumerate() {
                let q0 = minus(rows[2 * pair].values(part), B::OFFSET);
                let q1 = minus(rows[2 * pair + 1].values(part), B::OFFSET);
                let mut sums = [[vdupq_n_s32(0); FOURS]; PAIR];
                sixteen(dot, &mut sums, [q0[0], q1[0]], &x[..4]);
                sixteen(dot, &mut sums, [q0[1], q1[1]], &x[4..]);
                for r in 0..PAIR {
                    let (d, m) = (lane_f32(d, 2 * pair + r), lane_f32(m, 2 * pair + r));
                    for f in 0..FOURS {
                        let (sum, scale) = (vcvtq_f32_s32(sums[r][f]), vmulq_f32(d, scale[f]));
                        acc[r][f] = vfmaq_f32(acc[r][f], sum, scale);
                        if B::HAS_MIN {
                            acc[r][f] = vfmaq_f32(acc[r][f], m, scaled_sum[f]);
                        }
                    }
                }
            }
        }
    }
    acc
}

/// Multiplies four rows by sixteen columns.
#[inline(always)]
fn sweep_256<B: Rows256>(dot: Sdot, w: [&[B]; ROWS], x: &[Q8kTile]) -> Sums<float32x4_t> {
    let blocks = w[0].len().min(x.len());
    let w = each(w, |row| &row[..blocks]);
    let mut acc = [[vdupq_n_f32(0.0); FOURS]; ROWS];
    for (b, x) in x[..blocks].iter().enumerate() {
        let rows = each(w, |row| &row[b]);
        let (d, scales) = (B::d(rows), B::scales(rows));
        let scale = floats(&x.scale);
        for (pair, acc) in acc.as_chunks_mut::<PAIR>().0.iter_mut().enumerate() {
            let mut sums = [[vdupq_n_s32(0); FOURS]; PAIR];
            let two = [rows[2 * pair], rows[2 * pair + 1]];
            quarter::<B, 0>(dot, &mut sums, two, pair, &scales, x);
            quarter::<B, 1>(dot, &mut sums, two, pair, &scales, x);
            quarter::<B, 2>(dot, &mut sums, two, pair, &scales, x);
            quarter::<B, 3>(dot, &mut sums, two, pair, &scales, x);
            for r in 0..PAIR {
                let d = lane_f32(d, 2 * pair + r);
                for f in 0..FOURS {
                    let (sum, scale) = (vcvtq_f32_s32(sums[r][f]), vmulq_f32(d, scale[f]));
                    acc[r][f] = vfmaq_f32(acc[r][f], sum, scale);
                }
            }
        }
        if B::HAS_MIN {
            let (dmin, sums) = (B::dmin(rows), of_sums::<B>(&B::mins(rows), x));
            for r in 0..ROWS {
                let dmin = lane_f32(dmin, r);
                for f in 0..FOURS {
                    let (sum, scale) = (vcvtq_f32_s32(sums[r][f]), vmulq_f32(dmin, scale[f]));
                    acc[r][f] = vfmsq_f32(acc[r][f], sum, scale);
                }
            }
        }
    }
    acc
}

/// Adds the products of values `64 J..64 J + 64` of two rows and sixteen columns, each group times its scale.
#[inline(always)]
fn quarter<B: Rows256, const J: usize>(
    dot: Sdot,
    sums: &mut [[int32x4_t; FOURS]; PAIR],
    rows: [&B; PAIR],
    pair: usize,
    scales: &[int16x4_t; 16],
    x: &Q8kTile,
) {
    let q0 = minus(rows[0].values::<J>(), B::OFFSET);
    let q1 = minus(rows[1].values::<J>(), B::OFFSET);
    let x = &x.q[16 * J..][..16];
    let vectors = B::GROUP / 16;
    for g in 0..4 / vectors {
        let mut products = [[vdupq_n_s32(0); FOURS]; PAIR];
        for v in vectors * g..vectors * (g + 1) {
            sixteen(dot, &mut products, [q0[v], q1[v]], &x[4 * v..][..4]);
        }
        let scale = vmovl_s16(scales[64 / B::GROUP * J + g]);
        for r in 0..PAIR {
            for f in 0..FOURS {
                sums[r][f] = mla_lane(sums[r][f], products[r][f], scale, 2 * pair + r);
            }
        }
    }
}

/// For each row and column, the sum over the groups: the group's sum of activations times its element of `groups`.
#[allow(clippy::needless_range_loop, reason = "the rows go in step")]
#[inline(always)]
fn of_sums<B: Rows256>(groups: &[int16x4_t; 16], x: &Q8kTile) -> Sums<int32x4_t> {
    let pairs: &[[[i16; 2]; TILE]] = if B::GROUP == 32 { &x.sums32 } else { &x.sums };
    let mut sums = [[vdupq_n_s32(0); FOURS]; ROWS];
    for (i, x) in pairs.iter().enumerate() {
        let x: &[[i16; 8]; FOURS] = bytemuck::cast_ref(x);
        let (even, odd) = (vmovl_s16(groups[2 * i]), vmovl_s16(groups[2 * i + 1]));
        for (f, x) in x.iter().enumerate() {
            let (first, second) = low_and_high(load_s16(x));
            for r in 0..ROWS {
                let sum = mla_lane(sums[r][f], first, even, r);
                sums[r][f] = mla_lane(sum, second, odd, r);
            }
        }
    }
    sums
}

/// The values without their offset. For many columns that is cheaper than taking it off with the sums.
#[inline(always)]
pub(in crate::quant) fn minus<const N: usize>(
    mut q: [int8x16_t; N],
    offset: i32,
) -> [int8x16_t; N] {
    if offset != 0 {
        for q in &mut q {
            *q = vsubq_s8(*q, vdupq_n_s8(offset as i8));
        }
    }
    q
}

#[inline(always)]
fn floats(x: &[f32; TILE]) -> [float32x4_t; FOURS] {
    let x: &[[f32; 4]; FOURS] = bytemuck::cast_ref(x);
    [
        load_f32(&x[0]),
        load_f32(&x[1]),
        load_f32(&x[2]),
        load_f32(&x[3]),
    ]
}
