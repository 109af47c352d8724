//! Requests and replies of the MQTT contract for a small client: a microcontroller with a few KB to spare.
//!
//! A request is written into the caller's buffer, and a reply is read where it lies, so nothing here holds more than a few
//! words. The client brings its own MQTT: it subscribes to [`reply_topic`] and publishes to [`request_topic`].

use crate::limits::{BASE_TOPIC_MAX, CLIENT_MAX};
use core::fmt::Write;
use heapless::String;
use serde::{Deserialize, Serialize};
use serde_json_core::str::{EscapedStr, EscapedStringFragment};

/// Longest topic, in bytes: base, node, client, and the words between them.
pub const TOPIC_MAX: usize = 2 * BASE_TOPIC_MAX + CLIENT_MAX + 24;
/// Most objects and arrays that lie in each other in a reply. Those of the contract are four deep.
const DEPTH_MAX: usize = 8;

/// The name of a topic.
pub type Topic = String<TOPIC_MAX>;

/// Why something was not written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The buffer, or the topic, has no room for it.
    #[error("the buffer is too small")]
    TooLong,
    /// The payload is not UTF-8, not JSON, or nested deeper than any reply.
    #[error("the payload is not JSON of the contract")]
    Malformed,
    /// The payload is JSON, but not a reply of the contract.
    #[error("the payload is not a reply")]
    NoReply,
}

/// The topic `{base}/{node}/chat/{client}/request`, which a client publishes requests to.
///
/// # Errors
/// [`WireError::TooLong`] if it has more than [`TOPIC_MAX`] bytes.
pub fn request_topic(base: &str, node: &str, client: &str) -> Result<Topic, WireError> {
    topic(base, node, client, "request")
}

/// The topic `{base}/{node}/chat/{client}/reply`, which a client subscribes to.
///
/// # Errors
/// [`WireError::TooLong`] if it has more than [`TOPIC_MAX`] bytes.
pub fn reply_topic(base: &str, node: &str, client: &str) -> Result<Topic, WireError> {
    topic(base, node, client, "reply")
}

/// The topic `{base}/{node}/chat/{client}/cancel`, which a client publishes [`Cancel`] to.
///
/// # Errors
/// [`WireError::TooLong`] if it has more than [`TOPIC_MAX`] bytes.
pub fn cancel_topic(base: &str, node: &str, client: &str) -> Result<Topic, WireError> {
    topic(base, node, client, "cancel")
}

fn topic(base: &str, node: &str, client: &str, what: &str) -> Result<Topic, WireError> {
    let mut topic = Topic::new();
    write!(topic, "{base}/{node}/chat/{client}/{what}").map_err(|_| WireError::TooLong)?;
    Ok(topic)
}

/// A chat request. What is `None` is not written and gets the daemon's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Request<'a> {
    /// Name of the request, which every frame of the reply has; at most 64 bytes.
    pub id: &'a str,
    /// What was said, in order. The last message is the user's.
    pub messages: &'a [Message<'a>],
    /// Whether frames come while the answer is written, or only the final one.
    pub stream: bool,
    /// Most tokens of thought and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Name of a conversation that the daemon keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<&'a str>,
    /// Whether the model may think before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<bool>,
    /// How soon it must run: `urgent`, `normal` or `background`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<&'a str>,
}

/// One message of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub role: &'a str,
    /// Text of the message.
    pub content: &'a str,
}

/// A message that ends the client's request of this id, or all of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cancel<'a> {
    /// Name of the request that ends. With `None`, all of the client's requests end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
}

impl Request<'_> {
    /// Writes the payload and gives the part of the buffer that it takes.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the buffer is too small.
    pub fn write<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], WireError> {
        write(self, buffer)
    }
}

impl Cancel<'_> {
    /// Writes the payload and gives the part of the buffer that it takes.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the buffer is too small.
    pub fn write<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], WireError> {
        write(self, buffer)
    }
}

fn write<'b>(value: &impl Serialize, buffer: &'b mut [u8]) -> Result<&'b [u8], WireError> {
    let length = serde_json_core::to_slice(value, buffer).map_err(|_| WireError::TooLong)?;
    buffer.get(..length).ok_or(WireError::TooLong)
}

/// A frame of a reply, which borrows from the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Name of the request that it answers.
    pub id: &'a str,
    /// Number of the frame, counted from 0 without gaps.
    pub seq: u32,
    /// What the frame says.
    pub body: Body<'a>,
}

/// The content of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// A piece of the answer, or of the thought before it.
    Chunk {
        /// New text of the answer.
        content: Text<'a>,
        /// New text of the thought.
        reasoning: Text<'a>,
    },
    /// The end, with the whole answer.
    Final {
        /// Text of the whole answer.
        content: Text<'a>,
        /// Why it ended: `stop`, `length`, `cancelled` and others.
        finish: &'a str,
        /// Tokens of thought and answer.
        completion_tokens: u32,
    },
    /// The end without an answer.
    Error {
        /// An error code of the contract.
        code: &'a str,
        /// Milliseconds after which the client may ask again.
        retry_after_ms: Option<u32>,
    },
}

/// A text with the escapes that JSON has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(EscapedStr<'a>);

impl Text<'_> {
    /// The characters of the text. At an escape that is not valid there is a U+FFFD, and the text ends.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        // the reader does not go past such an escape and would give the same error for ever
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

    /// Appends the text. Gives false if there was only room for its beginning.
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
/// [`WireError::Malformed`] or [`WireError::NoReply`]. Fields that this version does not know are ignored.
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

/// Whether objects and arrays are not nested too deeply. The JSON reader calls itself for each, which a small stack must know
/// the depth of.
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
        fn what_is_read_lies_in_the_payload(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..300usize) {
            let mut frame = br#"{"id":"b1","seq":4,"object":"chat.completion","choices":[{"message":{"content":"a\u00e4"},"finish_reason":"stop"}]}"#.to_vec();
            let (place, len) = (at % frame.len(), frame.len());
            let end = (place + bytes.len() % 8).min(len);
            frame.splice(place..end, bytes.iter().copied().take(8));
            for payload in [&bytes, &frame] {
                let Ok(read) = read(payload) else { continue };
                // a frame says no more than its payload, and its words are words of it
                let text = std::string::String::from_utf8_lossy(payload);
                prop_assert!(text.contains(read.id));
                match read.body {
                    Body::Chunk { content, reasoning } => {
                        prop_assert!(content.chars().chain(reasoning.chars()).count() <= payload.len());
                    }
                    Body::Final { content, finish, .. } => {
                        prop_assert!(content.chars().count() <= payload.len() && text.contains(finish));
                    }
                    Body::Error { code, .. } => prop_assert!(text.contains(code)),
                }
            }
        }
    }
}
