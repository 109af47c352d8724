//! What every reader of JSON can bear, whatever the schema allows.
//!
//! A schema bounds neither how deep an answer nests nor how large its numbers are, and a small model repeats a bracket or a digit
//! until its tokens are spent. And `1e999` is JSON, but many readers have no number for it.

use crate::text::Tool;
use crate::text::tools::{PARAMETER_END, Parameters};
use glowplug_firmware_config::limits::SCHEMA_LEVELS_MAX;

/// Most bytes of a number. Those of a schema have 30 at most.
const NUMBER_MAX: usize = 40;
/// Brackets or digits of one token, about.
const OF_A_TOKEN: usize = 16;

/// What of an answer is JSON.
#[derive(Debug)]
pub(super) enum Form {
    /// nothing else is written
    Whole,
    /// objects among other text
    Objects,
    /// of the parameters of these tools those that are no texts
    Tagged(Tags),
}

/// The names before values that are JSON: those of a tool and of a parameter with `>` behind each, in order.
#[derive(Debug)]
pub(super) struct Tags(Vec<String>);

impl Tags {
    /// Reads the schemas of tools.
    pub(super) fn of(tools: &[Tool]) -> Self {
        let of_tool = |tool: &Tool| {
            let name = tool.name().to_owned();
            let parameters = Parameters::of(tool);
            let names = parameters.json().map(|key| format!("{name}>{key}>"));
            names.collect::<Vec<_>>()
        };
        let mut all: Vec<String> = tools.iter().flat_map(of_tool).collect();
        all.sort_unstable();
        Self(all)
    }
}

/// An answer, as far as it is written.
#[derive(Debug)]
pub(super) struct Written {
    form: Form,
    at: Place,
}

/// Where an answer is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    depth: usize,
    in_string: bool,
    after_backslash: bool,
    /// bytes of the number that may go on
    number: usize,
    between: Between,
}

/// Where an answer is whose values are between tags.
#[derive(Debug, Clone, Copy, Default)]
struct Between {
    part: Part,
    /// bytes that have come of the names before a value, or of the tag behind it
    matched: usize,
    /// those of [`Tags`] that begin with the names that have come: the first, and the one behind the last
    names: (usize, usize),
    /// `names` and `matched` behind the name of the tool
    tool: ((usize, usize), usize),
}

/// A part of an answer whose values are between tags. What tells none apart is passed over, because the grammar sees to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Outside,
    /// behind the `<` of any tag
    Tag,
    /// before the name of a tool
    Function,
    /// before the name of a parameter
    Parameter,
    Tool,
    Key,
    Text,
    Json,
}

impl Written {
    /// An answer of which nothing is written.
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            at: Place::default(),
        }
    }

    /// Begins again, as if nothing were written.
    pub(super) fn clear(&mut self) {
        self.at = Place::default();
    }

    /// Takes note of what was written next.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.at.push(&self.form, bytes);
    }

    /// How many of these texts, one behind the other, can still be borne.
    pub(super) fn bears<'t>(&self, texts: impl Iterator<Item = &'t [u8]>) -> usize {
        let mut at = self.at;
        texts.take_while(|text| at.push(&self.form, text)).count()
    }

    /// Whether any token might be too much. Otherwise only one with an exponent is.
    pub(super) fn is_near(&self) -> bool {
        self.at.number > 0 || self.at.depth + OF_A_TOKEN > SCHEMA_LEVELS_MAX
    }
}

impl Place {
    /// Goes on. Gives whether what is written can still be borne.
    fn push(&mut self, form: &Form, bytes: &[u8]) -> bool {
        let mut fits = true;
        for byte in bytes {
            // those behind what is too much count too
            fits &= match form {
                Form::Whole => self.json(*byte, true),
                Form::Objects => self.json(*byte, false),
                Form::Tagged(tags) => self.tagged(*byte, tags),
            };
        }
        fits
    }

    /// A byte of JSON, or where that is not all of a text, of what is around its objects.
    fn json(&mut self, byte: u8, whole: bool) -> bool {
        if self.in_string {
            match byte {
                _ if self.after_backslash => self.after_backslash = false,
                b'\\' => self.after_backslash = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return true;
        }
        let before = std::mem::take(&mut self.number);
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth += 1;
                return self.depth <= SCHEMA_LEVELS_MAX;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            // outside of all objects, what is no JSON has names
            _ if !whole && self.depth == 0 => {}
            b'0'..=b'9' | b'.' | b'-' | b'+' => {
                self.number = before + 1;
                return self.number <= NUMBER_MAX;
            }
            b'e' | b'E' if before > 0 => {
                self.number = before + 1;
                return false;
            }
            _ => {}
        }
        true
    }

