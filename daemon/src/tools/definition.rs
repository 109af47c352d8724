//! One tool of the daemon's own: what the owner wrote, checked when it is loaded, and what a call of it publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use glowplug_model::text::{Tool, ToolError};
use serde_json::{Map, Value};

use super::arguments::{Parameters, plain};
use super::thing::{LEVELS, Thing};
use super::topic::{Pattern, TOPIC_MAX, check_level};
use crate::wire::clients;

/// Most values that one placeholder may have.
const VALUES_MAX: usize = 256;
/// Longest description and longest payload, in bytes each. A model reads the one with every request.
const TEXT_MAX: usize = 4096;

/// What the owner wrote of a tool, as it is.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub name: String,
    pub description: Option<String>,
    pub parameters: Option<String>,
    pub topic: String,
    pub payload: Option<String>,
    pub payload_text: Option<String>,
    pub reply_topic: Option<String>,
    pub timeout: Duration,
    pub clients: Vec<String>,
    pub confirm: bool,
}

/// Why a tool is not taken. Each variant is the key at fault; the text is the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    #[error("{0}")]
    Name(String),
    #[error("{0}")]
    Description(String),
    #[error("{0}")]
    Parameters(String),
    #[error("{0}")]
    Topic(String),
    #[error("{0}")]
    Payload(String),
    #[error("{0}")]
    PayloadText(String),
    #[error("{0}")]
    ReplyTopic(String),
}

/// A tool that can be offered and called.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// What the model is told.
    pub tool: Tool,
    /// Names of clients, in which `*` stands for any characters.
    pub clients: Vec<String>,
    /// Whether a call goes to the client first.
    pub confirm: bool,
    timeout: Duration,
    parameters: Parameters,
    route: Route,
}

/// Where a call goes.
#[derive(Debug, Clone, PartialEq)]
enum Route {
    /// To a topic that its arguments fill in.
    Topic {
        topic: Pattern,
        payload: Payload,
        reply: Option<Pattern>,
    },
    /// To one of the things of a catalogue, by the argument `name`.
    Things(BTreeMap<String, Thing>),
}

#[derive(Debug, Clone, PartialEq)]
enum Payload {
    /// The arguments as they are.
    Arguments,
    /// A JSON value in which texts that are exactly `{name}` stand for a property.
    Json(Value),
    /// Plain text in which `{name}` stands for a property.
    Text(String),
}

/// A call that is ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Topics and payloads that are published before it, in this order.
    pub before: Vec<(String, Bytes)>,
    pub topic: String,
    pub payload: Bytes,
    /// Whether the payload is JSON, and not plain text.
    pub json: bool,
    pub reply_topic: Option<String>,
    pub timeout: Duration,
}

impl Definition {
    /// Checks what the owner wrote. `base` is the daemon's base topic.
    ///
    /// # Errors
    /// [`DefinitionError`] is the key at fault with the cause.
    pub fn new(written: Written, base: &str) -> Result<Self, DefinitionError> {
        use DefinitionError as E;
        let description = written.description.as_deref();
        if description.is_some_and(|text| text.len() > TEXT_MAX || text.contains('\0')) {
            return Err(E::Description(format!(
                "must have at most {TEXT_MAX} bytes and no U+0000"
            )));
        }
        let schema = written.parameters.as_deref().unwrap_or_default();
        let tool = Tool::new(&written.name, description, schema).map_err(|error| match error {
            ToolError::Name => E::Name(error.to_string()),
            ToolError::Parameters(why) => E::Parameters(why),
        })?;
        let schema: Map<String, Value> =
            serde_json::from_str(tool.parameters()).map_err(|e| E::Parameters(e.to_string()))?;
        let parameters = Parameters::of(&schema);
        let topic = pattern(&written.topic, &parameters, base).map_err(E::Topic)?;
        let reply = written.reply_topic.as_deref();
        let reply = reply
            .map(|reply| pattern(reply, &parameters, base).map_err(E::ReplyTopic))
            .transpose()?;
        if reply.as_ref() == Some(&topic) {
            let why = "must not be the tool's own topic: the daemon would hear itself";
            return Err(E::ReplyTopic(why.to_owned()));
        }
        let payload = match (written.payload, written.payload_text) {
            (Some(_), Some(_)) => {
                let why = "and `tools[].payload` exclude each other";
                return Err(E::PayloadText(why.to_owned()));
            }
            (Some(json), None) => {
                Payload::Json(json_payload(&json, &parameters).map_err(E::Payload)?)
            }
            (None, Some(text)) => {
                text_payload(&text, &parameters).map_err(E::PayloadText)?;
                Payload::Text(text)
            }
            (None, None) => Payload::Arguments,
        };
        Ok(Self {
            tool,
            clients: written.clients,
            confirm: written.confirm,
            timeout: written.timeout,
            parameters,
            route: Route::Topic {
                topic,
                payload,
                reply,
            },
        })
    }

