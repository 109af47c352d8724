//! The fields `tools`, `tool_choice` and `parallel_tool_calls` of a chat request, and the calls of its messages.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use glowplug_firmware_config::limits::{ID_MAX, TOOL_CALLS_MAX, TOOL_SCHEMAS_MAX, TOOLS_MAX};
use glowplug_model::text::{JsonText, Tool, ToolCall, ToolChoice, ToolError, Tools, json_object};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::exact::{Object, Word};
use crate::wire::fault::Fault;

/// What a request says of tools, until all of it is read.
#[derive(Debug, Default)]
pub(in crate::wire) struct Offer {
    list: Vec<Tool>,
    choice: Option<Choice>,
    parallel: Option<bool>,
}

impl Offer {
    /// Reads one of its fields; false if `key` is none of them.
    pub(in crate::wire) fn field<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
        path: &RefCell<String>,
    ) -> Result<bool, A::Error> {
        match key {
            "tools" => self.list = map.next_value_seed(List { path })?,
            "tool_choice" => self.choice = map.next_value()?,
            "parallel_tool_calls" => self.parallel = map.next_value()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The tools that may be called: the client's, and `own` of the daemon's. What says nothing without tools is added to
    /// `ignored`.
    pub(in crate::wire) fn tools(
        mut self,
        own: Vec<Tool>,
        ignored: &mut Vec<&'static str>,
    ) -> Result<Option<Tools>, Fault> {
        if !own.is_empty() {
            self.join(own)?;
        }
        let refuse = |why: String| Err(Fault::invalid("tool_choice", why));
        let unknown = |name: &str| format!("names `{name}`, which is no tool of this request");
        let name = match &self.choice {
            Some(Choice::Named(name)) => Some(name),
            _ => None,
        };
        if self.list.is_empty() {
            if self.parallel.is_some() {
                ignored.push("parallel_tool_calls");
            }
            return match self.choice {
                Some(Choice::Named(name)) => refuse(unknown(&name)),
                Some(Choice::Required) => refuse("needs `tools`".to_owned()),
                None | Some(Choice::None | Choice::Auto) => Ok(None),
            };
        }
        if let Some(name) = name
            && !self.list.iter().any(|tool| tool.name() == &**name)
        {
            return refuse(unknown(name));
        }
        let choice = match self.choice {
            // a model that does not see tools calls none
            Some(Choice::None) => return Ok(None),
            None | Some(Choice::Auto) => ToolChoice::Auto,
            Some(Choice::Required) => ToolChoice::Required,
            Some(Choice::Named(name)) => ToolChoice::Named(name),
        };
        Ok(Some(Tools {
            list: self.list.into(),
            choice,
            parallel: self.parallel.unwrap_or(true),
        }))
    }
}

impl Offer {
    /// Adds tools of the daemon's own, whose names are theirs alone.
    fn join(&mut self, own: Vec<Tool>) -> Result<(), Fault> {
        for (index, tool) in self.list.iter().enumerate() {
            if own.iter().any(|own| own.name() == tool.name()) {
                let param = format!("tools[{index}].function.name");
                return Err(Fault::invalid(
                    &param,
                    "is the name of a tool of the daemon's own",
                ));
            }
        }
        self.list.extend(own);
        let bytes: usize = self.list.iter().map(|tool| tool.parameters().len()).sum();
        if self.list.len() > TOOLS_MAX || bytes > TOOL_SCHEMAS_MAX {
            let why = format!(
                "with the daemon's own there are {} tools with {bytes} bytes of schemas, the limits are {TOOLS_MAX} and {TOOL_SCHEMAS_MAX}",
                self.list.len()
            );
            return Err(Fault::invalid("tools", why));
        }
        Ok(())
    }
}

/// The field `tool_choice`, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    None,
    Auto,
    Required,
    Named(Arc<str>),
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Choice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `auto`, `required`, or {\"type\":\"function\",\"function\":{\"name\"}}")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Choice, E> {
                match s {
                    "none" => Ok(Choice::None),
                    "auto" => Ok(Choice::Auto),
                    "required" => Ok(Choice::Required),
                    _ => Err(E::invalid_value(de::Unexpected::Str(s), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choice, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Named {
                    #[serde(rename = "type")]
                    _kind: Word<Kind>,
                    function: Object<Name>,
                }
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Name {
                    name: String,
                }
                let named = Named::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let Object(function) = named.function;
                Ok(Choice::Named(function.name.into()))
            }
        }
        d.deserialize_any(V)
    }
}

/// The only kind of tool and of call.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Function,
}