    /// A byte of an answer whose values are between tags.
    fn tagged(&mut self, byte: u8, Tags(all): &Tags) -> bool {
        let between = &mut self.between;
        match (between.part, byte) {
            (Part::Json, b'<') if !self.in_string => {
                self.depth = 0;
                between.part = Part::Tag;
            }
            (Part::Json, _) => return self.json(byte, true),
            (Part::Text, _) => {
                let end = PARAMETER_END.as_bytes();
                // the tag has but one `<`, which is its first byte
                between.matched = match byte {
                    _ if end.get(between.matched) == Some(&byte) => between.matched + 1,
                    b'<' => 1,
                    _ => 0,
                };
                if between.matched == end.len() {
                    between.part = Part::Outside;
                }
            }
            (Part::Outside, b'<') => between.part = Part::Tag,
            (Part::Tag, b'f') => between.part = Part::Function,
            (Part::Tag, b'p') => between.part = Part::Parameter,
            (Part::Tag, _) => between.part = Part::Outside,
            (Part::Function, b'=') => {
                (between.names, between.matched) = ((0, all.len()), 0);
                between.part = Part::Tool;
            }
            (Part::Parameter, b'=') => {
                (between.names, between.matched) = between.tool;
                between.part = Part::Key;
            }
            (Part::Tool, _) => {
                between.name(byte, all);
                if byte == b'>' {
                    between.tool = (between.names, between.matched);
                    between.part = Part::Outside;
                }
            }
            (Part::Key, _) => {
                between.name(byte, all);
                if byte == b'>' {
                    let (first, behind) = between.names;
                    let names = all[first..behind].first();
                    let json = names.is_some_and(|name| name.len() == between.matched);
                    between.matched = 0;
                    between.part = if json { Part::Json } else { Part::Text };
                    // the object of all arguments, in which the value will be read
                    self.depth = usize::from(json);
                }
            }
            (Part::Outside | Part::Function | Part::Parameter, _) => {}
        }
        true
    }
}

impl Between {
    /// A byte of the names before a value.
    fn name(&mut self, byte: u8, all: &[String]) {
        let (first, behind) = self.names;
        let here = &all[first..behind];
        let nth = |name: &String| name.as_bytes().get(self.matched).copied();
        let less = here.partition_point(|name| nth(name) < Some(byte));
        let no_more = here.partition_point(|name| nth(name) <= Some(byte));
        self.names = (first + less, first + no_more);
        self.matched += 1;
    }
}

/// Whether a token has what may be an exponent.
pub(super) fn has_exponent(token: &[u8]) -> bool {
    token
        .windows(2)
        .any(|pair| matches!(pair, [b'0'..=b'9', b'e' | b'E']))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_levels_are_bounded_outside_of_strings() {
        let fits = |form: &Form, text: &str| Place::default().push(form, text.as_bytes());
        let digits = |n: usize| "7".repeat(n);
        for (text, bears) in [
            ("[1.5,-20,true,false,null]".into(), true),
            ("1e5".into(), false),
            ("{\"a\":1E5}".into(), false),
            ("{\"1e5\":\"\\\"1e5\"}".into(), true),
            (digits(NUMBER_MAX), true),
            (digits(NUMBER_MAX + 1), false),
            (format!("[{0},{0}]", digits(NUMBER_MAX)), true),
            (format!("\"{}\"", digits(99)), true),
            ("[".repeat(SCHEMA_LEVELS_MAX), true),
            ("[".repeat(SCHEMA_LEVELS_MAX) + "]{", true),
            ("[".repeat(SCHEMA_LEVELS_MAX) + "{", false),
            (format!("\"{}", "[".repeat(99)), true),
        ] {
            assert_eq!(fits(&Form::Whole, &text), bears, "{text}");
        }
        assert!(fits(&Form::Objects, "tool_2e\n{\"a\":1}"));
        assert!(!fits(&Form::Objects, "tool_2e\n{\"a\":1e1}"));
        assert!(has_exponent(b" 1e") && !has_exponent(b"e1") && !has_exponent(b"true"));
    }

    /// JSON is told from texts by the names before it, and a text may have whatever looks like JSON.
    #[test]
    fn json_between_tags_is_bounded_and_texts_are_not() {
        let tool = |name, schema| Tool::new(name, None, schema).unwrap();
        let schema = r#"{"properties":{"list":{"type":"array"},"lists":{"type":"string"},"n":{"type":["number","null"]}}}"#;
        let other = r#"{"properties":{"list":{"type":"string"},"a":{"type":"object"}}}"#;
        let tags = Tags::of(&[tool("paint", schema), tool("paints", other), tool("p", "")]);
        let form = Form::Tagged(tags);
        let call = |name: &str, key: &str, value: &str| {
            format!("<tool_call>\n<function={name}>\n<parameter={key}>\n{value}\n</parameter>\n")
        };
        let deep = |n: usize| "[".repeat(n);
        let digits = |n: usize| "7".repeat(n);
        for (name, key, value, bears) in [
            ("paint", "list", deep(SCHEMA_LEVELS_MAX - 1), true),
            ("paint", "list", deep(SCHEMA_LEVELS_MAX), false),
            ("paint", "list", "[\"</parameter>[1e5\", 1".into(), true),
            ("paint", "list", "[\"</parameter>\", 1e5".into(), false),
            ("paint", "lists", deep(999), true),
            ("paint", "lis", deep(999), true),
            ("paint", "n", digits(NUMBER_MAX), true),
            ("paint", "n", digits(NUMBER_MAX + 1), false),
            ("paint", "n", "1e5".into(), false),
            ("paints", "list", "1e5</p [1e5".into(), true),
            ("paints", "a", "{\"b\": 1e5".into(), false),
            ("p", "list", "1e5".into(), true),
        ] {
            let text = call(name, key, &value);
            let fits = Place::default().push(&form, text.as_bytes());
            assert_eq!(fits, bears, "{text:.120}");
        }
        // a value does not go on in the next one
        let both = call("paint", "lists", &deep(99)) + &call("paint", "list", &deep(63));
        assert!(Place::default().push(&form, both.as_bytes()));
        let both = call("paint", "list", "[\"<\"]") + "<parameter=n>\n1e5";
        assert!(!Place::default().push(&form, both.as_bytes()));
    }
}
