//! The product by rows, for both levels of aarch64; they differ in what they multiply with ([`Dot`]).
//!
//! A kernel takes four rows at a time, one in each lane of its sums, and up to four columns; the weights are unpacked
//! once for all of them. Everything inside a block is integer and exact, and every lane keeps the order of the
//! definition in [`crate::quant::reference::scalar`], so the result is bit-identical to it.
//!
//! Instructions for 256 weights of a row and a single column, everything counted (`objdump` of the inner loop, by four
//! rows), with `smull` and with `sdot`: Q4_K 114 and 98, Q6_K 157 and 141, Q8_0 118 and 94, Q5_0 162 and 154, Q4_0 116 and
//! 106. Of those of Q4_K and Q6_K, 32 are multiplications with `smull` and 16 with `sdot`.

use super::intrinsics::*;
use super::unpack::{ROWS, Rows32, Rows256};
use crate::pool::RowTile;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::kernels::Product;
use std::ops::Range;

/// Columns that share one unpacking of the weights.
const COLUMNS: usize = 4;

/// What a level multiplies with.
///
/// `|x| <= 127` always holds, because the quantisation of activations clamps. `|w| <= max` is a constant of the format that
/// holds for any bytes of a file (128 where it stores int8); it picks the cheapest sum that cannot overflow.
pub(in crate::quant) trait Dot: Copy {
    /// For each of four rows, the sum of 32 products.
    fn four_32(self, w: [[int8x16_t; 2]; ROWS], x: [int8x16_t; 2], max: i32) -> int32x4_t;
    /// For each of four rows, the sum of 16 products.
    fn four_16(self, w: [int8x16_t; ROWS], x: int8x16_t, max: i32) -> int32x4_t;
}

/// The sums of the elements of each of four vectors.
#[inline(always)]
pub(in crate::quant) fn reduce(p: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]))
}

/// Defines the product of the formats of one trait. `$column` gives the chunks of a column, and `$pass` multiplies four rows by
/// one, two or four of them. Rows and columns past the end are repeated, and their results are dropped.
macro_rules! product {
    ($product:ident, $Rows:ident, $column:ident, $pass:ident) => {
        /// Columns `cols` of the result; see [`crate::quant::Kernels::matmul`].
        ///
        /// It is always inlined, so that it is compiled for the level of `dot`.
        #[inline(always)]
        pub(in crate::quant) fn $product<D: Dot, B: $Rows>(
            dot: D,
            product: &Product<'_>,
            cols: Range<usize>,
            out: &mut RowTile<'_>,
        ) {
            let (acts, col0) = (product.activations, product.first_column);
            let rows = out.rows();
            let (w, blocks) = (product.blocks::<B>(rows), product.row_blocks());
            for r0 in (0..rows).step_by(ROWS) {
                let row = |r: usize| &w[(r0 + r).min(rows - 1) * blocks..][..blocks];
                let w: [&[B]; ROWS] = [row(0), row(1), row(2), row(3)];
                let keep = ROWS.min(rows - r0);
                let mut put = |c: usize, sums: float32x4_t| {
                    out.column(c)[r0..][..keep].copy_from_slice(&to_array(sums)[..keep]);
                };
                for c0 in cols.clone().step_by(COLUMNS) {
                    let column = |c: usize| acts.$column(col0 + (c0 + c).min(cols.end - 1));
                    match cols.end - c0 {
                        1 => put(c0, $pass::<D, B, 1>(dot, w, [column(0)])[0]),
                        2 => {
                            let sums = $pass::<D, B, 2>(dot, w, [column(0), column(1)]);
                            put(c0, sums[0]);
                            put(c0 + 1, sums[1]);
                        }
                        n => {
                            let x = [column(0), column(1), column(2), column(3)];
                            let sums = $pass::<D, B, COLUMNS>(dot, w, x);
                            for (c, sums) in sums.into_iter().enumerate().take(n) {
                                put(c0 + c, sums);
                            }
                        }
                    }
                }
            }
        }
    };
}
product!(matmul_32, Rows32, q8, pass_32);
product!(matmul_256, Rows256, q8k, pass_256);

/// Multiplies four rows by `C` columns over all of `k`; the elements of the results are the rows.
#[inline(always)]
fn pass_32<D: Dot, B: Rows32, const C: usize>(
    dot: D,
    w: [&[B]; ROWS],
    x: [&[Q8Chunk]; C],
) -> [float32x4_t; C] {
    let blocks = w[0].len();
    let w = each(w, |row| &row[..blocks]);
    let mut acc = [vdupq_n_f32(0.0); C];
    let parts = blocks * B::PARTS;
    for first in (0..parts).step_by(8) {
        let x = chunks(x, first / 8);
        for i in 0..8.min(parts - first) {
            let (b, part) = ((first + i) / B::PARTS, i % B::PARTS);
            let rows = each(w, |row| &row[b]);
            let q = each(rows, |block| block.values(part));
            if let Some(d) = B::two_scales(rows, part) {
                for (acc, x) in acc.iter_mut().zip(&x) {
                    let values: [int8x16_t; 2] = load_x(&x.q, 32 * i);
                    for half in 0..2 {
                        let sum = dot.four_16(each(q, |q| q[half]), values[half], B::MAX);
                        let d = vmulq_n_f32(d[half], x.scale[i]);
                        *acc = vfmaq_f32(*acc, vcvtq_f32_s32(sum), d);
                    }
                }
                continue;
            }
            let (d, m) = (B::d(rows), B::m(rows));
            for (acc, x) in acc.iter_mut().zip(&x) {
                let mut sum = dot.four_32(q, load_x(&x.q, 32 * i), B::MAX);
                if B::OFFSET != 0 {
                    sum = vmlsq_s32(sum, vdupq_n_s32(x.sum[i]), vdupq_n_s32(B::OFFSET));
                }
                *acc = vfmaq_f32(*acc, vcvtq_f32_s32(sum), vmulq_n_f32(d, x.scale[i]));
                if B::HAS_MIN {
                    *acc = vfmaq_n_f32(*acc, m, x.scaled_sum[i]);
                }
            }
        }
    }
    acc
}

