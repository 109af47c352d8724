//! The aarch64 baseline: boards without `sdot` (Cortex-A53, A72: i.MX8M, Raspberry Pi 4), and the kernels that
//! [`super::dotprod`] shares.
//!
//! A kernel takes four rows at a time, one in each lane of its sums, and up to four columns: the weights are unpacked
//! once for all of them. Everything inside a block is integer and exact, and every lane keeps the order of the
//! definition in [`crate::quant::reference::scalar`], so the result is bit-identical to it.
//!
//! Instructions for 256 weights of a row and a single column, everything counted (`objdump` of the inner loop, by
//! four rows): Q4_K 114, of them 32 multiplications, Q6_K 157 (also 32); with `sdot` 98 and 141, of them 16. Q8_0 118 and
//! 94, Q5_0 162 and 154, Q4_0 116 and 106.

use super::intrinsics::*;
use super::unpack::{Rows32, Rows256};
use super::{attention, interleaved};
use crate::gguf::GgmlType;
use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::dispatch::Kernels;
use crate::quant::format::activations::{self, Activations, Q8Chunk, Q8kChunk};
use crate::quant::format::blocks;
use crate::quant::reference::floats;
use bytemuck::cast_slice;
use std::ops::Range;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Neon,
    supported: || true,
    tiles: false,
    // plain Rust over fixed-size arrays: NEON is in the target's baseline, so these are compiled to it
    quantize_q8: activations::quantize_q8,
    quantize_q8k: activations::quantize_q8k,
    matmul,
    matmul_interleaved: Some(|ty, w, k, acts, col0, out| {
        interleaved::matmul(interleaved::Mull, ty, w, k, acts, col0, out);
    }),
    silu_mul: floats::silu_mul::<true>,
    rms_norm: floats::rms_norm::<true>,
    attend: attention::attend,
};

/// Rows that share a pass: the elements of a vector of i32.
pub(in crate::quant) const ROWS: usize = 4;
/// Columns that share one unpacking of the weights.
const COLUMNS: usize = 4;

/// What a level multiplies with.
///
/// `|x| <= 127`: the quantisation of activations clamps. `|w| <= max`, a constant of the type that holds for any bytes
/// of a file (128 where it stores int8): it picks the cheapest sum that cannot overflow.
pub(in crate::quant) trait Dot: Copy {
    /// For each of four rows, the sum of 32 products.
    fn four_32(self, w: [[int8x16_t; 2]; ROWS], x: [int8x16_t; 2], max: i32) -> int32x4_t;
    /// For each of four rows, the sum of 16 products.
    fn four_16(self, w: [int8x16_t; ROWS], x: int8x16_t, max: i32) -> int32x4_t;
}

/// Products by `smull` and `smlal`, 8 at a time, in i16.
#[derive(Clone, Copy)]
struct Mull;

impl Dot for Mull {
    #[inline(always)]
    fn four_32(self, w: [[int8x16_t; 2]; ROWS], x: [int8x16_t; 2], max: i32) -> int32x4_t {
        if 4 * max * 127 <= I16 {
            // four products a lane
            let mut p = [vdupq_n_s16(0); ROWS];
            for (p, w) in p.iter_mut().zip(w) {
                *p = add_products(products(w[0], x[0]), w[1], x[1]);
            }
            sum_lanes(p, 4 * max * 127)
        } else {
            // two products a lane: 2 * 128 * 127 = 32512 fits i16
            let mut p = [vdupq_n_s32(0); ROWS];
            for (p, w) in p.iter_mut().zip(w) {
                *p = vpadalq_s16(vpaddlq_s16(products(w[0], x[0])), products(w[1], x[1]));
            }
            reduce(p)
        }
    }

    #[inline(always)]
    fn four_16(self, w: [int8x16_t; ROWS], x: int8x16_t, max: i32) -> int32x4_t {
        // two products a lane: 2 * 128 * 127 = 32512 fits i16
        let mut p = [vdupq_n_s16(0); ROWS];
        for (p, w) in p.iter_mut().zip(w) {
            *p = products(w, x);
        }
        sum_lanes(p, 2 * max * 127)
    }
}

const I16: i32 = i16::MAX as i32;

/// Sums of two products a lane.
#[inline(always)]
fn products(w: int8x16_t, x: int8x16_t) -> int16x8_t {
    mlal_high(mull_low(w, x), w, x)
}

/// Two more products a lane.
#[inline(always)]
fn add_products(p: int16x8_t, w: int8x16_t, x: int8x16_t) -> int16x8_t {
    mlal_high(mlal_low(p, w, x), w, x)
}

/// The sums of the elements of each of four vectors whose elements are at most `bound` in magnitude: as many of the three
/// halvings in i16 as cannot overflow.
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

/// The sums of the elements of each of four vectors.
#[inline(always)]
pub(in crate::quant) fn reduce(p: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]))
}

/// `N` consecutive vectors of `x` from value `at` on.
#[inline(always)]
pub(in crate::quant) fn load_x<const N: usize>(x: &[i8; 256], at: usize) -> [int8x16_t; N] {
    let mut vectors = [vdupq_n_s8(0); N];
    for (v, x) in vectors.iter_mut().zip(x[at..][..16 * N].as_chunks().0) {
        *v = load_s8(x);
    }
    vectors
}

