//! x86-64 with AVX2, FMA and F16C but without VNNI: the sums of AVX-512's row kernel in vectors of half the length.
//!
//! It takes eight rows at a time, block by block. `vpmaddubsw` multiplies unsigned by signed bytes and adds two products
//! in int16, saturating; two products of at most 128 * 127 fit. So values of up to six bits are used as they are, with
//! their offset, and eight-bit ones (Q8_0, IQ4_NL) give their sign to the activations. There is no tile kernel: four
//! columns share one unpacking.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features. Those are reachable only through [`TABLE`], which is handed out only where they are detected.

mod attention;
mod interleaved;
mod rows;
mod unpack;

use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::format::activations::{self, Q8Chunk, Q8kChunk, Quantizer};
use crate::quant::format::kinds::match_format;
use crate::quant::kernels::{Kernels, Product};
use crate::quant::reference::{floats, scalar};

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
    matmul_interleaved: Some(|product, out| unsafe { self::interleaved::matmul(product, out) }),
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    silu_mul: |gate, up| unsafe { silu_mul(gate, up) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    rms_norm: |x, weight, eps, dst| unsafe { rms_norm(x, weight, eps, dst) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
    attend: |heads, scores, out| unsafe { attention::attend(heads, scores, out) },
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

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx2,fma,f16c")]
fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        32 => |B| rows::matmul_32::<B>(product, out),
        256 => |B| rows::matmul_256::<B>(product, out),
        defined 32 => |B| scalar::matmul_32::<B>(product, out),
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}
