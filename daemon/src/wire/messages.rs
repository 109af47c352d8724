//! The `messages` of a chat request.

use std::cell::RefCell;
use std::fmt;

use glowplug_model::text::{Message, Role};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Most messages of one request.
const MESSAGES_MAX: usize = 1024;
/// Most content parts of one message.
const PARTS_MAX: usize = 256;

/// What clients send along, often as they got it in an answer. Past thoughts are not fed again.
const WITHOUT_EFFECT: &[&str] = &[
    "name",
    "tool_call_id",
    "reasoning_content",
    "refusal",
    "annotations",
    "audio",
];

/// Reads the array; `path` names the element and field at fault.
pub(super) struct MessagesSeed<'p> {
    pub(super) path: &'p RefCell<String>,
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
        let mut seen: Vec<String> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.path.replace(format!("messages[{}].{key}", self.index));
            if seen.contains(&key) {
                return Err(de::Error::custom("is given twice"));
            }
            match key.as_str() {
                "role" => role = Some(map.next_value::<RawRole>()?.into()),
                "content" => content = map.next_value::<Option<Content>>()?,
                "tool_calls" | "function_call" => {
                    if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                        return Err(de::Error::custom(
                            "calling tools comes with a later version",
                        ));
                    }
                }
                name if WITHOUT_EFFECT.contains(&name) => {
                    map.next_value::<IgnoredAny>()?;
                }
                _ => return Err(de::Error::custom("unknown field")),
            }
            seen.push(key);
        }
        let field = |name| format!("messages[{}].{name}", self.index);
        let Some(role) = role else {
            self.path.replace(field("role"));
            return Err(de::Error::custom("is required"));
        };
        self.path.replace(field("content"));
        match content {
            Some(Content(text)) if text.contains('\0') => Err(de::Error::custom("holds U+0000")),
            Some(Content(content)) => Ok(Message { role, content }),
            // an assistant's turn may have had nothing to say
            None if role == Role::Assistant => Ok(Message {
                role,
                content: String::new(),
            }),
            None => Err(de::Error::custom("is required")),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawRole {
    System,
    User,
    Assistant,
    Tool,
}

impl From<RawRole> for Role {
    fn from(role: RawRole) -> Self {
        match role {
            RawRole::System => Self::System,
            RawRole::User => Self::User,
            RawRole::Assistant => Self::Assistant,
            RawRole::Tool => Self::Tool,
        }
    }
}

/// A string, or OpenAI's parts of type `text`, put together.
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
                    let Part {
                        kind: PartKind::Text,
                        text: piece,
                    } = part;
                    text.push_str(&piece);
                }
                Ok(Content(text))
            }
        }
        d.deserialize_any(V)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(rename = "type")]
    kind: PartKind,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PartKind {
    Text,
}
