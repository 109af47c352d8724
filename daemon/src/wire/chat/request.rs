//! The bodies that come in. Parsing is strict: a field is known, known to have no effect, or refused by its name. Each
//! value is bounded while it is read, so that a hostile body costs no more than its own length. One file, because a body is
//! read in one pass.

use std::cell::RefCell;
use std::fmt;

use glowplug_firmware_config::limits::{CLIENT_MAX, ID_MAX, SESSION_NAME_MAX};
use glowplug_model::engine::{Priority, Thinking};
use glowplug_model::text::{Message, Tool, Tools};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::exact::{Object, Word};
use super::format::{self, FormatSeed, ResponseFormat};
use super::messages::MessagesSeed;
pub use super::sampling::Sampling;
use super::tools::Offer;
use super::values::{
    Biases, Modalities, RawChunk, RawPriority, RawThinking, Scalar, Seed, Stops, integer, number,
    text,
};
use crate::wire::fault::Fault;
use crate::wire::topics::valid_segment;

/// Most alternatives for each token, the same number as OpenAI's.
const TOP_LOGPROBS_MAX: u8 = 20;
/// The longest `deadline_ms` is a day.
const DEADLINE_MAX_MS: u64 = 86_400_000;

const _: () = assert!(
    SESSION_NAME_MAX == CLIENT_MAX,
    "a session's name is a topic level as a client's is"
);

/// Fields of OpenAI's that ask for nothing that a daemon with one model could do. They are ignored, and listed in the
/// final frame unless they are null.
const WITHOUT_EFFECT: &[&str] = &[
    "model",
    "user",
    "store",
    "metadata",
    "service_tier",
    "stream_options",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "prediction",
    "reasoning_effort",
    "verbosity",
];

/// Fields of OpenAI's that ask for what the daemon never does. They are refused unless they are null.
const NEVER: &[(&str, &str)] = &[
    ("audio", "answers are text: audio cannot be asked for"),
    ("web_search_options", "nothing is looked up on the web here"),
    ("moderation", "nothing is moderated here"),
];

/// Why an `id` that is a number is refused.
const ID_IS_TEXT: &str = "must be a string, as \"7\"";

/// A chat request as its body has it. For absent fields the configuration's or the model's values are used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatRequest {
    /// There is at least one.
    pub messages: Vec<Message>,
    pub id: Option<String>,
    /// The name of a conversation that `messages` continue.
    pub session: Option<String>,
    pub priority: Priority,
    /// If it is false, only the final frame is sent.
    pub stream: Option<bool>,
    /// Whether chunks are whole sentences, for speech.
    pub sentences: bool,
    /// The name of one of the configuration's presets.
    pub preset: Option<String>,
    /// For the answer and the thought together.
    pub max_tokens: Option<u32>,
    pub sampling: Sampling,
    pub thinking: Option<Thinking>,
    /// They end the answer only, not the thought.
    pub stop: Vec<String>,
    pub tools: Option<Tools>,
    /// What the answer is held to, if the request says.
    pub format: Option<ResponseFormat>,
    /// Whether the model is told of it.
    pub schema_in_prompt: bool,
    /// Who runs tools, if the request says.
    pub tool_execution: Option<Execution>,
    /// Counted from the arrival of the request.
    pub deadline_ms: Option<u64>,
    /// Fields that had no effect, in the order of the body.
    pub ignored: Vec<&'static str>,
}

/// Who runs the tools that a model calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Execution {
    /// The client, and no tools of the daemon's own are offered.
    Client,
    /// The daemon runs its own, which are offered beside the client's.
    Daemon,
}

impl ChatRequest {
    /// `preset` says whether its preset has a format.
    ///
    /// # Errors
    /// It has stop strings, which would cut an answer that is held to a format.
    pub fn check_stop(&self, preset: bool) -> Result<(), Fault> {
        let held = (self.format.as_ref()).map_or(preset, |format| *format != ResponseFormat::Text);
        if held && !self.stop.is_empty() {
            let why = "would cut an answer that is held to a format";
            return Err(Fault::invalid("stop", why));
        }
        Ok(())
    }
}

