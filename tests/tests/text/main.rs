//! Vocabularies and chat templates as people use them: against llama.cpp's ids, and against what a
//! client may send.

#![allow(clippy::unwrap_used)]

mod answers;
mod jinja;
mod templates;
mod tools;
mod vocabularies;

use glowplug_model::gguf::Gguf;
use glowplug_tests::{GgufWriter, Kv, Real, r1_vocabulary as r1, real_model};

/// SmolLM2-135M-Instruct, the whole file.
fn smol() -> Gguf {
    Gguf::open(&real_model(Real::Smol)).unwrap()
}

/// Qwen2.5-Coder: R1's distillate was made from it, with the same words and merges; the names of
/// seven control tokens and the rule's own name are what differs.
fn qwen2() -> Gguf {
    let r1 = r1();
    let owned = |key: &str| {
        r1.strings(key)
            .unwrap()
            .into_iter()
            .map(String::from)
            .collect::<Vec<_>>()
    };
    let mut tokens = owned("tokenizer.ggml.tokens");
    let mut types = r1.i32s("tokenizer.ggml.token_type").unwrap();
    let names = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
    ];
    for (id, name) in (151_643..).zip(names) {
        tokens[id] = name.into();
        types[id] = 3;
    }
    let mut file = GgufWriter::default();
    file.set("general.architecture", "qwen2");
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", "qwen2");
    file.set("tokenizer.ggml.tokens", Kv::Strs(tokens));
    file.set("tokenizer.ggml.token_type", Kv::I32s(types));
    file.set(
        "tokenizer.ggml.merges",
        Kv::Strs(owned("tokenizer.ggml.merges")),
    );
    file.set("tokenizer.ggml.bos_token_id", Kv::U32(151_643));
    file.set("tokenizer.ggml.eos_token_id", Kv::U32(151_645));
    file.set("tokenizer.ggml.add_bos_token", Kv::Bool(false));
    Gguf::from_bytes(file.build().into()).unwrap()
}
