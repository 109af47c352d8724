//! The values that a template is given: messages, tools and their calls, with every text of a client guarded.

use crate::text::jinja::{JinjaError, Meter, Value};
use crate::text::{Message, Role, Tool};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Keys of a JSON schema that templates look up. Every other key is a client's own word and is guarded like a text.
const KEYWORDS: [&str; 14] = [
    "type",
    "properties",
    "items",
    "description",
    "enum",
    "required",
    "additionalProperties",
    "anyOf",
    "oneOf",
    "allOf",
    "default",
    "title",
    "format",
    "const",
];

/// How a template wants past calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calls {
    /// their arguments as a map, which it writes as JSON, and not as the text of a JSON object, which is how a client sends them
    pub(super) map: bool,
    /// no content where nothing was said beside them, and not an empty text
    pub(super) none: bool,
}

impl Calls {
    /// All ways, the most usual one first.
    pub(super) const ALL: [Self; 4] = [
        Self {
            map: true,
            none: true,
        },
        Self {
            map: false,
            none: true,
        },
        Self {
            map: true,
            none: false,
        },
        Self {
            map: false,
            none: false,
        },
    ];
}

/// Makes values, and counts what they are made of.
pub(super) struct Values<'a> {
    /// makes a client's text one that has no control token in it
    guard: &'a dyn Fn(&str) -> String,
    calls: Calls,
    /// bytes of the texts that were made
    pub(super) bytes: usize,
    /// values within tools and calls
    pub(super) nodes: usize,
    /// bounds nothing here: messages and tools have bounds of their own
    meter: Meter,
}

impl<'a> Values<'a> {
    pub(super) fn new(guard: &'a dyn Fn(&str) -> String, calls: Calls) -> Self {
        Self {
            guard,
            calls,
            bytes: 0,
            nodes: 0,
            meter: Meter::new(usize::MAX),
        }
    }

    /// A message whose content is guarded already. Templates ask whether a key is there at all, so there are only those that
    /// say something. The result of a tool also has the name of the tool that is `called`.
    pub(super) fn message(
        &mut self,
        message: &Message,
        content: &str,
        called: Option<&str>,
    ) -> Result<Value, JinjaError> {
        self.bytes += content.len();
        let role = message.role.as_str().into();
        let only_calls = content.is_empty() && !message.tool_calls.is_empty();
        let content = match only_calls && self.calls.none {
            true => Value::None,
            false => content.into(),
        };
        let mut entries = vec![("role", role), ("content", content)];
        if message.role == Role::Tool {
            let mut text = |text: Option<&str>| text.map_or(Value::None, |text| self.text(text));
            entries.push(("tool_call_id", text(message.tool_call_id.as_deref())));
            entries.push(("name", text(called)));
            return self.map(entries);
        }
        let mut calls = Vec::with_capacity(message.tool_calls.len());
        for call in &message.tool_calls {
            let arguments = match self.calls.map {
                true => self.object(&call.arguments)?,
                false => self.text(&call.arguments),
            };
            let (id, name) = (self.text(&call.id), self.text(&call.name));
            let function = self.map(vec![("name", name), ("arguments", arguments)])?;
            calls.push(self.function(vec![("id", id)], function)?);
        }
        if !calls.is_empty() {
            entries.push(("tool_calls", Value::list(calls)?));
        }
        self.map(entries)
    }

    /// A tool as a client sends it.
    pub(super) fn tool(&mut self, tool: &Tool) -> Result<Value, JinjaError> {
        let mut entries = vec![("name", self.text(tool.name()))];
        if let Some(description) = tool.description() {
            entries.push(("description", self.text(description)));
        }
        entries.push(("parameters", self.object(tool.parameters())?));
        let function = self.map(entries)?;
        self.function(Vec::new(), function)
    }

    /// What OpenAI's API says is a function, after the entries that it has besides.
    fn function(
        &mut self,
        mut entries: Vec<(&str, Value)>,
        function: Value,
    ) -> Result<Value, JinjaError> {
        entries.extend([("type", "function".into()), ("function", function)]);
        self.map(entries)
    }

    fn map(&mut self, entries: Vec<(&str, Value)>) -> Result<Value, JinjaError> {
        let entries = entries
            .into_iter()
            .map(|(key, value)| (Value::from(key), value));
        Value::map(entries, &mut self.meter)
    }

    fn text(&mut self, text: &str) -> Value {
        let guarded = (self.guard)(text);
        self.bytes += guarded.len();
        self.nodes += 1;
        guarded.as_str().into()
    }

    fn object(&mut self, text: &str) -> Result<Value, JinjaError> {
        let mut json = serde_json::Deserializer::from_str(text);
        // a tool's schema and a call's arguments were read when they were taken
        Guarded(self)
            .deserialize(&mut json)
            .map_err(|why| JinjaError {
                line: 0,
                why: why.to_string(),
            })
    }
}

/// Reads a JSON value as a template's, with its keys in their order.
struct Guarded<'v, 'a>(&'v mut Values<'a>);

impl<'de> DeserializeSeed<'de> for Guarded<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        self.0.nodes += 1;
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Guarded<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.0.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(Guarded(&mut *self.0))? {
            all.push(value);
        }
        Value::list(all).map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let key = if KEYWORDS.contains(&&*key) {
                key.as_str().into()
            } else {
                self.0.text(&key)
            };
            all.push((key, map.next_value_seed(Guarded(&mut *self.0))?));
        }
        Value::map(all, &mut self.0.meter).map_err(A::Error::custom)
    }
}

/// What a template is given.
pub(super) fn context(
    messages: Vec<Value>,
    tools: Vec<Value>,
    bos: &str,
    eos: &str,
    thinking: bool,
) -> Result<Vec<(&'static str, Value)>, JinjaError> {
    // where there are none, it is not defined, because some templates go through it whatever it is
    let tools = match tools.is_empty() {
        true => Value::Undefined,
        false => Value::list(tools)?,
    };
    Ok(vec![
        ("messages", Value::list(messages)?),
        ("tools", tools),
        ("add_generation_prompt", true.into()),
        ("bos_token", bos.into()),
        ("eos_token", eos.into()),
        ("enable_thinking", thinking.into()),
    ])
}
