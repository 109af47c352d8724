//! Finds the files of the real models.

use glowplug_model::gguf::Gguf;
use std::io::Read;
use std::path::PathBuf;

/// The real models that tests are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Real {
    /// SmolLM2-135M-Instruct in Q4_1, a llama with a tied head.
    Smol,
    /// Qwen2.5-Coder-0.5B-Instruct in Q4_K_M, a qwen2 with Q5_0 and Q8_0 where 256 does not divide the rows.
    Q05,
    /// Qwen2.5-Coder-1.5B-Instruct in Q4_K_M, a qwen2 with Q4_K and Q6_K.
    Q15,
}

/// The file of a real model, in `$GLOWPLUG_MODELS` or `~/.cache/glowplug/models`.
///
/// # Panics
/// If the file is not there; the message says how to get it. A test without its model has failed, not passed.
pub fn real_model(model: Real) -> PathBuf {
    let (name, file) = match model {
        Real::Smol => ("smol", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        Real::Q05 => ("q05", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
        Real::Q15 => ("q15", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
    };
    let folder = std::env::var_os("GLOWPLUG_MODELS").map_or_else(
        || {
            std::env::home_dir()
                .unwrap_or_default()
                .join(".cache/glowplug/models")
        },
        PathBuf::from,
    );
    let path = folder.join(file);
    assert!(
        path.is_file(),
        "{} is not there; get it with `glowplug pull {name}`",
        path.display()
    );
    path
}

/// DeepSeek-R1-Distill-Qwen-1.5B: metadata without tensors, carried here.
///
/// # Panics
/// If the file in the tree is broken.
#[must_use]
#[allow(
    clippy::expect_used,
    reason = "only tests see it, and the file is in the tree"
)]
pub fn r1_vocabulary() -> Gguf {
    let packed = include_bytes!("../vectors/r1-distill-qwen-1.5b.vocab.gguf.zst");
    let mut bytes = Vec::new();
    let mut decoder =
        ruzstd::decoding::StreamingDecoder::new(&packed[..]).expect("a frame of zstd");
    decoder.read_to_end(&mut bytes).expect("the vocabulary");
    Gguf::from_bytes(bytes.into()).expect("a file of GGUF")
}