/// What a cancel is for. An empty body means everything of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancel {
    Id(String),
    /// Every request of this session.
    Session(String),
    /// Every request of this client.
    All,
}

/// Reads a chat request for which the daemon has no tools of its own.
///
/// # Errors
/// The fault, and the `id` of the body if it can be made out.
pub fn parse_chat(
    payload: &[u8],
    config: &ChatDefaults,
) -> Result<ChatRequest, (Fault, Option<String>)> {
    parse_chat_with(payload, config, |_| Vec::new())
}

/// Reads a chat request. `own` are the tools of the daemon's own that it may use, by what else it says.
///
/// # Errors
/// As those of [`parse_chat`].
pub fn parse_chat_with(
    payload: &[u8],
    config: &ChatDefaults,
    own: impl FnOnce(&ChatRequest) -> Vec<Tool>,
) -> Result<ChatRequest, (Fault, Option<String>)> {
    let text = utf8(payload).map_err(|fault| (fault, None))?;
    parse_body(text, config, own).map_err(|fault| (fault, peek_id(text)))
}

/// The part of the configuration that decides whether a request is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChatDefaults {
    pub max_tokens: u32,
    pub thinking: Thinking,
}

/// Reads the body of `cancel`.
pub fn parse_cancel(payload: &[u8]) -> Result<Cancel, Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        id: Option<Scalar>,
        session: Option<Scalar>,
    }
    if payload.is_empty() {
        return Ok(Cancel::All);
    }
    let Object(body): Object<Body> =
        serde_json::from_str(utf8(payload)?).map_err(|e| Fault::invalid("", e.to_string()))?;
    let (id, session) = (body.id, body.session);
    let id = id.map(|id| string("id", id)).transpose()?;
    let session = session.map(|name| string("session", name)).transpose()?;
    match (id, session) {
        (Some(_), Some(_)) => Err(Fault::invalid(
            "session",
            "and `id` exclude each other: an id is enough",
        )),
        (Some(id), None) => Ok(Cancel::Id(id)),
        (None, Some(session)) => match check_session(&session) {
            Ok(()) => Ok(Cancel::Session(session)),
            Err(why) => Err(Fault::invalid("session", why)),
        },
        (None, None) => Ok(Cancel::All),
    }
}

/// Reads the body of `control`: the id of the request whose thought should end.
pub fn parse_control(payload: &[u8]) -> Result<String, Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        id: Scalar,
        action: Scalar,
    }
    let Object(body): Object<Body> =
        serde_json::from_str(utf8(payload)?).map_err(|e| Fault::invalid("", e.to_string()))?;
    let id = string("id", body.id)?;
    if string("action", body.action)? == "end_thinking" {
        Ok(id)
    } else {
        Err(Fault::invalid("action", "must be `end_thinking`"))
    }
}

fn string(field: &str, value: Scalar) -> Result<String, Fault> {
    match value {
        Scalar::Text(text) => Ok(text),
        Scalar::Number(_) | Scalar::Empty | Scalar::Other => {
            Err(Fault::invalid(field, "must be a string"))
        }
    }
}

/// Reads an `ask`: plain text that is not empty.
pub fn parse_ask(payload: &[u8]) -> Result<String, Fault> {
    let text = utf8(payload)?;
    // editors write a byte order mark at the beginning of a file; it is no part of the question
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(Fault::invalid("", "the question is empty"));
    }
    if text.contains('\0') {
        return Err(Fault::invalid("", "holds U+0000"));
    }
    Ok(text.to_owned())
}

fn utf8(payload: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(payload)
        .map_err(|e| Fault::invalid("", format!("not UTF-8 at byte {}", e.valid_up_to())))
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Finds the `id` of a body that is at fault. A number is taken too, so that its sender finds the answer.
fn peek_id(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        id: Option<Scalar>,
    }
    let id = match serde_json::from_str::<Id>(text).ok()?.id? {
        Scalar::Text(id) => id,
        Scalar::Number(id) => id.to_string(),
        Scalar::Empty | Scalar::Other => return None,
    };
    check_id(&id).is_ok().then_some(id)
}

fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > ID_MAX {
        return Err(format!("must have 1 to {ID_MAX} bytes"));
    }
    if id.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

fn check_session(name: &str) -> Result<(), String> {
    if valid_segment(name) {
        return Ok(());
    }
    Err(format!(
        "must have 1 to {SESSION_NAME_MAX} characters of A-Z a-z 0-9 . _ -"
    ))
}

fn parse_body(
    text: &str,
    config: &ChatDefaults,
    own: impl FnOnce(&ChatRequest) -> Vec<Tool>,
) -> Result<ChatRequest, Fault> {
    if text.starts_with(BYTE_ORDER_MARK) {
        let why = "begins with a byte order mark (bytes EF BB BF), which JSON does not have";
        return Err(Fault::invalid("", why));
    }
    let path = RefCell::new(String::new());
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = json
        .deserialize_map(Body {
            path: &path,
            thinking: config.thinking,
        })
        .and_then(|r| json.end().map(|()| r));
    let parsed = parsed.map_err(|error| format::refused(&path.borrow(), &error));
    let (mut request, offer) = parsed?;
    let own = own(&request);
    request.tools = offer.tools(own, &mut request.ignored)?;
    if let Some(format) = &request.format {
        format.check()?;
    }
    if request.messages.is_empty() {
        return Err(Fault::invalid(
            "messages",
            "is required and must not be empty",
        ));
    }
    if request.sampling.top_logprobs.is_some() && !request.sampling.logprobs {
        return Err(Fault::invalid("top_logprobs", "needs `logprobs`: true"));
    }
    if request.sentences && request.sampling.logprobs {
        let why = "goes with `chunk`: \"token\": sentences are without marks, and not the text of their tokens";
        return Err(Fault::invalid("logprobs", why));
    }
    let max_tokens = request.max_tokens.unwrap_or(config.max_tokens);
    request.sampling.check_logprobs(max_tokens)?;
    Ok(request)
}

/// The top level of a body. `path` is the field that is being read, for the error.
struct Body<'p> {
    path: &'p RefCell<String>,
    thinking: Thinking,
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = (ChatRequest, Offer);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut r, mut offer) = (ChatRequest::default(), Offer::default());
        let mut seen: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.path.replace(key.clone());
            if seen.contains(&key) {
                return Err(de::Error::custom("is given twice"));
            }
            if !offer.field(&key, &mut map, self.path)? {
                self.field(&key, &mut map, &mut r)?;
            }
            // known names are there at most once, so this is bounded
            seen.push(key);
            self.path.borrow_mut().clear();
        }
        Ok((r, offer))
    }
}

