//! Arguments between tags, as [`Convention::Tagged`](super::Convention::Tagged) has them: `<parameter=KEY>`, the value between
//! two ends of lines, `</parameter>`, and `</function>` behind the last one.
//!
//! A value says nothing of its type. Where its schema allows a text it is one, letter by letter, and JSON elsewhere, so that a
//! value means the same to whoever holds the model to the schema and to whoever reads what it wrote.

use super::Tool;
use super::json::{JsonText, json_object};
use super::scan::Found;
use serde_json::Value;
use std::cell::Cell;

pub(in crate::text) const PARAMETER: &str = "<parameter=";
pub(in crate::text) const PARAMETER_END: &str = "</parameter>";
pub(in crate::text) const FUNCTION_END: &str = "</function>";
/// Most bytes of the key of a parameter.
pub(in crate::text) const KEY_MAX: usize = 256;
/// Most parameters of a call, each of which is looked for among those before it.
const PARAMETERS_MAX: usize = 256;
/// Most schemas within each other in which a type is looked for.
const LEVELS_MAX: usize = 64;
/// Most schemas in which it is looked for at all. References may lead to the same ones again and again, twice as often at each level.
const SCHEMAS_MAX: usize = 1024;

/// Finds the end of the parameters of a call that come in pieces, without reading any byte twice.
#[derive(Debug, Default)]
pub(super) struct TaggedScan {
    /// bytes that were looked at
    at: usize,
    in_value: bool,
}

impl TaggedScan {
    /// Goes on with a text that begins with what was given before.
    pub(super) fn parameters(&mut self, text: &str) -> Found {
        loop {
            let rest = &text[self.at..];
            if self.in_value {
                let Some(end) = rest.find(PARAMETER_END) else {
                    // a mark may have begun
                    let looked = text.len().saturating_sub(PARAMETER_END.len());
                    self.at = self.at.max(text.floor_char_boundary(looked));
                    return Found::More;
                };
                self.at += end + PARAMETER_END.len();
                self.in_value = false;
                continue;
            }
            let begun = rest.trim_start();
            self.at += rest.len() - begun.len();
            if begun.starts_with(FUNCTION_END) {
                return Found::End(self.at + FUNCTION_END.len());
            }
            let Some(key) = begun.strip_prefix(PARAMETER) else {
                let may_be = |mark: &str| mark.starts_with(begun);
                return match may_be(FUNCTION_END) || may_be(PARAMETER) {
                    true => Found::More,
                    false => Found::Broken,
                };
            };
            match key.find('>') {
                Some(end) if end <= KEY_MAX => {
                    self.at += PARAMETER.len() + end + 1;
                    self.in_value = true;
                }
                None if key.len() <= KEY_MAX => return Found::More,
                _ => return Found::Broken,
            }
        }
    }
}

/// The arguments of a call as the text of a JSON object, from the text of its parameters up to `</function>`. None: a value is
/// not what its schema takes, or a key stands twice.
pub(super) fn arguments(text: &str, tool: &Tool) -> Option<String> {
    let schema: Value = serde_json::from_str(tool.parameters()).ok()?;
    let properties = schema.get("properties");
    let mut keys: Vec<&str> = Vec::new();
    let mut object = String::from("{");
    let mut rest = text.trim_start();
    while let Some(begun) = rest.strip_prefix(PARAMETER) {
        let (key, behind) = begun.split_once('>')?;
        let (value, behind) = behind.split_once(PARAMETER_END)?;
        if keys.contains(&key) || keys.len() == PARAMETERS_MAX {
            return None;
        }
        if !keys.is_empty() {
            object.push(',');
        }
        keys.push(key);
        let of_key = properties.and_then(|all| all.get(key));
        let takes = Takes::of(of_key.unwrap_or(&Value::Bool(true)), &schema);
        object += &Value::from(key).to_string();
        object.push(':');
        object += &json_of(value, takes)?;
        rest = behind.trim_start();
    }
    object.push('}');
    json_object(&object).ok()
}

/// The JSON of a value by what its schema takes.
fn json_of(written: &str, takes: Takes) -> Option<String> {
    let value = written.strip_prefix('\n').unwrap_or(written);
    let value = value.strip_suffix('\n').unwrap_or(value);
    // templates write past arguments as Python does
    let word = match value.trim() {
        "None" | "null" if takes.null => Some("null"),
        "True" if !takes.text => Some("true"),
        "False" if !takes.text => Some("false"),
        _ => None,
    };
    match word {
        Some(word) => Some(word.to_owned()),
        None if takes.text => Some(Value::from(value).to_string()),
        None => {
            let JsonText(json) = serde_json::from_str(value).ok()?;
            Some(json)
        }
    }
}

