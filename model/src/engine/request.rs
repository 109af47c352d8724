//! What goes into the engine and what comes out of it.

use crate::text::{Format, Message, SamplerParams, SchemaError, Tokenizer, Tool, ToolCall, Tools};
use glowplug_firmware_config::limits::{
    SESSION_TEXT_MAX, SESSION_TEXT_PER_CLIENT, SESSIONS_MAX, SESSIONS_PER_CLIENT,
};
use std::sync::Arc;

/// The daemon's own number for a request.
pub type RequestId = u64;

/// How soon a request must run. Of two requests the one with the larger priority runs first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Runs when nothing else waits.
    Background,
    /// Runs when its turn comes.
    #[default]
    Normal,
    /// Runs in the next step.
    Urgent,
}

/// What to do about the model's thoughts. By default the model does not think.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thinking {
    /// Whether the model may think. If not, an empty thought is written for it.
    pub enabled: bool,
    /// Most tokens of a thought; after them the thought is closed for the model.
    pub budget: Option<u32>,
    /// Whether [`Event::Text`] carries the thought. Its tokens are counted either way.
    pub visible: bool,
}

/// One chat request, validated by the daemon.
#[derive(Debug, Clone)]
pub struct Request {
    /// The client that asks: it gets a fair share, and its sessions are its own.
    pub client: Arc<str>,
    /// The conversation that the request goes on with. If there is one, `messages` are only the new ones.
    pub session: Option<Arc<str>>,
    /// How soon it must run, compared with other requests.
    pub priority: Priority,
    /// A system text of the configuration, said before all messages. It belongs to nobody, so the pages that it fills are found
    /// by everybody who has it in a request. A session does not keep it.
    pub system: Option<Arc<str>>,
    /// What was said, in order; never empty.
    pub messages: Vec<Message>,
    /// Whether `messages[0].content` is the whole prompt, without the template (`generate --raw`).
    pub raw: bool,
    /// How tokens are drawn from the logits.
    pub sampler: SamplerParams,
    /// Whether the model may think, and for how long.
    pub thinking: Thinking,
    /// Most tokens of answer and thought together, at least 1.
    pub max_tokens: u32,
    /// Tokens of the context that prompt and answer leave free, for results of tools that may follow in a request of the same
    /// number. If there are any, the pages of an answer that ended are kept for it until
    /// [`Engine::release`](super::Engine::release), as long as nobody else needs them.
    pub reserve: usize,
    /// Strings that end the answer. Thoughts and calls are not searched for them.
    pub stop: Vec<String>,
    /// The tools that the model may call.
    pub tools: Option<Tools>,
    /// What the answer has to be. Thoughts are free, and so are calls of tools, which their own schemas bind.
    pub format: Option<Format>,
    /// Whether the model is told of the format, in the last lines of the system message.
    pub schema_in_prompt: bool,
}

impl Request {
    /// A request of normal priority, without a session, a thought or stop strings, that is sampled by the default values.
    /// Take the rest with `..`.
    #[must_use]
    pub fn new(client: &str, messages: Vec<Message>, max_tokens: u32) -> Self {
        Self {
            client: client.into(),
            session: None,
            priority: Priority::Normal,
            system: None,
            messages,
            raw: false,
            sampler: SamplerParams::default(),
            thinking: Thinking::default(),
            max_tokens,
            reserve: 0,
            stop: Vec::new(),
            tools: None,
            format: None,
            schema_in_prompt: false,
        }
    }

    /// Bytes of its text: messages, tools and format.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let messages = self.messages.iter().map(Message::bytes);
        messages.sum::<usize>()
            + self.tools.as_ref().map_or(0, Tools::bytes)
            + self.format.as_ref().map_or(0, Format::bytes)
    }

    /// Whether schemas have to be compiled for it, which takes longer than reading a short prompt.
    #[must_use]
    pub fn compiles(&self) -> bool {
        self.format.is_some() || self.tools.is_some()
    }

    /// The tools that are written into its prompt.
    pub(super) fn offered(&self) -> &[Tool] {
        self.tools.as_ref().map_or(&[], |tools| &tools.list)
    }

    /// Checks what only the model can tell of a request: that every biased token exists.
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
    /// The token's text; bytes that are not UTF-8 are replaced.
    pub token: String,
    /// The token's bytes as they are in the vocabulary.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the token's probability.
    pub logprob: f32,
    /// The likeliest tokens in its place, best first: text, bytes, logarithm of the probability.
    pub top: Vec<(String, Vec<u8>, f32)>,
}

