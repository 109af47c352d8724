//! What an engine is loaded with, and why a file is not loaded.

use crate::gguf::GgufError;
use crate::kv::{LayoutError, NoMemory, NotLocked, TooManyPages};
use crate::network::WeightError;
use crate::network::dims::{Dims, DimsError};
use crate::ops::no_gpu::NoGpu;
use crate::ops::processor::NoCache;
use crate::quant::{Isa, UnsupportedIsa};
use crate::seal::KeyFile;
use crate::text::TextError;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::{PAGE_TOKENS, STEP_TOKENS};
use glowplug_firmware_config::plan::state_slots;
use std::path::PathBuf;
use std::sync::Arc;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvFormats {
    /// Format of the keys, but for layers whose keys need [`KvFormat::F16`].
    pub k: KvFormat,
    /// Format of the values in every layer.
    pub v: KvFormat,
}

impl KvFormats {
    /// Keys and values in the same format.
    #[must_use]
    pub const fn both(format: KvFormat) -> Self {
        Self {
            k: format,
            v: format,
        }
    }
}

/// Who finds the pages that a client's prompts have filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Share {
    /// Only the same client: no count and no response time tells others what it asked.
    #[default]
    Client,
    /// Every client, so that a prompt which all of them begin with is computed once.
    All,
}

/// Which processor a model runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compute {
    /// The host's own, by [`Isa`].
    #[default]
    Cpu,
    /// The GPU that Vulkan gives first.
    Gpu,
}

/// Everything that is chosen when an engine is loaded. The ceilings are in [`glowplug_firmware_config::limits`].
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Most tokens of one sequence; refused if above the model's own limit.
    pub context: usize,
    /// Most sequences in one step.
    pub streams: usize,
    /// KV pages of the arena.
    pub pages: usize,
    /// Slots of state, in a network whose layers keep some: one for each sequence that has started, and the others for the
    /// snapshots that prompts begin with. There is at least one.
    pub state_slots: usize,
    /// How keys and values are stored in the pages.
    pub kv: KvFormats,
    /// Whether the pages are locked into memory, so that they are never swapped out.
    pub lock: bool,
    /// Who finds what the pages hold.
    pub share: Share,
    /// The folder of saved sessions. Without one, sessions live in memory only.
    pub sessions: Option<PathBuf>,
    /// The keys that they are encrypted with. Without any they are not.
    pub session_keys: Option<Arc<KeyFile>>,
    /// Bytes of sessions that may be written in a day, not counting those saved at shutdown. `None` sets no limit.
    pub session_writes: Option<u64>,
    /// Whether a session that outgrows the context forgets its oldest turns. If not, its request is refused.
    pub window: bool,
    /// Whether tokens are drafted from what the text repeats, where that pays. Answers are the same either way.
    pub drafts: bool,
    /// Most tokens of a step of the processor, at least [`CHUNK_TOKENS`](glowplug_firmware_config::limits::CHUNK_TOKENS) and at most
    /// [`STEP_TOKENS`].
    pub step_tokens: usize,
    /// Requests that may wait; one more is refused as [`Overloaded`](super::Refusal::Overloaded).
    pub queue: usize,
    /// Threads used for prompts.
    pub prefill_threads: usize,
    /// Threads used for answers.
    pub decode_threads: usize,
    /// The processors that each thread is held to, the caller's own first. If empty, the system places the threads.
    pub affinity: Vec<Vec<usize>>,
    /// The instruction set to use instead of the best one that the processor has.
    pub isa: Option<Isa>,
    /// The processor that the network runs on.
    pub compute: Compute,
}

impl EngineConfig {
    /// One thread, drafts, no files, and pages and slots of state enough for `streams` sequences of `context` tokens each, of
    /// which one more may wait. Take the rest with `..`.
    #[must_use]
    pub fn new(context: usize, streams: usize, kv: KvFormats) -> Self {
        Self {
            context,
            streams,
            pages: streams * context.div_ceil(PAGE_TOKENS),
            state_slots: state_slots(streams),
            kv,
            lock: false,
            share: Share::Client,
            sessions: None,
            session_keys: None,
            session_writes: None,
            window: false,
            drafts: true,
            step_tokens: STEP_TOKENS,
            queue: 1,
            prefill_threads: 1,
            decode_threads: 1,
            affinity: Vec::new(),
            isa: None,
            compute: Compute::Cpu,
        }
    }
}

/// How much of what [`EngineConfig`] allows is used: less than all of it while a board is hot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Threads used for prompts.
    pub prefill_threads: usize,
    /// Threads used for answers.
    pub decode_threads: usize,
    /// Most sequences in one step. Those that have begun go on, even if they are more.
    pub streams: usize,
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is not a sound GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The dimensions are missing, contradict each other or are too large.
    #[error(transparent)]
    Dims(#[from] DimsError),
    /// The tokenizer or the chat template cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A weight is missing or has another shape or type than it must have.
    #[error(transparent)]
    Tensor(WeightError),
    /// There is no memory for the KV cache.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The KV cache is larger than what this process may lock.
    #[error(transparent)]
    NotLocked(#[from] NotLocked),
    /// The model's heads cannot be stored in the KV format that was asked for.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There are more pages than an arena may have.
    #[error(transparent)]
    Pages(#[from] TooManyPages),
    /// The processor lacks the instruction set that was asked for.
    #[error(transparent)]
    Isa(#[from] UnsupportedIsa),
    /// The GPU cannot run the model.
    #[error(transparent)]
    NoGpu(#[from] NoGpu),
    /// The system did not start the worker threads.
    #[error("the inference threads could not be started: {0}")]
    Threads(std::io::Error),
    /// The configured context is none that the model takes.
    #[error("a context of {asked} tokens was asked for, the model takes 1 to {limit}")]
    Context {
        /// Tokens asked for by the configuration.
        asked: usize,
        /// Tokens that the file states as `context_length`.
        limit: usize,
    },
    /// The configured context is longer than the model's attention looks back.
    #[error(
        "a context of {asked} tokens was asked for, but attention looks back {window} tokens (`attention.sliding_window`), which \
         is computed for contexts of up to {window} tokens only, where it is the same as looking at all"
    )]
    Window {
        /// Tokens asked for by the configuration.
        asked: usize,
        /// Tokens that attention looks back.
        window: usize,
    },
}

/// Checks a context that was asked for.
///
/// # Errors
/// [`LoadError::Context`] or [`LoadError::Window`] if the model does not take it.
pub fn check_context(asked: usize, dims: &Dims) -> Result<(), LoadError> {
    let limit = dims.context_train;
    match dims.window {
        _ if asked == 0 || asked > limit => Err(LoadError::Context { asked, limit }),
        Some(window) if asked > window => Err(LoadError::Window { asked, window }),
        _ => Ok(()),
    }
}

impl From<NoCache> for LoadError {
    fn from(error: NoCache) -> Self {
        match error {
            NoCache::NoMemory(error) => Self::NoMemory(error),
            NoCache::NoGpu(error) => Self::NoGpu(error),
        }
    }
}

impl From<WeightError> for LoadError {
    fn from(error: WeightError) -> Self {
        match error {
            WeightError::NoGpu(error) => Self::NoGpu(error),
            missing @ WeightError::Missing(_) => Self::Tensor(missing),
        }
    }
}
