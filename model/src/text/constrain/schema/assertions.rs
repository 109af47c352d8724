//! Reads the keywords that ask something of one type of values.

use super::SchemaError;
use super::bounds::Bound;
use super::formats;
use super::keywords::Reader;
use super::values::{count, multiple, writable};
use super::work::Measure;
use crate::text::constrain::pattern::{Pattern, STATES_MAX};
use serde_json::{Map, Value};

/// Most properties of one object, named ones and patterns. The compiler goes a level deeper for each.
const PROPERTIES_MAX: usize = 256;
/// Most patterns of properties of one object. The compiler compares each with each.
const PATTERNS_MAX: usize = 8;
/// Most items that have a schema of their own.
const PREFIX_MAX: usize = 128;
/// States of a number's or a format's automaton, about.
const STATES_OF_FORMAT: usize = 150;

/// Puts a bound into `group`. An open end whose digits a number with a fraction may begin with is closed one step of fifteen
/// digits further on. A model writes the digits of the end and goes on, and what is nearer may be the end itself to a reader that
/// keeps doubles.
fn range(key: &str, number: f64, map: &Map<String, Value>, group: &mut Map<String, Value>) {
    let closed = match key {
        "exclusiveMinimum" if number > 0.0 => "minimum",
        "exclusiveMaximum" if number < 0.0 => "maximum",
        _ => key,
    };
    if closed == key || map.get("type") == Some(&"integer".into()) {
        // a closed end may be there already, which has been made of an open one and of this
        group.entry(key).or_insert_with(|| map[key].clone());
        return;
    }
    let decimals = (14.0 - number.abs().log10().floor()).max(0.0) as usize;
    let away = number.abs() + 0.1_f64.powi(decimals as i32);
    // as it is written with so many digits
    let away = format!("{away:.decimals$}").parse().unwrap_or(away);
    let given = map.get(closed).and_then(Value::as_f64);
    let further = if closed == "minimum" {
        away.max(given.unwrap_or(away))
    } else {
        (-away).min(given.unwrap_or(-away))
    };
    group.insert(closed.into(), further.into());
}

