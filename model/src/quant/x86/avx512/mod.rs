//! x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
//!
//! There are three shapes of the same sums (`model/ARCHITECTURE.md` has what each reaches):
//!
//! * [`interleaved`] for matrices of interleaved rows and a few columns.
//! * [`rows`] for rows as GGUF has them and a few columns. It takes sixteen rows at a time, block by block: each row is
//!   unpacked to bytes, multiplied (`vpdpbusd`) and scaled (`vpdpwssd`) in int32; a tree folds the sixteen vectors to one
//!   vector of sixteen rows.
//! * [`gemm`] for both and many columns. Sixteen rows are unpacked once to a panel ([`panels`]), which has the order of
//!   interleaved rows, and all columns are multiplied by that.
//!
//! `unsafe` is of two kinds here: loads and stores of whole arrays by reference, and calls into functions with this
//! level's features. Those are reachable only through [`TABLE`], which is handed out only where they are detected.

mod attention;
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
use crate::quant::kernels::{DeltaRule, Heads, Kernels, Product, TAPS};
use crate::quant::reference::{delta, floats, scalar};
use crate::quant::x86::panel;
use crate::quant::{Isa, hadamard_transform};
use glowplug_firmware_config::kv::KvFormat;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    supported,
    quantizer: Quantizer {
        tiles: None,
        // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
        q8: |x, dst| unsafe { quantize_q8(x, dst) },
        // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
        q8k: |x, dst| unsafe { quantize_q8k(x, dst) },
    },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    matmul: |product, out| unsafe { matmul(product, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    matmul_interleaved: Some(|product, out| unsafe { matmul_interleaved(product, out) }),
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    silu_mul: |gate, up| unsafe { silu_mul(gate, up) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    rms_norm: |x, weight, eps, dst| unsafe { rms_norm(x, weight, eps, dst) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    attend: |heads, scores, out| unsafe { attend(heads, scores, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    encode_kv: |format, row| unsafe { encode_kv(format, row) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    rotate: |head| unsafe { rotate(head) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    convolve: |columns, weights, out| unsafe { convolve(columns, weights, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has the features of this level
    delta_rule: |rule, state, out| unsafe { delta_rule(rule, state, out) },
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
fn encode_kv(format: KvFormat, row: &mut [f32]) {
    kv_rows::encode(format, row);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rotate(head: &mut [f32]) {
    hadamard_transform(head);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn convolve(columns: [&[f32]; TAPS], weights: [&[f32]; TAPS], out: &mut [f32]) {
    delta::convolve::<true>(columns, weights, out);
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn delta_rule(rule: &DeltaRule<'_>, state: &mut [f32], out: &mut [f32]) {
    delta::delta_rule(rule, state, out);
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
        // what this level has, that one needs, and the activations are the same
        defined 32 => |_B| (super::avx2::VNNI_EVEX.matmul)(product, out),
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}

/// Fewest columns for which rows are unpacked to a panel. With 12, Q4_K and Q6_K are still a tenth faster by [`rows`], with 16 a
/// tenth slower (Zen 4).
const MANY: usize = 14;

/// Fewest columns for which groups are. With 12, Q6_K is half again as fast by panels and Q4_K a fifth slower; Q4_K is even from 64
/// on (Zen 5).
const MANY_OF_GROUPS: usize = 12;

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_32<B: unpack::Block32>(product: &Product<'_>, out: &mut RowTile<'_>) {
    if out.cols() < MANY {
        rows::matmul_32::<B>(product, out);
    } else {
        // SAFETY: this function is compiled with the features of this level
        unsafe { panel::matmul::<panels::Rows32<'_, B>, 2>(product, out) };
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_256<B: unpack::Block256>(product: &Product<'_>, out: &mut RowTile<'_>) {
    if out.cols() < MANY {
        rows::matmul_256::<B>(product, out);
    } else {
        // SAFETY: this function is compiled with the features of this level
        unsafe { panel::matmul::<panels::Rows256<'_, B>, 2>(product, out) };
    }
}

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn matmul_interleaved(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_interleaved!(product.ty, |B| {
        if out.cols() < MANY_OF_GROUPS {
            interleaved::matmul::<B>(product, out);
        } else {
            // SAFETY: this function is compiled with the features of this level
            unsafe { panel::matmul::<panels::Groups<'_, B>, 2>(product, out) };
        }
    });
}
