//! Arguments between tags, as [`Convention::Tagged`](super::Convention::Tagged) has them: `<parameter=KEY>`, the value between
//! two ends of lines, `</parameter>`, and `</function>` behind the last one.
//!
//! A value says nothing of its type. Where its schema allows a text it is one, letter by letter, and JSON elsewhere ([`Parameters`]),
//! so that a value means the same to whoever holds the model to the schema and to whoever reads what it wrote.

use super::json::{JsonText, json_object};
use super::scan::Found;
use super::takes::{Parameters, Takes};
use serde_json::Value;
use std::ops::Range;

pub(in crate::text) const PARAMETER: &str = "<parameter=";
pub(in crate::text) const PARAMETER_END: &str = "</parameter>";
pub(in crate::text) const FUNCTION_END: &str = "</function>";
/// Most bytes of the key of a parameter.
pub(in crate::text) const KEY_MAX: usize = 256;
/// Most parameters of a call, each of which is looked for among those before it.
const PARAMETERS_MAX: usize = 256;

/// Finds the parameters of a call that comes in pieces, and its end, without reading any byte twice.
#[derive(Debug, Default)]
pub(super) struct TaggedScan {
    /// bytes that were looked at
    at: usize,
    /// where the keys and values are that have come
    found: Vec<(Range<usize>, Range<usize>)>,
    /// the value that has begun
    value: Option<Begun>,
}

/// A value whose end has not come.
#[derive(Debug)]
struct Begun {
    key: Range<usize>,
    start: usize,
    /// in JSON, a text between quotes may have the tag that ends a value
    json: bool,
    in_string: bool,
    after_backslash: bool,
}

impl TaggedScan {
    /// Goes on with a text that begins with what was given before.
    pub(super) fn parameters(&mut self, text: &str, parameters: &Parameters) -> Found {
        loop {
            if let Some(begun) = &mut self.value {
                let end = match begun.end(text, &mut self.at) {
                    Found::End(end) => end,
                    other => return other,
                };
                self.found.push((begun.key.clone(), begun.start..end));
                self.at = end + PARAMETER_END.len();
                self.value = None;
            }
            let rest = &text[self.at..];
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
            let end = match key.find('>') {
                Some(end) if end <= KEY_MAX && self.found.len() < PARAMETERS_MAX => end,
                None if key.len() <= KEY_MAX => return Found::More,
                _ => return Found::Broken,
            };
            let start = self.at + PARAMETER.len();
            self.at = start + end + 1;
            self.value = Some(Begun {
                key: start..start + end,
                start: self.at,
                json: !parameters.takes(&key[..end]).text,
                in_string: false,
                after_backslash: false,
            });
        }
    }

    /// The arguments as the text of a JSON object, after the end was found in `text`. None: a value is not what its schema takes, or
    /// a key stands twice.
    pub(super) fn arguments(&self, text: &str, parameters: &Parameters) -> Option<String> {
        let mut keys: Vec<&str> = Vec::new();
        let mut object = String::from("{");
        for (key, value) in &self.found {
            let key = &text[key.clone()];
            if keys.contains(&key) {
                return None;
            }
            if !keys.is_empty() {
                object.push(',');
            }
            keys.push(key);
            object += &Value::from(key).to_string();
            object.push(':');
            object += &json_of(&text[value.clone()], parameters.takes(key))?;
        }
        object.push('}');
        json_object(&object).ok()
    }
}

