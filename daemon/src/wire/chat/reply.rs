//! Frames: exactly the objects of the protocol, as bytes. A frame is as long as its text; whoever sends it knows what
//! the broker takes.

use bytes::Bytes;
use glowplug_model::engine::{Finish, Outcome, TokenLogprob};
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

/// Encodes a frame with new text, before the end.
#[must_use]
pub fn chunk(envelope: Envelope<'_>, delta: Delta<'_>, tokens: Option<&[TokenLogprob]>) -> Bytes {
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
        },
        logprobs: answer.logprobs.map(Logprobs::of),
        finish_reason: finish_reason(o.finish),
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
pub fn no_text(finish: Finish) -> Bytes {
    let why = match finish {
        Finish::Stop => "the model ended its turn without a word",
        Finish::Length => "`max_tokens` or the context left no token for the answer",
        Finish::Cancelled => "it was cancelled before its first word",
        Finish::DeadlineExceeded => "the deadline passed before its first word",
        Finish::Interrupted | Finish::Superseded | Finish::Failed => {
            "the daemon stopped before its first word"
        }
    };
    Bytes::from(format!(
        "error: {}: no answer: {why}",
        finish_reason(finish)
    ))
}

/// The `finish_reason`: OpenAI's names, and our own. A request that ends with an error frame has none.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::DeadlineExceeded => "deadline_exceeded",
        Finish::Interrupted | Finish::Superseded | Finish::Failed => "interrupted",
    }
}

/// Encodes a JSON value.
pub(crate) fn encode(value: &impl Serialize) -> Bytes {
    // this fails only for maps whose keys are no text and for writers that fail; there is neither
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::wire::fault::Code;

    const ENVELOPE: Envelope<'_> = Envelope {
        id: "a",
        node: "n",
        model: "m",
        seq: 3,
    };

    #[test]
    fn instead_of_a_frame_there_is_whom_it_is_for_and_an_error() {
        let fault = Fault::new(Code::Internal, "too long");
        let long = "x".repeat(10_000);
        for frame in [
            json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion", "choices": [&long]}),
            json!({"client": "c", "session": "s", "verb": "save", "ok": true, "text": &long}),
            json!({"transaction": 7, "stats": {"text": &long}}),
        ] {
            let mut small = value(&instead(&encode(&frame), &fault));
            assert_eq!(small["error"]["code"], "internal");
            small.as_object_mut().unwrap().remove("error");
            assert!(small.to_string().len() < 60);
            for (name, value) in small.as_object().unwrap() {
                assert_eq!(frame[name], *value);
            }
        }
        let broken = value(&instead(b"no JSON", &fault));
        assert_eq!(broken["error"]["message"], "too long");
    }

    fn value(frame: &Bytes) -> Value {
        serde_json::from_slice(frame).unwrap()
    }

    #[test]
    fn a_chunk() {
        let delta = Delta {
            role: Some("assistant"),
            content: "hé\"",
            reasoning_content: "",
        };
        assert_eq!(
            value(&chunk(ENVELOPE, delta, None)),
            json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hé\""}, "finish_reason": null}]})
        );
        let thought = Delta {
            reasoning_content: "hm",
            ..Delta::default()
        };
        assert_eq!(
            value(&chunk(ENVELOPE, thought, None))["choices"][0]["delta"],
            json!({"reasoning_content": "hm"})
        );
    }

    #[test]
    fn the_last_frame() {
        let outcome = Outcome {
            finish: Finish::Stop,
            prompt_tokens: 9,
            cached_tokens: 4,
            completion_tokens: 5,
            reasoning_tokens: 2,
            forgotten_messages: 3,
        };
        let timings = Timings {
            queue_ms: 1.0,
            prompt_ms: 2.0,
            first_token_ms: 3.0,
            predicted_ms: 4.0,
            predicted_per_second: 5.0,
        };
        let answer = Answer {
            content: "42",
            reasoning: "hm",
            logprobs: None,
            outcome: &outcome,
            timings,
            ignored: &["user"],
            fingerprint: Some("ab12"),
        };
        assert_eq!(
            value(&last(ENVELOPE, &answer)),
            json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "42", "reasoning_content": "hm"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,
                    "prompt_tokens_details": {"cached_tokens": 4, "forgotten_messages": 3}, "completion_tokens_details": {"reasoning_tokens": 2}},
                "timings": {"queue_ms": 1.0, "prompt_ms": 2.0, "first_token_ms": 3.0, "predicted_ms": 4.0, "predicted_per_second": 5.0},
                "ignored": ["user"], "system_fingerprint": "ab12"})
        );
        let bare = value(&last(
            ENVELOPE,
            &Answer {
                reasoning: "",
                ignored: &[],
                fingerprint: None,
                ..answer
            },
        ));
        assert!(
            bare.get("ignored").is_none()
                && bare["choices"][0]["message"]
                    .get("reasoning_content")
                    .is_none()
        );
    }

    #[test]
    fn logprobs_are_openais() {
        let t = TokenLogprob {
            token: "h".into(),
            bytes: vec![104],
            logprob: -0.5,
            top: vec![("i".into(), vec![105], -1.0)],
        };
        let frame = value(&chunk(
            ENVELOPE,
            Delta {
                content: "h",
                ..Delta::default()
            },
            Some(&[t]),
        ));
        assert_eq!(
            frame["choices"][0]["logprobs"],
            json!({"content": [{"token": "h", "logprob": -0.5, "bytes": [104],
                "top_logprobs": [{"token": "i", "logprob": -1.0, "bytes": [105]}]}]})
        );
    }

    #[test]
    fn an_error() {
        let fault = Fault::invalid("top_k", "no").retry_after(7);
        assert_eq!(
            value(&error(ENVELOPE, &fault)),
            json!({"id": "a", "node": "n", "model": "m", "seq": 3,
                "error": {"code": "invalid_request", "message": "no", "param": "top_k", "retry_after_ms": 7}})
        );
        assert_eq!(
            value(&error(ENVELOPE, &Fault::new(Code::Internal, "x")))["error"],
            json!({"code": "internal", "message": "x"})
        );
        assert_eq!(
            error_text(&Fault::new(Code::Draining, "bye")),
            "error: draining: bye"
        );
    }
}
