//! Values within a schema that llguidance must not guess at: numbers that it would round, texts that no answer can have.

use serde_json::Value;

/// All whole numbers below this one are exact: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// Most bytes of a number without an exponent, which no answer has.
const DIGITS_MAX: usize = 30;
/// Most digits of `multipleOf` as a whole number: the automaton of its multiples has as many states.
const MULTIPLE_MAX: f64 = 1_000.0;

/// A number that is kept as it is.
pub(super) fn number(value: &Value) -> Result<f64, String> {
    let number = value.as_f64().ok_or("must be a number")?;
    if number.abs() >= EXACT || !number.is_finite() {
        return Err("is a number of 2^53 or more, which is not exact".into());
    }
    if format!("{number}").len() > DIGITS_MAX {
        return Err("is a number with too many digits to be written".into());
    }
    Ok(number)
}

/// A number of characters, items or properties.
pub(super) fn count(value: &Value) -> Result<usize, String> {
    let number = value
        .as_f64()
        .filter(|number| *number >= 0.0 && number.fract() == 0.0);
    let number = number.ok_or("must be a whole number that is not negative")?;
    if number > f64::from(u32::MAX) {
        return Err(format!("is {number}, at most {} is taken", u32::MAX));
    }
    Ok(number as usize)
}

/// What multiples are enforced: positive numbers that are a whole number up to [`MULTIPLE_MAX`] when their decimal point is
/// moved, as llguidance finds out by multiplying with ten.
pub(super) fn multiple(value: &Value) -> Result<f64, String> {
    let number = number(value)?;
    if number <= 0.0 {
        return Err("must be positive".into());
    }
    let (mut whole, mut exponent) = (number, 0);
    while whole.fract() != 0.0 && exponent < 20 {
        whole *= 10.0;
        exponent += 1;
    }
    if whole > MULTIPLE_MAX || format!("{whole}e-{exponent}").parse() != Ok(number) {
        return Err(format!(
            "is {number}, which has more digits than can be enforced (at most {MULTIPLE_MAX} without its decimal point)"
        ));
    }
    Ok(number)
}

/// Whether an answer can have this character within a string. There are no escapes by number.
pub(in crate::text::constrain) fn writable(c: char) -> bool {
    !c.is_ascii_control() || matches!(c, '\n' | '\r' | '\t' | '\u{8}' | '\u{C}')
}

/// Checks a constant. Its text and numbers can be written exactly.
pub(super) fn constant(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(_) => number(value).map(drop),
        Value::String(text) if !text.chars().all(writable) => {
            Err("has a control character, which is not written".into())
        }
        Value::Array(values) => values.iter().try_for_each(constant),
        Value::Object(map) => map.values().try_for_each(constant),
        _ => Ok(()),
    }
}