    /// A tool that brings things of a catalogue into their states: its arguments are `name`, `state`, and the numbers that one
    /// of them can be set to, in the range of all. None if there is no thing, or the name is none of a tool.
    #[must_use]
    pub fn of_things(
        name: &str,
        description: &str,
        things: BTreeMap<String, Thing>,
        clients: Vec<String>,
        timeout: Duration,
    ) -> Option<Self> {
        let names: Vec<&String> = things.keys().collect();
        let mut states: Vec<&String> = things.values().flat_map(|t| t.states.keys()).collect();
        states.sort_unstable();
        states.dedup();
        let mut schema = serde_json::json!({
            "type": "object",
            "properties": {"name": {"enum": names}, "state": {"enum": states}},
            "required": ["name", "state"],
            "additionalProperties": false,
        });
        for what in LEVELS {
            let all = || things.values().filter_map(|thing| thing.levels.get(what));
            let (least, most) = (all().map(|l| l.least).min(), all().map(|l| l.most).max());
            if let Some((least, most)) = least.zip(most) {
                schema["properties"][what] =
                    serde_json::json!({"type": "integer", "minimum": least, "maximum": most});
            }
        }
        let parameters = Parameters::of(schema.as_object().filter(|_| !things.is_empty())?);
        Some(Self {
            tool: Tool::new(name, Some(description), &schema.to_string()).ok()?,
            clients,
            confirm: false,
            timeout,
            parameters,
            route: Route::Things(things),
        })
    }

    /// Whether this client may use it.
    #[must_use]
    pub fn is_for(&self, client: &str) -> bool {
        self.clients
            .iter()
            .any(|pattern| clients::matches(pattern, client))
    }

    /// What a call with these arguments publishes.
    ///
    /// # Errors
    /// Says in words for the model why nothing is.
    pub fn plan(&self, arguments: &str) -> Result<Planned, String> {
        let given: Map<String, Value> =
            serde_json::from_str(arguments).map_err(|error| format!("arguments: {error}"))?;
        self.parameters.check(&given)?;
        let text = |name: &str| given.get(name).and_then(plain);
        match &self.route {
            Route::Topic {
                topic,
                payload,
                reply,
            } => {
                let filled = |pattern: &Pattern| {
                    let topic = pattern.fill(text);
                    topic.ok_or_else(|| "an argument of the topic is missing".to_owned())
                };
                let (payload, json) = match payload {
                    Payload::Arguments => (arguments.to_owned(), true),
                    Payload::Json(value) => (
                        fill_json(value, &given).unwrap_or(Value::Null).to_string(),
                        true,
                    ),
                    Payload::Text(template) => (fill_text(template, &text)?, false),
                };
                Ok(Planned {
                    before: Vec::new(),
                    topic: filled(topic)?,
                    payload: payload.into(),
                    json,
                    reply_topic: reply.as_ref().map(filled).transpose()?,
                    timeout: self.timeout,
                })
            }
            Route::Things(things) => {
                let missing = || "there is no such thing".to_owned();
                let (name, state) = (text("name"), text("state"));
                let (name, state) = name.zip(state).ok_or_else(missing)?;
                let thing = things.get(&name).ok_or_else(missing)?;
                let number = |what| Some((what, given.get(what)?.as_f64()? as i64));
                let numbers: Vec<_> = LEVELS.into_iter().filter_map(number).collect();
                let mut all = thing.plan(&name, &state, &numbers)?;
                let (topic, payload) = all.pop().ok_or_else(missing)?;
                let before = all.into_iter().map(|(topic, said)| (topic, said.into()));
                Ok(Planned {
                    before: before.collect(),
                    topic,
                    json: payload.starts_with('{'),
                    payload: payload.into(),
                    reply_topic: thing.reply_topic.clone(),
                    timeout: self.timeout,
                })
            }
        }
    }

    /// Filters of the topics that it writes to, and of those that it is answered on.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        match &self.route {
            Route::Topic { topic, reply, .. } => {
                let both = [Some(topic), reply.as_ref()].into_iter().flatten();
                both.map(Pattern::filter).collect()
            }
            Route::Things(_) => Vec::new(),
        }
    }
}

