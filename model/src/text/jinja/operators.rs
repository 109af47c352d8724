//! Operators, attributes, items and slices, as Python has them.

use super::format::percent;
use super::meter::{Meter, Result, error, fail};
use super::methods;
use super::syntax::{Comparison, Operator};
use super::value::Value;
use std::rc::Rc;
use std::sync::Arc;

/// Applies an operator to two values.
pub(super) fn arithmetic(
    operator: Operator,
    a: &Value,
    b: &Value,
    meter: &mut Meter,
) -> Result<Value> {
    match (operator, a, b) {
        (Operator::Add, Value::Text(a), Value::Text(b)) => {
            meter.charge(a.len() + b.len())?;
            return Value::text([&**a, &**b].concat(), meter);
        }
        (Operator::Add, Value::List(a), Value::List(b)) if a.sequence == b.sequence => {
            meter.charge_elements(a.items.len() + b.items.len())?;
            return Value::sequence([&a.items[..], &b.items[..]].concat(), a.sequence);
        }
        (Operator::Multiply, Value::Text(_) | Value::List(_), times)
            if times.as_int().is_some() =>
        {
            return repeat(a, times.as_int().unwrap_or(0), meter);
        }
        (Operator::Multiply, times, Value::Text(_) | Value::List(_))
            if times.as_int().is_some() =>
        {
            return repeat(b, times.as_int().unwrap_or(0), meter);
        }
        (Operator::Remainder, Value::Text(format), arguments) => {
            return Value::text(percent(format, arguments, meter)?, meter);
        }
        _ => {}
    }
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int())
        && operator != Operator::Divide
        && !(operator == Operator::Power && y < 0)
    {
        return integers(operator, x, y);
    }
    let (Some(x), Some(y)) = (a.as_float(), b.as_float()) else {
        let (a, b) = (a.kind(), b.kind());
        return fail(format!("{operator:?} takes no {a} and {b}"));
    };
    let by_zero = !matches!(
        operator,
        Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Power
    );
    if by_zero && y == 0.0 {
        return fail("division by zero");
    }
    let remainder = || match x % y {
        rest if rest != 0.0 && (rest < 0.0) != (y < 0.0) => rest + y,
        rest => rest,
    };
    Ok(Value::Float(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide => x / y,
        Operator::DivideDown => ((x - remainder()) / y).round(),
        Operator::Remainder => remainder(),
        Operator::Power => x.powf(y),
    }))
}

fn integers(operator: Operator, a: i128, b: i128) -> Result<Value> {
    // what is left has the sign of the divisor
    let rest = || {
        let rest = a.checked_rem(b)?;
        let other = rest != 0 && (rest < 0) != (b < 0);
        Some(if other { rest + b } else { rest })
    };
    let down = || a.checked_sub(rest()?)?.checked_div(b);
    let made = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Subtract => a.checked_sub(b),
        Operator::Multiply => a.checked_mul(b),
        Operator::Power => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        Operator::DivideDown | Operator::Remainder | Operator::Divide if b == 0 => {
            return fail("division by zero");
        }
        Operator::DivideDown | Operator::Divide => down(),
        Operator::Remainder => rest(),
    };
    made.map(Value::Int)
        .ok_or_else(|| error("a number is too large"))
}

fn repeat(value: &Value, times: i128, meter: &mut Meter) -> Result<Value> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::List(list) => {
            let count = list.items.len().saturating_mul(times);
            meter.charge_elements(count)?;
            let items = list.items.iter().cycle().take(count);
            Value::sequence(items.cloned().collect(), list.sequence)
        }
        _ => {
            let text = value.as_str().unwrap_or_default();
            meter.charge(text.len().saturating_mul(times))?;
            // an empty text is one however often it is repeated
            let times = if text.is_empty() { 0 } else { times };
            Value::text(text.repeat(times), meter)
        }
    }
}

pub(super) fn compare(
    comparison: Comparison,
    a: &Value,
    b: &Value,
    meter: &mut Meter,
) -> Result<bool> {
    Ok(match comparison {
        Comparison::Equal => a.equals(b, meter)?,
        Comparison::NotEqual => !a.equals(b, meter)?,
        Comparison::Less => a.compare(b, meter)?.is_lt(),
        Comparison::LessOrEqual => a.compare(b, meter)?.is_le(),
        Comparison::Greater => a.compare(b, meter)?.is_gt(),
        Comparison::GreaterOrEqual => a.compare(b, meter)?.is_ge(),
        Comparison::In => contains(b, a, meter)?,
        Comparison::NotIn => !contains(b, a, meter)?,
    })
}

