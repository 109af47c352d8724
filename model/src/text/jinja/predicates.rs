//! Jinja2's tests, which ask something of a value.

use super::meter::{Meter, Result, error, fail};
use super::operators::contains;
use super::value::{Given, Sequence, Value};
use super::write::text_of;

/// The tests that there are.
#[rustfmt::skip]
pub(super) const TESTS: [&str; 36] = [
    "!=", "==", "boolean", "callable", "defined", "divisibleby", "eq", "equalto", "even", "false", "float", "ge",
    "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none",
    "number", "odd", "sameas", "sequence", "string", "true", "undefined", "upper", ">=", "<=", ">", "<",
];

/// Asks the test of this name.
pub(super) fn test(name: &str, value: &Value, mut given: Given, meter: &mut Meter) -> Result<bool> {
    let int = || {
        value
            .as_int()
            .ok_or_else(|| error(format!("`{name}` of a {}", value.kind())))
    };
    if !TESTS.contains(&name) {
        return fail(format!("the test `{name}` is not supported"));
    }
    let is_bool = matches!(value, Value::Bool(_));
    let passes = match name {
        "defined" => !matches!(value, Value::Undefined),
        "undefined" => matches!(value, Value::Undefined),
        "none" => matches!(value, Value::None),
        "boolean" => is_bool,
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Map(_)),
        "callable" => matches!(
            value,
            Value::Macro(_) | Value::Function(_) | Value::Method(_)
        ),
        "iterable" => matches!(
            value,
            Value::Undefined | Value::Text(_) | Value::List(_) | Value::Map(_)
        ),
        "sequence" => match value {
            Value::List(list) => list.sequence != Sequence::Generator,
            _ => matches!(value, Value::Undefined | Value::Text(_) | Value::Map(_)),
        },
        "odd" => int()?.rem_euclid(2) == 1,
        "even" => int()?.rem_euclid(2) == 0,
        "divisibleby" => {
            let by = given
                .int("num")?
                .filter(|by| *by != 0)
                .ok_or_else(|| error("`divisibleby` needs a number"))?;
            int()?.checked_rem(by) == Some(0)
        }
        "lower" | "upper" => {
            let text = text_of(value, meter)?;
            meter.charge(text.len())?;
            let not = if name == "lower" {
                char::is_uppercase
            } else {
                char::is_lowercase
            };
            text.chars().any(char::is_alphabetic) && !text.chars().any(not)
        }
        "in" => {
            let container = given.required("seq")?;
            contains(&container, value, meter)?
        }
        "sameas" => {
            let other = given.required("other")?;
            is_bool == matches!(other, Value::Bool(_)) && value.equals(&other, meter)?
        }
        _ => {
            let other = given.required("other")?;
            match name {
                "eq" | "equalto" | "==" => value.equals(&other, meter)?,
                "ne" | "!=" => !value.equals(&other, meter)?,
                "lt" | "lessthan" | "<" => value.compare(&other, meter)?.is_lt(),
                "le" | "<=" => value.compare(&other, meter)?.is_le(),
                "gt" | "greaterthan" | ">" => value.compare(&other, meter)?.is_gt(),
                _ => value.compare(&other, meter)?.is_ge(),
            }
        }
    };
    given.end(name)?;
    Ok(passes)
}
