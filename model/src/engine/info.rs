//! What users are told of a loaded model.

use super::model::Model;
use crate::gguf::{GgmlType, Gguf};
use crate::text::SamplerParams;
use std::collections::HashMap;

/// Longest name of a model, in characters. The name is in every frame, so it must be short.
const NAME_MAX: usize = 96;

/// What `info`, `inspect` and `demo` tell of the loaded model. Every text is short and on one line, whatever the file says.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// `general.name` without control characters, cut to 96 characters; the architecture if the file has no name.
    pub name: String,
    /// Name of the architecture as the file has it, for example `qwen2`.
    pub architecture: String,
    /// The name for `general.file_type`, for example `Q4_K_M`; else the type that most bytes of the file have.
    pub quantisation: String,
    /// Most tokens of a sequence.
    pub context: usize,
    /// Number of token ids.
    pub vocab: usize,
    /// Whether the model writes thoughts before its answers.
    pub thinks: bool,
    /// The values that the file recommends; those of [`SamplerParams::default`] where it recommends none.
    pub sampler: SamplerParams,
    /// Length of the file, in bytes.
    pub file_bytes: u64,
    /// Name of the instruction set in use, or of the GPU.
    pub isa: String,
}

impl ModelInfo {
    pub(super) fn new(gguf: &Gguf, model: &Model, context: usize, thinks: bool) -> Self {
        let dims = model.dims();
        let architecture = dims.arch.name().to_owned();
        Self {
            name: gguf
                .str("general.name")
                .ok()
                .and_then(name)
                .unwrap_or_else(|| architecture.clone()),
            architecture,
            quantisation: quantisation(gguf),
            context,
            vocab: dims.vocab,
            thinks,
            sampler: recommended(gguf),
            file_bytes: gguf.file_bytes(),
            isa: model.name.clone(),
        }
    }
}

/// The part of a file's text that can be shown as a name, if there is any.
fn name(text: &str) -> Option<String> {
    let shown = text.chars().filter(|c| !c.is_control());
    let name: String = shown.take(NAME_MAX).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The sampler of a request that sets nothing: the values that the file recommends, by the keys that llama.cpp's converter
/// writes from a model's `generation_config.json`, and the defaults for the others.
#[must_use]
pub fn recommended(gguf: &Gguf) -> SamplerParams {
    let float = |key: &str, default| gguf.f32(key).unwrap_or(default);
    let other = SamplerParams::default();
    SamplerParams {
        temperature: float("general.sampling.temp", other.temperature).clamp(0.0, 2.0),
        top_p: float("general.sampling.top_p", other.top_p).clamp(0.0, 1.0),
        top_k: gguf.u32("general.sampling.top_k").unwrap_or(other.top_k),
        min_p: float("general.sampling.min_p", other.min_p).clamp(0.0, 1.0),
        ..other
    }
}

/// The name of the file's quantisation. The numbers are those of llama.cpp's `enum llama_ftype`.
fn quantisation(gguf: &Gguf) -> String {
    let named = match gguf.u32("general.file_type") {
        Ok(0) => "F32",
        Ok(1) => "F16",
        Ok(2) => "Q4_0",
        Ok(3) => "Q4_1",
        Ok(7) => "Q8_0",
        Ok(8) => "Q5_0",
        Ok(9) => "Q5_1",
        Ok(10) => "Q2_K",
        Ok(11) => "Q3_K_S",
        Ok(12) => "Q3_K_M",
        Ok(13) => "Q3_K_L",
        Ok(14) => "Q4_K_S",
        Ok(15) => "Q4_K_M",
        Ok(16) => "Q5_K_S",
        Ok(17) => "Q5_K_M",
        Ok(18) => "Q6_K",
        Ok(19) => "IQ2_XXS",
        Ok(20) => "IQ2_XS",
        Ok(21) => "Q2_K_S",
        Ok(22) => "IQ3_XS",
        Ok(23) => "IQ3_XXS",
        Ok(24) => "IQ1_S",
        Ok(25) => "IQ4_NL",
        Ok(26) => "IQ3_S",
        Ok(27) => "IQ3_M",
        Ok(28) => "IQ2_S",
        Ok(29) => "IQ2_M",
        Ok(30) => "IQ4_XS",
        Ok(31) => "IQ1_M",
        Ok(32) => "BF16",
        _ => return commonest(gguf),
    };
    named.to_owned()
}

fn commonest(gguf: &Gguf) -> String {
    let mut bytes: HashMap<GgmlType, usize> = HashMap::new();
    for tensor in gguf.tensors() {
        *bytes.entry(tensor.ty).or_default() += tensor.bytes;
    }
    bytes
        .into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .map_or_else(|| "none".to_owned(), |(ty, _)| ty.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_on_one_line() {
        assert_eq!(name("Smol 135M").as_deref(), Some("Smol 135M"));
        assert_eq!(name(" a\n\u{1b}[31mb\0 ").as_deref(), Some("a[31mb"));
        assert_eq!(name("\n \t"), None);
        let long = name(&"ä".repeat(1 << 20)).unwrap_or_default();
        assert_eq!(long, "ä".repeat(NAME_MAX));
    }
}
