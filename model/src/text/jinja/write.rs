//! Values as text: as Python writes them, and as its `json.dumps` does. Every byte is charged before it is written.

use super::meter::{Meter, Result, error, fail};
use super::value::{Given, Map, Sequence, Value};

/// Work of a value that is written, besides its bytes: a number takes as long as this.
const VALUE: usize = 16;

/// Where text is written, and who pays for it.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut String,
    pub(super) meter: &'a mut Meter,
}

/// How `tojson` was asked to write.
struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    between: String,
    colon: String,
    sort_keys: bool,
}

/// The text of a value, as `str` makes it.
pub(super) fn text_of(value: &Value, meter: &mut Meter) -> Result<String> {
    let mut out = String::new();
    Writer {
        out: &mut out,
        meter,
    }
    .text(value)?;
    Ok(out)
}

/// The JSON of a value, as `tojson` writes it with these arguments.
pub(super) fn tojson(value: &Value, given: &mut Given, meter: &mut Meter) -> Result<String> {
    let ensure_ascii = given.flag("ensure_ascii");
    let indent = match given.next("indent") {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.to_string()),
        Some(width) => {
            let width = width
                .as_int()
                .ok_or_else(|| error("`indent` is no number"))?;
            let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
            meter.charge(width)?;
            Some(" ".repeat(width))
        }
    };
    let (mut between, mut colon) = (
        if indent.is_some() { "," } else { ", " }.to_owned(),
        ": ".to_owned(),
    );
    if let Some(separators) = given
        .next("separators")
        .filter(|given| !matches!(given, Value::None))
    {
        let both = separators.elements(meter)?;
        let [Value::Text(first), Value::Text(second)] = &both.items[..] else {
            return fail("`separators` are two texts");
        };
        (between, colon) = (first.to_string(), second.to_string());
    }
    let json = Json {
        ensure_ascii,
        indent,
        between,
        colon,
        sort_keys: given.flag("sort_keys"),
    };
    let mut out = String::new();
    Writer {
        out: &mut out,
        meter,
    }
    .json(value, &json, 0)?;
    Ok(out)
}

