//! Tiny files in the formats on grids, which llama.cpp has computed too: see `tests/vectors/grids/make.py`.

use crate::{GgufWriter, Tiny, Types};
use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;

/// The formats on grids, by their ids.
pub const ON_GRIDS: [GgmlType; 7] = [
    GgmlType::IQ2_XXS,
    GgmlType::IQ2_XS,
    GgmlType::IQ3_XXS,
    GgmlType::IQ1_S,
    GgmlType::IQ3_S,
    GgmlType::IQ2_S,
    GgmlType::IQ1_M,
];

/// A model that mixes them all with Q4_K, as the files that are called `UD-Q2_K_XL` do.
pub fn mixed() -> Tiny {
    Tiny {
        tied_head: false,
        types: Types {
            token_embd: GgmlType::Q4_K,
            output: GgmlType::Q4_K,
            attn_q: GgmlType::IQ2_XXS,
            attn_k: GgmlType::IQ2_XS,
            attn_v: GgmlType::IQ3_S,
            attn_output: GgmlType::IQ2_S,
            ffn_gate: GgmlType::IQ3_XXS,
            ffn_up: GgmlType::IQ1_S,
            ffn_down: GgmlType::IQ1_M,
        },
        ..Tiny::new(Arch::Qwen3)
    }
}

/// A file of each format, and the mixed one, each with its name.
pub fn files() -> Vec<(&'static str, GgufWriter)> {
    let of = |ty: GgmlType| {
        let tiny = Tiny {
            types: Types::all(ty),
            ..Tiny::new(Arch::Qwen2)
        };
        (ty.name(), tiny.writer())
    };
    let mut files: Vec<_> = ON_GRIDS.into_iter().map(of).collect();
    files.push(("mixed", mixed().writer()));
    files
}
