//! Jinja2's filters, which make a value of another one.

use super::format::percent;
use super::meter::{ELEMENT, Meter, Result, error, fail};
use super::methods::{capitalize, items, join, middle, pad, replace, strip};
use super::operators::{arithmetic, attribute, item};
use super::predicates::{TESTS, test};
use super::syntax::Operator;
use super::value::{Given, Sequence, Value};
use super::write::{escape, text_of, tojson};
use std::cmp::Ordering;

/// Work of rounding: a float has hundreds of digits at most.
const ROUND: usize = 2048;

/// The filters that there are. The others of Jinja2's are for web pages.
#[rustfmt::skip]
pub(super) const FILTERS: [&str; 40] = [
    "abs", "attr", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "format", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject",
    "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title",
    "tojson", "trim", "unique", "upper",
];

/// Applies the filter of this name.
pub(super) fn apply(
    name: &str,
    value: Value,
    mut given: Given,
    meter: &mut Meter,
) -> Result<Value> {
    meter.charge(value.as_str().map_or(0, str::len) / 4)?;
    let made = match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => {
            // a filter in a filter in a filter
            meter.enter()?;
            let made = each(name, &value, given, meter)?;
            meter.leave();
            return Ok(made);
        }
        "d" | "default" => {
            let otherwise = given
                .next("default_value")
                .unwrap_or_else(|| Value::from(""));
            let falsy = given.flag("boolean");
            match value {
                Value::Undefined => otherwise,
                value if falsy && !value.is_true() => otherwise,
                value => value,
            }
        }
        "safe" => value,
        "tojson" => Value::text(tojson(&value, &mut given, meter)?, meter)?,
        "items" if matches!(value, Value::Undefined) => generator(Vec::new())?,
        "items" => items(&value, meter)?,
        "dictsort" => {
            let case = given.flag("case_sensitive");
            let by = given.text("by")?;
            let reverse = given.flag("reverse");
            let by_value = by.as_deref() == Some("value");
            let pairs = items(&value, meter)?.into_vec(meter)?;
            let key = |pair: &Value, meter: &mut Meter| {
                let part = item(pair, &Value::Int(i128::from(by_value)), meter)?;
                caseless(part, case, meter)
            };
            Value::list(sorted(pairs, reverse, key, meter)?)?
        }
        "length" | "count" => match &value {
            Value::Undefined => Value::Int(0),
            Value::Text(text) => {
                meter.charge(text.len() / 4)?;
                Value::Int(text.chars().count() as i128)
            }
            Value::List(list) => Value::Int(list.items.len() as i128),
            Value::Map(map) => Value::Int(map.entries.len() as i128),
            _ => return fail(format!("a {} has no length", value.kind())),
        },
        "attr" => {
            let name = given
                .text("name")?
                .ok_or_else(|| error("`attr` needs a name"))?;
            match value {
                // Jinja2 looks for attributes here, and not for items
                Value::Map(_) => Value::Undefined,
                value => attribute(&value, &name, meter)?,
            }
        }
        "abs" => match (&value, value.as_int()) {
            (_, Some(int)) => Value::Int(
                int.checked_abs()
                    .ok_or_else(|| error("a number is too large"))?,
            ),
            (Value::Float(float), _) => Value::Float(float.abs()),
            _ => return fail(format!("`abs` of a {}", value.kind())),
        },
        "int" => int(&value, &mut given)?,
        "float" => {
            let otherwise = given.next("default").unwrap_or(Value::Float(0.0));
            let text = value.as_str().and_then(|text| text.trim().parse().ok());
            value.as_float().or(text).map_or(otherwise, Value::Float)
        }
        "round" => {
            // finding out all digits takes longer than writing them
            meter.charge(ROUND)?;
            round(&value, &mut given)?
        }
        "format" => {
            let arguments = match given.named.is_empty() {
                true => Value::sequence(given.positional.drain(..).collect(), Sequence::Tuple)?,
                false => {
                    let named = std::mem::take(&mut given.named);
                    Value::map(
                        named
                            .into_iter()
                            .map(|(name, value)| (Value::Text(name), value)),
                        meter,
                    )?
                }
            };
            let format = text_of(&value, meter)?;
            Value::text(percent(&format, &arguments, meter)?, meter)?
        }
        "first" | "last" | "list" | "join" | "max" | "min" | "reverse" | "sort" | "sum"
        | "unique" => of_elements(name, value, &mut given, meter)?,
        _ => of_text(name, &value, &mut given, meter)?,
    };
    given.end(name)?;
    Ok(made)
}

