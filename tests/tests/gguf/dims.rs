//! One file per rule of the network's dimensions: what is broken, and the whole message it is refused with.

use super::Rule;
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::{
    Arch, Dims, DimsError, HeadNorm, Pairing, Rope, Scales, Scaling,
};
use glowplug_tests::{GgufWriter, Kv, Tiny};

const F16: u32 = 1;

pub(super) const UNSCALED: Scales = Scales {
    embedding: 1.0,
    residual: 1.0,
    queries: 1.0,
    logits: 1.0,
    temperature: None,
};

pub(super) fn read(w: &GgufWriter) -> Result<Dims, DimsError> {
    Dims::from_gguf(&Gguf::from_bytes(w.build().into()).unwrap())
}

pub(super) fn check(tiny: &Tiny, rules: &[Rule]) {
    super::check(rules, || tiny.writer(), read);
}

#[test]
fn all_of_it() {
    let dims = read(
        &Tiny {
            head_dim: 32,
            tied_head: false,
            ..Tiny::smallest(Arch::Qwen3)
        }
        .writer(),
    )
    .unwrap();
    let want = Dims {
        arch: Arch::Qwen3,
        layers: 1,
        draft_layers: 0,
        embed: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        ff: 32,
        vocab: 285,
        context_train: 512,
        window: None,
        norm_eps: 1e-6,
        scales: UNSCALED,
        rope: Rope {
            base: 10_000.0,
            dims: 32,
            pairing: Pairing::Neox,
            scaling: Scaling::None,
            magnitude: 1.0,
            unrotated_every: 0,
        },
        tied_head: false,
        requantized_head: false,
        qkv_bias: false,
        qk_norm: HeadNorm::BeforeRotation,
        post_norm: false,
        gated: false,
        delta: None,
    };
    assert_eq!(dims, want);
    assert_eq!((dims.q_dim(), dims.kv_dim()), (64, 32));
}

#[test]
fn architecture() {
    check(
        &Tiny::smallest(Arch::Qwen2),
        &[
            (
                "none",
                |w| w.remove("general.architecture"),
                "metadata key `general.architecture` is missing",
            ),
            (
                "another",
                |w| w.set("general.architecture", "gemma3"),
                "architecture `gemma3` is not supported, only qwen2, qwen3, llama, qwen2vl, qwen3vl, smollm3, granite, mistral3, \
                 exaone4, hunyuan-dense and qwen35",
            ),
            (
                "one of experts",
                |w| w.set("general.architecture", "qwen3moe"),
                "architecture `qwen3moe` is not supported, only qwen2, qwen3, llama, qwen2vl, qwen3vl, smollm3, granite, mistral3, \
                 exaone4, hunyuan-dense and qwen35",
            ),
            (
                "one to break a terminal",
                |w| {
                    w.set(
                        "general.architecture",
                        format!("\x1b[2J{}", "x".repeat(5000)).as_str(),
                    )
                },
                "architecture `\\u{1b}[2Jxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` is not supported, \
             only qwen2, qwen3, llama, qwen2vl, qwen3vl, smollm3, granite, mistral3, exaone4, hunyuan-dense and qwen35",
            ),
            (
                "no tensors",
                |w| w.tensors.clear(),
                "tensor `token_embd.weight` is missing",
            ),
        ],
    );
}

#[test]
fn every_key_that_the_file_must_give() {
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
    ] {
        for arch in Arch::ALL {
            let key = format!("{}.{key}", arch.name());
            let mut w = Tiny::smallest(arch).writer();
            w.remove(&key);
            assert_eq!(
                read(&w).unwrap_err().to_string(),
                format!("metadata key `{key}` is missing")
            );
            w.set(&key, "text");
            let message = read(&w).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("metadata key `{key}` is of type string")),
                "{message}"
            );
        }
    }
}

