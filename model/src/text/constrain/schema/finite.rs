//! Whether an answer can come to its end: a schema that requires itself has none.

use super::work::{TYPES, type_named};
use serde_json::{Map, Value};

/// A bit for each of [`TYPES`]: those of which a schema has answers that come to an end. Kept apart, because of what stands beside each
/// other one may ask for arrays and another for a first item.
type Kinds = u8;

const ALL: Kinds = (1 << TYPES.len()) - 1;

/// What has an end among the root and the definitions, which are those of a schema that is written anew.
pub(super) struct Ends {
    pub(super) root: Kinds,
    pub(super) definitions: Vec<Kinds>,
}

impl Ends {
    /// Finds them out. What has an end by what is known to have one has one itself, until nothing is added.
    pub(super) fn of(root: &Map<String, Value>, definitions: &[Value]) -> Self {
        let mut ends = Self {
            root: 0,
            definitions: vec![0; definitions.len()],
        };
        loop {
            let root_ends = ends.object(root);
            let mut more = root_ends != ends.root;
            ends.root = root_ends;
            for (index, definition) in definitions.iter().enumerate() {
                let kinds = ends.schema(definition);
                more |= kinds != ends.definitions[index];
                ends.definitions[index] = kinds;
            }
            if !more {
                return ends;
            }
        }
    }

    fn schema(&self, value: &Value) -> Kinds {
        match value {
            Value::Object(map) => self.object(map),
            Value::Bool(false) => 0,
            _ => ALL,
        }
    }

    fn object(&self, map: &Map<String, Value>) -> Kinds {
        let each = |key| {
            let list = map.get(key).and_then(Value::as_array)?;
            Some(list.iter().map(|value| self.schema(value)))
        };
        let all = each("allOf").map_or(ALL, |kinds| kinds.fold(ALL, |all, one| all & one));
        let any = |key| each(key).map_or(ALL, |kinds| kinds.fold(0, |any, one| any | one));
        let referred = map.get("$ref").map_or(ALL, |target| self.reference(target));
        referred & all & any("anyOf") & any("oneOf") & self.by_type(map)
    }

    fn reference(&self, target: &Value) -> Kinds {
        let name = target.as_str().and_then(|target| target.rsplit('/').next());
        match name.and_then(|name| name.parse::<usize>().ok()) {
            Some(index) => self.definitions.get(index).copied().unwrap_or(0),
            None => self.root,
        }
    }

    fn by_type(&self, map: &Map<String, Value>) -> Kinds {
        let bit = |name: &str| type_named(name).map_or(0, |place| 1 << place);
        let mut kinds = match map.get("type") {
            Some(Value::String(only)) => bit(only),
            Some(Value::Array(types)) => {
                let bits = types.iter().filter_map(Value::as_str).map(bit);
                bits.fold(0, |kinds, one| kinds | one)
            }
            _ => ALL,
        };
        if !self.properties(map) {
            kinds &= !bit("object");
        }
        if !self.items(map) {
            kinds &= !bit("array");
        }
        kinds
    }

    fn properties(&self, map: &Map<String, Value>) -> bool {
        let required = map.get("required").and_then(Value::as_array);
        let mut required = required.into_iter().flatten().filter_map(Value::as_str);
        required.all(|name| {
            let schema = map.get("properties").and_then(|all| all.get(name));
            schema.is_none_or(|schema| self.schema(schema) != 0)
        })
    }

    fn items(&self, map: &Map<String, Value>) -> bool {
        let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let first = map.get("prefixItems").and_then(Value::as_array);
        let first = first.map_or(&[][..], Vec::as_slice);
        (0..least)
            .zip(first)
            .all(|(_, schema)| self.schema(schema) != 0)
            && (least <= first.len() as u64
                || map.get("items").is_none_or(|items| self.schema(items) != 0))
    }
}
