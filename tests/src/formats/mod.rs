//! Tiny files in formats that llama.cpp has computed too (see `tests/vectors/formats`), and a file of the shape of
//! Ternary-Bonsai-1.7B.

pub mod grids;

use crate::{Tiny, Types};
use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;

/// The formats that the tiny files are in, all matrices of a file in one.
pub const FORMATS: [GgmlType; 7] = [
    GgmlType::IQ4_XS,
    GgmlType::TQ1_0,
    GgmlType::TQ2_0,
    GgmlType::MXFP4,
    GgmlType::NVFP4,
    GgmlType::Q1_0,
    GgmlType::Q2_0,
];

/// A tiny model in a format.
pub fn file(ty: GgmlType) -> Tiny {
    Tiny {
        types: Types::all(ty),
        ..Tiny::new(Arch::Llama)
    }
}

/// A file with the numbers of Ternary-Bonsai-1.7B in Q2_0, whose weights are random: for `bench`, which needs no words.
pub fn bonsai() -> Tiny {
    Tiny {
        layers: 28,
        embed: 2048,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        ff: 6144,
        context: 32_768,
        rope_base: 1e6,
        types: Types::all(GgmlType::Q2_0),
        vocab: 151_669,
        ..Tiny::new(Arch::Qwen3)
    }
}
