//! The tokenizer takes what the memory plan has for it, also while it is built. A process of its own, so that what is counted is
//! the tokenizer's.

#![allow(clippy::unwrap_used)]

use glowplug_firmware_config::plan::{Shape, tokenizer};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::Tokenizer;
use glowplug_tests::{Counting, Real, r1_vocabulary, real_model};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

fn planned(gguf: &Gguf) -> u64 {
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap();
    tokenizer(&Shape {
        file_bytes: 0,
        layers: 0,
        embed: 0,
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        ff: 0,
        vocab: tokens.len(),
        token_bytes: tokens.iter().map(|token| token.len() as u64).sum(),
        merges: gguf.strings("tokenizer.ggml.merges").unwrap().len(),
        f16_key_layers: 0,
        state_bytes: 0,
        delta_width: 0,
        draft_bytes: 0,
    })
}

#[test]
fn the_tokenizer_is_what_is_planned() {
    for gguf in [
        Gguf::open(&real_model(Real::Smol)).unwrap(),
        r1_vocabulary(),
    ] {
        let planned = planned(&gguf);
        let before = ALLOCATOR.in_use();
        ALLOCATOR.peak();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let peak = (ALLOCATOR.peak() - before) as u64;
        let held = (ALLOCATOR.in_use() - before) as u64;
        println!(
            "{} tokens: {held} bytes, {peak} while it is built, {planned} planned",
            tokenizer.vocab()
        );
        assert!(peak <= planned && planned < peak + peak / 3);
        assert!(held < peak / 3 * 2);
        // and texts leave nothing behind
        for text in ["word ", "x", "👍"] {
            tokenizer.encode(&text.repeat(1000), false).unwrap();
        }
        let more = (ALLOCATOR.in_use() - before) as u64 - held;
        assert!(more < 3_000_000, "{more} bytes of the expressions' caches");
    }
}
