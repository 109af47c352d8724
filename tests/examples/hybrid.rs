//! Writes a file of random weights in the shape of Qwen3.5-2B in Q4_K_M, to measure what its network costs:
//! `cargo run --release -p glowplug-tests --example hybrid -- FILE [PERCENT]`. It says nothing of use, as fast as the model would.
//!
//! With a number it has a layer that drafts, in Q8_0, which is right so often: see [`foresee`]. Layers cost as much as in the other
//! file and add nothing, and the LM head is no longer the embedding, which no step reads.

use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;
use glowplug_tests::{GgufWriter, Kv, Tiny, Types, foresee};
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const LAYERS: u32 = 24;
const VOCAB: usize = 248_320;
/// Tokens whose rows of the embedding are not another one's as well, where one is to be told from another.
const OWN_ROWS: usize = 9 * DISTINCT;
/// After so many rows random weights come again.
const DISTINCT: usize = 512;
/// Blocks of a row of the embedding.
const BLOCKS: usize = 2048 / 256;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(file) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: hybrid FILE [PERCENT]".into());
    };
    let right = env::args().nth(2).map(|percent| percent.parse::<usize>());
    let right = right.transpose()?;
    let types = Types {
        token_embd: GgmlType::Q6_K,
        attn_v: GgmlType::Q6_K,
        output: GgmlType::Q6_K,
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
        tied_head: right.is_none(),
        draft_layer: right.is_some(),
        // so many have rows of their own
        vocab: if right.is_some() { OWN_ROWS } else { 0 },
        types,
        ..Tiny::new(Arch::Qwen35)
    };
    let mut w = shape.writer();
    // the mixture has six bits in half of these
    let one = |ty| Tiny {
        layers: 1,
        attends_every: 1,
        vocab: 0,
        types: Types::all(ty),
        ..shape.clone()
    };
    let mut finer = one(GgmlType::Q6_K).writer();
    for layer in (0..LAYERS).step_by(2) {
        let (from, to) = (
            "blk.0.ffn_down.weight",
            format!("blk.{layer}.ffn_down.weight"),
        );
        let (data, ty) = (finer.tensor(from).data.clone(), finer.tensor(from).ty);
        let down = w.tensor(&to);
        (down.data, down.ty) = (data, ty);
    }
    if let Some(percent) = right {
        let finest = one(GgmlType::Q8_0).writer();
        for tensor in finest.tensors {
            if let Some(part) = tensor.name.strip_prefix("blk.1.") {
                let of = w.tensor(&format!("blk.{LAYERS}.{part}"));
                (of.data, of.ty) = (tensor.data, tensor.ty);
            }
        }
        let table = w.tensor("token_embd.weight");
        let row = table.data.len() / OWN_ROWS;
        for (token, row) in table.data.chunks_exact_mut(row).enumerate() {
            // rows that are the same come to differ by the order of their blocks
            let turns = token / DISTINCT % BLOCKS;
            row.rotate_left(turns * row.len() / BLOCKS);
        }
        let range = DISTINCT..OWN_ROWS;
        // every hundred tokens in a row of them, in no order
        foresee(&mut w, range, &|token| token * 37 % 100 < percent, 0.0);
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
    for table in &mut w.tensors {
        if table.dims.last() == Some(&(rows as u64)) {
            let bytes = table.data.len() / rows * VOCAB;
            let grown = table.data.iter().copied();
            table.data = if table.name == "token_embd.weight" {
                grown.cycle().take(bytes).collect()
            } else {
                grown.chain(std::iter::repeat(0)).take(bytes).collect()
            };
            table.dims = vec![2048, VOCAB as u64];
        }
    }
}
