//! The aarch64 baseline: boards without `sdot` (Cortex-A53, A72: i.MX8M, Raspberry Pi 4), and the kernels that
//! [`super::dotprod`] shares.
//!
//! A kernel takes four rows at a time, one in each lane of its sums, and up to four columns: the weights are unpacked
//! once for all of them. Everything inside a block is integer and exact, and every lane keeps the order of the
//! definition in [`super::scalar`], so the result is bit-identical to it.

use super::activations::{self, Activations, Q8Chunk, Q8kChunk};
use super::blocks;
use super::dispatch::Kernels;
use super::neon_blocks::{Rows32, Rows256};
use super::neon_ops::*;
use super::{Isa, lanes};
use crate::gguf::GgmlType;
use crate::pool::RowTile;
use bytemuck::cast_slice;

pub(super) static TABLE: Kernels = Kernels {
    isa: Isa::Neon,
    supported: || true,
    tiles: false,
    // plain Rust over fixed-size arrays: NEON is in the target's baseline, so these are compiled to it
    quantize_q8: activations::quantize_q8,
    quantize_q8k: activations::quantize_q8k,
    matmul: |ty, w, k, acts, col0, out| matmul(Mull, ty, w, k, acts, col0, out),
    silu_mul: lanes::silu_mul::<true>,
    rms_norm: lanes::rms_norm::<true>,
    attend: lanes::attend::<true>,
};

/// Rows that share a pass: the lanes of a vector of i32.
pub(super) const ROWS: usize = 4;
/// Columns that share one unpacking of the weights.
const COLUMNS: usize = 4;

/// What a level multiplies with. `|x| <= 127` always; the weights of a type are at most `MAX` in magnitude, 128 for a
/// hostile file: `bound` says so and picks the cheapest sum that cannot overflow.
pub(super) trait Dot: Copy {
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
            let p = w.map(|w| add_products(products(w[0], x[0]), w[1], x[1]));
            sum_lanes(p, 4 * max * 127)
        } else {
            // two products a lane: 2 * 128 * 127 = 32512 fits i16
            let p = w.map(|w| {
                let first = vpaddlq_s16(products(w[0], x[0]));
                vpadalq_s16(first, products(w[1], x[1]))
            });
            reduce(p)
        }
    }

    #[inline(always)]
    fn four_16(self, w: [int8x16_t; ROWS], x: int8x16_t, max: i32) -> int32x4_t {
        // two products a lane: 2 * 128 * 127 = 32512 fits i16
        sum_lanes(w.map(|w| products(w, x)), 2 * max * 127)
    }
}

const I16: i32 = i16::MAX as i32;

/// Sums of two products a lane.
#[inline(always)]
fn products(w: int8x16_t, x: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x)
}

/// Two more products a lane.
#[inline(always)]
fn add_products(p: int16x8_t, w: int8x16_t, x: int8x16_t) -> int16x8_t {
    vmlal_high_s8(vmlal_s8(p, vget_low_s8(w), vget_low_s8(x)), w, x)
}

/// The sums of the lanes of each of four vectors whose lanes are at most `bound` in magnitude: as many of the three
/// halvings in i16 as cannot overflow.
#[inline(always)]
fn sum_lanes(p: [int16x8_t; 4], bound: i32) -> int32x4_t {
    if 4 * bound <= I16 {
        vpaddlq_s16(vpaddq_s16(vpaddq_s16(p[0], p[1]), vpaddq_s16(p[2], p[3])))
    } else if 2 * bound <= I16 {
        let low = vpaddlq_s16(vpaddq_s16(p[0], p[1]));
        vpaddq_s32(low, vpaddlq_s16(vpaddq_s16(p[2], p[3])))
    } else {
        reduce(p.map(vpaddlq_s16))
    }
}

/// The sums of the lanes of each of four vectors.
#[inline(always)]
pub(super) fn reduce(p: [int32x4_t; 4]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(p[0], p[1]), vpaddq_s32(p[2], p[3]))
}

/// `N` consecutive vectors of `x` from value `at` on.
#[inline(always)]
fn load_x<const N: usize>(x: &[i8; 256], at: usize) -> [int8x16_t; N] {
    std::array::from_fn(|i| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&x[at + 16 * i..][..16]);
        load_s8(&bytes)
    })
}

