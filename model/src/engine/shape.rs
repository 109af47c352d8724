//! What the memory plan needs to know of a model file, read without loading it.

use crate::gguf::{Gguf, Value};
use crate::network::dims::Dims;
use crate::network::key_formats;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::plan::Shape;

/// The numbers that the memory plan needs of a file whose dimensions are checked. A vocabulary that is missing counts as
/// empty here and is refused when the file is loaded.
#[must_use]
pub fn shape(gguf: &Gguf, dims: &Dims) -> Shape {
    let bytes = |token: Value<'_>| match token {
        Value::Str(token) => token.len() as u64,
        _ => 0,
    };
    let tokens = gguf.array("tokenizer.ggml.tokens");
    Shape {
        file_bytes: gguf.file_bytes(),
        layers: dims.layers,
        embed: dims.embed,
        heads: dims.heads,
        kv_heads: dims.kv_heads,
        head_dim: dims.head_dim,
        ff: dims.ff,
        vocab: dims.vocab,
        token_bytes: tokens.map_or(0, |tokens| tokens.iter().map(bytes).sum()),
        merges: gguf
            .array("tokenizer.ggml.merges")
            .map_or(0, |merges| merges.len()),
        f16_key_layers: key_formats(gguf, dims, KvFormat::Q8_0)
            .iter()
            .filter(|format| **format == KvFormat::F16)
            .count(),
    }
}
