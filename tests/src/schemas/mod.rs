//! Random JSON schemas that a model of any kind can answer in few tokens, and a judge of the answers that shares nothing with the
//! code that enforces them.

mod bombs;

pub use bombs::schema_bombs;

use crate::SplitMix;
use boon::{Compiler, Schemas};
use serde_json::{Map, Value, json};

/// Names of properties. Some are nothing that a grammar of JSON may take for its own.
const NAMES: [&str; 8] = ["a", "room", "ÖL", "x\"y", "on", "type", "{}", "the rain"];
/// Names of definitions, and how a reference has to write each.
const DEFINITIONS: [(&str, &str); 3] = [
    ("place", "place"),
    ("in/out", "in~1out"),
    ("50%~", "50%25~0"),
];
/// Patterns of which each bounds its strings.
const PATTERNS: [&str; 5] = [
    r"^[A-Z]{2}-\d{3}$",
    "^(dark |light )?(red|green|blue)$",
    r"^[a-z]{1,6}@[a-z]{1,6}\.(org|net)$",
    r"^(\d\d:){1,2}\d\d$",
    "^[^a-z ]{1,4}$",
];
/// Where the document of a schema is said to be.
const PLACE: &str = "schema.json";
/// Most values within each other. No schema refers to itself: a small model does not come to an end in one that does.
const LEVELS: usize = 3;

/// A schema whose answers are objects, and have an end.
pub fn object(random: &mut SplitMix) -> Value {
    let mut maker = Maker {
        random,
        definitions: Map::new(),
    };
    let mut schema = maker.object(LEVELS);
    if !maker.definitions.is_empty() {
        schema["$defs"] = maker.definitions.into();
    }
    schema
}

struct Maker<'r> {
    random: &'r mut SplitMix,
    /// what was referred to so far
    definitions: Map<String, Value>,
}

impl Maker<'_> {
    /// An object of so many levels, which are at least one.
    fn object(&mut self, levels: usize) -> Value {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for _ in 0..=self.random.below(3) {
            let name = NAMES[self.random.below(NAMES.len())];
            if properties.contains_key(name) {
                continue;
            }
            if self.random.below(3) > 0 {
                required.push(name);
            }
            properties.insert(name.to_owned(), self.any(levels - 1));
        }
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    fn any(&mut self, levels: usize) -> Value {
        match self.random.below(if levels == 0 { 9 } else { 15 }) {
            0 => json!({"enum": ["kitchen", "hall", 7, null, {"deep": [true]}]}),
            1 => json!({"type": "boolean"}),
            2 => json!({"const": "the \"rain\" in\nthe plain"}),
            3 => {
                let from = self.random.below(2000) as i64 - 1000;
                json!({"type": "integer", "minimum": from, "maximum": from + self.random.below(300) as i64})
            }
            4 => {
                let from = self.random.below(400) as f64 / 4.0 - 50.0;
                json!({"type": "number", "exclusiveMinimum": from, "maximum": from + 12.5})
            }
            5 => {
                json!({"type": "integer", "minimum": -100, "exclusiveMaximum": 1000, "multipleOf": 25})
            }
            6 => json!({"type": ["string", "null"], "maxLength": self.random.below(6)}),
            7 => json!({"type": "string", "format": "date"}),
            8 => {
                json!({"type": "string", "pattern": PATTERNS[self.random.below(PATTERNS.len())]})
            }
            9 | 10 => {
                let least = self.random.below(2);
                let most = least + self.random.below(3);
                json!({"type": "array", "items": self.any(levels - 1), "minItems": least, "maxItems": most})
            }
            11 => json!({"anyOf": [{"type": "boolean"}, self.object(levels)]}),
            12 => json!({"oneOf": [
                {"type": "object", "properties": {"is": {"const": "on"}, "at": self.any(levels - 1)}, "required": ["is", "at"], "additionalProperties": false},
                {"type": "object", "properties": {"is": {"const": "off"}}, "required": ["is"], "additionalProperties": false},
            ]}),
            13 => self.reference(),
            _ => self.object(levels),
        }
    }

    /// Refers to a schema that others may refer to as well.
    fn reference(&mut self) -> Value {
        let (name, written) = DEFINITIONS[self.random.below(DEFINITIONS.len())];
        if !self.definitions.contains_key(name) {
            // of one level, so that nothing in it can refer to it again
            let made = self.any(0);
            self.definitions.insert(name.to_owned(), made);
        }
        json!({"$ref": format!("#/$defs/{written}")})
    }
}