/// See [`Kernels::matmul`], which has checked the sizes. Always inlined, so that it is compiled for the level of `dot`.
#[inline(always)]
pub(super) fn matmul<D: Dot>(
    dot: D,
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => lanes::matmul(ty, w, k, acts, col0, out),
        GgmlType::Q4_0 => matmul_32::<D, blocks::Q4_0>(dot, w, k, acts, col0, out),
        GgmlType::Q4_1 => matmul_32::<D, blocks::Q4_1>(dot, w, k, acts, col0, out),
        GgmlType::Q5_0 => matmul_32::<D, blocks::Q5_0>(dot, w, k, acts, col0, out),
        GgmlType::Q5_1 => matmul_32::<D, blocks::Q5_1>(dot, w, k, acts, col0, out),
        GgmlType::Q8_0 => matmul_32::<D, blocks::Q8_0>(dot, w, k, acts, col0, out),
        GgmlType::IQ4_NL => matmul_32::<D, blocks::Iq4Nl>(dot, w, k, acts, col0, out),
        GgmlType::Q2_K => matmul_256::<D, blocks::Q2K>(dot, w, k, acts, col0, out),
        GgmlType::Q3_K => matmul_256::<D, blocks::Q3K>(dot, w, k, acts, col0, out),
        GgmlType::Q4_K => matmul_256::<D, blocks::Q4K>(dot, w, k, acts, col0, out),
        GgmlType::Q5_K => matmul_256::<D, blocks::Q5K>(dot, w, k, acts, col0, out),
        GgmlType::Q6_K => matmul_256::<D, blocks::Q6K>(dot, w, k, acts, col0, out),
        GgmlType::Q8_K => matmul_256::<D, blocks::Q8K>(dot, w, k, acts, col0, out),
    }
}