fn generator(items: Vec<Value>) -> Result<Value> {
    Value::sequence(items, Sequence::Generator)
}

/// Filters of the elements of a value.
fn of_elements(name: &str, value: Value, given: &mut Given, meter: &mut Meter) -> Result<Value> {
    if let ("reverse", Value::Text(text)) = (name, &value) {
        meter.charge(text.len())?;
        return Value::text(text.chars().rev().collect(), meter);
    }
    let list = value.elements(meter)?;
    let end = |item: Option<&Value>| Ok(item.cloned().unwrap_or(Value::Undefined));
    match name {
        "first" => return end(list.items.first()),
        "last" => return end(list.items.last()),
        "join" => {
            let by = given.next("d").unwrap_or_else(|| Value::from(""));
            let by = text_of(&by, meter)?;
            let by_attribute = given.next("attribute");
            let elements = match by_attribute {
                None => value,
                Some(path) => {
                    let mut found = Vec::new();
                    for item in &list.items {
                        meter.charge_elements(1)?;
                        found.push(get(item, &path, meter)?);
                    }
                    Value::list(found)?
                }
            };
            return join(&by, &elements, false, meter);
        }
        _ => {}
    }
    let mut all = value.into_vec(meter)?;
    match name {
        "list" => Value::list(all),
        "reverse" => {
            all.reverse();
            generator(all)
        }
        "sum" => {
            let (path, start) = (given.next("attribute"), given.next("start"));
            let mut sum = start.unwrap_or(Value::Int(0));
            for item in all {
                let item = path
                    .as_ref()
                    .map_or(Ok(item.clone()), |path| get(&item, path, meter))?;
                sum = arithmetic(Operator::Add, &sum, &item, meter)?;
            }
            Ok(sum)
        }
        _ => {
            let reverse = name == "sort" && given.flag("reverse");
            let case = given.flag("case_sensitive");
            let path = given.next("attribute");
            let key = |item: &Value, meter: &mut Meter| match &path {
                None => caseless(item.clone(), case, meter),
                Some(path) => {
                    let paths = text_of(path, meter)?;
                    let mut keys = Vec::new();
                    for path in paths.split(',') {
                        let found = get(item, &Value::from(path), meter)?;
                        keys.push(caseless(found, case, meter)?);
                    }
                    Value::list(keys)
                }
            };
            match name {
                "sort" => Value::list(sorted(all, reverse, key, meter)?),
                "unique" => {
                    let mut seen: Vec<Value> = Vec::new();
                    let mut kept = Vec::new();
                    for item in all {
                        let key = key(&item, meter)?;
                        let mut known = false;
                        for other in &seen {
                            known = known || other.equals(&key, meter)?;
                        }
                        if !known {
                            meter.charge_elements(2)?;
                            seen.push(key);
                            kept.push(item);
                        }
                    }
                    generator(kept)
                }
                _ => {
                    let mut best: Option<(Value, Value)> = None;
                    let better = if name == "max" {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    };
                    for item in all {
                        let key = key(&item, meter)?;
                        if match &best {
                            None => true,
                            Some((found, _)) => key.compare(found, meter)? == better,
                        } {
                            best = Some((key, item));
                        }
                    }
                    Ok(best.map_or(Value::Undefined, |(_, item)| item))
                }
            }
        }
    }
}