/// Whether `container` has `item` in it.
pub(super) fn contains(container: &Value, item: &Value, meter: &mut Meter) -> Result<bool> {
    match (container, item) {
        (Value::Text(text), Value::Text(part)) => {
            meter.charge(text.len() + part.len())?;
            Ok(text.contains(&**part))
        }
        (Value::Map(map), key) => Ok(map.get(key, meter)?.is_some()),
        (Value::List(list), item) => {
            for element in &list.items {
                if element.equals(item, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Undefined, _) => Ok(false),
        _ => fail(format!(
            "a {} cannot be in a {}",
            item.kind(),
            container.kind()
        )),
    }
}

/// `value.name`. What is not there is undefined; of an undefined value nothing can be asked.
pub(super) fn attribute(value: &Value, name: &Arc<str>, meter: &mut Meter) -> Result<Value> {
    if methods::of(value).contains(&&**name) {
        meter.charge_elements(1)?;
        return Ok(Value::Method(Rc::new((value.clone(), name.clone()))));
    }
    let found = match value {
        Value::Undefined => return fail(format!("`.{name}` of an undefined value")),
        Value::Map(map) => map.get_str(name).cloned(),
        Value::Namespace(names) => names.0.borrow().get(name).cloned(),
        Value::Loop(of) => of.attribute(name),
        Value::Macro(of) if &**name == "name" => Some(Value::Text(of.definition.name.clone())),
        _ => None,
    };
    Ok(found.unwrap_or(Value::Undefined))
}

/// `value[key]`, which is the attribute where there is no such item.
pub(super) fn item(value: &Value, key: &Value, meter: &mut Meter) -> Result<Value> {
    match (value, key) {
        (Value::Undefined, _) => return fail("an item of an undefined value"),
        (Value::Map(map), key) => {
            if let Some(found) = map.get(key, meter)? {
                return Ok(found.clone());
            }
        }
        (Value::List(list), key) if key.as_int().is_some() => {
            let at = place(key.as_int().unwrap_or(0), list.items.len());
            return Ok(at.map_or(Value::Undefined, |at| list.items[at].clone()));
        }
        (Value::Text(text), key) if key.as_int().is_some() => {
            meter.charge(text.len() / 2 + 64)?;
            let at = place(key.as_int().unwrap_or(0), text.chars().count());
            let c = at.and_then(|at| text.chars().nth(at));
            return Ok(c.map_or(Value::Undefined, |c| {
                Value::from(&*c.encode_utf8(&mut [0; 4]))
            }));
        }
        _ => {}
    }
    match key {
        Value::Text(name) => attribute(value, name, meter),
        _ => Ok(Value::Undefined),
    }
}

/// Where in so many elements one with this number is; negative numbers count from the end.
fn place(number: i128, length: usize) -> Option<usize> {
    let from_end = if number < 0 { length as i128 } else { 0 };
    let at = usize::try_from(number + from_end).ok()?;
    (at < length).then_some(at)
}

/// The slice `value[from:to:step]` of a list or a text.
pub(super) fn slice(value: &Value, bounds: [Option<i128>; 3], meter: &mut Meter) -> Result<Value> {
    let step = bounds[2].unwrap_or(1);
    if step == 0 {
        return fail("the step of a slice is zero");
    }
    match value {
        Value::List(list) => {
            let (from, count, step) = span(bounds, step, list.items.len());
            meter.charge_elements(count)?;
            let places = (0..count as i128).map(|i| (from + i * step) as usize);
            let items = places.map(|at| list.items[at].clone());
            Value::sequence(items.collect(), list.sequence)
        }
        Value::Text(text) => {
            meter.charge(text.len())?;
            let (from, count, step) = span(bounds, step, text.chars().count());
            if step == 1 {
                let part = text.chars().skip(from as usize).take(count);
                return Value::text(part.collect(), meter);
            }
            meter.charge(text.len() * size_of::<char>())?;
            let all: Vec<char> = text.chars().collect();
            let places = (0..count as i128).map(|i| (from + i * step) as usize);
            Value::text(places.map(|at| all[at]).collect(), meter)
        }
        _ => fail(format!("a {} has no slices", value.kind())),
    }
}

/// Where a slice of so many elements begins, how many it has, and how far they are apart.
fn span([from, to, _]: [Option<i128>; 3], step: i128, length: usize) -> (i128, usize, i128) {
    let length = length as i128;
    // further apart than all elements are is as good
    let step = step.clamp(-length - 1, length + 1);
    let (least, most) = match step > 0 {
        true => (0, length),
        false => (-1, length - 1),
    };
    let bound = |bound: Option<i128>, otherwise| match bound {
        None => otherwise,
        Some(at) if at < 0 => (at.max(-length - 1) + length).max(least),
        Some(at) => at.min(most),
    };
    let (at, distance) = match step > 0 {
        true => {
            let at = bound(from, least);
            (at, bound(to, most) - at)
        }
        false => {
            let at = bound(from, most);
            (at, at - bound(to, least))
        }
    };
    let count = (distance + step.abs() - 1) / step.abs();
    (at, usize::try_from(count).unwrap_or(0), step)
}
