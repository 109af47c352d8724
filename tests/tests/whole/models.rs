//! What a real model says, through the command line: the right tokens.

use super::daemon::glowplug;
use glowplug_tests::{Real, real_model};

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
        let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(answer["content"], CONTINUATION, "{isa:?}");
        assert_eq!(answer["usage"]["completion_tokens"], 24);
        assert_eq!(answer["usage"]["prompt_tokens"], 15);
        assert_eq!(answer["finish_reason"], "length");
    }
}
