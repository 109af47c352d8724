//! Whether the arguments of a call fit the schema of their tool, as far as the daemon relies on it: which properties there
//! are and must be, their types, and the values that they may have. The rest of a schema is the model's to keep.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What a schema says of the arguments of one tool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    properties: BTreeMap<String, Property>,
    /// Other properties are refused.
    closed: bool,
}

/// What a schema says of one argument.
#[derive(Debug, Clone, Default, PartialEq)]
struct Property {
    required: bool,
    /// The only values that it may have, if they are listed.
    values: Option<Vec<Value>>,
    /// Names of the types that it may have; any, if there are none.
    types: Vec<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
}

impl Parameters {
    /// Reads a schema, which is an object.
    #[must_use]
    pub fn of(schema: &Map<String, Value>) -> Self {
        let required = texts(schema.get("required"));
        let listed = schema.get("properties").and_then(Value::as_object);
        let property = |(name, schema): (&String, &Value)| {
            let one = schema.get("const").map(|value| vec![value.clone()]);
            let several = schema.get("enum").and_then(Value::as_array).cloned();
            let property = Property {
                required: required.contains(name),
                values: one.or(several),
                types: texts(schema.get("type")),
                minimum: schema.get("minimum").and_then(Value::as_f64),
                maximum: schema.get("maximum").and_then(Value::as_f64),
            };
            (name.clone(), property)
        };
        Self {
            properties: listed.into_iter().flatten().map(property).collect(),
            closed: schema.get("additionalProperties") == Some(&Value::Bool(false)),
        }
    }

    /// Whether there is a property of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.properties.contains_key(name)
    }

    /// Whether every call must have this property.
    #[must_use]
    pub fn requires(&self, name: &str) -> bool {
        self.properties.get(name).is_some_and(|p| p.required)
    }

    /// The values that a property may have, if the schema lists them.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<&[Value]> {
        self.properties.get(name)?.values.as_deref()
    }

    /// Whether every value of a property is a text of a list, a number or a truth value.
    #[must_use]
    pub fn is_plain(&self, name: &str) -> bool {
        let Some(property) = self.properties.get(name) else {
            return false;
        };
        match &property.values {
            Some(values) => values.iter().all(|value| plain(value).is_some()),
            None => {
                let plain = |t: &String| matches!(t.as_str(), "number" | "integer" | "boolean");
                !property.types.is_empty() && property.types.iter().all(plain)
            }
        }
    }

    /// Checks the arguments of a call.
    ///
    /// # Errors
    /// Names the argument, in words for the model.
    pub fn check(&self, arguments: &Map<String, Value>) -> Result<(), String> {
        for (name, property) in &self.properties {
            match arguments.get(name) {
                None if property.required => return Err(format!("`{name}` is missing")),
                None => {}
                Some(value) => property
                    .check(value)
                    .map_err(|why| format!("`{name}` {why}"))?,
            }
        }
        match arguments.keys().find(|name| !self.has(name)) {
            Some(name) if self.closed => Err(format!("there is no `{name}`")),
            _ => Ok(()),
        }
    }
}

impl Property {
    fn check(&self, value: &Value) -> Result<(), String> {
        if let Some(values) = &self.values
            && !values.contains(value)
        {
            let names: Vec<String> = values.iter().take(16).map(Value::to_string).collect();
            return Err(format!("is none of {}", names.join(", ")));
        }
        if !self.types.is_empty() && !self.types.iter().any(|name| is_of(value, name)) {
            return Err(format!("is not of type {}", self.types.join(" or ")));
        }
        if let Some(number) = value.as_f64()
            && (self.minimum.is_some_and(|least| number < least)
                || self.maximum.is_some_and(|most| number > most))
        {
            return Err("is out of its range".to_owned());
        }
        Ok(())
    }
}

/// One text, or a list of them.
fn texts(value: Option<&Value>) -> Vec<String> {
    let one = value.and_then(Value::as_str);
    let several = value.and_then(Value::as_array).into_iter().flatten();
    let all = one.into_iter().chain(several.filter_map(Value::as_str));
    all.map(str::to_owned).collect()
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        _ => true,
    }
}

/// A value as it is written in a topic or in plain text; none of a list, an object or null.
#[must_use]
pub fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn parameters(schema: &str) -> Parameters {
        Parameters::of(&serde_json::from_str(schema).unwrap())
    }

    #[test]
    fn arguments_are_held_to_what_the_daemon_relies_on() {
        let p = parameters(
            r#"{"type":"object","properties":{"room":{"enum":["hall",7]},"level":{"type":"integer","minimum":0,"maximum":9},
                "on":{"type":["boolean","null"]},"mode":{"const":"x"}},"required":["room"],"additionalProperties":false}"#,
        );
        for (arguments, says) in [
            (r#"{"room":"hall"}"#, ""),
            (r#"{"room":7,"level":9,"on":null,"mode":"x"}"#, ""),
            (r"{}", "`room` is missing"),
            (r#"{"room":"attic"}"#, r#"`room` is none of "hall", 7"#),
            (
                r#"{"room":"hall","level":1.5}"#,
                "`level` is not of type integer",
            ),
            (
                r#"{"room":"hall","level":10}"#,
                "`level` is out of its range",
            ),
            (
                r#"{"room":"hall","level":-1}"#,
                "`level` is out of its range",
            ),
            (
                r#"{"room":"hall","on":"yes"}"#,
                "`on` is not of type boolean or null",
            ),
            (r#"{"room":"hall","mode":"y"}"#, "`mode` is none of"),
            (r#"{"room":"hall","x":1}"#, "there is no `x`"),
        ] {
            let error = p.check(&serde_json::from_str(arguments).unwrap());
            let error = error.err().unwrap_or_default();
            assert!(
                error.starts_with(says) && error.is_empty() == says.is_empty(),
                "{arguments}: {error}"
            );
        }
        let open = parameters(r#"{"properties":{}}"#);
        assert!(
            open.check(&serde_json::from_str(r#"{"x":1}"#).unwrap())
                .is_ok()
        );
    }

    #[test]
    fn plain_values_are_those_that_a_text_can_hold() {
        let p = parameters(
            r#"{"properties":{"a":{"enum":["x",1,true]},"b":{"type":"number"},"c":{"type":"string"},"d":{"enum":["x",null]},"e":{}}}"#,
        );
        let plain: Vec<&str> = ["a", "b", "c", "d", "e", "f"]
            .into_iter()
            .filter(|n| p.is_plain(n))
            .collect();
        assert_eq!(plain, ["a", "b"]);
    }
}