impl Begun {
    /// Looks for the tag behind the value from `at` on, where a look that found nothing leaves off.
    fn end(&mut self, text: &str, at: &mut usize) -> Found {
        if !self.json {
            if let Some(end) = text[*at..].find(PARAMETER_END) {
                return Found::End(*at + end);
            }
            // the tag may have begun
            let looked = text.len().saturating_sub(PARAMETER_END.len());
            *at = (*at).max(text.floor_char_boundary(looked));
            return Found::More;
        }
        while let Some(&byte) = text.as_bytes().get(*at) {
            match byte {
                _ if self.after_backslash => self.after_backslash = false,
                b'\\' if self.in_string => self.after_backslash = true,
                b'"' => self.in_string = !self.in_string,
                // no string of JSON goes over the end of a line
                0..0x20 if self.in_string => return Found::Broken,
                b'<' if !self.in_string => {
                    let rest = &text[*at..];
                    return match rest.starts_with(PARAMETER_END) {
                        true => Found::End(*at),
                        false if PARAMETER_END.starts_with(rest) => Found::More,
                        false => Found::Broken,
                    };
                }
                _ => {}
            }
            *at += 1;
        }
        Found::More
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Tool;
    use super::*;

    fn scanned(text: &str, parameters: &Parameters) -> Found {
        let whole = TaggedScan::default().parameters(text, parameters);
        // in pieces it is the same
        let mut scan = TaggedScan::default();
        let mut last = Found::More;
        for (at, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
            last = scan.parameters(&text[..at], parameters);
            if last != Found::More {
                break;
            }
        }
        assert_eq!(last, whole, "{text} in pieces");
        whole
    }

    /// Reads what a model wrote, up to the tag behind the parameters.
    fn arguments(text: &str, parameters: &Parameters) -> Option<String> {
        let mut scan = TaggedScan::default();
        match scan.parameters(text, parameters) {
            Found::End(_) => scan.arguments(text, parameters),
            _ => None,
        }
    }

    fn parameters(schema: &str) -> Parameters {
        Parameters::of(&Tool::new("light", None, schema).unwrap())
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
            assert_eq!(scanned(&text, &Parameters::default()), found, "{text}");
        }
        // in a string of JSON the tag ends nothing
        let list = parameters(r#"{"properties":{"a":{"type":"array"}}}"#);
        for (value, found) in [
            (r#"["</parameter>", "\"</parameter>"]"#, Found::End(0)),
            (r#"["</parameter>"#, Found::More),
            ("[</", Found::More),
            ("[<b", Found::Broken),
            ("[\"a\n\"]", Found::Broken),
        ] {
            let whole = format!("{PARAMETER}a>\n{value}\n{PARAMETER_END}{FUNCTION_END}");
            let (text, found) = match found {
                Found::End(_) => (&*whole, Found::End(whole.len())),
                _ => (&whole[..PARAMETER.len() + 3 + value.len()], found),
            };
            assert_eq!(scanned(text, &list), found, "{value}");
        }
        let read = arguments(
            "<parameter=a>[\"</parameter>\"]</parameter></function>",
            &list,
        );
        assert_eq!(read.unwrap(), r#"{"a":["</parameter>"]}"#);
    }

    #[test]
    fn values_are_read_by_their_schemas() {
        let schema = r##"{"type":"object","properties":{
            "text":{"type":"string"}, "count":{"type":"integer"}, "on":{"type":"boolean"}, "list":{"type":"array"},
            "maybe":{"anyOf":[{"type":"string"},{"type":"null"}]}, "either":{"type":["integer","string"]},
            "color":{"$ref":"#/$defs/color"}, "level":{"enum":[1,2,null]}, "all":{"allOf":[{"type":["string","number"]},{"type":"number"}]}},
            "$defs":{"color":{"enum":["red","5"]}}}"##;
        let parameters = parameters(schema);
        let read = |key: &str, value: &str| {
            let text = format!("{PARAMETER}{key}>\n{value}\n{PARAMETER_END}\n{FUNCTION_END}");
            arguments(&text, &parameters)
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
        let many = |keys: &[usize]| {
            let one = |key| format!("{PARAMETER}k{key}>1{PARAMETER_END}");
            let all: String = keys.iter().map(one).collect();
            arguments(&(all + FUNCTION_END), &parameters)
        };
        assert!(many(&[1, 2]).is_some() && many(&[1, 1]).is_none());
        let many = |count: usize| many(&Vec::from_iter(0..count));
        assert!(many(PARAMETERS_MAX).is_some() && many(PARAMETERS_MAX + 1).is_none());
    }

    #[test]
    fn arguments_are_written_as_they_are_read() {
        let parameters = parameters(r#"{"properties":{"n":{"type":"number"}}}"#);
        let json = r#"{"t":"x\ny","n":1.5,"u":""}"#;
        let text = written(json);
        assert_eq!(arguments(&text, &parameters).as_deref(), Some(json));
        assert_eq!(written("ARGUMENTS"), FUNCTION_END);
    }
}