/// Calls `pass(rows, x, out)` for every four rows and up to four columns: `$blocks` blocks a row, `$column` gives the
/// chunks of a column. Rows and columns past the end are repeated and their results dropped.
macro_rules! passes {
    ($out:ident, $w:ident, $blocks:ident, $column:expr, $pass:ident::<$D:ident, $B:ident>($dot:ident)) => {
        let (rows, cols) = ($out.rows(), $out.cols());
        for r0 in (0..rows).step_by(ROWS) {
            let w: [&[$B]; ROWS] =
                std::array::from_fn(|r| &$w[(r0 + r).min(rows - 1) * $blocks..][..$blocks]);
            let keep = ROWS.min(rows - r0);
            let mut put = |c: usize, sums: float32x4_t| {
                $out.column(c)[r0..][..keep].copy_from_slice(&to_array(sums)[..keep]);
            };
            for c0 in (0..cols).step_by(COLUMNS) {
                let column = |c: usize| $column((c0 + c).min(cols - 1));
                match cols - c0 {
                    1 => put(c0, $pass::<$D, $B, 1>($dot, w, [column(0)])[0]),
                    2 => {
                        let sums = $pass::<$D, $B, 2>($dot, w, [column(0), column(1)]);
                        put(c0, sums[0]);
                        put(c0 + 1, sums[1]);
                    }
                    n => {
                        let x = std::array::from_fn(column);
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

#[inline(always)]
fn matmul_32<D: Dot, B: Rows32>(
    dot: D,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let (blocks, w) = (k / 32, cast_slice::<u8, B>(w));
    passes!(out, w, blocks, |c| acts.q8(col0 + c), pass_32::<D, B>(dot));
}

#[inline(always)]
fn matmul_256<D: Dot, B: Rows256>(
    dot: D,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let (blocks, w) = (k / 256, cast_slice::<u8, B>(w));
    passes!(
        out,
        w,
        blocks,
        |c| acts.q8k(col0 + c),
        pass_256::<D, B>(dot)
    );
}

/// Four rows, `C` columns, all of `k`; the lanes of the results are the rows.
#[inline(always)]
fn pass_32<D: Dot, B: Rows32, const C: usize>(
    dot: D,
    w: [&[B]; ROWS],
    x: [&[Q8Chunk]; C],
) -> [float32x4_t; C] {
    let mut acc = [vdupq_n_f32(0.0); C];
    for b in 0..w[0].len() {
        let rows = w.map(|row| &row[b]);
        let q = rows.map(|row| row.values());
        let (d, m) = (B::d(rows), B::m(rows));
        for (acc, x) in acc.iter_mut().zip(x) {
            let (x, i) = (&x[b / 8], b % 8);
            let mut sum = dot.four_32(q, load_x(&x.q, 32 * i), B::MAX);
            if B::OFFSET != 0 {
                sum = vmlsq_n_s32(sum, vdupq_n_s32(B::OFFSET), x.sum[i]);
            }
            *acc = vfmaq_f32(*acc, vcvtq_f32_s32(sum), vmulq_n_f32(d, x.scale[i]));
            if B::HAS_MIN {
                *acc = vfmaq_n_f32(*acc, m, x.scaled_sum[i]);
            }
        }
    }
    acc
}

/// Four rows, `C` columns, all of `k`; the lanes of the results are the rows.
///
/// In i32: the largest sum of a block is Q6_K's 256 * 63 * 127 * 128 = 2.6e8.
#[inline(always)]
fn pass_256<D: Dot, B: Rows256, const C: usize>(
    dot: D,
    w: [&[B]; ROWS],
    x: [&[Q8kChunk]; C],
) -> [float32x4_t; C] {
    let mut acc = [vdupq_n_f32(0.0); C];
    for b in 0..w[0].len() {
        let rows = w.map(|row| &row[b]);
        let x = x.map(|x| &x[b]);
        let scale = B::scales(rows);
        let mut sum = x.map(|x| {
            let mut sum = vdupq_n_s32(0);
            if B::OFFSET != 0 {
                for (scale, x) in scale.iter().zip(x.sums) {
                    sum = vmlsq_n_s32(sum, *scale, i32::from(x) * B::OFFSET);
                }
            }
            sum
        });
        quarter::<D, B, C, 0>(dot, rows, x, &scale, &mut sum);
        quarter::<D, B, C, 1>(dot, rows, x, &scale, &mut sum);
        quarter::<D, B, C, 2>(dot, rows, x, &scale, &mut sum);
        quarter::<D, B, C, 3>(dot, rows, x, &scale, &mut sum);
        let d = B::d(rows);
        for ((acc, x), sum) in acc.iter_mut().zip(x).zip(sum) {
            *acc = vfmaq_f32(*acc, vcvtq_f32_s32(sum), vmulq_n_f32(d, x.scale));
        }
        if B::HAS_MIN {
            let (min, dmin) = (B::mins(rows), B::dmin(rows));
            for (acc, x) in acc.iter_mut().zip(x) {
                let mut sum = vdupq_n_s32(0);
                if B::GROUP == 32 {
                    for (min, x) in min.iter().zip(x.sums32) {
                        sum = vmlal_n_s16(sum, *min, x);
                    }
                } else {
                    for (min, x) in min.iter().zip(x.sums) {
                        sum = vmlal_n_s16(sum, *min, x);
                    }
                }
                *acc = vfmsq_f32(*acc, vcvtq_f32_s32(sum), vmulq_n_f32(dmin, x.scale));
            }
        }
    }
    acc
}

/// Values `64 J..64 J + 64` of a block.
#[inline(always)]
fn quarter<D: Dot, B: Rows256, const C: usize, const J: usize>(
    dot: D,
    rows: [&B; ROWS],
    x: [&Q8kChunk; C],
    scale: &[int32x4_t; 16],
    sum: &mut [int32x4_t; C],
) {
    let q = rows.map(|row| row.values::<J>());
    for (sum, x) in sum.iter_mut().zip(x) {
        if B::GROUP == 32 {
            for half in 0..2 {
                let q = q.map(|q| [q[2 * half], q[2 * half + 1]]);
                let products = dot.four_32(q, load_x(&x.q, 64 * J + 32 * half), B::MAX);
                *sum = vmlaq_s32(*sum, products, scale[2 * J + half]);
            }
        } else {
            let x: [int8x16_t; 4] = load_x(&x.q, 64 * J);
            for (i, x) in x.into_iter().enumerate() {
                let products = dot.four_16(q.map(|q| q[i]), x, B::MAX);
                *sum = vmlaq_s32(*sum, products, scale[4 * J + i]);
            }
        }
    }
}
