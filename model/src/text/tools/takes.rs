//! Which parameters of a tool are texts. A value between tags says nothing of its type, so it goes by the schema that the client
//! wrote: the grammar of a call, its bounds and its reader all ask [`Parameters`], and nothing else.

use super::Tool;
use serde_json::Value;
use std::cell::Cell;
use std::collections::HashMap;

/// Most schemas within each other in which a type is looked for.
const LEVELS_MAX: usize = 64;
/// Most schemas of a tool in which types are looked for at all. References may lead to the same ones again and again, twice as often
/// at each level.
const SCHEMAS_MAX: usize = 4096;

/// What each parameter of a tool takes. The schema is read once for it, which takes some milliseconds at most.
#[derive(Debug, Default)]
pub(in crate::text) struct Parameters(HashMap<String, Takes>);

impl Parameters {
    /// Reads the schema of a tool.
    pub(in crate::text) fn of(tool: &Tool) -> Self {
        Self::within(tool, SCHEMAS_MAX)
    }

    /// The same, where so many schemas may be looked at.
    fn within(tool: &Tool, schemas: usize) -> Self {
        let root: Value = serde_json::from_str(tool.parameters()).unwrap_or_default();
        let left = Cell::new(schemas);
        let properties = root.get("properties").and_then(Value::as_object);
        let takes = properties.into_iter().flatten().map(|(key, schema)| {
            let takes = Takes::within(schema, &root, LEVELS_MAX, &left);
            (key.clone(), takes)
        });
        Self(takes.collect())
    }

    /// What the parameter of this name takes: anything, if the schema says nothing of it.
    pub(in crate::text) fn takes(&self, key: &str) -> Takes {
        self.0.get(key).copied().unwrap_or(Takes::ALL)
    }

    /// The parameters that are JSON.
    pub(in crate::text) fn json(&self) -> impl Iterator<Item = &str> {
        let json = self.0.iter().filter(|(_, takes)| !takes.text);
        json.map(|(key, _)| key.as_str())
    }
}

/// What a schema takes, as far as it matters to the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::text) struct Takes {
    /// whether it takes any text
    pub(in crate::text) text: bool,
    /// whether it takes null
    pub(in crate::text) null: bool,
}

impl Takes {
    const ALL: Self = Self {
        text: true,
        null: true,
    };
    const NONE: Self = Self {
        text: false,
        null: false,
    };

    /// What a part of the schema `root` takes. Where too many schemas say it, it may be all.
    fn within(schema: &Value, root: &Value, levels: usize, left: &Cell<usize>) -> Self {
        let map = match schema {
            Value::Object(map) if levels > 0 && left.get() > 0 => map,
            Value::Bool(false) => return Self::NONE,
            _ => return Self::ALL,
        };
        left.set(left.get() - 1);
        let within = |one: &Value| Self::within(one, root, levels - 1, left);
        let mut takes = Self::ALL;
        for (key, value) in map {
            let all = value.as_array().map_or(&[][..], Vec::as_slice);
            let any = |takes: &dyn Fn(&Value) -> Self| {
                let takes = all.iter().map(takes);
                takes.fold(Self::NONE, Self::or)
            };
            takes = takes.and(match key.as_str() {
                "type" if value.is_array() => any(&Self::of_type),
                "type" => Self::of_type(value),
                "enum" => any(&Self::of_value),
                "const" => Self::of_value(value),
                "anyOf" | "oneOf" => any(&within),
                "allOf" => {
                    let all = all.iter().map(within);
                    all.fold(Self::ALL, Self::and)
                }
                // all arguments together are an object
                "$ref" if value == "#" => Self::NONE,
                "$ref" => match referred(value, root) {
                    Some(found) => within(found),
                    None => Self::ALL,
                },
                _ => Self::ALL,
            });
        }
        takes
    }

    fn of_type(name: &Value) -> Self {
        Self {
            text: name == "string",
            null: name == "null",
        }
    }

    fn of_value(value: &Value) -> Self {
        Self {
            text: value.is_string(),
            null: value.is_null(),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            text: self.text && other.text,
            null: self.null && other.null,
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            text: self.text || other.text,
            null: self.null || other.null,
        }
    }
}

/// What a reference within the document refers to.
pub(in crate::text) fn referred<'v>(target: &Value, root: &'v Value) -> Option<&'v Value> {
    root.pointer(&pointer(target.as_str()?)?)
}

/// The way to a place of the same document, if a reference has one. What its percent signs stand for is in the place of them.
pub(in crate::text) fn pointer(target: &str) -> Option<String> {
    let fragment = target.strip_prefix('#')?;
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(schema: &Value, schemas: usize) -> Parameters {
        let tool = Tool::new("a", None, &schema.to_string()).unwrap();
        Parameters::within(&tool, schemas)
    }

    /// Each level refers to the next one twice, so that the last one would be looked at 2^40 times.
    #[test]
    fn references_that_double_come_to_an_end() {
        let mut all = serde_json::Map::new();
        for i in 0..40 {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            all.insert(format!("d{i}"), json!({"anyOf": [next, next]}));
        }
        all.insert("d40".to_owned(), json!({"type": "integer"}));
        let to = |name| json!({"$ref": format!("#/$defs/{name}")});
        let only = |name| json!({"type": "object", "properties": {"a": to(name)}, "$defs": all});
        assert_eq!(of(&only("d0"), SCHEMAS_MAX).takes("a"), Takes::ALL);
        assert_eq!(of(&only("d35"), SCHEMAS_MAX).takes("a"), Takes::NONE);
        // all parameters of a tool have one bound together
        let many = json!({"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}});
        let two = of(&many, 2);
        assert_eq!([two.takes("a"), two.takes("b")], [Takes::NONE; 2]);
        let one = of(&many, 1);
        assert_eq!([one.takes("a"), one.takes("b")], [Takes::NONE, Takes::ALL]);
    }

    #[test]
    fn references_go_round_and_lead_to_what_is_written_with_percent_signs() {
        let schema = json!({"properties": {
            "round": {"$ref": "#/properties/round"}, "whole": {"$ref": "#"},
            "percent": {"$ref": "#/%24defs/a%20b%7E1c"}, "none": {"$ref": "#/$defs/%zz"}},
            "$defs": {"a b/c": {"type": "null"}}});
        let all = of(&schema, SCHEMAS_MAX);
        let null = Takes {
            text: false,
            null: true,
        };
        let found = ["round", "whole", "percent", "none"].map(|key| all.takes(key));
        assert_eq!(found, [Takes::ALL, Takes::NONE, null, Takes::ALL]);
        let mut json: Vec<&str> = all.json().collect();
        json.sort_unstable();
        assert_eq!(json, ["percent", "whole"]);
    }
}
