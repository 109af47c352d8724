//! Methods of texts, lists and maps, which are Python's.

use super::format::braces;
use super::meter::{ELEMENT, Meter, Result, error, fail};
use super::value::{Given, Sequence, Value, is_space, trim_end, trim_start};
use super::write::Writer;
use std::sync::Arc;

#[rustfmt::skip]
const OF_TEXTS: [&str; 42] = [
    "capitalize", "center", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isascii",
    "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "isupper", "join", "ljust", "lower", "lstrip",
    "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit",
    "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper", "zfill", "casefold", "encode",
    "expandtabs", "translate",
];
#[rustfmt::skip]
const OF_LISTS: [&str; 11] = [
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort",
];
#[rustfmt::skip]
const OF_MAPS: [&str; 10] = [
    "clear", "copy", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values",
];
const OF_LOOPS: [&str; 2] = ["changed", "cycle"];
/// Methods of Python's texts that are not there. A template that calls one is refused when it is read.
#[rustfmt::skip]
pub(super) const NOT_SUPPORTED: [&str; 9] = [
    "casefold", "encode", "expandtabs", "format_map", "fromkeys", "isidentifier", "isprintable", "istitle", "translate",
];

/// The names of the methods that a value has.
pub(super) fn of(value: &Value) -> &'static [&'static str] {
    match value {
        Value::Text(_) => &OF_TEXTS,
        Value::List(list) if list.sequence == Sequence::Tuple => &["count", "index"],
        Value::List(_) => &OF_LISTS,
        Value::Map(_) => &OF_MAPS,
        Value::Loop(_) => &OF_LOOPS,
        _ => &[],
    }
}

/// Calls a method that [`of`] names.
pub(super) fn call(
    value: &Value,
    name: &str,
    mut given: Given,
    meter: &mut Meter,
) -> Result<Value> {
    let made = match value {
        Value::Text(text) => of_text(text, name, &mut given, meter)?,
        Value::Map(map) => match name {
            "get" => {
                let (key, otherwise) = (given.required("key")?, given.next("default"));
                let found = map.get(&key, meter)?.cloned();
                found.or(otherwise).unwrap_or(Value::None)
            }
            "items" => items(value, meter)?,
            "keys" => Value::list(value.clone().into_vec(meter)?)?,
            "values" => {
                meter.charge_elements(map.entries.len())?;
                Value::list(map.entries.iter().map(|(_, value)| value.clone()).collect())?
            }
            "copy" => value.clone(),
            _ => return changes(name),
        },
        Value::List(list) => match name {
            "copy" => value.clone(),
            "count" | "index" => {
                let wanted = given.required("value")?;
                let mut found = Vec::new();
                for (at, item) in list.items.iter().enumerate() {
                    if item.equals(&wanted, meter)? {
                        meter.charge(size_of::<usize>())?;
                        found.push(at);
                    }
                }
                let first = found.first().copied();
                let number = match name {
                    "count" => found.len(),
                    _ => first.ok_or_else(|| error("`index` finds no such element"))?,
                };
                Value::Int(number as i128)
            }
            _ => return changes(name),
        },
        Value::Loop(of) if name == "changed" => {
            let now = Value::sequence(given.positional.drain(..).collect(), Sequence::Tuple)?;
            let before = of.changed.replace(Some(now.clone()));
            let same = before
                .map(|before| before.equals(&now, meter))
                .transpose()?;
            Value::Bool(same != Some(true))
        }
        Value::Loop(of) => {
            let all: Vec<Value> = given.positional.drain(..).collect();
            if all.is_empty() {
                return fail("`cycle` has nothing to choose from");
            }
            all[of.at.get() % all.len()].clone()
        }
        _ => return fail(format!("a {} has no methods", value.kind())),
    };
    given.end(name)?;
    Ok(made)
}

/// transformers' Jinja2 refuses them too: its sandbox is the immutable one.
fn changes(name: &str) -> Result<Value> {
    fail(format!(
        "`{name}` would change a value, which templates may not"
    ))
}

/// The entries of a map as a list of tuples.
pub(super) fn items(map: &Value, meter: &mut Meter) -> Result<Value> {
    let Value::Map(map) = map else {
        return fail(format!("a {} has no `items`", map.kind()));
    };
    let mut items = Vec::new();
    for (key, value) in &map.entries {
        meter.charge_elements(2)?;
        items.push(Value::sequence(
            vec![key.clone(), value.clone()],
            Sequence::Tuple,
        )?);
    }
    Value::list(items)
}

/// Joins the texts of the elements.
pub(super) fn join(by: &str, elements: &Value, strict: bool, meter: &mut Meter) -> Result<Value> {
    let list = elements.elements(meter)?;
    let mut out = String::new();
    for (i, item) in list.items.iter().enumerate() {
        if strict && item.as_str().is_none() {
            return fail(format!("`join` of a {}", item.kind()));
        }
        if i > 0 {
            meter.charge(by.len())?;
            out.push_str(by);
        }
        Writer {
            out: &mut out,
            meter,
        }
        .text(item)?;
    }
    Value::text(out, meter)
}