/// Filters of the text of a value.
fn of_text(name: &str, value: &Value, given: &mut Given, meter: &mut Meter) -> Result<Value> {
    let text = text_of(value, meter)?;
    if let "upper" | "lower" | "capitalize" | "title" = name {
        // a letter has up to three in the other case, and a word is a text of its own
        meter.charge(text.len() * if name == "title" { 12 } else { 3 })?;
    }
    match name {
        "string" => Value::text(text, meter),
        "upper" => Value::text(text.to_uppercase(), meter),
        "lower" => Value::text(text.to_lowercase(), meter),
        "capitalize" => Value::text(capitalize(&text), meter),
        "trim" => {
            let chars = given.text("chars")?;
            let stripped = strip(&text, chars.as_deref(), (true, true), meter)?;
            Value::text(stripped.to_owned(), meter)
        }
        "title" => {
            let begins = |c: char| "-([{<".contains(c) || c.is_whitespace();
            let words = text.split_inclusive(begins).map(capitalize);
            Value::text(words.collect(), meter)
        }
        "replace" => {
            let (from, to) = (given.required("old")?, given.required("new")?);
            let (from, to) = (text_of(&from, meter)?, text_of(&to, meter)?);
            replace(&text, &from, &to, given.int("count")?, meter)
        }
        "center" => {
            let width = given.int("width")?.unwrap_or(80);
            pad(&text, width, " ", middle, meter)
        }
        "indent" => {
            let width = match given.next("width") {
                Some(Value::Text(width)) => width,
                Some(width) => {
                    let width = width
                        .as_int()
                        .ok_or_else(|| error("`indent` needs a width"))?;
                    let width = usize::try_from(width.max(0)).unwrap_or(usize::MAX);
                    meter.charge(width)?;
                    " ".repeat(width).into()
                }
                None => "    ".into(),
            };
            let (first, blank) = (given.flag("first"), given.flag("blank"));
            let mut out = String::new();
            for (i, line) in text.split('\n').enumerate() {
                out.push_str(if i > 0 { "\n" } else { "" });
                let empty = line.is_empty();
                if if i == 0 { first } else { blank || !empty } {
                    meter.charge(width.len())?;
                    out.push_str(&width);
                }
                out.push_str(line);
            }
            Value::text(out, meter)
        }
        "e" | "escape" => escape(&text, meter),
        _ => fail(format!("the filter `{name}` is not supported")),
    }
}

/// What `value` has at `path`: names and numbers with points between them.
fn get(value: &Value, path: &Value, meter: &mut Meter) -> Result<Value> {
    let Value::Text(path) = path else {
        return item(value, path, meter);
    };
    let mut value = value.clone();
    for name in path.split('.') {
        meter.charge(ELEMENT)?;
        let key = name.parse().map_or_else(|_| Value::from(name), Value::Int);
        value = item(&value, &key, meter)?;
    }
    Ok(value)
}

/// A text in small letters, unless letters tell texts apart.
fn caseless(value: Value, case: bool, meter: &mut Meter) -> Result<Value> {
    match &value {
        Value::Text(text) if !case => {
            meter.charge(text.len() * 2)?;
            Value::text(text.to_lowercase(), meter)
        }
        _ => Ok(value),
    }
}

