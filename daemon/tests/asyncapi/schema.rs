//! The few shapes that schemas are written with. The dialect is AsyncAPI's own, which is JSON Schema's draft 7.

use serde_json::{Value, json};

/// A schema of the document, by its name.
pub(crate) fn of(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(crate) fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

/// A text of one to so many bytes; a schema counts characters, of which there are no more than bytes.
pub(crate) fn short(max: usize, about: &str) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": max, "description": about})
}

pub(crate) fn flag(about: &str) -> Value {
    json!({"type": "boolean", "description": about})
}

pub(crate) fn count(about: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": about})
}

/// A whole number between two limits.
pub(crate) fn whole(min: u64, max: u64, about: &str) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max, "description": about})
}

/// A number between two limits.
pub(crate) fn between(min: f64, max: f64, about: &str) -> Value {
    json!({"type": "number", "minimum": min, "maximum": max, "description": about})
}

pub(crate) fn amount(about: &str) -> Value {
    json!({"type": "number", "minimum": 0, "description": about})
}

pub(crate) fn one_of(words: &[&str], about: &str) -> Value {
    json!({"type": "string", "enum": words, "description": about})
}

/// What names count, by name.
pub(crate) fn counts(about: &str) -> Value {
    json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "description": about})
}

/// The same, or null.
pub(crate) fn nullable(mut schema: Value) -> Value {
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    let kind = schema["type"].take();
    schema["type"] = json!([kind, "null"]);
    schema
}

/// An object that the daemon writes. Later versions may add fields, so a client passes over those that it does not know.
pub(crate) fn object(about: &str, required: &[&str], fields: Value) -> Value {
    json!({"type": "object", "description": about, "required": required, "properties": fields})
}

/// An object in which all fields are always there.
pub(crate) fn whole_object(about: &str, fields: Value) -> Value {
    let names: Vec<&str> = fields
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let names = json!(names);
    let mut object = object(about, &[], fields);
    object["required"] = names;
    object
}

/// An object that the daemon reads: a field that is not in it is refused.
pub(crate) fn strict(about: &str, required: &[&str], fields: Value) -> Value {
    let mut object = object(about, required, fields);
    object["additionalProperties"] = false.into();
    object
}