/// Replaces the first `most` places, or all.
pub(super) fn replace(
    text: &str,
    from: &str,
    to: &str,
    most: Option<i128>,
    meter: &mut Meter,
) -> Result<Value> {
    meter.charge(text.len() + from.len())?;
    let most = most
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(usize::MAX);
    let count = text.matches(from).count().min(most);
    meter.charge(to.len().saturating_mul(count))?;
    Value::text(text.replacen(from, to, most), meter)
}

/// What Jinja2 and Python make of the first letter and of the others.
pub(super) fn capitalize(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + &rest.as_str().to_lowercase()
}

/// A text without the characters of `of`, or white space, at its start and end as far as they are wanted.
pub(super) fn strip<'t>(
    text: &'t str,
    of: Option<&str>,
    (start, end): (bool, bool),
    meter: &mut Meter,
) -> Result<&'t str> {
    // each character is looked for in all of them
    let looked_at = of.map_or(0, |of| of.len() / 8);
    meter.charge(text.len().saturating_mul(looked_at))?;
    let goes = |c: char| of.map_or_else(|| is_space(c), |of| of.contains(c));
    let mut stripped = text;
    if start {
        stripped = stripped.trim_start_matches(goes);
    }
    if end {
        stripped = stripped.trim_end_matches(goes);
    }
    meter.charge(2 * (text.len() - stripped.len()))?;
    Ok(stripped)
}

/// A text in the middle or at one end of so many characters.
pub(super) fn pad(
    text: &str,
    width: i128,
    fill: &str,
    left: fn(usize, usize) -> usize,
    meter: &mut Meter,
) -> Result<Value> {
    let width = usize::try_from(width).unwrap_or(if width < 0 { 0 } else { usize::MAX });
    let missing = width.saturating_sub(text.chars().count());
    meter.charge(missing.saturating_mul(fill.len()))?;
    let before = left(missing, width);
    Value::text(
        format!(
            "{}{text}{}",
            fill.repeat(before),
            fill.repeat(missing - before)
        ),
        meter,
    )
}

/// How much of what is missing CPython puts before a text in the middle of `width` characters.
pub(super) fn middle(missing: usize, width: usize) -> usize {
    missing / 2 + (missing & width & 1)
}

