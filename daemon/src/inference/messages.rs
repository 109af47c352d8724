//! What the select loop and the inference thread tell each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use glowplug_model::engine::{
    Conversations, Counts, Finish, ModelInfo, Outcome, Prepared, PromptBuilder, Refusal, Request,
    RequestId, SessionFault, SessionState, TokenLogprob,
};
use glowplug_model::text::ToolCall;

use super::device::Computes;
use super::lost::Lost;
use crate::models::packed::Weights;
use crate::wire::session::Call;

/// Times a client may ask to end one request's thought: one that comes before the thought is open has no effect.
pub const END_THINKING_MAX: usize = 8;
/// Verbs of all clients that the engine has not answered yet. Each may write a file between two steps, so they are few.
pub const VERBS_MAX: usize = 16;

/// What the inference thread is told to do.
#[derive(Debug)]
pub enum Command {
    /// Take a new request.
    Submit(RequestId, Box<Request>),
    /// Take the prepared prompt of a request; none if preparing it panicked. Only the thread of the prompts sends this.
    Prepared(RequestId, Option<Box<Prepared>>),
    /// End a request for this reason.
    End(RequestId, Finish),
    /// A request that paused for tools does not go on: its pages need not be kept.
    Release(RequestId),
    /// End the thought of a request, so that its answer begins.
    EndThinking(RequestId),
    /// Do a session's verb between two steps.
    Session(RequestId, Call),
    /// Forget all of a client, whose requests were ended before.
    Forget(RequestId, Arc<str>),
}

/// What the inference thread reports.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every report is an update"
)]
pub enum Report {
    /// What is mapped now: the model was packed, or its packed file proved to be damaged. Comes before `Loaded`.
    Mapped(Box<Weights>),
    /// The model has passed its self-test, on this processor. Its prompts are made by this builder.
    Loaded(Box<ModelInfo>, PromptBuilder, Computes, Load),
    /// The GPU is lost, and this processor goes on. What it had computed has failed before.
    Moved(Box<ModelInfo>, Computes),
    /// A request got on.
    Update(Update, Load),
    /// A session's verb was done or has failed.
    Session(RequestId, Result<SessionState, SessionFault>, Load),
    /// A client was forgotten together with so many sessions, or that has failed.
    Forgotten(RequestId, Result<usize, SessionFault>, Load),
    /// Nothing happened but the numbers changed, or the thread only says that it is alive.
    Load(Load),
    /// The last report: the engine is gone and its memory free. An error says that the file cannot be served or that the
    /// engine broke.
    Ended(Result<(), Lost>, Conversations),
}

/// What the engine was doing when a report was made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Sequences, pages and sessions in the engine.
    pub counts: Counts,
    /// Tokens decoded since the engine was loaded.
    pub tokens: u64,
    /// Time spent decoding them, pauses included.
    pub decoding: Duration,
    /// Counts steps that did something, prompts that were prepared and verbs that were done. It stands still when nothing
    /// moves.
    pub progress: u64,
}

/// Everything that is new about one request since the update before.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub id: RequestId,
    pub text: Text,
    pub times: Timestamps,
    /// How the request ended, and when; only in its last update.
    pub end: Option<(End, Instant)>,
}

/// How a request ended in the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The engine had taken it.
    Finished(Outcome),
    /// The engine did not take it.
    Refused(Refusal),
}

/// Text of one request, as tokens brought it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text {
    pub content: String,
    /// The thought, if it is visible.
    pub reasoning: String,
    /// One for each token of both, if they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Calls of tools, each of them complete.
    pub calls: Vec<ToolCall>,
}

/// When the stages of one request began, all by the same monotonic clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// The moment at which its turn came.
    pub started: Option<Instant>,
    /// All of its prompt was in the cache.
    pub prefilled: Option<Instant>,
    /// Its first token was decoded.
    pub first_token: Option<Instant>,
}

/// The outcome of a request that the engine never took, or says no more about.
pub(crate) fn unheard(finish: Finish) -> Outcome {
    Outcome {
        finish,
        prompt_tokens: 0,
        cached_tokens: 0,
        completion_tokens: 0,
        reasoning_tokens: 0,
        forgotten_messages: 0,
    }
}
