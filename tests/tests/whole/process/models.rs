//! Real models through the command line: the right tokens, of texts and of answers.

use glowplug_tests::world::daemon::glowplug;
use glowplug_tests::{Real, real_model};
use ruzstd::decoding::StreamingDecoder;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Stdio;

/// A prompt whose greedy continuation nothing here could change by accident: at each of its 24 tokens the first choice is
/// at least 1.05 in log-probability ahead of the second. The text is that of llama.cpp (llama-cpp-python 0.3.36,
/// `create_completion(temperature=0, max_tokens=24)`) on the same file.
const PROMPT: &str = "The first ten prime numbers are 2, 3, 5,";
const CONTINUATION: &str = " 7, 11, 13, 17, 19, 21, ";

#[test]
fn greedy_tokens_are_those_of_llama_cpp() {
    let model = real_model(Real::Smol);
    let model = model.to_str().unwrap();
    let args = [
        "generate",
        model,
        "--raw",
        "--prompt",
        PROMPT,
        "--temperature",
        "0",
        "--max-tokens",
        "24",
        "--json",
    ];
    // the level of this machine, and the one that defines the others
    for isa in [None, Some("scalar")] {
        let mut command = glowplug(&args);
        if let Some(isa) = isa {
            command.env("GLOWPLUG_ISA", isa);
        }
        let out = command.output().unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(answer["content"], CONTINUATION, "{isa:?}");
        assert_eq!(answer["usage"]["completion_tokens"], 24);
        assert_eq!(answer["usage"]["prompt_tokens"], 15);
        assert_eq!(answer["finish_reason"], "length");
    }
}

/// `vectors/tokenize.json` holds ids computed by llama.cpp.
fn tokenizes(model: &Path, name: &str) {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../vectors/tokenize.json")).unwrap();
    for (section, flag) in [
        (name.to_owned(), None),
        (format!("{name}_special"), Some("--special")),
    ] {
        let entries = vectors[&section].as_array().unwrap();
        let all = |field: &str| Value::from_iter(entries.iter().map(|entry| entry[field].clone()));
        let mut stdin = tempfile::tempfile().unwrap();
        serde_json::to_writer(&mut stdin, &all("text")).unwrap();
        stdin.rewind().unwrap();
        let out = glowplug(&["tokenize", model.to_str().unwrap()])
            .args(flag)
            .stdin(Stdio::from(stdin))
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let ids: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(ids, all("ids"), "{section}");
        assert_ne!(ids, json!([]), "{section}");
    }
}

#[test]
fn texts_of_smol_are_the_tokens_of_llama_cpp() {
    tokenizes(&real_model(Real::Smol), "smol");
}

#[test]
fn texts_of_a_vocabulary_without_tensors_are_the_tokens_of_llama_cpp() {
    let packed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/vectors/r1-distill-qwen-1.5b.vocab.gguf.zst"
    );
    let mut bytes = Vec::new();
    StreamingDecoder::new(File::open(packed).unwrap())
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r1.gguf");
    std::fs::write(&path, bytes).unwrap();
    tokenizes(&path, "r1");
}
