//! x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
//!
//! There are three shapes of the same sums (`model/ARCHITECTURE.md` has what each reaches):
//!
//! * [`rows`] for a few columns. It takes sixteen rows at a time, block by block: each row is unpacked to bytes, multiplied
//!   (`vpdpbusd`) and scaled (`vpdpwssd`) in int32; a tree folds the sixteen vectors to one vector of sixteen rows.
//! * [`tiles`] for many columns. Rows are unpacked once to bytes in a scratch that stays in L2. The sixteen elements are
//!   the sixteen columns of a tile of activations, the weights are broadcast, and nothing is folded.
//! * [`interleaved`] for matrices of interleaved rows, with any number of columns.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features. Those are reachable only through [`TABLE`], which is handed out only where they are detected.

mod attention;
mod interleaved;
mod rows;
mod tiles;
mod unpack;

use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::format::activations::{self, Q8Chunk, Q8kChunk, Quantizer, TILE};
use crate::quant::format::kinds::match_format;
use crate::quant::kernels::{Heads, Kernels, Product};
use crate::quant::reference::{floats, scalar};
use std::ops::Range;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    supported,
    quantizer: Quantizer {
        tiles: Some(activations::FOURS),
        // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
        q8: |x, dst| unsafe { quantize_q8(x, dst) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
        q8k: |x, dst| unsafe { quantize_q8k(x, dst) },
    },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    matmul: |product, out| unsafe { matmul(product, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    matmul_interleaved: Some(|product, out| unsafe { self::interleaved::matmul(product, out) }),
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    silu_mul: |gate, up| unsafe { silu_mul(gate, up) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    rms_norm: |x, weight, eps, dst| unsafe { rms_norm(x, weight, eps, dst) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    attend: |heads, scores, out| unsafe { attend(heads, scores, out) },
};

/// Whether the machine has the features; AVX-512 F brings AVX2, FMA and F16C with it.
fn supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quantize_q8(x: &[f32], dst: &mut [Q8Chunk]) {
    activations::quantize_q8(x, dst);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn quantize_q8k(x: &[f32], dst: &mut [Q8kChunk]) {
    activations::quantize_q8k(x, dst);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    floats::silu_mul::<true>(gate, up);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, dst: &mut [f32]) {
    floats::rms_norm::<true>(x, weight, eps, dst);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn attend(heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
    attention::attend(heads, scores, out);
}

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        32 => |B| matmul_32::<B>(product, out),
        256 => |B| matmul_256::<B>(product, out),
        defined 32 => |B| scalar::matmul_32::<B>(product, out),
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_32<B: unpack::Block32>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let (before, tiles, after) = split(product, out.cols());
    rows::matmul_32::<B>(product, before, out);
    tiles::matmul_32::<B>(product, tiles, out);
    rows::matmul_32::<B>(product, after, out);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_256<B: unpack::Block256>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let (before, tiles, after) = split(product, out.cols());
    rows::matmul_256::<B>(product, before, out);
    tiles::matmul_256::<B>(product, tiles, out);
    rows::matmul_256::<B>(product, after, out);
}

/// Fewest wanted columns for which a tile is worth its sixteen elements. Measured on Sapphire Rapids.
const TILE_FROM: usize = 10;

/// Cuts the `cols` columns of the result at the tiles: columns before the tiles, tiles, and columns after them.
fn split(product: &Product<'_>, cols: usize) -> (Range<usize>, Range<usize>, Range<usize>) {
    let (tiles, col0) = (product.activations.tiles(), product.first_column);
    let end = col0 + cols;
    let wanted = |t: usize| end.min(TILE * (t + 1)).saturating_sub(col0.max(TILE * t));
    let mut range = col0 / TILE..tiles.min(end.div_ceil(TILE));
    if wanted(range.start) < TILE_FROM {
        range.start += 1;
    }
    if !range.is_empty() && wanted(range.end - 1) < TILE_FROM {
        range.end -= 1;
    }
    if range.is_empty() {
        return (0..cols, 0..0, cols..cols);
    }
    let before = (TILE * range.start).saturating_sub(col0);
    let after = (TILE * range.end).min(end) - col0;
    (0..before, range, after..cols)
}
