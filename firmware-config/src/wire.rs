//! Requests and replies of the MQTT contract for a small client: a microcontroller with a few KB to spare.
//!
//! A request is written into the caller's buffer, a reply is read where it lies: nothing here holds more than a few words.
//! The client brings MQTT, subscribes to [`reply_topic`] and publishes to [`request_topic`].

use crate::limits::{BASE_TOPIC_MAX, CLIENT_MAX};
use core::fmt::Write;
use heapless::String;
use serde::{Deserialize, Serialize};
use serde_json_core::str::{EscapedStr, EscapedStringFragment};

/// Longest topic here: base, node, client, and the words between them.
pub const TOPIC_MAX: usize = 2 * BASE_TOPIC_MAX + CLIENT_MAX + 24;
/// How deep objects and arrays of a reply may lie in each other: the contract's go four deep.
const DEPTH_MAX: usize = 8;

/// A topic.
pub type Topic = String<TOPIC_MAX>;

/// Why something was not written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// no room for it in the buffer, or in a topic
    #[error("no room for it")]
    TooLong,
    /// not UTF-8, not JSON, or deeper than any reply
    #[error("not JSON as the contract has it")]
    Malformed,
    /// JSON, and no reply of the contract
    #[error("no reply")]
    NoReply,
}

/// `{base}/{node}/chat/{client}/request`.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn request_topic(base: &str, node: &str, client: &str) -> Result<Topic, WireError> {
    topic(base, node, client, "request")
}

/// `{base}/{node}/chat/{client}/reply`.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn reply_topic(base: &str, node: &str, client: &str) -> Result<Topic, WireError> {
    topic(base, node, client, "reply")
}

/// `{base}/{node}/chat/{client}/cancel`, for [`Cancel`].
///
/// # Errors
/// [`WireError::TooLong`].
pub fn cancel_topic(base: &str, node: &str, client: &str) -> Result<Topic, WireError> {
    topic(base, node, client, "cancel")
}

fn topic(base: &str, node: &str, client: &str, what: &str) -> Result<Topic, WireError> {
    let mut topic = Topic::new();
    write!(topic, "{base}/{node}/chat/{client}/{what}").map_err(|_| WireError::TooLong)?;
    Ok(topic)
}

/// A chat request. What is `None` is not written, and has the daemon's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Request<'a> {
    /// in every frame of the reply; at most 64 bytes
    pub id: &'a str,
    /// what is said, the last by the user
    pub messages: &'a [Message<'a>],
    /// frames as they come, or the final one alone
    pub stream: bool,
    /// of thinking and answer together
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// a conversation that the daemon keeps
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<&'a str>,
    /// `Some(false)`: no thought is paid for
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<bool>,
    /// `urgent`, `normal` or `background`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<&'a str>,
}

/// One message of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// `system`, `user`, `assistant` or `tool`
    pub role: &'a str,
    /// text
    pub content: &'a str,
}

/// Ends this client's request of that id; with `None` all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cancel<'a> {
    /// of the request
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
}

impl Request<'_> {
    /// Writes the payload; gives what of the buffer it takes.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn write<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], WireError> {
        write(self, buffer)
    }
}

impl Cancel<'_> {
    /// Writes the payload; gives what of the buffer it takes.
    ///
    /// # Errors
    /// [`WireError::TooLong`].
    pub fn write<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], WireError> {
        write(self, buffer)
    }
}

fn write<'b>(value: &impl Serialize, buffer: &'b mut [u8]) -> Result<&'b [u8], WireError> {
    let length = serde_json_core::to_slice(value, buffer).map_err(|_| WireError::TooLong)?;
    buffer.get(..length).ok_or(WireError::TooLong)
}

/// A frame of a reply, where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// of the request
    pub id: &'a str,
    /// from 0, no gaps
    pub seq: u32,
    /// what it says
    pub body: Body<'a>,
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// a piece of the answer, or of the thought before it
    Chunk {
        /// of the answer
        content: Text<'a>,
        /// of the thought
        reasoning: Text<'a>,
    },
    /// the end, with the whole answer
    Final {
        /// all of it
        content: Text<'a>,
        /// `stop`, `length`, `cancelled`, …
        finish: &'a str,
        /// how many tokens it took
        completion_tokens: u32,
    },
    /// the end without an answer
    Error {
        /// a code of the contract
        code: &'a str,
        /// when to ask again
        retry_after_ms: Option<u32>,
    },
}

