//! What the memory plan needs to know of a model file, read without loading it.

use super::KvFormats;
use crate::gguf::{Gguf, Value};
use crate::kv::{KvLayout, StateLayout};
use crate::network::dims::{Delta, Dims};
use crate::network::{DRAFTED_TOKENS, key_formats};
use crate::ops::memory::GpuFacts;
use crate::ops::no_gpu::NoGpu;
use crate::ops::processor::Processor;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::STEP_TOKENS;
use glowplug_firmware_config::plan::Shape;
use glowplug_firmware_config::plan::device::DeviceBytes;

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
        layers: dims.kv_layers(),
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
        state_bytes: states(dims).bytes() as u64,
        delta_width: dims.delta.as_ref().map_or(0, Delta::width),
        draft_bytes: (states(dims).journal_bytes() + drafting(dims)) as u64,
    }
}

/// Bytes that a layer which drafts works in: its tokens' embeddings, hidden states and what they are joined to, and its logits.
fn drafting(dims: &Dims) -> usize {
    let values = STEP_TOKENS * 6 * dims.embed + DRAFTED_TOKENS.min(dims.vocab);
    dims.draft_layers * values * size_of::<f32>()
}

/// What a sequence keeps besides pages.
pub(super) fn states(dims: &Dims) -> StateLayout {
    let hidden = dims.draft_layers * dims.embed;
    (dims.delta.as_ref()).map_or_else(StateLayout::default, |delta| delta.state(hidden))
}

/// What a GPU's memory holds of a file whose dimensions are checked, with `pages` pages and sequences of at most `context`
/// tokens. No device is opened for it.
///
/// # Errors
/// [`NoGpu`] if there are no kernels for the network, for the file or for its heads in these formats, or the program was built without GPUs.
pub fn device_memory(
    gguf: &Gguf,
    dims: &Dims,
    kv: KvFormats,
    pages: usize,
    context: usize,
) -> Result<DeviceBytes, NoGpu> {
    dims.check_gpu(context)?;
    let keys = key_formats(gguf, dims, kv.k);
    let layout = KvLayout::new(dims.kv_layers(), dims.kv_heads, dims.head_dim, keys, kv.v);
    let layout = layout.map_err(|error| NoGpu::Device(error.to_string()))?;
    Processor::device_memory(gguf, &layout, pages, &dims.widths(context))
}

/// Opens the GPU, if that was not done before, and says what is known of it.
///
/// # Errors
/// [`NoGpu`] if there is none, it was given up before, or the program was built without GPUs.
pub fn gpu() -> Result<GpuFacts, NoGpu> {
    let gpu = Processor::gpu()?;
    gpu.facts().cloned().ok_or(NoGpu::NotBuilt)
}