/// The chunk `at` of each column.
#[inline(always)]
fn chunks<T, const C: usize>(x: [&[T]; C], at: usize) -> [&T; C] {
    let mut chunks = [&x[0][at]; C];
    for (chunk, x) in chunks.iter_mut().zip(&x) {
        *chunk = &x[at];
    }
    chunks
}

/// Multiplies four rows by `C` columns over all of `k`; the elements of the results are the rows.
///
/// Sums of a block fit int32: the largest is Q6_K's 256 * 63 * 127 * 128 = 2.6e8.
#[inline(always)]
fn pass_256<D: Dot, B: Rows256, const C: usize>(
    dot: D,
    w: [&[B]; ROWS],
    x: [&[Q8kChunk]; C],
) -> [float32x4_t; C] {
    let blocks = w[0].len();
    let w = each(w, |row| &row[..blocks]);
    let mut acc = [vdupq_n_f32(0.0); C];
    for b in 0..blocks {
        let rows = each(w, |row| &row[b]);
        let x = chunks(x, b);
        let scales = B::scales(rows);
        let mut sum = [vdupq_n_s32(0); C];
        if B::OFFSET != 0 {
            for (sum, x) in sum.iter_mut().zip(&x) {
                *sum = vmlsq_s32(*sum, of_sums::<B>(&scales, x), vdupq_n_s32(B::OFFSET));
            }
        }
        quarter::<D, B, C, 0>(dot, rows, x, &scales, &mut sum);
        quarter::<D, B, C, 1>(dot, rows, x, &scales, &mut sum);
        quarter::<D, B, C, 2>(dot, rows, x, &scales, &mut sum);
        quarter::<D, B, C, 3>(dot, rows, x, &scales, &mut sum);
        let d = B::d(rows);
        for ((acc, x), sum) in acc.iter_mut().zip(&x).zip(&sum) {
            *acc = vfmaq_f32(*acc, vcvtq_f32_s32(*sum), vmulq_n_f32(d, x.scale));
        }
        if B::HAS_MIN {
            let (mins, dmin) = (B::mins(rows), B::dmin(rows));
            for (acc, x) in acc.iter_mut().zip(&x) {
                let sum = vcvtq_f32_s32(of_sums::<B>(&mins, x));
                *acc = vfmsq_f32(*acc, sum, vmulq_n_f32(dmin, x.scale));
            }
        }
    }
    acc
}

/// The sum over the groups of a chunk: each group's sum of activations times its element of `groups`.
#[inline(always)]
fn of_sums<B: Rows256>(groups: &[int16x4_t; 16], x: &Q8kChunk) -> int32x4_t {
    #[inline(always)]
    fn eight(acc: int32x4_t, g: &[int16x4_t], x: &[i16]) -> int32x4_t {
        let mut sums = [0; 8];
        sums.copy_from_slice(x);
        let x = load_s16(&sums);
        let acc = vmlal_laneq_s16::<0>(acc, g[0], x);
        let acc = vmlal_laneq_s16::<1>(acc, g[1], x);
        let acc = vmlal_laneq_s16::<2>(acc, g[2], x);
        let acc = vmlal_laneq_s16::<3>(acc, g[3], x);
        let acc = vmlal_laneq_s16::<4>(acc, g[4], x);
        let acc = vmlal_laneq_s16::<5>(acc, g[5], x);
        let acc = vmlal_laneq_s16::<6>(acc, g[6], x);
        vmlal_laneq_s16::<7>(acc, g[7], x)
    }
    let zero = vdupq_n_s32(0);
    if B::GROUP == 32 {
        eight(zero, &groups[..8], &x.sums32)
    } else {
        eight(
            eight(zero, &groups[..8], &x.sums[..8]),
            &groups[8..],
            &x.sums[8..],
        )
    }
}

/// Adds the products of values `64 J..64 J + 64` of a block, each group times its scale.
#[inline(always)]
fn quarter<D: Dot, B: Rows256, const C: usize, const J: usize>(
    dot: D,
    rows: [&B; ROWS],
    x: [&Q8kChunk; C],
    scales: &[int16x4_t; 16],
    sum: &mut [int32x4_t; C],
) {
    let q = each(rows, B::values::<J>);
    for (sum, x) in sum.iter_mut().zip(&x) {
        let x: [int8x16_t; 4] = load_x(&x.q, 64 * J);
        if B::GROUP == 32 {
            for half in 0..2 {
                let q = each(q, |q| [q[2 * half], q[2 * half + 1]]);
                let products = dot.four_32(q, [x[2 * half], x[2 * half + 1]], B::MAX);
                *sum = vmlaq_s32(*sum, products, vmovl_s16(scales[2 * J + half]));
            }
        } else {
            for i in 0..4 {
                let products = dot.four_16(each(q, |q| q[i]), x[i], B::MAX);
                *sum = vmlaq_s32(*sum, products, vmovl_s16(scales[4 * J + i]));
            }
        }
    }
}
