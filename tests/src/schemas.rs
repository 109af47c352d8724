//! Random JSON schemas that a model of any kind can answer in few tokens, and a judge of the answers that shares nothing with the
//! code that enforces them.

use crate::SplitMix;
use serde_json::{Map, Value, json};

/// Names of properties. Some are nothing that a grammar of JSON may take for its own.
const NAMES: [&str; 8] = ["a", "room", "ÖL", "x\"y", "on", "type", "{}", "the rain"];
/// Most values within each other.
const LEVELS: usize = 3;

/// A schema whose answers are objects, and have an end.
pub fn object(random: &mut SplitMix) -> Value {
    object_of(random, LEVELS)
}

fn object_of(random: &mut SplitMix, levels: usize) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for _ in 0..=random.below(3) {
        let name = NAMES[random.below(NAMES.len())];
        if random.below(3) > 0 && !properties.contains_key(name) {
            required.push(json!(name));
        }
        if !properties.contains_key(name) {
            properties.insert(name.to_owned(), any(random, levels - 1));
        }
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn any(random: &mut SplitMix, levels: usize) -> Value {
    let kinds = if levels == 0 { 6 } else { 9 };
    match random.below(kinds) {
        0 => json!({"enum": ["kitchen", "hall", 7, null, {"deep": [true]}]}),
        1 => json!({"type": "boolean"}),
        2 => json!({"type": "null"}),
        3 => {
            let from = random.below(2000) as i64 - 1000;
            json!({"type": "integer", "minimum": from, "maximum": from + random.below(300) as i64})
        }
        4 => json!({"type": "string", "maxLength": random.below(6)}),
        5 => json!({"const": "the \"rain\" in\nthe plain"}),
        6 => {
            let least = random.below(2);
            let most = least + random.below(3);
            json!({"type": "array", "items": any(random, levels - 1), "minItems": least, "maxItems": most})
        }
        7 => json!({"anyOf": [{"type": "boolean"}, object_of(random, levels)]}),
        _ => object_of(random, levels),
    }
}

/// Whether a text is JSON that a schema of [`object`] describes, with its properties in the schema's order.
///
/// # Errors
/// The first thing that is wrong.
pub fn judge(schema: &Value, text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    valid(schema, &value).map_err(|why| format!("{why}: {text} under {schema}"))
}

fn valid(schema: &Value, value: &Value) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{why} at {value}"));
    if let Some(all) = schema["enum"].as_array() {
        return if all.contains(value) {
            Ok(())
        } else {
            fail("enum")
        };
    }
    if let Some(one) = schema.get("const") {
        return if one == value { Ok(()) } else { fail("const") };
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let any = all.iter().any(|schema| valid(schema, value).is_ok());
        return if any { Ok(()) } else { fail("anyOf") };
    }
    let number = |name: &str| schema[name].as_i64();
    match (schema["type"].as_str().unwrap_or_default(), value) {
        ("boolean", Value::Bool(_)) | ("null", Value::Null) => Ok(()),
        // -0 is one, too
        ("integer", Value::Number(n)) => {
            match n.as_i64().or((n.as_f64() == Some(0.0)).then_some(0)) {
                Some(n) if number("minimum") <= Some(n) && Some(n) <= number("maximum") => Ok(()),
                _ => fail("integer"),
            }
        }
        ("string", Value::String(text)) => match number("maxLength") {
            Some(most) if text.chars().count() as i64 <= most => Ok(()),
            _ => fail("maxLength"),
        },
        ("array", Value::Array(items)) => {
            let len = Some(items.len() as i64);
            if len < number("minItems") || len > number("maxItems") {
                return fail("items");
            }
            items
                .iter()
                .try_for_each(|item| valid(&schema["items"], item))
        }
        ("object", Value::Object(object)) => members(schema, object),
        _ => fail("type"),
    }
}

fn members(schema: &Value, object: &Map<String, Value>) -> Result<(), String> {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let mut names = properties.keys();
    for (name, value) in object {
        if !names.any(|next| next == name) {
            return Err(format!("`{name}` is no property, or comes too late"));
        }
        valid(&properties[name], value)?;
    }
    let required = schema["required"].as_array().into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if !object.contains_key(name) {
            return Err(format!("`{name}` is missing"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_tells_what_is_wrong() {
        let schema = json!({
            "type": "object",
            "properties": {
                "b": {"type": "integer", "minimum": 1, "maximum": 3},
                "a": {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 1, "maxItems": 2},
                "c": {"anyOf": [{"const": 7}, {"enum": ["x"]}]},
            },
            "required": ["b"],
            "additionalProperties": false,
        });
        judge(&schema, r#"{"b": 2, "a": ["é€", ""], "c": "x"}"#).unwrap();
        judge(&schema, r#"{"b":3,"c":7}"#).unwrap();
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"b":4}"#,
            r#"{"b":1.5}"#,
            r#"{"a":[""],"b":1}"#,
            r#"{"b":1,"a":[]}"#,
            r#"{"b":1,"a":["abc"]}"#,
            r#"{"b":1,"a":["a","b","c"]}"#,
            r#"{"b":1,"c":8}"#,
            r#"{"b":1,"d":1}"#,
            r#"{"b":1} x"#,
        ] {
            assert!(judge(&schema, wrong).is_err(), "{wrong}");
        }
    }
}
