//! A client's schema: read strictly, and written again as the compiler gets it.
//!
//! Nothing of the client's text reaches llguidance that is not understood here: keywords are read one by one, annotations and
//! unknown keywords are left out, references point into `$defs` of our own, patterns and formats are written anew. So what is
//! not refused is enforced, and a hostile schema is bounded before any work is done for it.

mod assertions;
mod bounds;
mod definition;
mod finite;
mod formats;
mod keywords;
mod references;
mod values;
mod work;

use super::SchemaError;
use glowplug_firmware_config::limits::{SCHEMA_BYTES_MAX, SCHEMA_LEVELS_MAX};
use keywords::Reader;
use serde_json::{Map, Value, json};

/// Between two members or items, and between a key and its value: with a blank or without, as models write JSON on one line. No
/// other blanks may come. A weak model would fill its tokens with them, and where they might come, what follows is not forced.
const SEPARATORS: [&str; 2] = [", ?", ": ?"];
/// The letters behind a backslash. Without `u` a text has one way to be written, so that no key can be written as another one
/// that the schema does not mean.
const ESCAPES: &str = "nrbtf\\\"";

/// A schema that can be enforced.
#[derive(Debug)]
pub(super) struct Schema(Map<String, Value>);

impl Schema {
    /// A schema that allows every object.
    pub(super) fn any_object() -> Self {
        let mut map = Map::new();
        map.insert("type".into(), "object".into());
        Self(map)
    }

    /// The same schema, which allows objects only.
    ///
    /// # Errors
    /// It allows no objects.
    pub(super) fn of_object(mut self) -> Result<Self, SchemaError> {
        let objects = match self.0.get("type") {
            None => true,
            Some(Value::Array(types)) => types.contains(&Value::from("object")),
            Some(only) => only == "object",
        };
        if !objects {
            return Err(SchemaError {
                place: "type".into(),
                message: "must be `object`".into(),
            });
        }
        self.0.insert("type".into(), "object".into());
        Ok(self)
    }

    /// The keywords that are enforced.
    pub(super) fn keywords(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A part of it as a schema of its own, with what that may refer to.
    pub(super) fn part(&self, part: &Value) -> Self {
        let mut map = match part {
            Value::Object(map) => map.clone(),
            _ => Map::new(),
        };
        if let Some(definitions) = self.0.get("$defs").filter(|_| refers(part)) {
            map.insert("$defs".to_owned(), definitions.clone());
        }
        Self(map)
    }

    /// The schema as llguidance gets it.
    pub(super) fn grammar(mut self) -> Value {
        let [item, key] = SEPARATORS;
        let options = json!({
            "whitespace_flexible": false, "item_separator": item, "key_separator": key, "json_allowed_escapes": ESCAPES,
        });
        self.0.insert("x-guidance".into(), options);
        Value::Object(self.0)
    }
}

/// Reads the text of a schema.
///
/// # Errors
/// [`SchemaError`] names the place that is not enforced, or the limit that it is over.
pub(super) fn read(text: &str) -> Result<Schema, SchemaError> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(SchemaError::whole(format!(
            "has {} bytes, at most {SCHEMA_BYTES_MAX} are taken",
            text.len()
        )));
    }
    if levels(text) > SCHEMA_LEVELS_MAX {
        return Err(SchemaError::whole(format!(
            "has more than {SCHEMA_LEVELS_MAX} levels"
        )));
    }
    let root: Value = serde_json::from_str(text)
        .map_err(|error| SchemaError::whole(format!("is no JSON: {error}")))?;
    Reader::read(&root).map(Schema)
}

/// Whether a schema that was read has a reference in it.
fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("$ref") || map.values().any(refers),
        Value::Array(all) => all.iter().any(refers),
        _ => false,
    }
}

/// Most lists and objects within each other, in a text that need not be JSON.
fn levels(text: &str) -> usize {
    let (mut most, mut open, mut in_string, mut escaped) = (0, 0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => open += 1,
            b'}' | b']' if !in_string => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}
