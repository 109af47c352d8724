//! The `messages` of a chat request.

use std::cell::RefCell;
use std::fmt;

use glowplug_model::text::{Message, Role};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::exact::Word;
use super::tools::{Calls, check_call_id};
use super::values::{Scalar, text};

/// Most messages of one request.
const MESSAGES_MAX: usize = 1024;
/// Most content parts of one message.
const PARTS_MAX: usize = 256;

/// Fields that clients send along, often as they got them in an answer; past thoughts are not fed to the model again.
/// The final frame lists them by the second name, unless there is nothing in them.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("name", "messages[].name"),
    ("reasoning_content", "messages[].reasoning_content"),
    ("refusal", "messages[].refusal"),
    ("annotations", "messages[].annotations"),
    ("audio", "messages[].audio"),
];

/// Reads the array. `path` names the element and field at fault; `ignored` gets the fields without effect, each once.
pub(in crate::wire) struct MessagesSeed<'p> {
    pub(in crate::wire) path: &'p RefCell<String>,
    pub(in crate::wire) ignored: &'p mut Vec<&'static str>,
}

impl<'de> DeserializeSeed<'de> for MessagesSeed<'_> {
    type Value = Vec<Message>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Vec<Message>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MessagesSeed<'_> {
    type Value = Vec<Message>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Message>, A::Error> {
        let mut all = Vec::new();
        loop {
            self.path.replace(format!("messages[{}]", all.len()));
            let Some(message) = seq.next_element_seed(MessageSeed {
                path: self.path,
                ignored: self.ignored,
                index: all.len(),
            })?
            else {
                break;
            };
            if all.len() == MESSAGES_MAX {
                self.path.replace("messages".to_owned());
                return Err(de::Error::custom(format_args!(
                    "has more than {MESSAGES_MAX} messages"
                )));
            }
            all.push(message);
        }
        self.path.replace("messages".to_owned());
        Ok(all)
    }
}

struct MessageSeed<'p> {
    path: &'p RefCell<String>,
    ignored: &'p mut Vec<&'static str>,
    index: usize,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = Message;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Message, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `role` and `content`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let (mut role, mut content) = (None, None);
        let (mut calls, mut result_of) = (Vec::new(), None);
        let mut seen: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.path.replace(format!("messages[{}].{key}", self.index));
            if seen.contains(&key) {
                return Err(de::Error::custom("is given twice"));
            }
            match key.as_str() {
                "role" => {
                    let Word(said) = map.next_value::<Word<RawRole>>()?;
                    role = Some(said.into());
                }
                "content" => content = map.next_value::<Option<Content>>()?,
                "tool_calls" => calls = map.next_value_seed(Calls { path: self.path })?,
                "tool_call_id" => result_of = text(&mut map, check_call_id)?,
                "function_call" => {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        return Err(de::Error::custom("is the older form of `tool_calls`"));
                    }
                }
                name => {
                    let Some((_, listed)) = WITHOUT_EFFECT.iter().find(|(n, _)| *n == name) else {
                        return Err(de::Error::custom("unknown field"));
                    };
                    let given = map.next_value::<Option<Scalar>>()?;
                    let empty = match given {
                        None | Some(Scalar::Empty) => true,
                        Some(Scalar::Text(text)) => text.is_empty(),
                        Some(Scalar::Number(_) | Scalar::Other) => false,
                    };
                    if !empty && !self.ignored.contains(listed) {
                        self.ignored.push(listed);
                    }
                }
            }
            seen.push(key);
        }
        let field = |name| format!("messages[{}].{name}", self.index);
        let Some(role) = role else {
            self.path.replace(field("role"));
            return Err(de::Error::custom("is required"));
        };
        if !calls.is_empty() && role != Role::Assistant {
            self.path.replace(field("tool_calls"));
            return Err(de::Error::custom("only an assistant calls tools"));
        }
        let listed = "messages[].tool_call_id";
        match (&result_of, role) {
            (None, Role::Tool) => {
                self.path.replace(field("tool_call_id"));
                return Err(de::Error::custom("is required"));
            }
            (None, _) | (Some(_), Role::Tool) => {}
            (Some(_), _) => {
                result_of = None;
                if !self.ignored.contains(&listed) {
                    self.ignored.push(listed);
                }
            }
        }
        self.path.replace(field("content"));
        let content = match content {
            Some(Content(text)) if text.contains('\0') => {
                return Err(de::Error::custom("holds U+0000"));
            }
            Some(Content(content)) => content,
            // an assistant's turn may have been empty
            None if role == Role::Assistant => String::new(),
            None => return Err(de::Error::custom("is required")),
        };
        Ok(Message {
            tool_calls: calls,
            tool_call_id: result_of,
            ..Message::new(role, content)
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawRole {
    /// The system's role, as OpenAI's newer models call it.
    Developer,
    System,
    User,
    Assistant,
    Tool,
}

impl From<RawRole> for Role {
    fn from(role: RawRole) -> Self {
        match role {
            RawRole::Developer | RawRole::System => Self::System,
            RawRole::User => Self::User,
            RawRole::Assistant => Self::Assistant,
            RawRole::Tool => Self::Tool,
        }
    }
}

/// A string, or the text of OpenAI's content parts put together.
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts of type `text`")
            }

            fn visit_str<E>(self, s: &str) -> Result<Content, E> {
                Ok(Content(s.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut text = String::new();
                let mut parts = 0;
                while let Some(part) = seq.next_element::<Part>()? {
                    parts += 1;
                    if parts > PARTS_MAX {
                        return Err(de::Error::custom(format_args!(
                            "has more than {PARTS_MAX} parts"
                        )));
                    }
                    text.push_str(&part.0);
                }
                Ok(Content(text))
            }
        }
        d.deserialize_any(V)
    }
}

/// One of OpenAI's content parts of type `text`; a part of type `refusal` counts as text, because it was said too.
struct Part(String);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Part;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a part of type `text`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
                let (mut kind, mut said, mut unknown) = (String::new(), None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "type" => kind = map.next_value()?,
                        "text" | "refusal" if said.is_none() => {
                            said = Some((key, map.next_value::<String>()?));
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            unknown = Some(key);
                        }
                    }
                }
                match (said, unknown) {
                    _ if kind != "text" && kind != "refusal" => {
                        Err(de::Error::custom(format_args!(
                            "a part of type `{kind}` is not text, which is all that the model reads"
                        )))
                    }
                    (_, Some(key)) => Err(de::Error::custom(format_args!(
                        "a part has an unknown field, `{key}`"
                    ))),
                    (Some((key, text)), None) if key == kind => Ok(Part(text)),
                    _ => Err(de::Error::custom(format_args!(
                        "a part of type `{kind}` needs `{kind}`"
                    ))),
                }
            }
        }
        d.deserialize_map(V)
    }
}
