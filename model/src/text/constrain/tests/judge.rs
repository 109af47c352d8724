//! Validates JSON against a schema, written for these tests from the specification alone.

use fancy_regex::Regex;
use serde_json::{Number, Value};

/// Whether a value validates. `root` is what references mean.
pub(super) fn validates(root: &Value, schema: &Value, value: &Value) -> bool {
    holds(root, schema, value, &[])
}

/// References that are being followed, each with the value that it is followed for.
type Open<'a> = [(&'a Value, &'a Value)];

fn holds(root: &Value, schema: &Value, value: &Value, open: &Open<'_>) -> bool {
    let Value::Object(map) = schema else {
        return schema == &Value::Bool(true);
    };
    map.iter()
        .all(|(key, asked)| keyword(root, schema, key, asked, value, open))
}

fn keyword(
    root: &Value,
    schema: &Value,
    key: &str,
    asked: &Value,
    value: &Value,
    open: &Open<'_>,
) -> bool {
    let is = |schema: &Value, value: &Value| holds(root, schema, value, open);
    let list = || asked.as_array().unwrap();
    let count = || asked.as_f64().unwrap() as usize;
    match key {
        "$ref" => {
            let pointer = asked.as_str().unwrap().strip_prefix('#').unwrap();
            let target = root.pointer(&pointer.replace("%25", "%")).unwrap();
            // a schema that comes back to itself at the same value allows nothing by that
            let again =
                |(of, at): &(&Value, &Value)| std::ptr::eq(*of, target) && std::ptr::eq(*at, value);
            !open.iter().any(again)
                && holds(root, target, value, &[open, &[(target, value)]].concat())
        }
        "allOf" => list().iter().all(|one| is(one, value)),
        "anyOf" => list().iter().any(|one| is(one, value)),
        "oneOf" => list().iter().filter(|one| is(one, value)).count() == 1,
        "const" => equal(asked, value),
        "enum" => list().iter().any(|one| equal(one, value)),
        "type" => match asked {
            Value::Array(names) => names.iter().any(|name| has_type(value, name)),
            name => has_type(value, name),
        },
        _ => match value {
            Value::Number(number) => {
                let whole = number
                    .as_i128()
                    .zip(asked.as_number().and_then(Number::as_i128));
                let (asked, number) = (asked.as_f64(), number.as_f64().unwrap());
                match key {
                    "minimum" => number >= asked.unwrap(),
                    "maximum" => number <= asked.unwrap(),
                    "exclusiveMinimum" => number > asked.unwrap(),
                    "exclusiveMaximum" => number < asked.unwrap(),
                    // a float has no units beyond 2^53
                    "multipleOf" if whole.is_some() => whole.is_some_and(|(n, of)| n % of == 0),
                    "multipleOf" if number.abs() >= 2f64.powi(53) => true,
                    "multipleOf" => {
                        let times = number / asked.unwrap();
                        (times - times.round()).abs() < 1e-6
                    }
                    _ => true,
                }
            }
            Value::String(text) => match key {
                "minLength" => text.chars().count() >= count(),
                "maxLength" => text.chars().count() <= count(),
                "pattern" => Regex::new(asked.as_str().unwrap())
                    .unwrap()
                    .is_match(text)
                    .unwrap(),
                _ => true,
            },
            Value::Array(items) => match key {
                "minItems" => items.len() >= count(),
                "maxItems" => items.len() <= count(),
                "prefixItems" => list().iter().zip(items).all(|(one, item)| is(one, item)),
                "items" => {
                    let first = schema["prefixItems"].as_array().map_or(0, Vec::len);
                    items.iter().skip(first).all(|item| is(asked, item))
                }
                _ => true,
            },
            Value::Object(object) => match key {
                "minProperties" => object.len() >= count(),
                "maxProperties" => object.len() <= count(),
                "required" => list()
                    .iter()
                    .all(|name| object.contains_key(name.as_str().unwrap())),
                "properties" => object
                    .iter()
                    .all(|(name, one)| asked.get(name).is_none_or(|schema| is(schema, one))),
                "patternProperties" => object.iter().all(|(name, one)| {
                    let matching = asked.as_object().unwrap().iter();
                    let mut matching = matching.filter(|(pattern, _)| {
                        Regex::new(pattern).unwrap().is_match(name).unwrap()
                    });
                    matching.all(|(_, schema)| is(schema, one))
                }),
                "additionalProperties" => object.iter().all(|(name, one)| {
                    let named = schema["properties"].get(name).is_some();
                    let patterns = schema["patternProperties"].as_object();
                    let matched = patterns
                        .into_iter()
                        .flatten()
                        .any(|(pattern, _)| Regex::new(pattern).unwrap().is_match(name).unwrap());
                    named || matched || is(asked, one)
                }),
                _ => true,
            },
            _ => true,
        },
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

fn has_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    }
}
