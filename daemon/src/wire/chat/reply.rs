//! Frames: exactly the objects of the protocol, as bytes. A frame is as long as its text; whoever sends it knows what
//! the broker takes.

use bytes::Bytes;
use glowplug_model::engine::{Finish, Outcome, TokenLogprob};
use glowplug_model::text::ToolCall;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::num::NonZeroU32;

use crate::wire::fault::Fault;

/// What every frame begins with.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Envelope<'a> {
    pub id: &'a str,
    pub node: &'a str,
    pub model: &'a str,
    /// Counts the frames of a request from 0 without gaps.
    pub seq: u64,
}

/// The text that one frame adds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Delta<'a> {
    /// It is in the first frame only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reasoning_content: &'a str,
    /// A complete call of a tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[Call<'a>; 1]>,
}

/// A call of a tool that is left to the client.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Call<'a> {
    /// Counts the calls of an answer; in chunks only.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Call<'a> {
    /// A call as a chunk has it.
    #[must_use]
    pub fn in_chunk(index: usize, call: &'a ToolCall) -> Self {
        Self {
            index: Some(index),
            ..Self::of(call)
        }
    }

    fn of(call: &'a ToolCall) -> Self {
        Self {
            index: None,
            id: &call.id,
            kind: "function",
            function: Function {
                name: &call.name,
                arguments: &call.arguments,
            },
        }
    }
}

/// What the daemon does with a tool of its own, as a chunk has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolEvent {
    /// The daemon calls the tool.
    ToolCall {
        id: String,
        name: String,
        arguments: String,
    },
    /// The call has ended after so many milliseconds.
    ToolResult {
        id: String,
        content: String,
        ms: u64,
    },
}

/// A call that the daemon made, with its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolRun {
    pub id: String,
    pub name: String,
    pub arguments: String,
    pub content: String,
    pub ms: u64,
}

/// How long a request took, in milliseconds, and tokens per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// From the arrival of the request to its turn.
    pub queue_ms: f64,
    /// From its turn until its prompt was in the cache.
    pub prompt_ms: f64,
    /// From its arrival to its first token.
    pub first_token_ms: f64,
    /// From its prompt being in the cache to its last token.
    pub predicted_ms: f64,
    /// Decoded tokens divided by `predicted_ms`.
    pub predicted_per_second: f64,
}

#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub content: &'a str,
    /// The thought, if it is visible.
    pub reasoning: &'a str,
    /// One for each decoded token, if they were asked for.
    pub logprobs: Option<&'a [TokenLogprob]>,
    /// The tools that it calls.
    pub calls: &'a [ToolCall],
    /// The calls that the daemon made itself.
    pub runs: &'a [ToolRun],
    /// Why it ended, and how many tokens it has.
    pub outcome: &'a Outcome,
    pub timings: Timings,
    /// Fields of the request that had no effect.
    pub ignored: &'a [&'static str],
    /// The SHA-256 of the model's file.
    pub fingerprint: Option<&'a str>,
}

#[derive(Serialize)]
struct Logprobs<'a> {
    content: Vec<Logprob<'a>>,
}

#[derive(Serialize)]
struct Logprob<'a> {
    token: &'a str,
    logprob: f32,
    bytes: &'a [u8],
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Logprob<'a>>>,
}

impl<'a> Logprobs<'a> {
    fn of(tokens: &'a [TokenLogprob]) -> Self {
        let alternative = |(token, bytes, logprob): &'a (String, Vec<u8>, f32)| Logprob {
            token,
            logprob: *logprob,
            bytes,
            top_logprobs: None,
        };
        let one = |t: &'a TokenLogprob| Logprob {
            token: &t.token,
            logprob: t.logprob,
            bytes: &t.bytes,
            top_logprobs: Some(t.top.iter().map(alternative).collect()),
        };
        Self {
            content: tokens.iter().map(one).collect(),
        }
    }
}

/// Encodes a frame before the end: with new text, or with an empty delta and what the daemon does with a tool of its own.
#[must_use]
pub fn chunk(
    envelope: Envelope<'_>,
    delta: Delta<'_>,
    tokens: Option<&[TokenLogprob]>,
    event: Option<&ToolEvent>,
) -> Bytes {
    #[derive(Serialize)]
    struct Choice<'a> {
        index: u8,
        delta: Delta<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Logprobs<'a>>,
        finish_reason: Option<&'static str>,
    }
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(flatten)]
        envelope: Envelope<'a>,
        object: &'static str,
        choices: [Choice<'a>; 1],
        #[serde(flatten)]
        event: Option<&'a ToolEvent>,
    }
    let choice = Choice {
        index: 0,
        delta,
        logprobs: tokens.map(Logprobs::of),
        finish_reason: None,
    };
    encode(&Frame {
        envelope,
        object: "chat.completion.chunk",
        choices: [choice],
        event,
    })
}