/// See [`Kernels::matmul`], which has checked the sizes.
fn matmul(
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let w = crate::quant::wanted(ty, w, k, out);
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => floats::matmul(ty, w, k, acts, col0, out),
        GgmlType::Q4_0 => rows_32::<blocks::Q4_0>(w, k, acts, col0, out),
        GgmlType::Q4_1 => rows_32::<blocks::Q4_1>(w, k, acts, col0, out),
        GgmlType::Q5_0 => rows_32::<blocks::Q5_0>(w, k, acts, col0, out),
        GgmlType::Q5_1 => rows_32::<blocks::Q5_1>(w, k, acts, col0, out),
        GgmlType::Q8_0 => rows_32::<blocks::Q8_0>(w, k, acts, col0, out),
        GgmlType::IQ4_NL => rows_32::<blocks::Iq4Nl>(w, k, acts, col0, out),
        GgmlType::Q2_K => rows_256::<blocks::Q2K>(w, k, acts, col0, out),
        GgmlType::Q3_K => rows_256::<blocks::Q3K>(w, k, acts, col0, out),
        GgmlType::Q4_K => rows_256::<blocks::Q4K>(w, k, acts, col0, out),
        GgmlType::Q5_K => rows_256::<blocks::Q5K>(w, k, acts, col0, out),
        GgmlType::Q6_K => rows_256::<blocks::Q6K>(w, k, acts, col0, out),
        GgmlType::Q8_K => rows_256::<blocks::Q8K>(w, k, acts, col0, out),
    }
}

fn rows_32<B: Rows32>(w: &[u8], k: usize, acts: &Activations, col0: usize, out: &mut RowTile<'_>) {
    let cols = 0..out.cols();
    matmul_32(Mull, cast_slice::<u8, B>(w), k / 32, acts, col0, cols, out);
}

fn rows_256<B: Rows256>(
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let cols = 0..out.cols();
    matmul_256(Mull, cast_slice::<u8, B>(w), k / 256, acts, col0, cols, out);
}

/// Calls `pass(w, x)` for every four rows and up to four of the columns `cols` of `out`, and stores what it returns.
/// `$blocks` blocks a row, `$column` gives the chunks of a column. Rows and columns past the end are repeated, and
/// their results dropped.
macro_rules! passes {
    ($out:ident, $cols:ident, $w:ident, $blocks:ident, $column:expr, $pass:ident::<$D:ident, $B:ident>($dot:ident)) => {
        let rows = $out.rows();
        for r0 in (0..rows).step_by(ROWS) {
            let row = |r: usize| &$w[(r0 + r).min(rows - 1) * $blocks..][..$blocks];
            let w: [&[$B]; ROWS] = [row(0), row(1), row(2), row(3)];
            let keep = ROWS.min(rows - r0);
            let mut put = |c: usize, sums: float32x4_t| {
                $out.column(c)[r0..][..keep].copy_from_slice(&to_array(sums)[..keep]);
            };
            for c0 in $cols.clone().step_by(COLUMNS) {
                let column = |c: usize| $column((c0 + c).min($cols.end - 1));
                match $cols.end - c0 {
                    1 => put(c0, $pass::<$D, $B, 1>($dot, w, [column(0)])[0]),
                    2 => {
                        let sums = $pass::<$D, $B, 2>($dot, w, [column(0), column(1)]);
                        put(c0, sums[0]);
                        put(c0 + 1, sums[1]);
                    }
                    n => {
                        let x = [column(0), column(1), column(2), column(3)];
                        let sums = $pass::<$D, $B, COLUMNS>($dot, w, x);
                        for (c, sums) in sums.into_iter().enumerate().take(n) {
                            put(c0 + c, sums);
                        }
                    }
                }
            }
        }
    };
}

/// Columns `cols` of `out`; column 0 of it is `col0` of `acts`. `w` is `out.rows()` rows of `blocks` blocks.
///
/// Always inlined, so that it is compiled for the level of `dot`.
#[inline(always)]
pub(in crate::quant) fn matmul_32<D: Dot, B: Rows32>(
    dot: D,
    w: &[B],
    blocks: usize,
    acts: &Activations,
    col0: usize,
    cols: Range<usize>,
    out: &mut RowTile<'_>,
) {
    passes!(
        out,
        cols,
        w,
        blocks,
        |c| acts.q8(col0 + c),
        pass_32::<D, B>(dot)
    );
}

/// As [`matmul_32`].
#[inline(always)]
pub(in crate::quant) fn matmul_256<D: Dot, B: Rows256>(
    dot: D,
    w: &[B],
    blocks: usize,
    acts: &Activations,
    col0: usize,
    cols: Range<usize>,
    out: &mut RowTile<'_>,
) {
    passes!(
        out,
        cols,
        w,
        blocks,
        |c| acts.q8k(col0 + c),
        pass_256::<D, B>(dot)
    );
}

/// Four rows, `C` columns, all of `k`; the elements of the results are the rows.
#[inline(always)]
fn pass_32<D: Dot, B: Rows32, const C: usize>(
    dot: D,
    w: [&[B]; ROWS],
    x: [&[Q8Chunk]; C],
) -> [float32x4_t; C] {
    let blocks = w[0].len();
    let w = each(w, |row| &row[..blocks]);
    let mut acc = [vdupq_n_f32(0.0); C];
    for first in (0..blocks).step_by(8) {
        let x = chunks(x, first / 8);
        for i in 0..8.min(blocks - first) {
            let rows = each(w, |row| &row[first + i]);
            let q = each(rows, B::values);
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

/// Chunk `at` of each column.
#[inline(always)]
fn chunks<T, const C: usize>(x: [&[T]; C], at: usize) -> [&T; C] {
    let mut chunks = [&x[0][at]; C];
    for (chunk, x) in chunks.iter_mut().zip(&x) {
        *chunk = &x[at];
    }
    chunks
}

/// Four rows, `C` columns, all of `k`; the elements of the results are the rows.
///
/// In i32: the largest sum of a block is Q6_K's 256 * 63 * 127 * 128 = 2.6e8.
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

/// The sums of a chunk, each times what its group has in `groups`.
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

/// Values `64 J..64 J + 64` of a block.
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