impl Body<'_> {
    fn field<'de, A: MapAccess<'de>>(
        &self,
        key: &str,
        map: &mut A,
        r: &mut ChatRequest,
    ) -> Result<(), A::Error> {
        match key {
            "messages" => {
                r.messages = map.next_value_seed(MessagesSeed {
                    path: self.path,
                    ignored: &mut r.ignored,
                })?;
            }
            "id" => {
                r.id = match map.next_value::<Option<Scalar>>()? {
                    None => None,
                    Some(Scalar::Text(id)) => {
                        check_id(&id).map_err(de::Error::custom)?;
                        Some(id)
                    }
                    Some(_) => return Err(de::Error::custom(ID_IS_TEXT)),
                };
            }
            "session" => r.session = text(map, check_session)?,
            "priority" => {
                let priority = map.next_value::<Option<Word<RawPriority>>>()?;
                r.priority = priority.map_or(Priority::Normal, |Word(priority)| priority.into());
            }
            "stream" => r.stream = map.next_value()?,
            "chunk" => {
                let chunk = map.next_value::<Option<Word<RawChunk>>>()?;
                r.sentences = matches!(chunk, Some(Word(RawChunk::Sentence)));
            }
            "preset" => r.preset = text(map, check_session)?,
            "max_tokens" | "max_completion_tokens" => {
                let given = integer(map, 1, u64::from(u32::MAX))?.map(|n| n as u32);
                if r.max_tokens.is_some() && given.is_some() && given != r.max_tokens {
                    return Err(de::Error::custom(
                        "`max_tokens` and `max_completion_tokens` differ",
                    ));
                }
                r.max_tokens = given.or(r.max_tokens);
            }
            "thinking" => {
                r.thinking = map
                    .next_value::<Option<RawThinking>>()?
                    .map(|t| t.over(self.thinking));
            }
            "stop" => {
                r.stop = map
                    .next_value::<Option<Stops>>()?
                    .map(|s| s.0)
                    .unwrap_or_default();
            }
            "response_format" => {
                r.format = map.next_value_seed(FormatSeed { path: self.path })?;
            }
            "schema_in_prompt" => {
                r.schema_in_prompt = map.next_value::<Option<bool>>()?.unwrap_or(false);
            }
            "tool_execution" => {
                let who = map.next_value::<Option<Word<Execution>>>()?;
                r.tool_execution = who.map(|Word(who)| who);
            }
            "deadline_ms" => r.deadline_ms = integer(map, 1, DEADLINE_MAX_MS)?,
            "n" => {
                // more than one answer would be an effect
                if integer(map, 1, 1)?.is_some() {
                    r.ignored.push("n");
                }
            }
            "modalities" => {
                // anything but text would be an effect too
                if map.next_value::<Option<Modalities>>()?.is_some() {
                    r.ignored.push("modalities");
                }
            }
            _ => return Self::rest(key, map, r),
        }
        Ok(())
    }

    fn rest<'de, A: MapAccess<'de>>(
        key: &str,
        map: &mut A,
        r: &mut ChatRequest,
    ) -> Result<(), A::Error> {
        let s = &mut r.sampling;
        match key {
            "temperature" => s.temperature = number(map, 0.0, 2.0)?,
            "top_p" => s.top_p = number(map, 0.0, 1.0)?,
            "min_p" => s.min_p = number(map, 0.0, 1.0)?,
            "repeat_penalty" => s.repeat_penalty = number(map, 0.1, 10.0)?,
            "presence_penalty" => s.presence_penalty = number(map, -2.0, 2.0)?,
            "frequency_penalty" => s.frequency_penalty = number(map, -2.0, 2.0)?,
            // -1 is off in llama-server, as 0 is
            "top_k" => {
                s.top_k = map
                    .next_value::<Option<i64>>()?
                    .map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX));
            }
            "seed" => s.seed = map.next_value::<Option<Seed>>()?.and_then(|s| s.0),
            "logit_bias" => {
                s.logit_bias = map
                    .next_value::<Option<Biases>>()?
                    .map(|b| b.0)
                    .unwrap_or_default();
            }
            "logprobs" => s.logprobs = map.next_value::<Option<bool>>()?.unwrap_or(false),
            "top_logprobs" => {
                s.top_logprobs = integer(map, 0, u64::from(TOP_LOGPROBS_MAX))?.map(|n| n as u8);
            }
            _ => {
                if let Some(name) = WITHOUT_EFFECT.iter().find(|name| **name == key) {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        r.ignored.push(name);
                    }
                } else if let Some((_, why)) = NEVER.iter().find(|(name, _)| *name == key) {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        return Err(de::Error::custom(why));
                    }
                } else {
                    return older(key, map);
                }
            }
        }
        Ok(())
    }
}

/// Reads an older field: only a value that asks for nothing is taken.
fn older<'de, A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<(), A::Error> {
    let (why, harmless): (_, &[&str]) = match key {
        "functions" => ("is the older form of `tools`", &[]),
        "function_call" => ("is the older form of `tool_choice`", &["none"]),
        _ => return Err(de::Error::custom("unknown field")),
    };
    let asks = match map.next_value::<Option<Scalar>>()? {
        None => false,
        Some(Scalar::Text(text)) => !harmless.contains(&text.as_str()),
        // no functions are no question, but no choice is an array
        Some(Scalar::Empty) => key != "functions",
        Some(Scalar::Number(_) | Scalar::Other) => true,
    };
    if asks {
        Err(de::Error::custom(why))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
