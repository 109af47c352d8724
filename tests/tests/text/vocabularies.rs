//! The tokenizer on whole vocabularies. `vectors/tokenize.json` holds ids computed by llama.cpp.

use super::{qwen2, r1, smol};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::Tokenizer;
use glowplug_tests::{GgufWriter, Kv};
use serde_json::Value;
use std::collections::BTreeMap;
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

/// A vocabulary of llama.cpp, cut down to what its texts can become; `vectors/vocabularies/make.py` makes them.
struct Cut {
    model: String,
    pre: String,
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
    scores: Vec<f32>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

fn list<T>(value: &Value, of: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let list = value.as_array().unwrap();
    list.iter().map(|value| of(value).unwrap()).collect()
}

impl Cut {
    fn all() -> BTreeMap<String, Self> {
        let text = include_str!("../../vectors/vocabularies/cut.json");
        let all: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
        let string = |value: &Value| Some(value.as_str()?.to_owned());
        let id = |value: &Value| Some(value.as_u64()? as u32);
        let cut = |of: Value| Self {
            model: string(&of["model"]).unwrap(),
            pre: string(&of["pre"]).unwrap(),
            tokens: list(&of["tokens"], string),
            types: list(&of["types"], |ty| Some(ty.as_i64()? as i32)),
            merges: list(&of["merges"], string),
            scores: list(&of["scores"], |score| Some(score.as_f64()? as f32)),
            texts: list(&of["texts"], string),
            ids: list(&of["ids"], |ids| Some(list(ids, id))),
        };
        all.into_iter().map(|(name, of)| (name, cut(of))).collect()
    }

    fn writer(&self) -> GgufWriter {
        let mut file = GgufWriter::default();
        file.set("general.architecture", "llama");
        file.set("tokenizer.ggml.model", &*self.model);
        file.set("tokenizer.ggml.pre", &*self.pre);
        file.set("tokenizer.ggml.tokens", Kv::Strs(self.tokens.clone()));
        file.set("tokenizer.ggml.token_type", Kv::I32s(self.types.clone()));
        if self.model == "llama" {
            file.set("tokenizer.ggml.scores", Kv::F32s(self.scores.clone()));
        } else {
            file.set("tokenizer.ggml.merges", Kv::Strs(self.merges.clone()));
        }
        file
    }

    fn tokenizer(&self) -> Tokenizer {
        let file = Gguf::from_bytes(self.writer().build().into()).unwrap();
        Tokenizer::from_gguf(&file).unwrap()
    }
}

#[test]
fn cut_vocabularies_equal_llama_cpp() {
    let all = Cut::all();
    assert_eq!(all.len(), 7);
    for (name, cut) in &all {
        let tokenizer = cut.tokenizer();
        assert!(cut.texts.len() > 40 && cut.ids.len() == cut.texts.len());
        for (text, ids) in cut.texts.iter().zip(&cut.ids) {
            let got = tokenizer.encode(text, false).unwrap();
            assert_eq!(got, *ids, "{name} {text:?}");
            let mut bytes = Vec::new();
            for (at, &id) in got.iter().enumerate() {
                match at {
                    0 => bytes.extend(tokenizer.first_bytes(id)),
                    _ => bytes.extend(tokenizer.token_bytes(id)),
                }
            }
            assert_eq!(bytes, text.as_bytes(), "{name}, and back");
        }
    }
}

#[test]
fn llama_2_has_its_tokens_where_the_file_names_none() {
    let cut = &Cut::all()["llama-spm"];
    let tokenizer = cut.tokenizer();
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (Some(1), true));
    let ends: Vec<u32> = (0..tokenizer.vocab() as u32)
        .filter(|&id| tokenizer.is_end(id))
        .collect();
    assert_eq!(ends, [2]);
    let mut file = cut.writer();
    file.set("tokenizer.ggml.add_bos_token", Kv::Bool(false));
    file.set("tokenizer.ggml.add_space_prefix", Kv::Bool(false));
    let file = Gguf::from_bytes(file.build().into()).unwrap();
    let bare = Tokenizer::from_gguf(&file).unwrap();
    assert!(!bare.adds_bos());
    for text in ["Hello", " Hello", "3"] {
        assert_eq!(
            bare.encode(text, false).unwrap(),
            tokenizer.encode_behind(text, false).unwrap(),
        );
    }
}

#[test]
fn hostile_scores_and_pieces_are_refused_in_words() {
    type Break = fn(&mut GgufWriter, &Cut);
    let table: [(Break, &str); 4] = [
        (
            |file, cut| {
                let mut scores = cut.scores.clone();
                scores[5] = f32::NAN;
                file.set("tokenizer.ggml.scores", Kv::F32s(scores));
            },
            "metadata key `tokenizer.ggml.scores` is not finite",
        ),
        (
            |file, cut| {
                let scores = cut.scores[1..].to_vec();
                file.set("tokenizer.ggml.scores", Kv::F32s(scores));
            },
            "metadata key `tokenizer.ggml.scores` has 841 values for 842 tokens",
        ),
        (
            |file, cut| {
                let mut tokens = cut.tokens.clone();
                tokens[300] = "x".repeat(10 << 20);
                file.set("tokenizer.ggml.tokens", Kv::Strs(tokens));
            },
            "the length of metadata key `tokenizer.ggml.tokens` is 10485760, the limit is 1024",
        ),
        (
            |file, _| file.set("tokenizer.ggml.scores", Kv::U32(1)),
            "metadata key `tokenizer.ggml.scores`",
        ),
    ];
    let cut = &Cut::all()["llama-spm"];
    for (change, says) in table {
        let mut file = cut.writer();
        change(&mut file, cut);
        let file = Gguf::from_bytes(file.build().into());
        let message = file.map(drop).unwrap_err().to_string();
        assert!(message.starts_with(says), "{message}");
    }
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