fn sorted(
    all: Vec<Value>,
    reverse: bool,
    key: impl Fn(&Value, &mut Meter) -> Result<Value>,
    meter: &mut Meter,
) -> Result<Vec<Value>> {
    let mut keyed = Vec::new();
    for item in all {
        meter.charge_elements(2)?;
        keyed.push((key(&item, meter)?, item));
    }
    let keyed = merged(keyed, reverse, meter)?;
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// Sorts by the keys. The standard library's sort may panic where an order contradicts itself, as that of large integers
/// and floats does.
fn merged(
    mut left: Vec<(Value, Value)>,
    reverse: bool,
    meter: &mut Meter,
) -> Result<Vec<(Value, Value)>> {
    if left.len() < 2 {
        return Ok(left);
    }
    let right = left.split_off(left.len() / 2);
    let mut out = Vec::with_capacity(left.len() + right.len());
    let mut left = merged(left, reverse, meter)?.into_iter().peekable();
    let mut right = merged(right, reverse, meter)?.into_iter().peekable();
    while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
        let order = a.compare(b, meter)?;
        let order = if reverse { order.reverse() } else { order };
        out.extend(match order.is_le() {
            true => left.next(),
            false => right.next(),
        });
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// `map`, and the filters that choose elements by a test.
fn each(name: &str, value: &Value, mut given: Given, meter: &mut Meter) -> Result<Value> {
    // Jinja2 does not look at what is not true, so none is as good as an empty list
    if !value.is_true() {
        return generator(Vec::new());
    }
    let list = value.elements(meter)?;
    let by_attribute = name.ends_with("attr");
    let attribute = match (name, given.positional.is_empty()) {
        ("map", true) => Some(
            given
                .named("attribute")
                .ok_or_else(|| error("`map` needs a filter"))?,
        ),
        ("map", false) => None,
        _ => by_attribute
            .then(|| given.required("attribute"))
            .transpose()?,
    };
    let otherwise = if name == "map" {
        given.named("default")
    } else {
        None
    };
    let by = match name {
        "map" if attribute.is_some() => None,
        _ => given.text("name")?,
    };
    let known: &[&str] = match name {
        "map" => &FILTERS,
        _ => &TESTS,
    };
    if let Some(by) = by.as_ref().filter(|by| !known.contains(&&***by)) {
        return fail(format!("`{name}` by `{by:.40}` is not supported"));
    }
    let mut out = Vec::new();
    for element in &list.items {
        meter.charge_elements(1 + given.positional.len() + given.named.len())?;
        let looked_at = match &attribute {
            Some(path) => get(element, path, meter)?,
            None => element.clone(),
        };
        let given = Given {
            positional: given.positional.clone(),
            named: given.named.clone(),
        };
        if name == "map" {
            out.push(match (&by, looked_at, &otherwise) {
                (Some(by), value, _) => apply(by, value, given, meter)?,
                (None, Value::Undefined, Some(otherwise)) => otherwise.clone(),
                (None, value, _) => value,
            });
            continue;
        }
        let passes = match &by {
            Some(by) => test(by, &looked_at, given, meter)?,
            None => looked_at.is_true(),
        };
        if passes == name.starts_with("select") {
            out.push(element.clone());
        }
    }
    generator(out)
}

fn int(value: &Value, given: &mut Given) -> Result<Value> {
    let otherwise = given.next("default").unwrap_or(Value::Int(0));
    let base = given.int("base")?.unwrap_or(10);
    let whole = |float: f64| float.is_finite().then_some(float as i128);
    let found = match value {
        Value::Text(text) => {
            let digits = text.trim().replace('_', "");
            let base = u32::try_from(base)
                .ok()
                .filter(|base| (2..=36).contains(base));
            let base = base.ok_or_else(|| error("`int` of such a base"))?;
            let prefix = [(16, "0x"), (8, "0o"), (2, "0b")];
            let prefix = prefix
                .iter()
                .find(|(of, _)| *of == base)
                .map_or("", |(_, prefix)| prefix);
            let plain = digits.strip_prefix(prefix).unwrap_or(&digits);
            let int = i128::from_str_radix(plain, base).ok();
            int.or_else(|| digits.parse().ok().and_then(whole))
        }
        Value::Float(float) => whole(*float),
        value => value.as_int(),
    };
    Ok(found.map_or(otherwise, Value::Int))
}

fn round(value: &Value, given: &mut Given) -> Result<Value> {
    let precision = given.int("precision")?.unwrap_or(0);
    let method = given.text("method")?;
    let precision = usize::try_from(precision)
        .ok()
        .filter(|digits| *digits <= 300);
    let precision = precision.ok_or_else(|| error("`round` to so many digits"))?;
    let float = value
        .as_float()
        .ok_or_else(|| error(format!("`round` of a {}", value.kind())))?;
    let scale = 10f64.powi(precision as i32);
    Ok(Value::Float(match method.as_deref() {
        None | Some("common") => match value.as_int() {
            Some(int) => return Ok(Value::Int(int)),
            // halves go to the even number, and digits are exact, as Python's are
            None => format!("{float:.precision$}").parse().unwrap_or(float),
        },
        Some("ceil") => (float * scale).ceil() / scale,
        Some("floor") => (float * scale).floor() / scale,
        Some(_) => return fail("`round` by such a method"),
    }))
}