/// Whether a text is JSON that validates against a schema, and has its properties in the schema's order, which is more than JSON
/// Schema asks.
///
/// # Errors
/// The first thing that is wrong.
pub fn judge(schema: &Value, text: &str) -> Result<(), String> {
    let fail = |why: String| format!("{why}: {text} under {schema}");
    let value: Value = serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
    let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
    compiler.enable_format_assertions();
    let added = compiler.add_resource(PLACE, schema.clone());
    added.map_err(|error| fail(error.to_string()))?;
    let compiled = compiler.compile(PLACE, &mut schemas);
    let compiled = compiled.map_err(|error| fail(error.to_string()))?;
    let valid = schemas.validate(&value, compiled);
    valid.map_err(|error| fail(error.to_string()))?;
    if in_order(schema, schema, &value) {
        Ok(())
    } else {
        Err(fail("properties are not in their order".to_owned()))
    }
}

/// Whether the properties of a valid value have the order of a schema of [`object`].
fn in_order(root: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(target) = schema["$ref"].as_str() {
        let pointer = target.trim_start_matches('#').replace("%25", "%");
        return root
            .pointer(&pointer)
            .is_some_and(|schema| in_order(root, schema, value));
    }
    if let Some(several) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let meant = |one: &&Value| {
            value.is_object() == (one["type"] == "object" || one["$ref"].is_string())
        };
        let mut meant = several.iter().filter(meant);
        return meant.any(|schema| in_order(root, schema, value));
    }
    match value {
        Value::Array(items) => items
            .iter()
            .all(|item| in_order(root, &schema["items"], item)),
        Value::Object(object) => {
            let mut names = schema["properties"].as_object().into_iter().flatten();
            object.iter().all(|(name, value)| {
                let found = names.find(|(next, _)| *next == name);
                schema["properties"].is_null()
                    || found.is_some_and(|(_, schema)| in_order(root, schema, value))
            })
        }
        _ => true,
    }
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
                "c": {"anyOf": [{"$ref": "#/$defs/x~1y"}, {"const": 7}]},
                "d": {"type": "string", "format": "date"},
            },
            "required": ["b"],
            "additionalProperties": false,
            "$defs": {"x/y": {"type": "object", "properties": {"e": {"type": "string", "pattern": r"^\d$"}, "f": true}}},
        });
        for right in [
            r#"{"b": 2, "a": ["é€", ""], "c": {"e":"1","f":[{"z":0,"y":0}]}}"#,
            r#"{"b":3,"c":7,"d":"2024-02-29"}"#,
        ] {
            judge(&schema, right).unwrap();
        }
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"b":4}"#,
            r#"{"b":1.5}"#,
            r#"{"a":[""],"b":1}"#,
            r#"{"b":1,"a":["abc"]}"#,
            r#"{"b":1,"c":{"f":1,"e":"1"}}"#,
            r#"{"b":1,"c":{"e":"x"}}"#,
            r#"{"b":1,"d":"2023-02-29"}"#,
            r#"{"b":1,"g":1}"#,
            r#"{"b":1} x"#,
        ] {
            assert!(judge(&schema, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_kind_of_schema_is_made() {
        let mut random = SplitMix::new(1, "kinds");
        let all: String = (0..500).map(|_| object(&mut random).to_string()).collect();
        for kind in [
            "enum",
            "boolean",
            "const",
            "integer",
            "number",
            "multipleOf",
            "null",
            "format",
            "pattern",
            "array",
            "anyOf",
            "oneOf",
            "#/$defs/in~1out",
            "#/$defs/50%25~0",
        ] {
            assert!(all.contains(kind), "{kind}");
        }
    }
}
