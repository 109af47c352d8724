//! The filter `tojson` as the templates of models mean it. They were written for a Jinja2 in which it is Python's
//! `json.dumps` without its escapes for other alphabets: blanks behind colons and commas, and the keys in their own order.

use super::budget::refuse;
use minijinja::Error;
use minijinja::value::{Kwargs, Value, ValueKind};

#[allow(
    clippy::needless_pass_by_value,
    reason = "filters take their arguments so"
)]
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(refuse("tojson writes no escapes for other alphabets"));
    }
    options.assert_all_used()?;
    let mut out = String::new();
    write(value, indent, 0, &mut out)?;
    Ok(out)
}

/// Appends the JSON of a value that stands at this level. How deep values are is bounded before, when they are charged.
fn write(
    value: &Value,
    indent: Option<usize>,
    level: usize,
    out: &mut String,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => string(value.as_str().unwrap_or_default(), out),
        kind @ (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
            let is_map = kind == ValueKind::Map;
            let [open, close] = if is_map { ['{', '}'] } else { ['[', ']'] };
            out.push(open);
            let mut any = false;
            for element in value.try_iter()? {
                if any {
                    out.push_str(if indent.is_some() { "," } else { ", " });
                }
                any = true;
                new_line(indent, level + 1, out);
                if is_map {
                    string(&element.to_string(), out);
                    out.push_str(": ");
                    write(&value.get_item(&element)?, indent, level + 1, out)?;
                } else {
                    write(&element, indent, level + 1, out)?;
                }
            }
            if any {
                new_line(indent, level, out);
            }
            out.push(close);
        }
        _ => return Err(refuse("this value has no JSON")),
    }
    Ok(())
}

fn new_line(indent: Option<usize>, level: usize, out: &mut String) {
    if let Some(indent) = indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * level));
    }
}

fn string(text: &str, out: &mut String) {
    // a text has JSON whatever is in it
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// A number as Python writes it, whose exponents have a sign and two digits at least.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    let plain = format!("{float:?}");
    let Some((digits, exponent)) = plain.split_once('e') else {
        return plain;
    };
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}