impl<'s> Reader<'s> {
    /// Reads the keyword `key` of `map`, if it asks something of one type, into `group`. Schemas in it become parts of `base`.
    pub(super) fn assertion(
        &mut self,
        key: &str,
        map: &'s Map<String, Value>,
        group: &mut Map<String, Value>,
        base: &mut Measure,
    ) -> Result<(), SchemaError> {
        let value = &map[key];
        match key {
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                let number = self.number(value)?;
                self.bound(key, number)?;
                range(key, number, map, group);
            }
            "multipleOf" => {
                let number = multiple(value).map_err(|message| self.refuse(message))?;
                self.multiples(number, map)?;
                group.insert(key.into(), value.clone());
            }
            "items" | "additionalProperties" => {
                if value.is_array() {
                    return Err(self.refuse("must be a schema; a list of them is `prefixItems`"));
                }
                let (value, part) = self.schema(value)?;
                base.contain(&part);
                group.insert(key.into(), value);
            }
            "prefixItems" => {
                let list = self.list(value)?;
                if list.len() > PREFIX_MAX {
                    return Err(self.refuse(format!("has more than {PREFIX_MAX} schemas")));
                }
                let mut values = Vec::new();
                for (index, value) in list.iter().enumerate() {
                    let (value, part) =
                        self.at(index.to_string(), |reader| reader.schema(value))?;
                    base.contain(&part);
                    values.push(value);
                }
                group.insert(key.into(), values.into());
            }
            "properties" | "patternProperties" => {
                let values = self.properties(key, value, base)?;
                group.insert(key.into(), values.into());
            }
            "required" => {
                let names = self.required(map)?;
                group.insert(key.into(), names.into());
            }
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                let count = count(value).map_err(|message| self.refuse(message))?;
                if key.ends_with("Properties") {
                    self.property_count(map)?;
                }
                group.insert(key.into(), count.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes note of a bound.
    fn bound(&mut self, key: &str, number: f64) -> Result<(), SchemaError> {
        let new = Bound::new(key, number);
        if let Some(other) = self.bounds.iter().find(|other| other.meets(&new)) {
            let message = format!(
                "is not enforced beside the bound {}, which is less than one away, if one of them is open",
                other.number
            );
            return Err(self.refuse(message));
        }
        self.bounds.push(new);
        Ok(())
    }

    /// Checks that all multiples together have a common one that is small enough, and that this one lies between its bounds.
    fn multiples(&mut self, number: f64, map: &Map<String, Value>) -> Result<(), SchemaError> {
        if !self.multiples.contains(&number) {
            self.multiples.push(number);
        }
        // multiplied with ten thousand, each of them is a whole number or is too small to stand beside others
        const SCALE: f64 = 10_000.0;
        let product: f64 = self
            .multiples
            .iter()
            .map(|one| (one * SCALE).max(1.0))
            .product();
        if self.multiples.len() > 1 && product > f64::from(u32::MAX) {
            return Err(self.refuse("has no common multiple with the others that is small enough"));
        }
        let bound = |key: &str| map.get(key).and_then(Value::as_f64);
        let (Some(least), Some(most)) = (bound("minimum"), bound("maximum")) else {
            return Ok(());
        };
        if (most / number).floor() < (least / number).ceil() {
            return Err(self.refuse("has no multiple between `minimum` and `maximum`"));
        }
        Ok(())
    }

    /// Reads all keywords that ask something of a string into `group`.
    pub(super) fn text(
        &mut self,
        map: &'s Map<String, Value>,
        group: &mut Map<String, Value>,
    ) -> Result<(), SchemaError> {
        let length = |reader: &mut Self, key: &str| match map.get(key) {
            None => Ok(None),
            Some(value) => reader.at(key, |reader| {
                count(value)
                    .map(Some)
                    .map_err(|message| reader.refuse(message))
            }),
        };
        let least = length(self, "minLength")?.unwrap_or(0);
        let mut most = length(self, "maxLength")?;
        let mut patterns = Vec::new();
        if let Some(value) = map.get("format") {
            let (pattern, longest) = self.at("format", |reader| reader.format(value))?;
            if self.is_new(&pattern, least, most) {
                let states = STATES_OF_FORMAT + most.unwrap_or(least);
                self.at("format", |reader| reader.spend(Ok(states)))?;
            }
            patterns.push(pattern);
            most = most.into_iter().chain(longest).min();
        }
        let own = match map.get("pattern") {
            Some(value) => Some(self.at("pattern", |reader| reader.pattern(value))?),
            None => None,
        };
        let counted = if map.contains_key("maxLength") {
            "maxLength"
        } else {
            "minLength"
        };
        if let Some(pattern) = own {
            let text = pattern.text();
            if self.is_new(&text, least, most) {
                self.at("pattern", |reader| {
                    reader.spend(pattern.states(least, most))
                })?;
            }
            patterns.push(text);
        } else if patterns.is_empty() && self.is_new("", least, most) {
            let counts = most.unwrap_or(least);
            self.at(counted, |reader| reader.spend(Ok(counts)))?;
        }
        if least > 0 {
            group.insert("minLength".into(), least.into());
        }
        if let Some(most) = most {
            group.insert("maxLength".into(), most.into());
        }
        if let Some(pattern) = patterns.pop() {
            group.insert("pattern".into(), pattern.into());
        }
        if let Some(pattern) = patterns.pop() {
            let both = Map::from_iter([("pattern".to_owned(), Value::from(pattern))]);
            group.insert("allOf".into(), vec![both].into());
        }
        Ok(())
    }

    fn format(&self, value: &Value) -> Result<(String, Option<usize>), SchemaError> {
        let Some(name) = value.as_str() else {
            return Err(self.refuse("must be a string"));
        };
        let Some(format) = formats::named(name) else {
            return Err(self.refuse(format!(
                "is not enforced with this value; {} are",
                formats::NAMES.join(", ")
            )));
        };
        let pattern = Pattern::within(&format.pattern).map_err(|message| self.refuse(message))?;
        Ok((pattern.text(), format.most))
    }

    fn pattern(&self, value: &Value) -> Result<Pattern, SchemaError> {
        let Some(text) = value.as_str() else {
            return Err(self.refuse("must be a string"));
        };
        let pattern = Pattern::within(text).map_err(|message| self.refuse(message))?;
        Ok(pattern.only(writable))
    }

    /// Whether no string before had this pattern and these lengths. The lexer has each of them once.
    fn is_new(&mut self, pattern: &str, least: usize, most: Option<usize>) -> bool {
        self.texts.insert((pattern.to_owned(), least, most))
    }

    /// Counts states of what is at this place.
    fn spend(&mut self, states: Result<usize, String>) -> Result<(), SchemaError> {
        self.states += states.map_err(|message| self.refuse(message))?;
        if self.states > STATES_MAX {
            return Err(self.refuse(format!(
                "is beyond the {STATES_MAX} states that all patterns and counted lengths may need together"
            )));
        }
        Ok(())
    }

    fn properties(
        &mut self,
        key: &str,
        value: &'s Value,
        base: &mut Measure,
    ) -> Result<Map<String, Value>, SchemaError> {
        let Some(map) = value.as_object() else {
            return Err(self.refuse("must be an object"));
        };
        let most = if key == "properties" {
            PROPERTIES_MAX
        } else {
            PATTERNS_MAX
        };
        if map.len() > most {
            return Err(self.refuse(format!(
                "has {} properties, at most {most} are taken",
                map.len()
            )));
        }
        let mut all = Map::new();
        for (name, value) in map {
            let (name, value) = self.at(name, |reader| {
                let mut name = name.clone();
                if key != "properties" {
                    let pattern =
                        Pattern::within(&name).map_err(|message| reader.refuse(message))?;
                    let pattern = pattern.only(writable);
                    name = pattern.text();
                    if reader.is_new(&name, 0, None) {
                        reader.spend(pattern.states(0, None))?;
                    }
                }
                let (value, part) = reader.schema(value)?;
                base.contain(&part);
                Ok((name, value))
            })?;
            all.insert(name, value);
        }
        Ok(all)
    }

    fn required(&self, map: &Map<String, Value>) -> Result<Vec<Value>, SchemaError> {
        let names = map["required"]
            .as_array()
            .filter(|names| names.iter().all(Value::is_string));
        let Some(names) = names else {
            return Err(self.refuse("must be a list of names"));
        };
        if names.len() > PROPERTIES_MAX {
            return Err(self.refuse(format!("has more than {PROPERTIES_MAX} names")));
        }
        let mut all: Vec<Value> = Vec::new();
        for name in names {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        Ok(all)
    }

    /// Checks that a number of properties can be enforced: an order of names is kept, and which of them come is not counted.
    fn property_count(&self, map: &Map<String, Value>) -> Result<(), SchemaError> {
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let names = map.get("required").and_then(Value::as_array);
        let required: Vec<&str> = names
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let more = number("minProperties").unwrap_or(0.0) - required.len() as f64;
        if more > 1.0 {
            return Err(self.refuse(
                "is only enforced up to one more than are required, because the same name may come twice",
            ));
        }
        let properties = map.get("properties").and_then(Value::as_object);
        let optional = properties.into_iter().flatten().filter(|(name, value)| {
            !required.contains(&name.as_str()) && **value != Value::Bool(false)
        });
        let counted = more > 0.0 || map.contains_key("maxProperties");
        if optional.count() == 0 || !counted {
            return Ok(());
        }
        let spare = number("maxProperties").map(|most| most - required.len() as f64);
        let closed = map.get("additionalProperties") == Some(&Value::Bool(false))
            && !map.contains_key("patternProperties");
        if closed && spare.unwrap_or(1.0) == 1.0 {
            return Ok(());
        }
        Err(self.refuse(
            "is only enforced where all `properties` are required, or where one of them may be chosen and no others",
        ))
    }
}
