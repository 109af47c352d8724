//! Any bytes as the schema of an answer, or as its pattern: they are refused, or compiled within their bounds, and what the masks
//! let through to an end is JSON.

use crate::Tiny;
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::{Constrainer, Format, Tokenizer};
use std::sync::{Arc, LazyLock};

/// A vocabulary of bytes, a few words and ends.
static TOOLS: LazyLock<(Arc<Tokenizer>, Constrainer)> = LazyLock::new(|| {
    let bytes = Tiny::smallest(Arch::Qwen2).writer().build();
    let file = Gguf::from_bytes(bytes.into()).expect("a vocabulary");
    let tokenizer = Arc::new(Tokenizer::from_gguf(&file).expect("a vocabulary"));
    let vocab = tokenizer.vocab();
    (
        Arc::clone(&tokenizer),
        Constrainer::new(tokenizer, vocab).expect("a vocabulary with an end"),
    )
});

pub(in crate::fuzz) fn run(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let is_json = kind % 4 != 0;
    let format = if is_json {
        Format::JsonSchema(text.into())
    } else {
        Format::Regex(text.into())
    };
    let (tokenizer, constrainer) = &*TOOLS;
    let checked = format.check();
    let compiled = constrainer.compile(&format);
    assert!(
        checked.is_ok() || compiled.is_err(),
        "what the check refuses is refused"
    );
    let Ok(mut constraint) = compiled else {
        return;
    };
    let mut answer = Vec::new();
    for step in 0..60 {
        if constraint.is_complete() && step % 3 == 0 || constraint.is_over() {
            if is_json {
                let valid: Result<serde_json::Value, _> = serde_json::from_slice(&answer);
                assert!(valid.is_ok(), "{}", String::from_utf8_lossy(&answer));
            }
            return;
        }
        let Ok(mask) = constraint.mask() else {
            return;
        };
        let tokens: Vec<u32> = mask
            .tokens()
            .filter(|token| !tokenizer.is_end(*token))
            .collect();
        let pick = bytes[step % bytes.len()] as usize + step;
        let Some(token) = tokens.get(pick % tokens.len().max(1)) else {
            return;
        };
        answer.extend_from_slice(&tokenizer.token_bytes(*token));
        constraint.accept(*token).expect("what the mask allows");
    }
}
