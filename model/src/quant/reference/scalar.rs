//! The scalar level: the dot product that every other level must reproduce bit for bit, in plain Rust.

use super::decode::{Block32, Block256};
use super::floats;
use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::format::activations::{self, Q8Chunk, Q8kChunk, Quantizer};
use crate::quant::format::kinds::match_format;
use crate::quant::kernels::{Kernels, Product};

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Scalar,
    supported: || true,
    quantizer: Quantizer {
        tiles: false,
        q8: activations::quantize_q8,
        q8k: activations::quantize_q8k,
    },
    matmul,
    matmul_interleaved: None,
    silu_mul: floats::silu_mul::<false>,
    rms_norm: floats::rms_norm::<false>,
    attend: floats::attend::<false>,
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

/// The product of a format with 32 weights in a block. It is inlined where a level has nothing better, so that it is
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
            for (b, block) in row.iter().enumerate() {
                let v = block.decode();
                for (acc, x) in acc.iter_mut().zip(&x[..cols]) {
                    let (x, i) = (&x[b / 8], b % 8);
                    *acc = (dot(&v.q, &x.q[32 * i..][..32]) as f32).mul_add(v.d * x.scale[i], *acc);
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
                for (acc, x) in acc.iter_mut().zip(&x[..cols]) {
                    let x = &x[b];
                    let (mut sum, mut min_sum) = (0, 0);
                    for g in 0..16 {
                        sum +=
                            i32::from(v.scale[g]) * dot(&v.q[16 * g..][..16], &x.q[16 * g..][..16]);
                        min_sum += i32::from(v.min[g]) * i32::from(x.sums[g]);
                    }
                    *acc = (sum as f32).mul_add(v.d * x.scale, *acc);
                    if B::HAS_MIN {
                        *acc = (min_sum as f32).mul_add(-(v.dmin * x.scale), *acc);
                    }
                }
            }
            for (c, acc) in acc[..cols].iter().enumerate() {
                out.column(first + c)[r] = *acc;
            }
        }
    }
}

/// The dot product of at most 32 values. It cannot overflow: each product is at most 128 * 127.
#[inline(always)]
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).fold(0i32, |s, (&a, &b)| {
        s.wrapping_add(i32::from(a).wrapping_mul(i32::from(b)))
    })
}