impl Writer<'_> {
    fn push(&mut self, text: &str) -> Result<()> {
        self.meter.charge(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    /// Writes a value as `str` does.
    pub(super) fn text(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Undefined => Ok(()),
            Value::Text(text) => self.push(text),
            _ => self.repr(value),
        }
    }

    /// Writes a value as it stands within a container.
    pub(super) fn repr(&mut self, value: &Value) -> Result<()> {
        self.meter.charge(VALUE)?;
        match value {
            Value::Undefined => self.push("Undefined"),
            Value::None => self.push("None"),
            Value::Bool(true) => self.push("True"),
            Value::Bool(false) => self.push("False"),
            Value::Int(int) => self.push(&int.to_string()),
            Value::Float(float) => self.push(&float_text(*float)),
            Value::Text(text) => self.quoted(text),
            Value::List(list) => {
                let (open, close) = match list.sequence {
                    Sequence::List => ("[", "]"),
                    Sequence::Tuple => ("(", ")"),
                    Sequence::Generator => {
                        return fail("a generator has no text; `list` makes one");
                    }
                };
                self.push(open)?;
                for (i, item) in list.items.iter().enumerate() {
                    self.push(if i > 0 { ", " } else { "" })?;
                    self.repr(item)?;
                }
                if list.sequence == Sequence::Tuple && list.items.len() == 1 {
                    self.push(",")?;
                }
                self.push(close)
            }
            Value::Map(map) => {
                self.push("{")?;
                for (i, (key, value)) in map.entries.iter().enumerate() {
                    self.push(if i > 0 { ", " } else { "" })?;
                    self.repr(key)?;
                    self.push(": ")?;
                    self.repr(value)?;
                }
                self.push("}")
            }
            _ => fail(format!("a {} has no text", value.kind())),
        }
    }

    fn quoted(&mut self, text: &str) -> Result<()> {
        let quote = match text.contains('\'') && !text.contains('"') {
            true => "\"",
            false => "'",
        };
        self.push(quote)?;
        let mut buffer = [0; 4];
        for c in text.chars() {
            match c {
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                '\\' => self.push("\\\\")?,
                '\'' if quote == "'" => self.push("\\'")?,
                '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' => {
                    self.meter.charge(VALUE)?;
                    self.push(&format!("\\x{:02x}", u32::from(c)))?;
                }
                _ => self.push(c.encode_utf8(&mut buffer))?,
            }
        }
        self.push(quote)
    }

    fn json(&mut self, value: &Value, json: &Json, level: usize) -> Result<()> {
        self.meter.charge(VALUE)?;
        match value {
            Value::None => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::Int(int) => self.push(&int.to_string()),
            Value::Float(float) if float.is_nan() => self.push("NaN"),
            Value::Float(float) if float.is_infinite() => self.push(if *float > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            }),
            Value::Float(float) => self.push(&float_text(*float)),
            Value::Text(text) => self.json_text(text, json),
            Value::List(list) if list.sequence != Sequence::Generator => {
                self.push("[")?;
                for (i, item) in list.items.iter().enumerate() {
                    self.json_next(i, json, level)?;
                    self.json(item, json, level + 1)?;
                }
                self.json_end(list.items.is_empty(), json, level)?;
                self.push("]")
            }
            Value::Map(map) => {
                self.push("{")?;
                for (i, at) in self.order(map, json)?.into_iter().enumerate() {
                    let (key, value) = &map.entries[at];
                    self.json_next(i, json, level)?;
                    match key {
                        Value::Text(key) => self.json_text(key, json)?,
                        key => {
                            self.push("\"")?;
                            self.json(key, json, level)?;
                            self.push("\"")?;
                        }
                    }
                    self.push(&json.colon)?;
                    self.json(value, json, level + 1)?;
                }
                self.json_end(map.entries.is_empty(), json, level)?;
                self.push("}")
            }
            _ => fail(format!("a {} has no JSON", value.kind())),
        }
    }

    /// The order of a map's entries.
    fn order(&mut self, map: &Map, json: &Json) -> Result<Vec<usize>> {
        self.meter.charge_elements(map.entries.len())?;
        let mut keys = Vec::new();
        for (at, (key, _)) in map.entries.iter().enumerate() {
            let key = key.as_str().filter(|_| json.sort_keys);
            self.meter.charge(8 * key.map_or(0, str::len))?;
            keys.push((key, at));
        }
        if json.sort_keys && keys.iter().any(|(key, _)| key.is_none()) {
            return fail("`sort_keys` of keys that are no texts");
        }
        keys.sort();
        Ok(keys.into_iter().map(|(_, at)| at).collect())
    }

    /// Writes what stands before the element with this number.
    fn json_next(&mut self, number: usize, json: &Json, level: usize) -> Result<()> {
        if number > 0 {
            self.push(&json.between)?;
        }
        self.new_line(json, level + 1)
    }

    fn json_end(&mut self, empty: bool, json: &Json, level: usize) -> Result<()> {
        match empty {
            true => Ok(()),
            false => self.new_line(json, level),
        }
    }

    fn new_line(&mut self, json: &Json, level: usize) -> Result<()> {
        if let Some(indent) = &json.indent {
            self.push("\n")?;
            for _ in 0..level {
                self.push(indent)?;
            }
        }
        Ok(())
    }

    fn json_text(&mut self, text: &str, json: &Json) -> Result<()> {
        self.push("\"")?;
        let mut buffer = [0; 4];
        for c in text.chars() {
            match c {
                '"' => self.push("\\\"")?,
                '\\' => self.push("\\\\")?,
                '\n' => self.push("\\n")?,
                '\r' => self.push("\\r")?,
                '\t' => self.push("\\t")?,
                '\x08' => self.push("\\b")?,
                '\x0c' => self.push("\\f")?,
                '\0'..='\x1f' => {
                    self.meter.charge(VALUE)?;
                    self.push(&format!("\\u{:04x}", u32::from(c)))?;
                }
                // this one guards a client's control tokens, and is taken out of the prompt
                '\u{FDD0}' => self.push("\u{FDD0}")?,
                c if json.ensure_ascii && !c.is_ascii() => {
                    self.meter.charge(VALUE)?;
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.push(&format!("\\u{unit:04x}"))?;
                    }
                }
                c => self.push(c.encode_utf8(&mut buffer))?,
            }
        }
        self.push("\"")
    }
}

/// A text as it stands in HTML.
pub(super) fn escape(text: &str, meter: &mut Meter) -> Result<Value> {
    meter.charge(text.len())?;
    let mut out = String::new();
    for c in text.chars() {
        let escaped = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\'' => "&#39;",
            '"' => "&#34;",
            c => {
                out.push(c);
                continue;
            }
        };
        meter.charge(escaped.len())?;
        out.push_str(escaped);
    }
    Value::text(out, meter)
}

/// A number as Python writes it, whose exponents have a sign and two digits at least.
pub(super) fn float_text(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    let plain = format!("{float:?}");
    let Some((digits, exponent)) = plain.split_once('e') else {
        return plain;
    };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}
