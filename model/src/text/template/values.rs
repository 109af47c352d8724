//! The values that a template is given: messages, tools and their calls, with every text of a client guarded.

use crate::text::{Message, Role, Tool};
use minijinja::value::Value;
use minijinja::{Error, ErrorKind, context};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
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

/// How a template wants the arguments of a past call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// as a map, which it writes as JSON
    Map,
    /// as the text of a JSON object, which is how a client sends them
    Text,
}

/// Makes values, and counts what they are made of.
pub(super) struct Values<'a> {
    /// makes a client's text one that has no control token in it
    guard: &'a dyn Fn(&str) -> String,
    pub(super) arguments: Arguments,
    /// bytes of the texts that were made
    pub(super) bytes: usize,
    /// values within tools and calls
    pub(super) nodes: usize,
}

impl<'a> Values<'a> {
    pub(super) fn new(guard: &'a dyn Fn(&str) -> String, arguments: Arguments) -> Self {
        Self {
            guard,
            arguments,
            bytes: 0,
            nodes: 0,
        }
    }

    /// A message whose content is guarded already. Templates ask whether a key is there at all, so there are only those that
    /// say something. The result of a tool also has the name of the tool that is `called`.
    pub(super) fn message(
        &mut self,
        message: &Message,
        content: String,
        called: Option<&str>,
    ) -> Result<Value, Error> {
        self.bytes += content.len();
        let role = message.role.as_str();
        if message.role == Role::Tool {
            let id = message.tool_call_id.as_deref().map(|id| self.text(id));
            let name = called.map(|name| self.text(name));
            return Ok(context! { role, content, tool_call_id => id, name });
        }
        if message.tool_calls.is_empty() {
            return Ok(context! { role, content });
        }
        // where there are only calls, templates expect that nothing was said
        let content = (!content.is_empty()).then_some(content);
        let mut calls = Vec::with_capacity(message.tool_calls.len());
        for call in &message.tool_calls {
            let arguments = match self.arguments {
                Arguments::Map => self.object(&call.arguments)?,
                Arguments::Text => self.text(&call.arguments),
            };
            let (id, name) = (self.text(&call.id), self.text(&call.name));
            calls.push(
                context! { id, type => "function", function => context! { name, arguments } },
            );
        }
        Ok(context! { role, content, tool_calls => calls })
    }

    /// A tool as a client sends it.
    pub(super) fn tool(&mut self, tool: &Tool) -> Result<Value, Error> {
        let name = self.text(tool.name());
        let parameters = self.object(tool.parameters())?;
        let function = match tool.description() {
            Some(description) => {
                context! { name, description => self.text(description), parameters }
            }
            None => context! { name, parameters },
        };
        Ok(context! { type => "function", function })
    }

    fn text(&mut self, text: &str) -> Value {
        let guarded = (self.guard)(text);
        self.bytes += guarded.len();
        self.nodes += 1;
        guarded.into()
    }

    fn object(&mut self, text: &str) -> Result<Value, Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        // a tool's schema and a call's arguments were read when they were taken
        Guarded(self)
            .deserialize(&mut json)
            .map_err(|why| Error::new(ErrorKind::BadSerialization, why.to_string()))
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
        Ok(Value::from(()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(self.0.text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(Guarded(&mut *self.0))? {
            all.push(value);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let key = if KEYWORDS.contains(&&*key) {
                key.into()
            } else {
                self.0.text(&key)
            };
            all.push((key, map.next_value_seed(Guarded(&mut *self.0))?));
        }
        Ok(all.into_iter().collect())
    }
}

/// What a template is given.
pub(super) fn context(
    messages: &[Value],
    tools: Vec<Value>,
    bos: &str,
    eos: &str,
    thinking: bool,
) -> Value {
    let tools = if tools.is_empty() {
        Value::from(())
    } else {
        tools.into()
    };
    context! {
        messages,
        tools,
        add_generation_prompt => true,
        bos_token => bos,
        eos_token => eos,
        enable_thinking => thinking,
    }
}
