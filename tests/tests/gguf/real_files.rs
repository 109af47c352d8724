//! The reader and the dimensions on files that people use, against what their makers publish.

use super::dims::UNSCALED;
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::{Arch, Dims, HeadNorm, Pairing, Rope, Scaling};
use glowplug_tests::{Real, real_model};

fn open(model: Real) -> (Gguf, Dims) {
    let file = Gguf::open(&real_model(model)).unwrap();
    let dims = Dims::from_gguf(&file).unwrap();
    (file, dims)
}

#[test]
fn smol() {
    let (file, dims) = open(Real::Smol);
    let want = Dims {
        arch: Arch::Llama,
        layers: 30,
        draft_layers: 0,
        embed: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ff: 1536,
        vocab: 49_152,
        context_train: 8192,
        window: None,
        norm_eps: 1e-5,
        scales: UNSCALED,
        rope: Rope {
            base: 100_000.0,
            dims: 64,
            pairing: Pairing::Norm,
            scaling: Scaling::None,
            magnitude: 1.0,
            unrotated_every: 0,
        },
        tied_head: true,
        requantized_head: false,
        qkv_bias: false,
        qk_norm: HeadNorm::Absent,
        post_norm: false,
        gated: false,
        delta: None,
    };
    assert_eq!(dims, want);
    assert_eq!(file.tensor("token_embd.weight").unwrap().ty, GgmlType::Q8_0);
    assert_eq!(
        file.tensor("blk.29.ffn_down.weight").unwrap().ty,
        GgmlType::Q4_1
    );
    assert_eq!(
        file.strings("tokenizer.ggml.tokens").unwrap()[2],
        "<|im_end|>"
    );
    assert_eq!(file.str("tokenizer.ggml.pre").unwrap(), "smollm");
    let end = file
        .tensors()
        .iter()
        .map(|t| t.offset + t.bytes)
        .max()
        .unwrap();
    assert_eq!((file.tensors().len(), end as u64), (272, file.file_bytes()));
}

#[test]
#[ignore = "needs 1.6 GB: glowplug pull q05 q15"]
fn qwen() {
    let (_, q05) = open(Real::Q05);
    let want = Dims {
        arch: Arch::Qwen2,
        layers: 24,
        draft_layers: 0,
        embed: 896,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        ff: 4864,
        vocab: 151_936,
        context_train: 32_768,
        window: None,
        norm_eps: 1e-6,
        scales: UNSCALED,
        rope: Rope {
            base: 1e6,
            dims: 64,
            pairing: Pairing::Neox,
            scaling: Scaling::None,
            magnitude: 1.0,
            unrotated_every: 0,
        },
        tied_head: false,
        requantized_head: false,
        qkv_bias: true,
        qk_norm: HeadNorm::Absent,
        post_norm: false,
        gated: false,
        delta: None,
    };
    assert_eq!(q05, want);
    let (_, q15) = open(Real::Q15);
    let want = Dims {
        layers: 28,
        embed: 1536,
        heads: 12,
        head_dim: 128,
        ff: 8960,
        rope: Rope {
            dims: 128,
            ..want.rope
        },
        ..want
    };
    assert_eq!(q15, want);
}