impl TokenLogprob {
    /// A token and its alternatives with their texts.
    pub(super) fn of(
        tokenizer: &Tokenizer,
        token: u32,
        logprob: f32,
        top: Vec<(u32, f32)>,
    ) -> Self {
        let text = |token| {
            let bytes = tokenizer.token_bytes(token);
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        };
        let (name, bytes) = text(token);
        let top = top
            .into_iter()
            .map(|(token, logprob)| {
                let (name, bytes) = text(token);
                (name, bytes, logprob)
            })
            .collect();
        Self {
            token: name,
            bytes,
            logprob,
            top,
        }
    }
}

/// What a step has to say about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request has its pages, and its prompt is being computed.
    Started {
        /// Tokens of the whole prompt.
        prompt_tokens: u32,
        /// Tokens of the prompt that were in the KV cache already.
        cached_tokens: u32,
    },
    /// The prompt is in the cache; the first token follows in the next step.
    Prefilled,
    /// New text in whole UTF-8 characters. There is one event for each token of the answer and the thought, and both texts may be
    /// empty.
    Text {
        /// Text of the answer.
        content: String,
        /// Text of the thought; empty if it is not visible.
        reasoning: String,
        /// Log-probabilities of a token of the answer, if they were asked for.
        logprobs: Option<TokenLogprob>,
    },
    /// A complete call of a tool. It comes after the text of the token that ends it.
    Call(ToolCall),
    /// The last event of a request; every request has exactly one.
    Finished(Outcome),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The reason why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that were in the KV cache already.
    pub cached_tokens: u32,
    /// Tokens decoded, thoughts included.
    pub completion_tokens: u32,
    /// Tokens decoded that were part of a thought.
    pub reasoning_tokens: u32,
    /// Messages that its session has forgotten to make room for this prompt.
    pub forgotten_messages: u32,
}

/// Why a request ended: `finish_reason` on the wire, or an internal failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` were decoded, or the context is full.
    Length,
    /// The client cancelled the request.
    Cancelled,
    /// The deadline of the request passed.
    DeadlineExceeded,
    /// The daemon is stopping now.
    Interrupted,
    /// A newer request of the same session took its place.
    Superseded,
    /// Its format came to a place where no token of the vocabulary may follow, or where it takes more work or memory than it may
    /// to find out which: error code `invalid_schema`.
    Stuck,
    /// A bug, or logits that are not numbers: error code `internal`.
    Failed,
    /// The GPU that computed it was lost: error code `internal`.
    GpuLost,
}

impl Finish {
    /// Whether the model said all that it could, to its own end or to that of its tokens. Then the calls that are complete are
    /// made; otherwise nobody wants them any more.
    #[must_use]
    pub fn is_heard_out(self) -> bool {
        matches!(self, Self::Stop | Self::Length)
    }
}

/// Why a request was not taken; the daemon maps it to the wire in one place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("{queued} requests are waiting, the limit is {limit}")]
    Overloaded {
        /// Requests that wait now.
        queued: usize,
        /// Most requests that may wait.
        limit: usize,
    },
    /// The context has no room for even one token of an answer.
    #[error("the prompt has {tokens} tokens, the context holds {limit} with the answer")]
    ContextLength {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The text is too long for the context: whatever its tokens are, or so far that they were not all counted.
    #[error(
        "the prompt has {bytes} bytes, which are more tokens than the {limit} that the context holds"
    )]
    TextLength {
        /// Bytes of the text.
        bytes: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The request needs more pages than the whole cache has.
    #[error("the request needs {needed} KV pages, there are {pages}: {} are missing", needed - pages)]
    Memory {
        /// Pages for the prompt and the answer.
        needed: usize,
        /// Pages of the arena.
        pages: usize,
    },
    /// There is no room for the session: no other can be put into a file to make room for it.
    #[error("{0}, and none of those can be put into a file: drop or reset one")]
    Sessions(SessionBound),
    /// The session has a file that does not open, and that no other conversation may replace.
    #[error("the session `{session}` cannot be opened, {why}: `drop` or `reset` it to begin anew")]
    Closed {
        /// Name of the session.
        session: Arc<str>,
        /// What is wrong with the file.
        why: String,
    },
    /// A schema, a pattern or a tool's parameters cannot be enforced.
    #[error("{message}")]
    Schema {
        /// The field, and the place in it: `response_format.json_schema.schema.properties.a.not`.
        param: String,
        /// What is wrong there, with the limit.
        message: String,
    },
    /// A field has a value that this model does not take.
    #[error("{message}")]
    Invalid {
        /// Name of the field.
        param: &'static str,
        /// What is wrong with it, with the limit.
        message: String,
    },
}