#[test]
fn ceilings() {
    for (key, limit) in [
        ("block_count", 256),
        ("embedding_length", 65_536),
        ("feed_forward_length", 262_144),
        ("attention.head_count", 256),
        ("attention.head_count_kv", 256),
        ("attention.key_length", 512),
        ("attention.value_length", 512),
        ("vocab_size", 1 << 20),
        ("rope.dimension_count", 512),
    ] {
        let key = format!("qwen2.{key}");
        for got in [0, limit + 1, u32::MAX] {
            let mut w = Tiny::smallest(Arch::Qwen2).writer();
            w.set(&key, Kv::U32(got));
            assert_eq!(
                read(&w).unwrap_err().to_string(),
                format!("`{key}` is {got}, the limits are 1 and {limit}")
            );
        }
    }
    check(
        &Tiny::smallest(Arch::Qwen2),
        &[
            (
                "no context",
                |w| w.set("qwen2.context_length", Kv::U32(0)),
                "`qwen2.context_length` is 0, the limits are 1 and 4294967295",
            ),
            (
                "a head of 1024 that nobody wrote",
                |w| {
                    w.set("qwen2.embedding_length", Kv::U32(1024));
                    w.set("qwen2.attention.head_count", Kv::U32(1));
                },
                "`qwen2.attention.head_count` is 1, which makes no head size up to 512 of 1024",
            ),
            (
                "an embedding of 2^20 + 1 rows",
                |w| {
                    let rows = (1 << 20) + 1;
                    let embd = w.tensor("token_embd.weight");
                    embd.dims = vec![1, rows];
                    embd.ty = 0;
                    embd.data = vec![0; rows as usize * 4];
                },
                "`token_embd.weight` has 1048577 rows, the limit is 1048576",
            ),
        ],
    );
}

#[test]
fn numbers_that_contradict_each_other() {
    check(
        &Tiny::smallest(Arch::Qwen2),
        &[
            (
                "kv heads",
                |w| w.set("qwen2.attention.head_count_kv", Kv::U32(4)),
                "`qwen2.attention.head_count_kv` is 4, which does not divide the 2 heads",
            ),
            (
                "heads",
                |w| w.set("qwen2.attention.head_count", Kv::U32(3)),
                "`qwen2.attention.head_count` is 3, which makes no head size up to 512 of 32",
            ),
            (
                "values",
                |w| w.set("qwen2.attention.value_length", Kv::U32(8)),
                "`qwen2.attention.value_length` is 8, keys have 16",
            ),
            (
                "eps of 0",
                |w| w.set("qwen2.attention.layer_norm_rms_epsilon", Kv::F32(0.0)),
                "`qwen2.attention.layer_norm_rms_epsilon` is 0, which is out of range",
            ),
            (
                "eps of 1",
                |w| w.set("qwen2.attention.layer_norm_rms_epsilon", Kv::F32(1.0)),
                "`qwen2.attention.layer_norm_rms_epsilon` is 1, which is out of range",
            ),
            (
                "fewer tokens than rows",
                |w| {
                    w.set("tokenizer.ggml.tokens", Kv::Strs(vec!["a".into(); 284]));
                    w.set("tokenizer.ggml.token_type", Kv::I32s(vec![1; 284]));
                    w.set("tokenizer.ggml.eos_token_id", Kv::U32(0));
                },
                "`tokenizer.ggml.tokens` has 284 tokens, the embedding 285 rows",
            ),
            (
                "no tokens",
                |w| w.remove("tokenizer.ggml.tokens"),
                "metadata key `tokenizer.ggml.tokens` is missing",
            ),
            (
                "another vocabulary",
                |w| w.set("qwen2.vocab_size", Kv::U32(286)),
                "`qwen2.vocab_size` is 286, the embedding has 285 rows",
            ),
            (
                "no second word on the vocabulary",
                |w| w.remove("qwen2.vocab_size"),
                "taken",
            ),
        ],
    );
}

#[test]
fn what_would_be_computed_otherwise() {
    for key in [
        "attention.scale",
        "attention.temperature_scale",
        "attention.key_length_swa",
        "attention.value_length_swa",
        "attention.clamp_kqv",
        "rope.dimension_count_swa",
        "rope.freq_base_swa",
        "rope.scaling.alpha",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_ext_factor",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "logit_scale",
        "embedding_scale",
        "residual_scale",
        "pooling_type",
    ] {
        let key = format!("llama.{key}");
        let mut w = Tiny::smallest(Arch::Llama).writer();
        w.set(&key, Kv::U32(1));
        assert_eq!(
            read(&w).unwrap_err().to_string(),
            format!("`{key}` is there, which is not supported")
        );
    }
    check(
        &Tiny::smallest(Arch::Llama),
        &[
            (
                "causal",
                |w| w.set("llama.attention.causal", Kv::Bool(true)),
                "taken",
            ),
            (
                "not causal",
                |w| w.set("llama.attention.causal", Kv::Bool(false)),
                "`llama.attention.causal` is false, which is not supported",
            ),
        ],
    );
}

