//! x86-64 with AVX2, FMA and F16C, without VNNI: the sums of AVX-512's row kernel in vectors of half the length.
//!
//! Eight rows at a time, block by block. `vpmaddubsw` multiplies unsigned by signed bytes and adds two products in
//! int16, saturating: two products of at most 128 * 127 fit. So values of up to six bits are used as they are, with
//! their offset; eight-bit ones (Q8_0, IQ4_NL) give their sign to the activations. There is no tile kernel: four
//! columns share one unpacking.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features, which are reachable only through [`TABLE`], which is handed out only where they are detected.

mod attention;
mod interleaved;
mod rows;
mod unpack;

use crate::gguf::GgmlType;
use crate::pool::RowTile;
use crate::quant::dispatch::Kernels;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::format::{activations, blocks};
use crate::quant::reference::{floats, scalar};
use crate::quant::{Activations, Isa};

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Avx2,
    supported: || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    },
    tiles: false,
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
        GgmlType::Q4_0 => rows::matmul_32::<blocks::Q4_0>(w, k, acts, col0, out),
        GgmlType::Q4_1 => rows::matmul_32::<blocks::Q4_1>(w, k, acts, col0, out),
        GgmlType::Q5_0 => rows::matmul_32::<blocks::Q5_0>(w, k, acts, col0, out),
        GgmlType::Q5_1 => rows::matmul_32::<blocks::Q5_1>(w, k, acts, col0, out),
        GgmlType::Q8_0 => rows::matmul_32::<blocks::Q8_0>(w, k, acts, col0, out),
        GgmlType::IQ4_NL => rows::matmul_32::<blocks::Iq4Nl>(w, k, acts, col0, out),
        GgmlType::Q2_K => rows::matmul_256::<blocks::Q2K>(w, k, acts, col0, out),
        GgmlType::Q3_K => rows::matmul_256::<blocks::Q3K>(w, k, acts, col0, out),
        GgmlType::Q4_K => rows::matmul_256::<blocks::Q4K>(w, k, acts, col0, out),
        GgmlType::Q5_K => rows::matmul_256::<blocks::Q5K>(w, k, acts, col0, out),
        GgmlType::Q6_K => rows::matmul_256::<blocks::Q6K>(w, k, acts, col0, out),
        // no file has it as weights
        GgmlType::Q8_K => scalar::matmul_256::<blocks::Q8K>(w, k, acts, col0, out),
    }
}
