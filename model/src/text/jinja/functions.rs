//! The functions that every template has.

use super::format::strftime;
use super::meter::{Meter, Result, error, fail};
use super::value::{Given, Namespace, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::SystemTime;

/// Most elements of a `range`, which is what Jinja2's sandbox allows.
const RANGE_MAX: i128 = 100_000;

/// The names of the functions.
pub(super) const FUNCTIONS: [&str; 5] = [
    "dict",
    "namespace",
    "raise_exception",
    "range",
    "strftime_now",
];

/// Calls a function that [`FUNCTIONS`] names.
pub(super) fn call(name: &str, mut given: Given, meter: &mut Meter) -> Result<Value> {
    let made = match name {
        "range" => {
            let first = given
                .int("start")?
                .ok_or_else(|| error("`range` of nothing"))?;
            let (from, to) = match given.int("stop")? {
                Some(to) => (first, to),
                None => (0, first),
            };
            let step = given.int("step")?.unwrap_or(1);
            if step == 0 {
                return fail("the step of a range is zero");
            }
            let distance = if step > 0 {
                to.checked_sub(from)
            } else {
                from.checked_sub(to)
            };
            let size = i128::try_from(step.unsigned_abs()).unwrap_or(i128::MAX);
            let count = distance.map_or(i128::MAX, |distance| distance.max(0)) / size
                + i128::from(distance.is_some_and(|distance| distance > 0 && distance % size != 0));
            if count > RANGE_MAX {
                return fail(format!("a range of more than {RANGE_MAX}"));
            }
            meter.charge_elements(count as usize)?;
            Value::list((0..count).map(|i| Value::Int(from + i * step)).collect())?
        }
        "dict" | "namespace" => {
            let mut entries = match given.positional.pop_front() {
                None => Vec::new(),
                Some(Value::Map(map)) => {
                    meter.charge_elements(2 * map.entries.len())?;
                    map.entries.clone()
                }
                Some(pairs) => {
                    let mut entries = Vec::new();
                    for pair in pairs.into_vec(meter)? {
                        let both = pair.into_vec(meter)?;
                        let [key, value] = &both[..] else {
                            return fail(format!("`{name}` of what are no pairs"));
                        };
                        entries.push((key.clone(), value.clone()));
                    }
                    entries
                }
            };
            let named = std::mem::take(&mut given.named);
            entries.extend(
                named
                    .into_iter()
                    .map(|(name, value)| (Value::Text(name), value)),
            );
            if name == "dict" {
                Value::map(entries, meter)?
            } else {
                let mut names = HashMap::new();
                for (key, value) in entries {
                    meter.charge_elements(2)?;
                    if let Value::Text(key) = key {
                        names.insert(key, kept(value)?);
                    }
                }
                Value::Namespace(Rc::new(Namespace(RefCell::new(names))))
            }
        }
        "raise_exception" => {
            let why = given.text("message")?;
            return fail(
                why.as_deref()
                    .unwrap_or("the template refuses this conversation"),
            );
        }
        _ => {
            let format = given
                .text("format")?
                .ok_or_else(|| error("`strftime_now` needs a format"))?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let seconds = now.map_or(0, |now| now.as_secs());
            let text = strftime(&format, seconds, meter)?;
            Value::text(text, meter)?
        }
    };
    given.end(name)?;
    Ok(made)
}

/// A value that a namespace may keep: one that outlives its scope, and in which the namespace cannot be.
pub(super) fn kept(value: Value) -> Result<Value> {
    match value {
        Value::Namespace(_) | Value::Macro(_) | Value::Loop(_) | Value::Method(_) => {
            fail(format!("a namespace cannot hold a {}", value.kind()))
        }
        value => Ok(value),
    }
}