/// Files of Bonsai 2, and scales beside tensors of NVFP4, which ModelOpt writes.
#[test]
fn what_belongs_to_transformed_or_scaled_weights() {
    for key in [
        "prism.hadamard.version",
        "prism.anything",
        "qwen3.hadamard.block_size",
        "hadamard.sign_mode",
    ] {
        let mut w = Tiny::smallest(Arch::Qwen3).writer();
        w.set(key, Kv::U32(1));
        assert_eq!(
            read(&w).unwrap_err().to_string(),
            format!(
                "`{key}` says that the weights are stored rotated; without the transformation that belongs to them, which is not \
                 supported, the model would speak gibberish"
            )
        );
    }
    let mut w = Tiny::smallest(Arch::Qwen3).writer();
    w.set("general.prismatic.hadamards", Kv::U32(1));
    assert!(read(&w).is_ok());
    for name in ["blk.0.ffn_up.scale", "blk.0.ffn_up.input_scale"] {
        let mut w = Tiny::smallest(Arch::Qwen3).writer();
        w.add(name, &[1], 0, vec![0; 4]);
        let message = format!("tensor `{name}` has no place in a network of this architecture");
        assert_eq!(read(&w).unwrap_err().to_string(), message);
    }
}

/// Every tensor of every architecture: missing, of other dimensions, and, for norms and biases, of another type.
#[test]
fn every_tensor() {
    for tiny in [
        Tiny {
            tied_head: false,
            ..Tiny::smallest(Arch::Qwen2)
        },
        Tiny {
            layers: 2,
            ..Tiny::smallest(Arch::Qwen3)
        },
        Tiny {
            rope_freqs: true,
            qkv_bias: true,
            ..Tiny::smallest(Arch::Llama)
        },
        Tiny::smallest(Arch::Exaone4),
        Tiny::smallest(Arch::HunyuanDense),
        Tiny {
            draft_layer: true,
            ..Tiny::smallest(Arch::Qwen35)
        },
    ] {
        let good = tiny.writer();
        for tensor in &good.tensors {
            let name = tensor.name.as_str();
            let mut w = good.clone();
            w.remove_tensor(name);
            let want = match name {
                // a network without is another network
                "output.weight" | "rope_freqs.weight" => None,
                // the layer that drafts takes the network's
                "blk.2.nextn.shared_head_norm.weight" => None,
                // the first one says whether there shall be any
                "blk.0.attn_q.bias" if tiny.arch == Arch::Llama => Some(
                    "tensor `blk.0.attn_k.bias` has no place in a network of this architecture"
                        .into(),
                ),
                _ => Some(format!("tensor `{name}` is missing")),
            };
            assert_eq!(read(&w).err().map(|e| e.to_string()), want);

            let mut w = good.clone();
            let grown = w.tensor(name);
            *grown.dims.last_mut().unwrap() += 1;
            grown.data.extend(tensor.data.clone());
            grown.data.truncate(
                tensor.data.len() / tensor.dims.last().map_or(1, |&d| d as usize)
                    * (*grown.dims.last().unwrap() as usize),
            );
            let message = read(&w).unwrap_err().to_string();
            let want = if name == "token_embd.weight" {
                "`tokenizer.ggml.tokens` has 285 tokens, the embedding 286 rows".to_owned()
            } else {
                format!(
                    "tensor `{name}` has dimensions {:?}, expected {:?}",
                    w.tensor(name).dims,
                    tensor.dims
                )
            };
            assert_eq!(message, want);

            let mut w = good.clone();
            let half = w.tensor(name);
            half.ty = F16;
            half.data = vec![0; half.dims.iter().product::<u64>() as usize * 2];
            let plain = tensor.dims.len() == 1 || name.contains("conv1d");
            let want = plain.then(|| format!("tensor `{name}` is F16, only F32 is supported here"));
            assert_eq!(read(&w).err().map(|e| e.to_string()), want);
        }
    }
}

#[test]
fn a_tensor_that_would_be_passed_over() {
    for (arch, name) in [
        (Arch::Qwen2, "blk.0.attn_output.bias"),
        (Arch::Qwen2, "output.bias"),
        (Arch::Qwen2, "blk.0.attn_q_norm.weight"),
        (Arch::Qwen3, "blk.1.attn_norm.weight"),
        (Arch::Exaone4, "blk.0.attn_norm.weight"),
        (Arch::Llama, "blk.0.post_attention_norm.weight"),
        (Arch::SmolLm3, "rope_freqs.weight"),
        (Arch::Llama, "blk.0.attn_k.bias"),
        (Arch::Llama, "rope_factors_long.weight"),
        (Arch::Qwen35, "blk.0.attn_q.weight"),
        (Arch::Qwen35, "blk.1.ssm_a"),
        (Arch::Qwen35, "blk.1.ffn_norm.weight"),
        (Arch::Qwen35, "blk.2.nextn.enorm.weight"),
        (Arch::Qwen3, "blk.0.ssm_a"),
    ] {
        let mut w = Tiny::smallest(arch).writer();
        w.add(name, &[16], 0, vec![0; 64]);
        let message = read(&w).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("tensor `{name}` has no place in a network of this architecture")
        );
    }
}
