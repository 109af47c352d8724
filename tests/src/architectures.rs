//! Tiny files of every architecture and of every scaling of rope, which other programs have computed too: see
//! `tests/vectors/architectures/make.py`.

use crate::{GgufWriter, Kv, Tiny};
use glowplug_model::network::dims::Arch;
use serde_json::json;
use std::path::Path;
use std::{fs, io};

/// The tokens that every file is asked about.
pub fn tokens() -> Vec<u32> {
    (0..40).map(|i| i * 7 % 250).collect()
}

/// The positions whose logits were written down: before, at and far beyond what the scalings here call the original context.
pub const POSITIONS: [usize; 3] = [5, 16, 39];

/// Of so many tokens of the vocabulary one was written down.
pub const EVERY: usize = 8;

/// Writes files, and beside them what to ask of them, for a `make.py` of `tests/vectors`.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, files: &[(&str, GgufWriter)]) -> io::Result<()> {
    for (name, file) in files {
        fs::write(folder.join(format!("{name}.gguf")), file.build())?;
    }
    let asked = json!({ "tokens": tokens(), "positions": POSITIONS, "every": EVERY });
    fs::write(folder.join("asked.json"), asked.to_string())
}

/// Each file with its name.
pub fn files() -> Vec<(&'static str, GgufWriter)> {
    let file = |name, arch: Arch, keys: &[(&str, Kv)]| {
        let tiny = Tiny {
            // the fourth layer is the first one of smollm3 that does not rotate
            layers: if arch == Arch::SmolLm3 { 5 } else { 2 },
            embed: 128,
            head_dim: 32,
            ff: 256,
            rope_freqs: arch == Arch::Exaone4 || name == "llama-freqs",
            ..Tiny::new(arch)
        };
        let mut w = tiny.writer();
        for (key, value) in keys {
            w.set(&format!("{}.{key}", arch.name()), value.clone());
        }
        (name, w)
    };
    // gated delta nets beside gated attention, and what files of them differ in
    let hybrid =
        |name, layers, (key_heads, value_heads), tied_head, draft_layer, keys: &[(&str, Kv)]| {
            let tiny = Tiny {
                layers,
                embed: 128,
                head_dim: 32,
                rope_dims: Some(16),
                ff: 256,
                attends_every: layers.min(3),
                key_heads,
                value_heads,
                state: 32,
                tied_head,
                draft_layer,
                ..Tiny::new(Arch::Qwen35)
            };
            let mut w = tiny.writer();
            w.set("qwen35.rope.dimension_sections", Kv::I32s(vec![3, 3, 2, 0]));
            for (key, value) in keys {
                w.set(&format!("qwen35.{key}"), value.clone());
            }
            (name, w)
        };
    // as the interval says it, and of the layer that drafts
    let flags = Kv::array(7, 4, &[1, 1, 0, 0]);
    let yarn = |more: &[(&'static str, Kv)]| {
        let mut keys = vec![
            ("rope.scaling.type", "yarn".into()),
            ("rope.scaling.factor", Kv::F32(4.0)),
            ("rope.scaling.original_context_length", Kv::U32(16)),
        ];
        keys.extend_from_slice(more);
        keys
    };
    let sections = [("rope.dimension_sections", Kv::I32s(vec![6, 5, 5, 0]))];
    let temperature = ("attention.temperature_scale", Kv::F32(0.1));
    vec![
        file("qwen2", Arch::Qwen2, &[]),
        file("qwen2-yarn", Arch::Qwen2, &yarn(&[])),
        file("qwen2vl", Arch::Qwen2Vl, &sections),
        file("qwen3", Arch::Qwen3, &[]),
        file(
            "qwen3-yarn-attn-factor",
            Arch::Qwen3,
            &yarn(&[("rope.scaling.attn_factor", Kv::F32(1.25))]),
        ),
        file("qwen3vl", Arch::Qwen3Vl, &sections),
        file("llama", Arch::Llama, &[]),
        file(
            "llama-linear",
            Arch::Llama,
            &[
                ("rope.scaling.type", "linear".into()),
                ("rope.scaling.factor", Kv::F32(2.0)),
            ],
        ),
        file("llama-freqs", Arch::Llama, &[]),
        file("smollm3", Arch::SmolLm3, &[]),
        file("smollm3-yarn", Arch::SmolLm3, &yarn(&[])),
        file("granite", Arch::Granite, &granite()),
        file("granite-unrotated", Arch::Granite, &{
            let mut keys = granite().to_vec();
            keys.push(("rope.scaling.finetuned", Kv::Bool(false)));
            keys
        }),
        file(
            "mistral3",
            Arch::Mistral3,
            &yarn(&[
                ("rope.scaling.yarn_beta_fast", Kv::F32(1.0)),
                ("rope.scaling.yarn_beta_slow", Kv::F32(0.125)),
                ("rope.scaling.yarn_log_multiplier", Kv::F32(1.0)),
                temperature.clone(),
            ]),
        ),
        file(
            "mistral3-own-magnitude",
            Arch::Mistral3,
            &yarn(&[
                ("rope.scaling.yarn_log_multiplier", Kv::F32(0.0)),
                temperature,
            ]),
        ),
        file("exaone4", Arch::Exaone4, &[]),
        file(
            "hunyuan-dense",
            Arch::HunyuanDense,
            &[
                ("rope.scaling.type", "none".into()),
                ("rope.scaling.factor", Kv::F32(1.0)),
            ],
        ),
        file(
            "hunyuan-dense-alpha",
            Arch::HunyuanDense,
            &[("rope.scaling.alpha", Kv::F32(50.0))],
        ),
        hybrid("qwen35", 3, (2, 2), true, false, &[]),
        hybrid("qwen35-two-values-a-key", 6, (2, 4), false, true, &[]),
        hybrid(
            "qwen35-four-values-a-key",
            3,
            (1, 4),
            true,
            true,
            &[("attention.recurrent_layers", flags)],
        ),
    ]
}

/// Scales of which each changes much: with an embedding as large as Granite's, so small a network would be little else.
fn granite() -> [(&'static str, Kv); 4] {
    [
        ("embedding_scale", Kv::F32(1.5)),
        ("residual_scale", Kv::F32(0.75)),
        ("attention.scale", Kv::F32(0.0625)),
        ("logit_scale", Kv::F32(2.0)),
    ]
}
