//! Whether an answer can come to its end: a schema that requires itself has none.

use serde_json::{Map, Value};

/// What has an end among the root and the definitions, which are those of a schema that is written anew.
pub(super) struct Ends {
    pub(super) root: bool,
    pub(super) definitions: Vec<bool>,
}

impl Ends {
    /// Finds them out. What has an end by what is known to have one has one itself, until nothing is added.
    pub(super) fn of(root: &Map<String, Value>, definitions: &[Value]) -> Self {
        let mut ends = Self {
            root: false,
            definitions: vec![false; definitions.len()],
        };
        loop {
            let root_ends = ends.root || ends.object(root);
            let mut more = root_ends != ends.root;
            ends.root = root_ends;
            for (index, definition) in definitions.iter().enumerate() {
                if !ends.definitions[index] && ends.schema(definition) {
                    ends.definitions[index] = true;
                    more = true;
                }
            }
            if !more {
                return ends;
            }
        }
    }

    fn schema(&self, value: &Value) -> bool {
        match value {
            Value::Object(map) => self.object(map),
            other => other != &Value::Bool(false),
        }
    }

    fn object(&self, map: &Map<String, Value>) -> bool {
        let list = |key| map.get(key).and_then(Value::as_array);
        let all = |key| list(key).is_none_or(|list| list.iter().all(|value| self.schema(value)));
        let any = |key| list(key).is_none_or(|list| list.iter().any(|value| self.schema(value)));
        map.get("$ref").is_none_or(|target| self.reference(target))
            && all("allOf")
            && any("anyOf")
            && any("oneOf")
            && self.by_type(map)
    }

    fn reference(&self, target: &Value) -> bool {
        let name = target.as_str().and_then(|target| target.rsplit('/').next());
        match name.and_then(|name| name.parse::<usize>().ok()) {
            Some(index) => self.definitions.get(index).copied().unwrap_or(false),
            None => self.root,
        }
    }

    fn by_type(&self, map: &Map<String, Value>) -> bool {
        let any = |wanted: &dyn Fn(&str) -> bool| match map.get("type") {
            None => true,
            Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).any(wanted),
            Some(only) => only.as_str().is_some_and(wanted),
        };
        any(&|name| match name {
            "object" => self.properties(map),
            "array" => self.items(map),
            _ => true,
        })
    }

    fn properties(&self, map: &Map<String, Value>) -> bool {
        let required = map.get("required").and_then(Value::as_array);
        let mut required = required.into_iter().flatten().filter_map(Value::as_str);
        required.all(|name| {
            let schema = map.get("properties").and_then(|all| all.get(name));
            schema.is_none_or(|schema| self.schema(schema))
        })
    }

    fn items(&self, map: &Map<String, Value>) -> bool {
        let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let first = map.get("prefixItems").and_then(Value::as_array);
        let first = first.map_or(&[][..], Vec::as_slice);
        (0..least).zip(first).all(|(_, schema)| self.schema(schema))
            && (least <= first.len() as u64
                || map.get("items").is_none_or(|items| self.schema(items)))
    }
}