/// Text as JSON has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(EscapedStr<'a>);

impl Text<'_> {
    /// The text, character by character; an escape that is none is U+FFFD and the end.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        // the reader does not go past such an escape: it would give the error again and again
        let fragments = self.0.fragments().scan(false, |ended, fragment| {
            let before = core::mem::replace(ended, fragment.is_err());
            (!before).then_some(fragment)
        });
        fragments.flat_map(|fragment| {
            let (plain, one) = match fragment {
                Ok(EscapedStringFragment::NotEscaped(plain)) => (plain, None),
                Ok(EscapedStringFragment::Escaped(one)) => ("", Some(one)),
                Err(_) => ("", Some(char::REPLACEMENT_CHARACTER)),
            };
            plain.chars().chain(one)
        })
    }

    /// Appends the text. False: there was room for its beginning only.
    pub fn push_to<const N: usize>(&self, out: &mut String<N>) -> bool {
        self.chars().all(|char| out.push(char).is_ok())
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    id: Option<&'a str>,
    seq: Option<u32>,
    object: Option<&'a str>,
    #[serde(borrow)]
    choices: Option<[Choice<'a>; 1]>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<Fault<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Said<'a>>,
    #[serde(borrow)]
    message: Option<Said<'a>>,
    finish_reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    content: Option<EscapedStr<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<EscapedStr<'a>>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u32,
}

#[derive(Deserialize)]
struct Fault<'a> {
    code: &'a str,
    retry_after_ms: Option<u32>,
}

/// Reads a payload of the reply topic.
///
/// # Errors
/// [`WireError::Malformed`], [`WireError::NoReply`]. Fields that this version does not know are passed over.
pub fn read(payload: &[u8]) -> Result<Frame<'_>, WireError> {
    if !shallow(payload) {
        return Err(WireError::Malformed);
    }
    let (raw, length) =
        serde_json_core::from_slice::<Raw<'_>>(payload).map_err(|_| WireError::Malformed)?;
    if length != payload.len() {
        return Err(WireError::Malformed);
    }
    let body = match (raw.error, raw.object, raw.choices) {
        (Some(fault), ..) => Body::Error {
            code: fault.code,
            retry_after_ms: fault.retry_after_ms,
        },
        (None, Some("chat.completion.chunk"), Some([choice])) => {
            let said = choice.delta.ok_or(WireError::NoReply)?;
            Body::Chunk {
                content: text(said.content),
                reasoning: text(said.reasoning_content),
            }
        }
        (None, Some("chat.completion"), Some([choice])) => Body::Final {
            content: text(choice.message.and_then(|said| said.content)),
            finish: choice.finish_reason.ok_or(WireError::NoReply)?,
            completion_tokens: raw.usage.map_or(0, |usage| usage.completion_tokens),
        },
        _ => return Err(WireError::NoReply),
    };
    Ok(Frame {
        id: raw.id.ok_or(WireError::NoReply)?,
        seq: raw.seq.ok_or(WireError::NoReply)?,
        body,
    })
}

