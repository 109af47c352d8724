//! x86-64 with AVX2, FMA and F16C but without VNNI: the sums of AVX-512's row kernel in vectors of half the length.
//!
//! It takes eight rows at a time, block by block. `vpmaddubsw` multiplies unsigned by signed bytes and adds two products
//! in int16, saturating; two products of at most 128 * 127 fit. So values of up to six bits are used as they are, with
//! their offset, and eight-bit ones (Q8_0, IQ4_NL) give their sign to the activations. Many columns share what [`panels`]
//! unpack, as on AVX-512.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features. Those are reachable only through [`TABLE`], which is handed out only where they are detected.

mod attention;
mod gemm;
mod interleaved;
mod panels;
mod rows;
mod unpack;

use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::format::activations::{self, Q8Chunk, Q8kChunk, Quantizer};
use crate::quant::format::kinds::{match_format, match_interleaved};
use crate::quant::kernels::{DeltaRule, Kernels, Product, TAPS};
use crate::quant::reference::{delta, floats, scalar};
use crate::quant::x86::panel;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Avx2,
    supported: || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    },
    quantizer: Quantizer {
        tiles: None,
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        q8: |x, dst| unsafe { quantize_q8(x, dst) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        q8k: |x, dst| unsafe { quantize_q8k(x, dst) },
    },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    matmul: |product, out| unsafe { matmul(product, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    matmul_interleaved: Some(|product, out| unsafe { matmul_interleaved(product, out) }),
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    silu_mul: |gate, up| unsafe { silu_mul(gate, up) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    rms_norm: |x, weight, eps, dst| unsafe { rms_norm(x, weight, eps, dst) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    attend: |heads, scores, out| unsafe { attention::attend(heads, scores, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    convolve: |columns, weights, out| unsafe { convolve(columns, weights, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    delta_rule: |rule, state, out| unsafe { delta_rule(rule, state, out) },
};

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_q8(x: &[f32], dst: &mut [Q8Chunk]) {
    activations::quantize_q8(x, dst);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_q8k(x: &[f32], dst: &mut [Q8kChunk]) {
    activations::quantize_q8k(x, dst);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    floats::silu_mul::<true>(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, dst: &mut [f32]) {
    floats::rms_norm::<true>(x, weight, eps, dst);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn convolve(columns: [&[f32]; TAPS], weights: [&[f32]; TAPS], out: &mut [f32]) {
    delta::convolve::<true>(columns, weights, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn delta_rule(rule: &DeltaRule<'_>, state: &mut [f32], out: &mut [f32]) {
    delta::delta_rule(rule, state, out);
}

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx2,fma,f16c")]
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

/// Fewest columns for which rows are unpacked to a panel. From 12 on it is faster for Q4_K and Q6_K in groups and for Q4_0 by
/// rows; Q4_0 in groups is 7 % slower until 24 (Zen 4).
const MANY: usize = 12;

#[target_feature(enable = "avx2,fma,f16c")]
fn matmul_32<B: unpack::Block32>(product: &Product<'_>, out: &mut RowTile<'_>) {
    if out.cols() < MANY {
        rows::matmul_32::<B>(product, out);
    } else {
        // SAFETY: this function is compiled with the features of this level
        unsafe { panel::matmul::<panels::Rows32<'_, B>>(product, out) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn matmul_256<B: unpack::Block256>(product: &Product<'_>, out: &mut RowTile<'_>) {
    if out.cols() < MANY {
        rows::matmul_256::<B>(product, out);
    } else {
        // SAFETY: this function is compiled with the features of this level
        unsafe { panel::matmul::<panels::Rows256<'_, B>>(product, out) };
    }
}

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx2,fma,f16c")]
fn matmul_interleaved(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_interleaved!(product.ty, |B| {
        if out.cols() < MANY {
            interleaved::matmul::<B>(product, out);
        } else {
            // SAFETY: this function is compiled with the features of this level
            unsafe { panel::matmul::<panels::Groups<'_, B>>(product, out) };
        }
    });
}