/// Encodes the last frame, which has the whole text.
#[must_use]
pub fn last(envelope: Envelope<'_>, answer: &Answer<'_>) -> Bytes {
    #[derive(Serialize)]
    struct Said<'a> {
        role: &'static str,
        content: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        reasoning_content: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Call<'a>>,
    }
    #[derive(Serialize)]
    struct Choice<'a> {
        index: u8,
        message: Said<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Logprobs<'a>>,
        finish_reason: &'static str,
    }
    #[derive(Serialize)]
    struct Cached {
        cached_tokens: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        forgotten_messages: Option<NonZeroU32>,
    }
    #[derive(Serialize)]
    struct Reasoning {
        reasoning_tokens: u32,
    }
    #[derive(Serialize)]
    struct Usage {
        prompt_tokens: u32,
        completion_tokens: u32,
        total_tokens: u64,
        prompt_tokens_details: Cached,
        completion_tokens_details: Reasoning,
    }
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(flatten)]
        envelope: Envelope<'a>,
        object: &'static str,
        choices: [Choice<'a>; 1],
        usage: Usage,
        timings: Timings,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        tool_results: &'a [ToolRun],
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        ignored: &'a [&'static str],
        #[serde(skip_serializing_if = "Option::is_none")]
        system_fingerprint: Option<&'a str>,
    }
    let o = answer.outcome;
    let choice = Choice {
        index: 0,
        message: Said {
            role: "assistant",
            content: answer.content,
            reasoning_content: answer.reasoning,
            tool_calls: answer.calls.iter().map(Call::of).collect(),
        },
        logprobs: answer.logprobs.map(Logprobs::of),
        finish_reason: finish_reason(o.finish, answer.calls),
    };
    let usage = Usage {
        prompt_tokens: o.prompt_tokens,
        completion_tokens: o.completion_tokens,
        total_tokens: u64::from(o.prompt_tokens) + u64::from(o.completion_tokens),
        prompt_tokens_details: Cached {
            cached_tokens: o.cached_tokens,
            forgotten_messages: NonZeroU32::new(o.forgotten_messages),
        },
        completion_tokens_details: Reasoning {
            reasoning_tokens: o.reasoning_tokens,
        },
    };
    encode(&Frame {
        envelope,
        object: "chat.completion",
        choices: [choice],
        usage,
        timings: answer.timings,
        tool_results: answer.runs,
        ignored: answer.ignored,
        system_fingerprint: answer.fingerprint,
    })
}

/// The object `error`, the same in every kind of frame.
#[derive(Serialize)]
pub(crate) struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl<'a> ErrorBody<'a> {
    pub(crate) fn of(fault: &'a Fault) -> Self {
        Self {
            code: fault.code.name(),
            message: &fault.message,
            param: fault.param.as_deref(),
            retry_after_ms: fault.retry_after_ms,
        }
    }
}

/// Encodes the last frame of a request that failed.
#[must_use]
pub fn error(envelope: Envelope<'_>, fault: &Fault) -> Bytes {
    #[derive(Serialize)]
    struct Frame<'a> {
        #[serde(flatten)]
        envelope: Envelope<'a>,
        error: ErrorBody<'a>,
    }
    encode(&Frame {
        envelope,
        error: ErrorBody::of(fault),
    })
}

/// Encodes an error frame that replaces a frame of any kind. It keeps the fields that say whose frame it is, and
/// nothing else.
#[must_use]
pub fn instead(frame: &[u8], fault: &Fault) -> Bytes {
    const WHOSE: [&str; 8] = [
        "id",
        "node",
        "model",
        "seq",
        "client",
        "session",
        "verb",
        "transaction",
    ];
    // all frames are objects that we made
    let mut envelope: Map<String, Value> = serde_json::from_slice(frame).unwrap_or_default();
    envelope.retain(|name, _| WHOSE.contains(&name.as_str()));
    envelope.insert("error".to_owned(), json!(ErrorBody::of(fault)));
    encode(&envelope)
}

/// What an `ask` gets instead of an answer: one line of text.
#[must_use]
pub fn error_text(fault: &Fault) -> Bytes {
    Bytes::from(format!("error: {}: {}", fault.code.name(), fault.message))
}

/// What an `ask` gets when there is no text: the reason in the same word that a chat's final frame has, and in a
/// sentence.
#[must_use]
pub fn no_text(finish: Finish, calls: &[ToolCall]) -> Bytes {
    let why = match finish {
        _ if hands_out(finish, calls) => "the model calls a tool, which plain text cannot say",
        Finish::Stop => "the model ended its turn without a word",
        Finish::Length => "`max_tokens` or the context left no token for the answer",
        Finish::Cancelled => "it was cancelled before its first word",
        Finish::DeadlineExceeded => "the deadline passed before its first word",
        Finish::Stuck => "its format allows no token that this model has, or is too complex",
        Finish::Interrupted | Finish::Superseded | Finish::Failed | Finish::GpuLost => {
            "the daemon stopped before its first word"
        }
    };
    Bytes::from(format!(
        "error: {}: no answer: {why}",
        finish_reason(finish, calls)
    ))
}

/// Whether calls are handed out to be made. Those that are complete are, even where the model's tokens ended before it did.
fn hands_out(finish: Finish, calls: &[ToolCall]) -> bool {
    finish.is_heard_out() && !calls.is_empty()
}

/// The `finish_reason`: OpenAI's names, and our own. A request that ends with an error frame has none.
fn finish_reason(finish: Finish, calls: &[ToolCall]) -> &'static str {
    match finish {
        _ if hands_out(finish, calls) => "tool_calls",
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::DeadlineExceeded => "deadline_exceeded",
        Finish::Interrupted
        | Finish::Superseded
        | Finish::Stuck
        | Finish::Failed
        | Finish::GpuLost => "interrupted",
    }
}

/// Encodes a JSON value.
pub(crate) fn encode(value: &impl Serialize) -> Bytes {
    // this fails only for maps whose keys are no text and for writers that fail; there is neither
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
