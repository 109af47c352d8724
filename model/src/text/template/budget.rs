//! What a template may still make of text, and what each of its calls is charged.

use glowplug_firmware_config::limits::TOOL_LEVELS_MAX;
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that an element of a list is charged besides its text.
const ELEMENT: usize = 32;

const TOO_MUCH: &str = "the template makes too much text";

pub(super) fn refuse(why: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}

/// Bytes that one render may still make, its output included. Every call is charged before it makes them.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn charge(&self, bytes: usize) -> Result<(), Error> {
        let left = self
            .left()
            .checked_sub(bytes)
            .ok_or_else(|| refuse(TOO_MUCH))?;
        self.0.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Charges the bytes of a value, for a step that looks at all of it.
    pub(super) fn charge_value(&self, value: &Value) -> Result<(), Error> {
        self.charge(size(value, self.left())?)
    }

    /// Charges the most bytes that the filter or method `name` can make of these arguments.
    pub(super) fn charge_call(&self, name: &str, given: &[Value]) -> Result<(), Error> {
        self.charge(price(name, given, self.left())?)
    }
}

pub(super) fn is_scalar(value: &Value) -> bool {
    use ValueKind as K;
    matches!(
        value.kind(),
        K::Undefined | K::None | K::Bool | K::Number | K::String
    )
}

/// Counts the bytes of a value, of everything in it too. It stops with an error above `most` bytes.
fn size(value: &Value, most: usize) -> Result<usize, Error> {
    /// The deepest value that a template is given is in the arguments of a call, which lie in a function in a call in the
    /// list of calls in a message in the list of messages.
    const MAX_NESTING: usize = 8 + TOOL_LEVELS_MAX;
    fn add(sum: &mut usize, value: &Value, most: usize, depth: usize) -> Result<(), Error> {
        if depth > MAX_NESTING {
            return Err(refuse("a value is nested too deeply"));
        }
        if let Some(text) = value.as_str() {
            *sum += text.len();
        } else if matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        ) {
            for element in value.try_iter()? {
                *sum += ELEMENT;
                add(sum, &element, most, depth + 1)?;
                if value.kind() == ValueKind::Map {
                    add(sum, &value.get_item(&element)?, most, depth + 1)?;
                }
                if *sum > most {
                    return Err(refuse(TOO_MUCH));
                }
            }
        }
        Ok(())
    }
    let mut sum = 0;
    add(&mut sum, value, most, 0)?;
    Ok(sum)
}

/// The most bytes that the filter or method `name` makes of these arguments. The first argument is the value that it is
/// applied to.
fn price(name: &str, given: &[Value], most: usize) -> Result<usize, Error> {
    let takes_no_look = matches!(name, "count" | "d" | "default" | "first" | "length");
    let mut all = 0;
    for value in given.iter().filter(|v| !takes_no_look || is_scalar(v)) {
        all += size(value, most)?;
    }
    let text = |at: usize| given.get(at).and_then(Value::as_str);
    let more = match (name, text(0), text(1)) {
        ("split", Some(text), Some(by)) => (1 + text.matches(by).count()).saturating_mul(ELEMENT),
        ("splitlines", Some(text), _) => (1 + text.matches(['\n', '\r']).count()) * ELEMENT,
        // the elements are characters, or what lies between runs of white space
        ("list" | "map" | "reject" | "select" | "split" | "unique", Some(text), _) => {
            text.len().saturating_mul(ELEMENT)
        }
        // the separator is the second argument of the filter, and the first of the method
        ("join", Some(a), Some(b)) => a.len().saturating_mul(b.len()),
        ("join", a, b) => (all / ELEMENT).saturating_mul(a.or(b).map_or(0, str::len)),
        ("replace", Some(whole), Some(from)) => whole
            .matches(from)
            .count()
            .saturating_mul(text(2).map_or(0, str::len)),
        ("indent" | "tojson", _, _) => all.saturating_mul(numbers(given)?),
        _ => 0,
    };
    Ok(all.saturating_add(more))
}

/// The sum of all numbers among the arguments, because each may be a width.
fn numbers(given: &[Value]) -> Result<usize, Error> {
    let mut sum = 0usize;
    for value in given {
        sum = sum.saturating_add(value.as_usize().unwrap_or(0));
        if value.is_kwargs() {
            for key in value.try_iter()? {
                sum = sum.saturating_add(value.get_item(&key)?.as_usize().unwrap_or(0));
            }
        }
    }
    Ok(sum)
}