fn text(text: Option<EscapedStr<'_>>) -> Text<'_> {
    Text(text.unwrap_or(EscapedStr("")))
}

/// The reader calls itself for every object in an object: a small stack must know how deep that goes.
fn shallow(payload: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    payload.iter().all(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth <= DEPTH_MAX
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_what_the_contract_says() {
        let request = Request {
            id: "b1",
            messages: &[Message {
                role: "user",
                content: "is \"it\" warm?\n",
            }],
            stream: true,
            max_tokens: Some(40),
            session: None,
            thinking: Some(false),
            priority: None,
        };
        let mut buffer = [0; 256];
        let payload = request.write(&mut buffer).unwrap();
        let want = r#"{"id":"b1","messages":[{"role":"user","content":"is \"it\" warm?\n"}],"stream":true,"max_tokens":40,"thinking":false}"#;
        assert_eq!(std::str::from_utf8(payload).unwrap(), want);
        assert_eq!(request.write(&mut [0; 100]), Err(WireError::TooLong));
        assert_eq!(Cancel { id: None }.write(&mut buffer).unwrap(), b"{}");
        let topic = request_topic("plant/ai", "n1", "panel").unwrap();
        assert_eq!(topic, "plant/ai/n1/chat/panel/request");
        let long = std::string::String::from("x").repeat(TOPIC_MAX);
        assert_eq!(reply_topic(&long, "n", "c"), Err(WireError::TooLong));
    }

    #[test]
    fn the_three_frames() {
        let chunk = r#"{"id":"b1","node":"n","model":"m","seq":3,"object":"chat.completion.chunk",
            "choices":[{"index":0,"delta":{"content":"\"gr\u00fcn\"\n"},"finish_reason":null}]}"#;
        let frame = read(chunk.as_bytes()).unwrap();
        assert_eq!((frame.id, frame.seq), ("b1", 3));
        let Body::Chunk { content, reasoning } = frame.body else {
            panic!("{frame:?}");
        };
        let mut said = String::<16>::new();
        assert!(reasoning.push_to(&mut said) && content.push_to(&mut said));
        assert_eq!(said, "\"grün\"\n");
        // no room: as far as it goes
        let mut small = String::<4>::new();
        assert!(!content.push_to(&mut small));
        assert_eq!(small, "\"gr");
        for (escape, end) in [
            ("\\x b", "\u{fffd}"),
            ("\\ud83d", "\u{fffd}"),
            ("\\u00", "\u{fffd}"),
        ] {
            let odd = chunk.replace("\\n\"}", &std::format!("\\n{escape}\"}}"));
            let Ok(Frame {
                body: Body::Chunk { content, .. },
                ..
            }) = read(odd.as_bytes())
            else {
                panic!("{odd}");
            };
            assert!(
                content.chars().eq("\"grün\"\n".chars().chain(end.chars())),
                "{odd}"
            );
        }
        let last = r#"{"id":"b1","seq":4,"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",
            "content":"green","tool_calls":[{"id":"x","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7},"timings":{"queue_ms":0.5}}"#;
        let frame = read(last.as_bytes()).unwrap();
        let Body::Final {
            content,
            finish,
            completion_tokens,
        } = frame.body
        else {
            panic!("{frame:?}");
        };
        assert!(content.chars().eq("green".chars()));
        assert_eq!((finish, completion_tokens), ("stop", 2));
        let error = r#"{"id":"b1","seq":0,"error":{"code":"overloaded","message":"full","retry_after_ms":250}}"#;
        let body = read(error.as_bytes()).unwrap().body;
        assert_eq!(
            body,
            Body::Error {
                code: "overloaded",
                retry_after_ms: Some(250)
            }
        );
    }

    #[test]
    fn what_is_no_reply() {
        for (payload, error) in [
            ("", WireError::Malformed),
            ("{}", WireError::NoReply),
            (r#"{"id":"a","seq":0}"#, WireError::NoReply),
            (
                r#"{"id":"a","seq":0,"object":"chat.completion","choices":[]}"#,
                WireError::Malformed,
            ),
            (
                r#"{"id":"a","seq":-1,"error":{"code":"x"}}"#,
                WireError::Malformed,
            ),
            (
                r#"{"id":"a","seq":0,"error":{"code":"x"}} {}"#,
                WireError::Malformed,
            ),
        ] {
            assert_eq!(read(payload.as_bytes()), Err(error), "{payload}");
        }
        // at the limit of the depth, and beyond
        for (n, error) in [
            (DEPTH_MAX - 1, WireError::NoReply),
            (DEPTH_MAX, WireError::Malformed),
        ] {
            let (open, close) = ("[".repeat(n), "]".repeat(n));
            let payload = std::format!(r#"{{"x":{open}{close}}}"#);
            assert_eq!(read(payload.as_bytes()), Err(error), "{n}");
        }
        assert!(size_of::<Frame<'_>>() + size_of::<Request<'_>>() + size_of::<Topic>() < 1024);
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..300usize) {
            let _ = read(&bytes);
            let mut frame = br#"{"id":"b1","seq":4,"object":"chat.completion","choices":[{"message":{"content":"a\u00e4"},"finish_reason":"stop"}]}"#.to_vec();
            let (place, len) = (at % frame.len(), frame.len());
            let end = (place + bytes.len() % 8).min(len);
            frame.splice(place..end, bytes.iter().copied().take(8));
            if let Ok(Frame { body: Body::Final { content, .. }, .. }) = read(&frame) {
                prop_assert!(content.chars().count() <= frame.len());
            }
        }
    }
}