impl Refusal {
    /// The refusal of a format, with its place in the field of the request that holds it.
    #[must_use]
    pub fn schema(format: &Format, error: SchemaError) -> Self {
        let field = match format {
            Format::JsonObject => "response_format",
            Format::JsonSchema(_) => "response_format.json_schema.schema",
            Format::Regex(_) => "response_format.pattern",
        };
        let SchemaError { place, message } = error;
        let param = match &place[..] {
            "" => field.to_owned(),
            place => format!("{field}.{place}"),
        };
        Self::Schema { param, message }
    }

    /// The refusal of a tool's parameters, whose place names the tool.
    pub(super) fn tool(error: SchemaError) -> Self {
        Self::Schema {
            param: error.place,
            message: error.message,
        }
    }
}

/// A bound on the sessions in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionBound {
    /// The client has [`SESSIONS_PER_CLIENT`] sessions.
    #[error("this client has {SESSIONS_PER_CLIENT} sessions, which is the limit")]
    OfClient,
    /// The sessions of the client have [`SESSION_TEXT_PER_CLIENT`] bytes of text.
    #[error("the sessions of this client have {SESSION_TEXT_PER_CLIENT} bytes of text at most")]
    TextOfClient,
    /// There are [`SESSIONS_MAX`] sessions.
    #[error("there are {SESSIONS_MAX} sessions, which is the limit")]
    All,
    /// All sessions together have [`SESSION_TEXT_MAX`] bytes of text.
    #[error("all sessions have {SESSION_TEXT_MAX} bytes of text at most")]
    TextOfAll,
}

/// Something about the files of sessions that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// The disk refuses writes or removals. Told once, until it works again.
    #[error("session files cannot be written or removed: {0}")]
    Failing(String),
    /// The disk takes session files again after [`Notice::Failing`].
    #[error("sessions are written to their files again")]
    Mended,
    /// A session has a file that is of no use.
    #[error("the session `{session}` of `{client}` begins anew, its file cannot be used: {why}")]
    Unreadable {
        /// The client that the session belongs to.
        client: Arc<str>,
        /// Name of the session.
        session: Arc<str>,
        /// What is wrong with the file.
        why: String,
    },
    /// A session has a file that does not open. Its requests are refused; told once.
    #[error("the session `{session}` of `{client}` is refused, its file does not open: {why}")]
    Closed {
        /// The client that the session belongs to.
        client: Arc<str>,
        /// Name of the session.
        session: Arc<str>,
        /// What is wrong with the file.
        why: String,
    },
    /// So many keys were read again.
    #[error(
        "the keys of sessions have changed and were read again: there are {0}, and the first one is written with"
    )]
    Keys(usize),
    /// The file of keys has changed and cannot be used.
    #[error("{0}; sessions go on with the keys before")]
    KeysKept(String),
}

/// What a client may do to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionVerb {
    /// Forgets what was said.
    Reset,
    /// Writes the session to its file.
    Save,
    /// Forgets the session and removes its file.
    Drop,
}

/// A session after a [`SessionVerb`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionState {
    /// Tokens whose keys and values are held.
    pub tokens: usize,
    /// KV pages that hold them.
    pub pages: usize,
    /// Questions that were answered.
    pub turns: usize,
    /// Whether the session's file has all that was said.
    pub saved: bool,
}

/// Why a [`SessionVerb`] was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionFault {
    /// The client has no session of this name.
    #[error("there is no such session")]
    NotFound,
    /// The session has a request that runs or waits.
    #[error("the session has a request that is not answered yet")]
    Busy,
    /// There is no folder to save it in.
    #[error("`sessions.dir` is not configured")]
    NoFolder,
    /// The session has a file that does not open.
    #[error("the session `{session}` cannot be opened, {why}: `drop` or `reset` it to begin anew")]
    Closed {
        /// Name of the session.
        session: Arc<str>,
        /// What is wrong with the file.
        why: String,
    },
    /// As much was written today as may be.
    #[error(
        "{per_day} bytes of sessions were written today, which is what the storage of this board bears"
    )]
    Worn {
        /// Bytes that may be written in a day, of all clients or of this one.
        per_day: u64,
    },
    /// The disk is full, or the sessions have as many bytes of it as they may.
    #[error("there is no room for the session's file")]
    Full,
    /// The session's file cannot be written, read or removed.
    #[error("the session's file: {0}")]
    Failed(String),
}

/// What a step of the engine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worked {
    /// There was nothing to do.
    Nothing,
    /// Requests ended or started, or a drafted token was checked: the network did not run.
    Little,
    /// The network ran for so many tokens, which is what takes time.
    Pass(usize),
    /// The GPU does not compute any more: see [`Engine::go_on_without_gpu`](super::Engine::go_on_without_gpu).
    GpuLost,
}
