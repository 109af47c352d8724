//! The scalar level: the dot product that every other level must reproduce bit for bit, in plain Rust.
//!
//! Its inner loops multiply int16 of known number, which compilers make vectors of: `pmaddwd` on x86-64's baseline, `vwmacc` on
//! RISC-V with V. Scales are multiplied in before, once for all columns, so that a block is one sum.

use super::decode::{Block32, Block256};
use super::{delta, floats};
use crate::pool::RowTile;
use crate::quant::format::activations::{self, Q8Chunk, Q8kChunk, Quantizer};
use crate::quant::format::kinds::match_format;
use crate::quant::format::kv_rows;
use crate::quant::kernels::{Kernels, Product};
use crate::quant::{Isa, hadamard_transform};

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Scalar,
    supported: || true,
    quantizer: Quantizer {
        tiles: None,
        q8: activations::quantize_q8,
        q8k: activations::quantize_q8k,
    },
    matmul,
    matmul_interleaved: None,
    silu_mul: floats::silu_mul::<false>,
    rms_norm: floats::rms_norm::<false>,
    attend: floats::attend::<false>,
    encode_kv: kv_rows::encode,
    rotate: hadamard_transform,
    convolve: delta::convolve::<false>,
    delta_rule: delta::delta_rule,
};

/// Columns that share one decoding of a block.
const COLUMNS: usize = 16;

/// See [`Kernels::matmul`], which has checked the sizes.
fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        32 => |B| matmul_32::<B>(product, out),
        256 => |B| matmul_256::<B>(product, out),
    );
}

/// The product of a format with 32 weights in a block, or with parts of 32. It is inlined where a level has nothing better, so that it is
/// compiled for the level's vectors.
#[inline(always)]
pub(in crate::quant) fn matmul_32<B: Block32>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let blocks = product.row_blocks();
    let (acts, col0) = (product.activations, product.first_column);
    for first in (0..out.cols()).step_by(COLUMNS) {
        let cols = COLUMNS.min(out.cols() - first);
        let x: [&[Q8Chunk]; COLUMNS] =
            std::array::from_fn(|c| acts.q8(col0 + first + c.min(cols - 1)));
        for (r, row) in product
            .blocks::<B>(out.rows())
            .chunks_exact(blocks)
            .enumerate()
        {
            let mut acc = [0.0f32; COLUMNS];
            for b in 0..blocks * B::PARTS {
                let v = row[b / B::PARTS].decode(b % B::PARTS);
                let w = v.q.map(i16::from);
                for (acc, x) in acc.iter_mut().zip(&x[..cols]) {
                    let (x, i) = (&x[b / 8], b % 8);
                    if B::TWO_SCALES {
                        let q = &x.q.as_chunks::<16>().0[2 * i..][..2];
                        for ((w, q), d) in w.as_chunks::<16>().0.iter().zip(q).zip(v.d) {
                            *acc = (dot(w, q) as f32).mul_add(d * x.scale[i], *acc);
                        }
                        continue;
                    }
                    let q = &x.q.as_chunks::<32>().0[i];
                    *acc = (dot(&w, q) as f32).mul_add(v.d[0] * x.scale[i], *acc);
                    if B::HAS_MIN {
                        *acc = v.m.mul_add(x.scaled_sum[i], *acc);
                    }
                }
            }
            for (c, acc) in acc[..cols].iter().enumerate() {
                out.column(first + c)[r] = *acc;
            }
        }
    }
}

/// The product of a format with 256 weights in a block; inlined as [`matmul_32`] is.
#[inline(always)]
pub(in crate::quant) fn matmul_256<B: Block256>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let blocks = product.row_blocks();
    let (acts, col0) = (product.activations, product.first_column);
    for first in (0..out.cols()).step_by(COLUMNS) {
        let cols = COLUMNS.min(out.cols() - first);
        let x: [&[Q8kChunk]; COLUMNS] =
            std::array::from_fn(|c| acts.q8k(col0 + first + c.min(cols - 1)));
        for (r, row) in product
            .blocks::<B>(out.rows())
            .chunks_exact(blocks)
            .enumerate()
        {
            let mut acc = [0.0f32; COLUMNS];
            for (b, block) in row.iter().enumerate() {
                let v = block.decode();
                let w = scaled(&v.q, &v.scale);
                for (acc, x) in acc.iter_mut().zip(&x[..cols]) {
                    let x = &x[b];
                    *acc = (dot_256(&w, &x.q) as f32).mul_add(v.d * x.scale, *acc);
                    if B::HAS_MIN {
                        *acc = (dot(&v.min, &x.sums) as f32).mul_add(-(v.dmin * x.scale), *acc);
                    }
                }
            }
            for (c, acc) in acc[..cols].iter().enumerate() {
                out.column(first + c)[r] = *acc;
            }
        }
    }
}

/// The values times their scales. They fit int16: the largest magnitude is Q6_K's 32 * 128.
#[inline(always)]
fn scaled(q: &[i8; 256], scale: &[i16; 16]) -> [i16; 256] {
    let mut scaled = [0; 256];
    let groups = scaled.as_chunks_mut::<16>().0.iter_mut();
    for ((to, q), scale) in groups.zip(q.as_chunks::<16>().0).zip(scale) {
        for (to, q) in to.iter_mut().zip(q) {
            *to = i16::from(*q).wrapping_mul(*scale);
        }
    }
    scaled
}

/// The dot product of a block, 32 values at a time: as many as fit the registers of a processor without vectors, and the
/// fastest of 16, 32, 64 and 256 with the vectors of x86-64's baseline (AMD EPYC, Zen 4).
///
/// It cannot overflow: the largest sum is Q6_K's 256 * 32 * 128 * 127.
#[inline(always)]
fn dot_256(w: &[i16; 256], x: &[i8; 256]) -> i32 {
    let parts = w.as_chunks::<32>().0.iter().zip(x.as_chunks().0);
    parts.fold(0i32, |sum, (w, x)| sum.wrapping_add(dot(w, x)))
}

/// The dot product of a few values; it cannot overflow either.
#[inline(always)]
fn dot<const N: usize, X: Copy>(w: &[i16; N], x: &[X; N]) -> i32
where
    i16: From<X>,
{
    w.iter().zip(x).fold(0i32, |sum, (w, x)| {
        sum.wrapping_add(i32::from(*w).wrapping_mul(i32::from(i16::from(*x))))
    })
}
