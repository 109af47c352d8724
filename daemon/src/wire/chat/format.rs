//! The field `response_format` of a chat request.

use std::cell::RefCell;
use std::fmt;

use glowplug_model::engine::Refusal;
use glowplug_model::text::{Format, JsonText};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::exact::Word;
use crate::wire::fault::Fault;

/// Name of the field.
const FIELD: &str = "response_format";
/// Where the schema is.
const SCHEMA: &str = "response_format.json_schema.schema";
/// Where it is said whether the schema is enforced.
const STRICT: &str = "response_format.json_schema.strict";

/// What a request or a preset says of the form of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseFormat {
    /// Text of any form.
    Text,
    /// Text that is held to this.
    Held(Format),
}

impl ResponseFormat {
    /// What the answer is held to.
    #[must_use]
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Text => None,
            Self::Held(format) => Some(format),
        }
    }

    /// Checks what can be told without a model.
    ///
    /// # Errors
    /// The place that cannot be enforced.
    pub(in crate::wire) fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Text => Ok(()),
            Self::Held(format) => {
                let checked = format.check();
                checked.map_err(|error| Refusal::schema(format, error).into())
            }
        }
    }
}

/// Reads the value of the field from its JSON.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn read(json: &str) -> Result<ResponseFormat, Fault> {
    let path = RefCell::new(FIELD.to_owned());
    let mut json = serde_json::Deserializer::from_str(json);
    let read = FormatSeed { path: &path }.deserialize(&mut json);
    let read = read.and_then(|format| json.end().map(|()| format));
    let format = read.map_err(|error| refused(&path.borrow(), &error))?;
    let format = format.unwrap_or(ResponseFormat::Text);
    format.check()?;
    Ok(format)
}

/// Why a value was not read: what is JSON and yet no schema has too many levels.
pub(in crate::wire) fn refused(path: &str, error: &serde_json::Error) -> Fault {
    if path == SCHEMA && error.is_data() {
        Fault::schema(path, error.to_string())
    } else {
        Fault::invalid(path, error.to_string())
    }
}

/// Reads it, or null. `path` is the field.
pub(in crate::wire) struct FormatSeed<'p> {
    pub(in crate::wire) path: &'p RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for FormatSeed<'_> {
    type Value = Option<ResponseFormat>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    JsonObject,
    JsonSchema,
    Regex,
}

impl<'de> Visitor<'de> for FormatSeed<'_> {
    type Value = Option<ResponseFormat>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `type`")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let path = self.path;
        let (mut kind, mut schema, mut pattern) = (None::<Kind>, None, None::<String>);
        while let Some(key) = map.next_key::<String>()? {
            let given = match &key[..] {
                "type" => {
                    let Word(given) = map.next_value::<Word<Kind>>()?;
                    kind.replace(given).is_some()
                }
                "json_schema" => {
                    path.replace("response_format.json_schema".to_owned());
                    schema
                        .replace(map.next_value_seed(SchemaSeed { path })?)
                        .is_some()
                }
                "pattern" => pattern.replace(map.next_value()?).is_some(),
                _ => return Err(de::Error::custom(format_args!("unknown field `{key}`"))),
            };
            if given {
                return Err(de::Error::custom(format_args!("has `{key}` twice")));
            }
            path.replace(FIELD.to_owned());
        }
        let held = match (kind, schema, pattern) {
            (Some(Kind::Text), None, None) => return Ok(Some(ResponseFormat::Text)),
            (Some(Kind::JsonObject), None, None) => Format::JsonObject,
            (Some(Kind::JsonSchema), Some(schema), None) => Format::JsonSchema(schema.into()),
            (Some(Kind::Regex), None, Some(pattern)) => Format::Regex(pattern.into()),
            (None, ..) => return Err(de::Error::missing_field("type")),
            (Some(Kind::JsonSchema), None, None) => {
                return Err(de::Error::missing_field("json_schema"));
            }
            (Some(Kind::Regex), None, None) => return Err(de::Error::missing_field("pattern")),
            _ => {
                return Err(de::Error::custom(
                    "`json_schema` goes with the type of this name alone, and `pattern` with `regex`",
                ));
            }
        };
        Ok(Some(ResponseFormat::Held(held)))
    }
}

/// Reads the object `json_schema` and gives the text of its schema.
struct SchemaSeed<'p> {
    path: &'p RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for SchemaSeed<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for SchemaSeed<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of `name` and `schema`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let field = self.path.borrow().clone();
        let (mut named, mut schema) = (false, None);
        while let Some(key) = map.next_key::<String>()? {
            match &key[..] {
                "name" if !named => {
                    // it is of use to nobody here, but OpenAI's clients send it
                    map.next_value::<String>()?;
                    named = true;
                }
                "schema" if schema.is_none() => {
                    self.path.replace(SCHEMA.to_owned());
                    let JsonText(text) = map.next_value()?;
                    schema = Some(text);
                }
                "strict" => {
                    self.path.replace(STRICT.to_owned());
                    if map.next_value::<Option<bool>>()? == Some(false) {
                        return Err(de::Error::custom(
                            "cannot be false: what is given is enforced",
                        ));
                    }
                }
                "description" => {
                    map.next_value::<Option<String>>()?;
                }
                "name" | "schema" => {
                    return Err(de::Error::custom(format_args!("has `{key}` twice")));
                }
                _ => return Err(de::Error::custom(format_args!("unknown field `{key}`"))),
            }
            self.path.replace(field.clone());
        }
        if !named {
            return Err(de::Error::missing_field("name"));
        }
        schema.ok_or_else(|| de::Error::missing_field("schema"))
    }
}
