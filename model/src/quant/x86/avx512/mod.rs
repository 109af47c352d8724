//! x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
//!
//! Two shapes of the same sums (`model/ARCHITECTURE.md` has what each reaches):
//!
//! * [`rows`]: a few columns. Sixteen rows at a time, block by block: each row is unpacked to bytes, multiplied
//!   (`vpdpbusd`), scaled (`vpdpwssd`) in int32; a tree folds the sixteen vectors to one vector of sixteen rows.
//! * [`tiles`]: many columns. Rows are unpacked once to bytes in a scratch that stays in L2; the sixteen elements are the
//!   sixteen columns of a tile of activations, the weights are broadcast, nothing is folded.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features, which are reachable only through [`TABLE`], which is handed out only where they are detected.

mod attention;
mod interleaved;
mod rows;
mod tiles;
mod unpack;

use crate::gguf::GgmlType;
use crate::pool::RowTile;
use crate::quant::dispatch::{Heads, Kernels};
use crate::quant::format::activations::{Q8Chunk, Q8kChunk, TILE};
use crate::quant::format::{activations, blocks};
use crate::quant::reference::{floats, scalar};
use crate::quant::{Activations, Isa};
use std::ops::Range;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    supported,
    tiles: true,
    // SAFETY: `supported` has been true (`Kernels::detect`)
    quantize_q8: |x, dst| unsafe { quantize_q8(x, dst) },
    // SAFETY: as above
    quantize_q8k: |x, dst| unsafe { quantize_q8k(x, dst) },
    // SAFETY: as above
    matmul: |ty, w, k, acts, col0, out| unsafe { matmul(ty, w, k, acts, col0, out) },
    // SAFETY: as above
    matmul_interleaved: Some(|ty, w, k, acts, col0, out| unsafe {
        self::interleaved::matmul(ty, w, k, acts, col0, out);
    }),
    // SAFETY: as above
    silu_mul: |gate, up| unsafe { silu_mul(gate, up) },
    // SAFETY: as above
    rms_norm: |x, weight, eps, dst| unsafe { rms_norm(x, weight, eps, dst) },
    // SAFETY: as above
    attend: |heads, scores, out| unsafe { attend(heads, scores, out) },
};

/// AVX-512 F brings AVX2, FMA and F16C with it.
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
fn matmul(
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => {
            floats::matmul(ty, crate::quant::wanted(ty, w, k, out), k, acts, col0, out);
        }
        GgmlType::Q4_0 => matmul_32::<blocks::Q4_0>(w, k, acts, col0, out),
        GgmlType::Q4_1 => matmul_32::<blocks::Q4_1>(w, k, acts, col0, out),
        GgmlType::Q5_0 => matmul_32::<blocks::Q5_0>(w, k, acts, col0, out),
        GgmlType::Q5_1 => matmul_32::<blocks::Q5_1>(w, k, acts, col0, out),
        GgmlType::Q8_0 => matmul_32::<blocks::Q8_0>(w, k, acts, col0, out),
        GgmlType::IQ4_NL => matmul_32::<blocks::Iq4Nl>(w, k, acts, col0, out),
        GgmlType::Q2_K => matmul_256::<blocks::Q2K>(w, k, acts, col0, out),
        GgmlType::Q3_K => matmul_256::<blocks::Q3K>(w, k, acts, col0, out),
        GgmlType::Q4_K => matmul_256::<blocks::Q4K>(w, k, acts, col0, out),
        GgmlType::Q5_K => matmul_256::<blocks::Q5K>(w, k, acts, col0, out),
        GgmlType::Q6_K => matmul_256::<blocks::Q6K>(w, k, acts, col0, out),
        // no file has it as weights
        GgmlType::Q8_K => {
            let w = crate::quant::wanted(ty, w, k, out);
            scalar::matmul_256::<blocks::Q8K>(w, k, acts, col0, out);
        }
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_32<B: unpack::Block32>(
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let (w, blocks) = (bytemuck::cast_slice::<u8, B>(w), k / 32);
    let (before, tiles, after) = split(acts.tiles(), col0, out.cols());
    rows::matmul_32(w, blocks, acts, col0, before, out);
    tiles::matmul_32(&w[..blocks * out.rows()], blocks, acts, col0, tiles, out);
    rows::matmul_32(w, blocks, acts, col0, after, out);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_256<B: unpack::Block256>(
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let (w, blocks) = (bytemuck::cast_slice::<u8, B>(w), k / 256);
    let (before, tiles, after) = split(acts.tiles(), col0, out.cols());
    rows::matmul_256(w, blocks, acts, col0, before, out);
    tiles::matmul_256(&w[..blocks * out.rows()], blocks, acts, col0, tiles, out);
    rows::matmul_256(w, blocks, acts, col0, after, out);
}

/// A tile is worth its sixteen elements when this many of its columns are wanted. Measured on Sapphire Rapids.
const TILE_FROM: usize = 10;

/// Cuts columns `col0..col0 + cols` at the tiles: (columns of the call before them, tiles, columns after them).
fn split(tiles: usize, col0: usize, cols: usize) -> (Range<usize>, Range<usize>, Range<usize>) {
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