/// Reads the array `tools`, or null.
struct List<'p> {
    path: &'p RefCell<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTool {
    #[serde(rename = "type")]
    _kind: Word<Kind>,
    function: Object<RawFunction>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFunction {
    name: String,
    description: Option<String>,
    parameters: Option<JsonText>,
    /// Arguments are held to the schema whatever it says.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<Tool>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Vec<Tool>, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Tool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of tools")
    }

    fn visit_unit<E>(self) -> Result<Vec<Tool>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Tool>, A::Error> {
        let (mut all, mut bytes) = (Vec::<Tool>::new(), 0);
        let whole = |why: fmt::Arguments<'_>| {
            self.path.replace("tools".to_owned());
            de::Error::custom(why)
        };
        loop {
            let place = format!("tools[{}]", all.len());
            self.path.replace(place.clone());
            if all.len() == TOOLS_MAX {
                if seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(whole(format_args!("has more than {TOOLS_MAX} tools")));
                }
                break;
            }
            let Some(Object(tool)) = seq.next_element::<Object<RawTool>>()? else {
                break;
            };
            let Object(f) = tool.function;
            let schema = f.parameters.as_ref().map_or("", |JsonText(text)| text);
            let tool = Tool::new(&f.name, f.description.as_deref(), schema).map_err(|error| {
                let field = match error {
                    ToolError::Name => "name",
                    ToolError::Parameters(_) => "parameters",
                };
                self.path.replace(format!("{place}.function.{field}"));
                de::Error::custom(error)
            })?;
            bytes += schema.len();
            if bytes > TOOL_SCHEMAS_MAX {
                return Err(whole(format_args!(
                    "the schemas have more than {TOOL_SCHEMAS_MAX} bytes together"
                )));
            }
            if f.description.is_some_and(|text| text.contains('\0')) {
                self.path.replace(format!("{place}.function.description"));
                return Err(de::Error::custom("holds U+0000"));
            }
            if all.iter().any(|other| other.name() == tool.name()) {
                self.path.replace(format!("{place}.function.name"));
                return Err(de::Error::custom("is the name of two tools"));
            }
            all.push(tool);
        }
        self.path.replace("tools".to_owned());
        Ok(all)
    }
}

/// Reads the array `tool_calls` of a message, or null. `path` is the field.
pub(in crate::wire) struct Calls<'p> {
    pub(in crate::wire) path: &'p RefCell<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCall {
    /// As it was in a chunk.
    #[serde(rename = "index")]
    _index: Option<IgnoredAny>,
    id: String,
    #[serde(rename = "type")]
    _kind: Option<Word<Kind>>,
    function: Object<RawCalled>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCalled {
    name: String,
    arguments: String,
}

impl<'de> DeserializeSeed<'de> for Calls<'_> {
    type Value = Vec<ToolCall>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Vec<ToolCall>, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Calls<'_> {
    type Value = Vec<ToolCall>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of calls")
    }

    fn visit_unit<E>(self) -> Result<Vec<ToolCall>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<ToolCall>, A::Error> {
        let field = self.path.borrow().clone();
        let mut all: Vec<ToolCall> = Vec::new();
        loop {
            let place = format!("{field}[{}]", all.len());
            self.path.replace(place.clone());
            let Some(Object(call)) = seq.next_element::<Object<RawCall>>()? else {
                break;
            };
            if all.len() == TOOL_CALLS_MAX {
                self.path.replace(field);
                return Err(de::Error::custom(format_args!(
                    "has more than {TOOL_CALLS_MAX} calls"
                )));
            }
            let wrong = |field: &str, why: String| {
                self.path.replace(format!("{place}.{field}"));
                de::Error::custom(why)
            };
            check_call_id(&call.id).map_err(|why| wrong("id", why))?;
            if all.iter().any(|other| other.id == call.id) {
                return Err(wrong("id", "is the id of two calls".to_owned()));
            }
            let Object(RawCalled { name, arguments }) = call.function;
            if let Err(error) = Tool::new(&name, None, "") {
                return Err(wrong("function.name", error.to_string()));
            }
            let arguments = match arguments {
                // some clients send nothing for no arguments
                none if none.trim().is_empty() => "{}".to_owned(),
                some => some,
            };
            json_object(&arguments).map_err(|why| wrong("function.arguments", why))?;
            all.push(ToolCall {
                id: call.id,
                name,
                arguments,
            });
        }
        self.path.replace(field);
        Ok(all)
    }
}

/// Whether a text can be the id of a call.
pub(in crate::wire) fn check_call_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > ID_MAX || id.contains('\0') {
        return Err(format!("must have 1 to {ID_MAX} bytes and no U+0000"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
