//! x86-64 with AVX2, FMA and F16C, with and without VNNI: the sums of AVX-512's row kernel in vectors of half the length. The two
//! levels are the same code but for how bytes are multiplied ([`dot`]).
//!
//! It takes eight rows at a time, block by block. Without VNNI `vpmaddubsw` multiplies unsigned by signed bytes and adds two products
//! in int16, saturating; two products of at most 128 * 127 fit. So values of up to seven bits are used as they are, with
//! their offset, and signed ones of eight bits (Q8_0, IQ4_NL, IQ4_XS, NVFP4) give their sign to the activations. Many columns
//! share what [`panels`] unpack, as on AVX-512.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features. Those are reachable only through the tables, which are handed out only where they are detected.

mod attention;
mod dot;
mod gemm;
mod grids;
mod interleaved;
mod panels;
mod rows;
mod unpack;

use crate::pool::RowTile;
use crate::quant::format::activations::{self, Q8Chunk, Q8kChunk, Quantizer};
use crate::quant::format::kinds::{match_format, match_interleaved};
use crate::quant::format::kv_rows;
use crate::quant::kernels::{DeltaRule, Kernels, Product, TAPS};
use crate::quant::reference::{delta, floats, scalar};
use crate::quant::x86::panel;
use crate::quant::{Isa, hadamard_transform};
use dot::{Dot, Evex, Madd, Vex};
use glowplug_firmware_config::kv::KvFormat;

/// The level of AVX2 by itself.
pub(in crate::quant) static TABLE: Kernels = table::<Madd>(Isa::Avx2, avx2);

/// The level of AVX2 with AVX-VNNI.
pub(in crate::quant) static VNNI: Kernels = table::<Vex>(Isa::AvxVnni, || {
    avx2() && is_x86_feature_detected!("avxvnni")
});

/// The same level, with AVX-VNNI's instructions as AVX-512 encodes them.
pub(in crate::quant) static VNNI_EVEX: Kernels = table::<Evex>(Isa::AvxVnni, || {
    avx2() && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni")
});

/// Whether the machine has AVX2, FMA and F16C.
fn avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// The table of a level that multiplies bytes by the instructions of `D`. They and AVX2, FMA and F16C must be there where
/// `supported` is true.
const fn table<D: Dot>(isa: Isa, supported: fn() -> bool) -> Kernels {
    Kernels {
        isa,
        supported,
        quantizer: Quantizer {
            tiles: None,
            // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
            q8: |x, dst| unsafe { quantize_q8(x, dst) },
            // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
            q8k: |x, dst| unsafe { quantize_q8k(x, dst) },
        },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of `D` too
        matmul: |product, out| unsafe { matmul::<D>(product, out) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of `D` too
        matmul_interleaved: Some(|product, out| unsafe { matmul_interleaved::<D>(product, out) }),
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        silu_mul: |gate, up| unsafe { silu_mul(gate, up) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        rms_norm: |x, weight, eps, dst| unsafe { rms_norm(x, weight, eps, dst) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        attend: |heads, scores, out| unsafe { attention::attend(heads, scores, out) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        encode_kv: |format, row| unsafe { encode_kv(format, row) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        rotate: |head| unsafe { rotate(head) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        convolve: |columns, weights, out| unsafe { convolve(columns, weights, out) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has avx2, fma and f16c
        delta_rule: |rule, state, out| unsafe { delta_rule(rule, state, out) },
    }
}

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
fn encode_kv(format: KvFormat, row: &mut [f32]) {
    kv_rows::encode(format, row);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rotate(head: &mut [f32]) {
    hadamard_transform(head);
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
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matmul<D: Dot>(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        // SAFETY: the caller vouches for the features of `D`
        32 => |B| unsafe { matmul_32::<B, D>(product, out) },
        // SAFETY: the caller vouches for the features of `D`
        256 => |B| unsafe { matmul_256::<B, D>(product, out) },
        // SAFETY: the caller vouches for the features of `D`
        defined 32 => |B| unsafe { rows::matmul_32::<B, D>(product, out) },
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}

/// Fewest columns for which rows are unpacked to a panel. From 12 on it is faster for Q4_K and Q6_K in groups and for Q4_0 by
/// rows; Q4_0 in groups is 7 % slower until 24 (Zen 4).
const MANY: usize = 12;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matmul_32<B: unpack::Block32, D: Dot>(product: &Product<'_>, out: &mut RowTile<'_>) {
    // SAFETY: this function is compiled with avx2, fma and f16c, and the caller vouches for the features of `D`
    unsafe {
        if out.cols() < MANY {
            rows::matmul_32::<B, D>(product, out);
        } else {
            panel::matmul::<panels::Rows32<'_, B, D>, 1>(product, out);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matmul_256<B: unpack::Block256, D: Dot>(product: &Product<'_>, out: &mut RowTile<'_>) {
    // SAFETY: this function is compiled with avx2, fma and f16c, and the caller vouches for the features of `D`
    unsafe {
        if out.cols() < MANY {
            rows::matmul_256::<B, D>(product, out);
        } else {
            panel::matmul::<panels::Rows256<'_, B, D>, 1>(product, out);
        }
    }
}

/// See [`Kernels::matmul`], which has checked the sizes.
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matmul_interleaved<D: Dot>(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_interleaved!(product.ty, |B| {
        // SAFETY: this function is compiled with avx2, fma and f16c, and the caller vouches for the features of `D`
        unsafe {
            if out.cols() < MANY {
                interleaved::matmul::<B, D>(product, out);
            } else {
                panel::matmul::<panels::Groups<'_, B, D>, 1>(product, out);
            }
        }
    });
}
