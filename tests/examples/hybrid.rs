//! Writes a file of random weights in the shape of Qwen3.5-2B in Q4_K_M, to measure what its network costs:
//! `cargo run --release --workspace --example hybrid -- FILE`. It says nothing of use, as fast as the model would.

use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;
use glowplug_tests::{GgufWriter, Kv, Tiny, Types};
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const LAYERS: u32 = 24;
const VOCAB: usize = 248_320;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(file) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: hybrid FILE".into());
    };
    let types = Types {
        token_embd: GgmlType::Q6_K,
        attn_v: GgmlType::Q6_K,
        ..Types::all(GgmlType::Q4_K)
    };
    let shape = Tiny {
        layers: LAYERS,
        embed: 2048,
        heads: 8,
        kv_heads: 2,
        head_dim: 256,
        ff: 6144,
        context: 32_768,
        rope_base: 1e7,
        rope_dims: Some(64),
        attends_every: 4,
        key_heads: 16,
        value_heads: 16,
        state: 128,
        pre: "qwen35",
        types,
        ..Tiny::new(Arch::Qwen35)
    };
    let mut w = shape.writer();
    // the mixture has six bits in half of these
    let mut finer = Tiny {
        layers: 1,
        attends_every: 1,
        types: Types::all(GgmlType::Q6_K),
        ..shape
    }
    .writer();
    for layer in (0..LAYERS).step_by(2) {
        let (from, to) = (
            "blk.0.ffn_down.weight",
            format!("blk.{layer}.ffn_down.weight"),
        );
        let (data, ty) = (finer.tensor(from).data.clone(), finer.tensor(from).ty);
        let down = w.tensor(&to);
        (down.data, down.ty) = (data, ty);
    }
    grow_vocabulary(&mut w);
    Ok(fs::write(file, w.build())?)
}

/// Adds tokens that nobody writes, with the weights of those that are there.
fn grow_vocabulary(w: &mut GgufWriter) {
    let mut rows = 0;
    for (key, value) in &mut w.keys {
        match value {
            Kv::Strs(tokens) if key == "tokenizer.ggml.tokens" => {
                rows = tokens.len();
                tokens.extend((rows..VOCAB).map(|id| format!("<|unused_{id}|>")));
            }
            Kv::I32s(types) if key == "tokenizer.ggml.token_type" => types.resize(VOCAB, 5),
            _ => {}
        }
    }
    w.set("qwen35.vocab_size", Kv::U32(VOCAB as u32));
    let table = w.tensor("token_embd.weight");
    let bytes = table.data.len() / rows * VOCAB;
    table.data = table.data.iter().copied().cycle().take(bytes).collect();
    table.dims = vec![2048, VOCAB as u64];
}
