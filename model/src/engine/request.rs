//! What goes into the engine and what comes out.

use super::scheduler::Priority;
use crate::text::{Message, SamplerParams};
use glowplug_firmware_config::limits::{
    SESSION_TEXT_MAX, SESSION_TEXT_PER_CLIENT, SESSIONS_MAX, SESSIONS_PER_CLIENT,
};
use std::sync::Arc;

/// The daemon's own number for a request.
pub type RequestId = u64;

/// What to do about the model's thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinking {
    /// false: an empty thought is written for the model
    pub enabled: bool,
    /// at most so many tokens, then the thought is closed for the model
    pub budget: Option<u32>,
    /// false: [`Event::Text`] never carries reasoning (it is still counted)
    pub visible: bool,
}

/// One chat request, validated by the daemon.
#[derive(Debug, Clone)]
pub struct Request {
    /// whose it is: shares are fair by client, sessions are its own
    pub client: Arc<str>,
    /// the conversation it goes on with; `messages` are the new ones then
    pub session: Option<Arc<str>>,
    /// before or after others
    pub priority: Priority,
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

impl Request {
    /// What only the model can tell of a request: does every biased token exist?
    pub(super) fn check(&self, vocab: usize) -> Result<(), Refusal> {
        let mut biased = self.sampler.logit_bias.iter().map(|(token, _)| *token);
        match biased.find(|token| *token as usize >= vocab) {
            None => Ok(()),
            Some(token) => Err(Refusal::Invalid {
                param: "logit_bias",
                message: format!("{token} is no token of this model, which has {vocab} from 0 on"),
            }),
        }
    }
}

/// Log-probabilities of one token, for OpenAI's `logprobs.content[]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// text (lossy)
    pub token: String,
    /// bytes
    pub bytes: Vec<u8>,
    /// ln p
    pub logprob: f32,
    /// alternatives: (text, bytes, ln p)
    pub top: Vec<(String, Vec<u8>, f32)>,
}

/// What a step has to say about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// its turn has come
    Started {
        /// tokens of the whole prompt
        prompt_tokens: u32,
        /// of which were already in the KV cache
        cached_tokens: u32,
    },
    /// the prompt is in the cache; the first token follows in the next step
    Prefilled,
    /// new text, whole UTF-8 characters; one event per decoded token, possibly with both sides empty
    Text {
        /// answer
        content: String,
        /// thought, empty when not visible
        reasoning: String,
        /// if asked, of a token of the answer
        logprobs: Option<TokenLogprob>,
    },
    /// the last event of a request, always exactly one
    Finished(Outcome),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// why
    pub finish: Finish,
    /// tokens of the prompt
    pub prompt_tokens: u32,
    /// of it from the cache
    pub cached_tokens: u32,
    /// decoded, thoughts included
    pub completion_tokens: u32,
    /// of it thoughts
    pub reasoning_tokens: u32,
    /// messages of the session that were forgotten for its prompt
    pub forgotten_messages: u32,
}

/// `finish_reason`, and internal failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// end of turn or stop string
    Stop,
    /// `max_tokens`, or the context is full
    Length,
    /// by the client
    Cancelled,
    /// by its deadline
    DeadlineExceeded,
    /// the daemon stops
    Interrupted,
    /// a newer request of the same session took its place
    Superseded,
    /// a bug, or logits that are not numbers: error code `internal`
    Failed,
}

/// Why a request was not taken; mapped to the wire in one place of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// queue full
    #[error("{queued} requests are waiting, the limit is {limit}")]
    Overloaded {
        /// now
        queued: usize,
        /// cap
        limit: usize,
    },
    /// no room for one token of an answer
    #[error("the prompt has {tokens} tokens, the context holds {limit} with the answer")]
    ContextLength {
        /// prompt
        tokens: usize,
        /// cap
        limit: usize,
    },
    /// too long for the context, whatever its tokens are
    #[error(
        "the prompt has {bytes} bytes, which are more tokens than the {limit} that the context holds"
    )]
    TextLength {
        /// of what the user said
        bytes: usize,
        /// tokens
        limit: usize,
    },
    /// more than the whole cache
    #[error("the request needs {needed} KV pages, there are {pages}: {} are missing", needed - pages)]
    Memory {
        /// for prompt and answer
        needed: usize,
        /// of the arena
        pages: usize,
    },
    /// the session has no place: none that may make room for it can be put into a file first
    #[error("{0}, and none of those can be put into a file: drop or reset one")]
    Sessions(SessionBound),
    /// bad field
    #[error("{message}")]
    Invalid {
        /// field
        param: &'static str,
        /// why, with the limit
        message: String,
    },
}

/// What there may be of sessions in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionBound {
    /// [`SESSIONS_PER_CLIENT`]
    #[error("this client has {SESSIONS_PER_CLIENT} sessions, which is the limit")]
    OfClient,
    /// [`SESSION_TEXT_PER_CLIENT`]
    #[error("the sessions of this client have {SESSION_TEXT_PER_CLIENT} bytes of text at most")]
    TextOfClient,
    /// [`SESSIONS_MAX`]
    #[error("there are {SESSIONS_MAX} sessions, which is the limit")]
    All,
    /// [`SESSION_TEXT_MAX`]
    #[error("all sessions have {SESSION_TEXT_MAX} bytes of text at most")]
    TextOfAll,
}

/// Something about the files of sessions that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// the disk does not do what it is told; once, until it does again
    #[error("sessions cannot be written to their files, or removed from them: {0}")]
    Failing(String),
    /// it does again
    #[error("sessions are written to their files again")]
    Mended,
    /// a session has a file that is of no use
    #[error("the session `{session}` of `{client}` begins anew, its file cannot be used: {why}")]
    Unreadable {
        /// whose
        client: Arc<str>,
        /// which
        session: Arc<str>,
        /// what is wrong with it
        why: String,
    },
}

/// What a client may do to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionVerb {
    /// forget what was said
    Reset,
    /// write it to its file
    Save,
    /// forget it, and its file
    Drop,
}

/// A session after a [`SessionVerb`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionState {
    /// tokens whose keys and values are held
    pub tokens: usize,
    /// KV pages that hold them
    pub pages: usize,
    /// questions answered
    pub turns: usize,
    /// is its file what it is now
    pub saved: bool,
}

/// Why a [`SessionVerb`] was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    /// this client has no such session
    #[error("there is no such session")]
    NotFound,
    /// it has a request that runs or waits
    #[error("the session has a request that is not answered yet")]
    Busy,
    /// nowhere to save it
    #[error("`sessions.dir` is not configured")]
    NoFolder,
    /// so much was written today
    #[error(
        "{per_day} bytes of sessions were written today, which is what the storage of this board bears"
    )]
    Worn {
        /// bytes, of all clients or of this one
        per_day: u64,
    },
    /// the disk, or what it may have of sessions
    #[error("there is no room for the session's file")]
    Full,
    /// its file cannot be written, read or removed
    #[error("the session's file: {0}")]
    Failed(String),
}

/// What a step of the engine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worked {
    /// there was nothing to do
    Nothing,
    /// ends, starts, or a token of a draft
    Little,
    /// a pass of the network for so many tokens: what takes time
    Pass(usize),
}