/// The parameters of a call and the tag behind them as the model writes them, from the text of a JSON object. What is no object has
/// none.
pub(super) fn written(arguments: &str) -> String {
    let Ok(Value::Object(all)) = serde_json::from_str(arguments) else {
        return FUNCTION_END.to_owned();
    };
    let one = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("{PARAMETER}{key}>\n{value}\n{PARAMETER_END}\n")
    };
    all.iter().map(one).collect::<String>() + FUNCTION_END
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
    pub(in crate::text) fn of(schema: &Value, root: &Value) -> Self {
        Self::within(schema, root, LEVELS_MAX, &Cell::new(SCHEMAS_MAX))
    }

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
    root.pointer(target.as_str()?.strip_prefix('#')?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scanned(text: &str) -> Found {
        let whole = TaggedScan::default().parameters(text);
        // in pieces it is the same
        let mut scan = TaggedScan::default();
        let mut last = Found::More;
        for (at, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            last = scan.parameters(&text[..at]);
            if last != Found::More {
                break;
            }
        }
        assert_eq!(last, whole, "{text} in pieces");
        whole
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
        let root = json!({"type": "object", "$defs": all});
        let first = json!({"$ref": "#/$defs/d0"});
        assert_eq!(Takes::of(&first, &root), Takes::ALL);
        let short = json!({"$ref": "#/$defs/d35"});
        assert_eq!(Takes::of(&short, &root), Takes::NONE);
        assert_eq!(Takes::of(&json!({"$ref": "#"}), &root), Takes::NONE);
    }

    #[test]
    fn parameters_end_with_their_function() {
        let one = "\n<parameter=a>\n<é </parameter\n</parameter>\n";
        let key = "k".repeat(KEY_MAX);
        for (text, found) in [
            ("</function>x".to_owned(), Found::End(11)),
            (format!("{one}</function>"), Found::End(one.len() + 11)),
            (format!("{one}{one}</func"), Found::More),
            (format!("{one}<param"), Found::More),
            (format!("{one}more"), Found::Broken),
            ("<parameter=a></function>".into(), Found::More),
            (format!("<parameter={key}>"), Found::More),
            (format!("<parameter={key}k>"), Found::Broken),
            (format!("<parameter={key}k"), Found::Broken),
            ("x".into(), Found::Broken),
        ] {
            assert_eq!(scanned(&text), found, "{text}");
        }
    }

    #[test]
    fn values_are_read_by_their_schemas() {
        let schema = r##"{"type":"object","properties":{
            "text":{"type":"string"}, "count":{"type":"integer"}, "on":{"type":"boolean"}, "list":{"type":"array"},
            "maybe":{"anyOf":[{"type":"string"},{"type":"null"}]}, "either":{"type":["integer","string"]},
            "color":{"$ref":"#/$defs/color"}, "level":{"enum":[1,2,null]}, "all":{"allOf":[{"type":["string","number"]},{"type":"number"}]}},
            "$defs":{"color":{"enum":["red","5"]}}}"##;
        let tool = Tool::new("light", None, schema).unwrap();
        let read = |key: &str, value: &str| {
            let text = format!("{PARAMETER}{key}>\n{value}\n{PARAMETER_END}\n{FUNCTION_END}");
            arguments(&text, &tool)
        };
        for (key, value, wants) in [
            ("text", "5", r#""5""#),
            ("text", " a \"b\"\n<c>\n", r#"" a \"b\"\n<c>\n""#),
            ("text", "", r#""""#),
            ("text", "null", r#""null""#),
            ("text", "True", r#""True""#),
            ("count", " 5 ", "5"),
            ("on", "True", "true"),
            ("on", "false", "false"),
            ("list", r#"[1, {"a": "b"}]"#, r#"[1,{"a":"b"}]"#),
            ("maybe", "null", "null"),
            ("maybe", "None", "null"),
            ("maybe", "nothing", r#""nothing""#),
            ("either", "5", r#""5""#),
            ("color", "5", r#""5""#),
            ("level", "2", "2"),
            ("level", "null", "null"),
            ("all", "2.5", "2.5"),
            ("other", "5", r#""5""#),
        ] {
            let wants = format!("{{\"{key}\":{wants}}}");
            assert_eq!(read(key, value), Some(wants), "{key} {value}");
        }
        for (key, value) in [
            ("count", "five"),
            ("count", "5, 6"),
            ("on", "yes"),
            ("list", "[1"),
            ("all", &"[".repeat(10_000)),
            ("list", &("[".repeat(65) + &"]".repeat(65))),
        ] {
            assert_eq!(read(key, value), None, "{key} {value:.40}");
        }
        let twice = format!("{PARAMETER}a>1{PARAMETER_END}{PARAMETER}a>2{PARAMETER_END}");
        assert_eq!(arguments(&twice, &tool), None);
        let many = |count: usize| {
            let one = |at| format!("{PARAMETER}k{at}>1{PARAMETER_END}");
            arguments(&(0..count).map(one).collect::<String>(), &tool)
        };
        assert!(many(PARAMETERS_MAX).is_some() && many(PARAMETERS_MAX + 1).is_none());
    }

    #[test]
    fn a_schema_that_goes_round_ends() {
        let round = r##"{"properties":{"a":{"$ref":"#/properties/a"}}}"##;
        let round: Value = serde_json::from_str(round).unwrap();
        assert_eq!(Takes::of(&round["properties"]["a"], &round), Takes::ALL);
    }

    #[test]
    fn arguments_are_written_as_they_are_read() {
        let tool = Tool::new("a", None, r#"{"properties":{"n":{"type":"number"}}}"#).unwrap();
        let json = r#"{"t":"x\ny","n":1.5,"u":""}"#;
        let text = written(json);
        assert_eq!(arguments(&text, &tool).as_deref(), Some(json));
        assert_eq!(written("ARGUMENTS"), FUNCTION_END);
    }
}