fn of_text(text: &str, name: &str, given: &mut Given, meter: &mut Meter) -> Result<Value> {
    // finding a text goes byte by byte, and some go letter by letter and ask each something
    meter.charge(match name {
        "upper" | "lower" | "capitalize" | "title" => text.len() * 3,
        "swapcase" => text.len() * 8,
        "splitlines" | "split" | "rsplit" => text.len(),
        name if name.starts_with("is") => text.len() * 2,
        _ => text.len() / 2,
    })?;
    let some = |part: &str, meter: &mut Meter| Value::text(part.to_owned(), meter);
    let all = |is: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(is)));
    let cased = |is: fn(char) -> bool, not: fn(char) -> bool| {
        Ok(Value::Bool(text.chars().any(is) && !text.chars().any(not)))
    };
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let ends = (name != "rstrip", name != "lstrip");
            let chars = given.text("chars")?;
            let stripped = strip(text, chars.as_deref(), ends, meter)?;
            some(stripped, meter)
        }
        "upper" => Value::text(text.to_uppercase(), meter),
        "lower" => Value::text(text.to_lowercase(), meter),
        "capitalize" => Value::text(capitalize(text), meter),
        "swapcase" => {
            let swap = |c: char| match c.is_lowercase() {
                true => c.to_uppercase().to_string(),
                false => c.to_lowercase().to_string(),
            };
            Value::text(text.chars().map(swap).collect(), meter)
        }
        "title" => {
            let mut within = false;
            let mut out = String::new();
            for c in text.chars() {
                match within {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
                within = c.is_alphabetic();
            }
            Value::text(out, meter)
        }
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => Ok(Value::Bool(text.is_ascii())),
        "isdecimal" | "isdigit" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        "startswith" | "endswith" => {
            let ends = |part: &Value| match (part.as_str(), name) {
                (Some(part), "startswith") => Ok(text.starts_with(part)),
                (Some(part), _) => Ok(text.ends_with(part)),
                (None, _) => fail(format!("`{name}` of a {}", part.kind())),
            };
            let wanted = given.required("prefix")?;
            match &wanted {
                Value::List(any) => {
                    for part in &any.items {
                        meter.charge(ELEMENT + part.as_str().map_or(0, str::len))?;
                        if ends(part)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                part => ends(part).map(Value::Bool),
            }
        }
        "removeprefix" => {
            let part = required(given, "prefix")?;
            some(text.strip_prefix(&*part).unwrap_or(text), meter)
        }
        "removesuffix" => {
            let part = required(given, "suffix")?;
            some(text.strip_suffix(&*part).unwrap_or(text), meter)
        }
        "find" | "index" | "rfind" | "rindex" => {
            let part = required(given, "sub")?;
            let found = match name.starts_with('r') {
                true => text.rfind(&*part),
                false => text.find(&*part),
            };
            match found {
                Some(at) => Ok(Value::Int(text[..at].chars().count() as i128)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => fail(format!("`{name}` finds no such text")),
            }
        }
        "count" => {
            let part = required(given, "sub")?;
            Ok(Value::Int(text.matches(&*part).count() as i128))
        }
        "replace" => {
            let (from, to) = (required(given, "old")?, required(given, "new")?);
            replace(text, &from, &to, given.int("count")?, meter)
        }
        "split" | "rsplit" => {
            let (by, most) = (given.text("sep")?, given.int("maxsplit")?);
            let most = most.and_then(|most| usize::try_from(most).ok());
            split(text, by.as_deref(), most, name == "rsplit", meter)
        }
        "splitlines" => {
            let keep = given.flag("keepends");
            let mut lines = Vec::new();
            let mut rest = text;
            while let Some(at) = rest.find(ends_line) {
                let mut end = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                end += usize::from(rest[at..].starts_with("\r\n"));
                lines.push(if keep { &rest[..end] } else { &rest[..at] });
                meter.charge_elements(1)?;
                rest = &rest[end..];
            }
            lines.extend((!rest.is_empty()).then_some(rest));
            texts(lines, Sequence::List, meter)
        }
        "partition" | "rpartition" => {
            let by = required(given, "sep")?;
            let (found, last) = match name {
                "partition" => (text.split_once(&*by), false),
                _ => (text.rsplit_once(&*by), true),
            };
            let parts = match found {
                Some((before, behind)) => vec![before, &*by, behind],
                None if last => vec!["", "", text],
                None => vec![text, "", ""],
            };
            texts(parts, Sequence::Tuple, meter)
        }
        "join" => join(text, &given.required("iterable")?, true, meter),
        "format" => {
            let positional: Vec<Value> = given.positional.drain(..).collect();
            let named = std::mem::take(&mut given.named);
            Value::text(braces(text, &positional, &named, meter)?, meter)
        }
        "center" | "ljust" | "rjust" => {
            let width = given.int("width")?.unwrap_or(0);
            let fill = given.text("fillchar")?;
            let left: fn(usize, usize) -> usize = match name {
                "center" => middle,
                "ljust" => |_, _| 0,
                _ => |missing, _| missing,
            };
            pad(text, width, fill.as_deref().unwrap_or(" "), left, meter)
        }
        "zfill" => {
            let width = given.int("width")?.unwrap_or(0);
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            let filled = pad(
                digits,
                width.saturating_sub(sign.len() as i128),
                "0",
                |missing, _| missing,
                meter,
            )?;
            some(
                &format!("{sign}{}", filled.as_str().unwrap_or_default()),
                meter,
            )
        }
        _ => fail(format!("the method `{name}` is not supported")),
    }
}

fn required(given: &mut Given, name: &str) -> Result<Arc<str>> {
    let text = given.text(name)?;
    text.ok_or_else(|| error(format!("the argument `{name}` is missing")))
}

/// Whether Python ends a line at this character.
fn ends_line(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// A list of texts, whose bytes are charged.
fn texts(parts: Vec<&str>, sequence: Sequence, meter: &mut Meter) -> Result<Value> {
    let parts = parts
        .into_iter()
        .map(|part| Value::text(part.to_owned(), meter));
    Value::sequence(parts.collect::<Result<Vec<_>>>()?, sequence)
}

/// The parts between separators, or between white space, from the left or from the right.
fn split(
    text: &str,
    by: Option<&str>,
    most: Option<usize>,
    right: bool,
    meter: &mut Meter,
) -> Result<Value> {
    if by == Some("") {
        return fail("an empty separator");
    }
    let mut parts = Vec::new();
    let mut rest = match by {
        None => strip(text, None, (!right, right), meter)?,
        Some(_) => text,
    };
    while most.is_none_or(|most| parts.len() < most) {
        let found = match (by, right) {
            (Some(by), false) => rest.split_once(by),
            (Some(by), true) => rest
                .rsplit_once(by)
                .map(|(before, behind)| (behind, before)),
            (None, false) => rest
                .split_once(is_space)
                .map(|(part, more)| (part, trim_start(more))),
            (None, true) => rest
                .rsplit_once(is_space)
                .map(|(more, part)| (part, trim_end(more))),
        };
        let Some((part, more)) = found else {
            break;
        };
        meter.charge_elements(1)?;
        parts.push(part);
        rest = more;
    }
    if by.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    if right {
        parts.reverse();
    }
    texts(parts, Sequence::List, meter)
}
