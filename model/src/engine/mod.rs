//! Requests in, tokens out: the one owner of network, KV cache and sequences. Never blocks, never reads a clock:
//! the inference thread of the daemon calls [`Engine::step`] in a loop.
//! SKELETON: signatures are fixed (the daemon is written against them).

use crate::gguf::Gguf;
use crate::text::{Message, SamplerParams};

/// The daemon's own number for a request.
pub type RequestId = u64;

/// Choices at load; ceilings are in `firmware-config`.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// tokens of KV cache; refused if above the model's own
    pub context: usize,
    /// waiting requests; one more is `Refusal::Overloaded`
    pub queue: usize,
    /// threads in prefill
    pub prefill_threads: usize,
    /// threads in decode
    pub decode_threads: usize,
    /// forced instruction set
    pub isa: Option<crate::quant::Isa>,
}

/// What to do about the model's thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinking {
    /// false: an empty thought is written for the model
    pub enabled: bool,
    /// at most so many tokens, then the thought is closed for the model
    pub budget: Option<u32>,
    /// false: `Event::Text` never carries reasoning (it is still counted)
    pub visible: bool,
}

/// One chat request, validated by the daemon.
#[derive(Debug, Clone)]
pub struct Request {
    /// never empty
    pub messages: Vec<Message>,
    /// feed `messages[0].content` as it is, no template (`generate --raw`)
    pub raw: bool,
    /// sampling
    pub sampler: SamplerParams,
    /// thoughts
    pub thinking: Thinking,
    /// answer and thinking together, at least 1
    pub max_tokens: u32,
    /// stop strings, on the answer only
    pub stop: Vec<String>,
}

/// Log-probabilities of one token, for OpenAI's `logprobs.content[]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob { /** text (lossy) */ pub token: String, /** bytes */ pub bytes: Vec<u8>, /** ln p */ pub logprob: f32, /** alternatives: (text, bytes, ln p) */ pub top: Vec<(String, Vec<u8>, f32)> }

/// What a step has to say about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// its turn has come
    Started { /** tokens of the whole prompt */ prompt_tokens: u32, /** of which were already in the KV cache */ cached_tokens: u32 },
    /// the prompt is in the cache; the first token follows in this or the next step
    Prefilled,
    /// new text, whole UTF-8 characters; one event per decoded token, possibly with both sides empty
    Text { /** answer */ content: String, /** thought, empty when not visible */ reasoning: String, /** if asked */ logprobs: Option<TokenLogprob> },
    /// the last event of a request, always exactly one
    Finished(Outcome),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// why
    pub finish: Finish, /** prompt */ pub prompt_tokens: u32, /** of it from the cache */ pub cached_tokens: u32,
    /** decoded, thoughts included */ pub completion_tokens: u32, /** of it thoughts */ pub reasoning_tokens: u32,
}

/// `finish_reason`, and internal failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish { /** end of turn or stop string */ Stop, /** max_tokens or context full */ Length, /** cancelled */ Cancelled, /** deadline */ DeadlineExceeded, /** daemon stops */ Interrupted, /** bug or NaN: error code `internal` */ Failed }

/// Why a request was not taken; mapped to the wire in one place of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// queue full
    #[error("{queued} requests are waiting, the limit is {limit}")] Overloaded { /** now */ queued: usize, /** cap */ limit: usize },
    /// prompt + 1 > context
    #[error("the prompt has {tokens} tokens, the context holds {limit}")] ContextLength { /** prompt */ tokens: usize, /** cap */ limit: usize },
    /// bad field
    #[error("{message}")] Invalid { /** field */ param: &'static str, /** why, with the limit */ message: String },
}

/// What `info`, `inspect`, `demo` tell of the loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// `general.name`, else architecture
    pub name: String, /** qwen2 ... */ pub architecture: String, /** `Q4_K_M` from general.file_type, else the commonest type */ pub quantisation: String,
    /** of this engine */ pub context: usize, /** ids */ pub vocab: usize, /** does it think */ pub thinks: bool,
    /** the model's own recommended values, where the file has them, else 0.6 / 0.95 / 40 / 0 */ pub sampler: SamplerParams,
    /** file */ pub file_bytes: u64, /** level in use */ pub isa: String, /** line, bytes */ pub plan: Vec<(&'static str, u64)>,
}

/// Numbers for `metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts { /** streams */ pub running: usize, /** waiting */ pub queued: usize, /** 32-token pages */ pub pages_total: usize, /** in use */ pub pages_used: usize }

/// The file is not one we can serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError { /** file */ #[error(transparent)] Gguf(#[from] crate::gguf::GgufError), /** other */ #[error("{0}")] Other(String) }

/// SKELETON.
pub struct Engine;
impl Engine {
    /// Maps the weights, makes every buffer.
    pub fn load(_gguf: Gguf, _config: EngineConfig) -> Result<Self, LoadError> { todo!() }
    /// about the model
    pub fn model(&self) -> &ModelInfo { todo!() }
    /// Takes a request into the bounded queue or refuses it; Ok is the number of requests before it.
    pub fn submit(&mut self, _id: RequestId, _request: Request) -> Result<usize, Refusal> { todo!() }
    /// Ends a queued or running request with this reason: its `Finished` comes with the next step. False: unknown.
    pub fn end(&mut self, _id: RequestId, _why: Finish) -> bool { todo!() }
    /// Closes an open thought of a running request; false if unknown or not thinking.
    pub fn end_thinking(&mut self, _id: RequestId) -> bool { todo!() }
    /// One bounded piece of work: a chunk of prefill or one decoded token. False when there was nothing to do.
    pub fn step(&mut self, _sink: &mut dyn FnMut(RequestId, Event)) -> bool { todo!() }
    /// now
    pub fn counts(&self) -> Counts { todo!() }
}