/// Reads a topic and checks that each placeholder is a required property bound by values that are topic levels.
fn pattern(text: &str, parameters: &Parameters, base: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    let mut longest = text.len();
    for name in pattern.placeholders() {
        if !parameters.requires(name) {
            return Err(format!(
                "has `{{{name}}}`, which is no required property of `parameters`"
            ));
        }
        let values = parameters.values(name).filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| {
            format!("has `{{{name}}}`, which must be bound by `enum` in `parameters`")
        })?;
        if values.len() > VALUES_MAX {
            return Err(format!(
                "has `{{{name}}}` with more than {VALUES_MAX} values"
            ));
        }
        for value in values {
            let level = value
                .as_str()
                .map(str::to_owned)
                .or_else(|| Some(value.as_i64()?.to_string()));
            let level = level.ok_or_else(|| {
                format!("has `{{{name}}}`, whose value {value} is no topic level")
            })?;
            check_level(&level)
                .map_err(|why| format!("has `{{{name}}}`, one of whose values {why}"))?;
            if level.starts_with('$') {
                return Err(format!(
                    "has `{{{name}}}`, whose value `{level}` starts with `$`"
                ));
            }
        }
        longest += values
            .iter()
            .map(|value| value.to_string().len())
            .max()
            .unwrap_or(0);
    }
    if longest > TOPIC_MAX {
        return Err(format!("can become longer than {TOPIC_MAX} bytes"));
    }
    let values = |name: &str| {
        let values = parameters.values(name).into_iter().flatten();
        values.filter_map(Value::as_str).collect::<Vec<_>>()
    };
    match pattern.never(base, values) {
        Some(prefix) => Err(format!("can be below `{prefix}`, where no tool may write")),
        None => Ok(pattern),
    }
}

/// The property that a text stands for, if it is exactly `{name}`.
fn named(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.strip_suffix('}')?;
    (!name.is_empty() && !name.contains(['{', '}'])).then_some(name)
}

/// Parses a payload of JSON and checks that what it names are properties.
fn json_payload(text: &str, parameters: &Parameters) -> Result<Value, String> {
    if text.len() > TEXT_MAX {
        return Err(format!("has more than {TEXT_MAX} bytes"));
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("is no JSON: {error}; plain text goes into `payload_text`"))?;
    check_json(&value, parameters).map(|()| value)
}

fn check_json(value: &Value, parameters: &Parameters) -> Result<(), String> {
    match value {
        Value::String(text) => match named(text) {
            Some(name) if !parameters.has(name) => Err(format!(
                "has `{{{name}}}`, which is no property of `parameters`"
            )),
            _ => Ok(()),
        },
        Value::Array(list) => list
            .iter()
            .try_for_each(|value| check_json(value, parameters)),
        Value::Object(map) => map
            .values()
            .try_for_each(|value| check_json(value, parameters)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// The value with the arguments in it. What stands for an argument that was not given is left out.
fn fill_json(value: &Value, given: &Map<String, Value>) -> Option<Value> {
    Some(match value {
        Value::String(text) => match named(text) {
            Some(name) => given.get(name)?.clone(),
            None => value.clone(),
        },
        Value::Array(list) => list
            .iter()
            .filter_map(|value| fill_json(value, given))
            .collect(),
        Value::Object(map) => {
            let members = map.iter();
            let members =
                members.filter_map(|(name, value)| Some((name.clone(), fill_json(value, given)?)));
            Value::Object(members.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

/// The parts of a text: what is written, and the names between `{` and `}`.
fn parts(text: &str) -> Result<Vec<Result<&str, &str>>, String> {
    let (mut all, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| "has a `{` without its `}`".to_owned())?;
        all.extend([Ok(before), Err(name)]);
        rest = after;
    }
    all.push(Ok(rest));
    Ok(all)
}

/// Checks that a plain text names only what can be written in one, and what every call has.
fn text_payload(text: &str, parameters: &Parameters) -> Result<(), String> {
    if text.len() > TEXT_MAX || text.contains('\0') {
        return Err(format!("must have at most {TEXT_MAX} bytes and no U+0000"));
    }
    for name in parts(text)?.into_iter().filter_map(Result::err) {
        if !parameters.requires(name) {
            return Err(format!(
                "has `{{{name}}}`, which is no required property of `parameters`"
            ));
        }
        if !parameters.is_plain(name) {
            return Err(format!(
                "has `{{{name}}}`, which is bound neither by `enum` nor by a type of numbers or truth values"
            ));
        }
    }
    Ok(())
}

fn fill_text(template: &str, value: &impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::new();
    for part in parts(template)? {
        match part {
            Ok(text) => filled.push_str(text),
            Err(name) => {
                let value = value(name).ok_or_else(|| format!("`{name}` is missing"))?;
                filled.push_str(&value);
            }
        }
    }
    Ok(filled)
}

/// Definitions in one order, of which each is shared by the requests that offer it.
pub type Definitions = Vec<Arc<Definition>>;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
