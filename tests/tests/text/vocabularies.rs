//! The tokenizer on whole vocabularies. `vectors/tokenize.json` holds ids computed by llama.cpp.

use super::{qwen2, r1, smol};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::Tokenizer;
use serde_json::Value;
use std::time::Duration;

fn ids(entry: &Value) -> Vec<u32> {
    entry["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// Every entry of `name`, and of `name_special` with control tokens read.
fn equals_llama_cpp(file: &Gguf, name: &str) {
    let tokenizer = Tokenizer::from_gguf(file).unwrap();
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/tokenize.json")).unwrap();
    for (key, special, count) in [
        (name.to_owned(), false, 80),
        (format!("{name}_special"), true, 1),
    ] {
        let entries = vectors[&key].as_array().unwrap();
        assert_eq!(entries.len(), count);
        for entry in entries {
            let text = entry["text"].as_str().unwrap();
            let got = tokenizer.encode(text, special).unwrap();
            assert_eq!(got, ids(entry), "{key} {text:?}");
            if !special {
                let bytes: Vec<u8> = got
                    .iter()
                    .flat_map(|&id| tokenizer.token_bytes(id))
                    .collect();
                assert_eq!(bytes, text.as_bytes(), "and back");
            }
        }
    }
}

#[test]
fn smol_equals_llama_cpp() {
    equals_llama_cpp(&smol(), "smol");
}

#[test]
fn qwen2_equals_llama_cpp() {
    equals_llama_cpp(&qwen2(), "qwen2");
}

#[test]
fn r1_equals_llama_cpp() {
    equals_llama_cpp(&r1(), "r1");
}

#[test]
fn ends_of_turns() {
    for (file, ends) in [
        (smol(), &[0, 2][..]),
        (qwen2(), &[151_643, 151_645]),
        (r1(), &[151_643, 151_647]),
    ] {
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        let found: Vec<u32> = (0..tokenizer.vocab() as u32)
            .filter(|&id| tokenizer.is_end(id))
            .collect();
        assert_eq!(found, ends);
        assert!(found.iter().all(|&id| tokenizer.token_bytes(id).is_empty()));
    }
}

/// The time that this thread has had on a processor: what else runs there does not count. From `schedstat`'s first field.
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// 64 KiB of anything repeated, and a word of 64 KiB without any repetition.
#[test]
fn no_text_takes_long() {
    const SIZE: usize = 64 << 10;
    let mut seed = 1u32;
    let mut letter = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (seed >> 24) as u8 % 26)
    };
    let mut texts: Vec<String> = (0..128u8)
        .map(|byte| char::from(byte).to_string().repeat(SIZE))
        .collect();
    for unit in [
        "👍",
        "👩‍",
        "调",
        "\u{300}",
        "\u{3000}",
        " \n",
        "'s",
        "<|",
        "<|im_start|>",
        "a ",
        "a1",
        " 1",
    ] {
        texts.push(unit.repeat(SIZE / unit.len()));
    }
    texts.push(" ".repeat(SIZE) + "x");
    texts.push((0..SIZE).map(|_| letter()).collect());
    for file in [smol(), r1()] {
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        for text in &texts {
            let before = worked();
            let ids = tokenizer.encode(text, false).unwrap();
            let took = worked() - before;
            let name: String = text.chars().take(12).collect();
            assert!(ids.len() <= text.len());
            // 25 ms at most on a Xeon of 2023; what goes over a text once for each of its bytes takes minutes
            assert!(took < Duration::from_secs(5), "{name:?}: {took:?}");
        }
    }
}
