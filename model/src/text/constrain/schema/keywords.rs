//! Reads a schema keyword by keyword.

use super::SchemaError;
use super::bounds::Bound;
use super::definition::Definition;
use super::finite::Ends;
use super::values::{constant, number};
use super::work::{Measure, Read, type_named};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Most schemas that a schema consists of.
const SCHEMAS_MAX: usize = 2_000;
/// Most schemas within each other, references followed.
const LEVELS_MAX: usize = 64;
/// Most alternatives, constants or items of one list. A hundred real schemas have 360 at most.
const LIST_MAX: usize = 1_024;
/// Most work that the schema is for the compiler, in copies of its smallest parts. Three lists of three alternatives for objects,
/// which are 17 ms on two Intel cores, are below it, and four lists above.
const WORK_MAX: u64 = 100_000;

/// Keywords that assert what no mask enforces.
const NOT_ENFORCED: [&str; 20] = [
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
    "divisibleBy",
];

/// What `$schema` may name: drafts whose keywords mean what they mean in 2020-12, or are refused.
const DRAFTS: [&str; 5] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-04/schema",
];

/// Reads the schemas of one document.
pub(super) struct Reader<'s> {
    pub(super) root: &'s Value,
    /// where the reader is
    pub(super) place: Vec<String>,
    level: usize,
    schemas: usize,
    pub(super) definitions: Vec<Definition>,
    pub(super) known: HashMap<*const Value, usize>,
    work: u64,
    /// states of all patterns and counted lengths
    pub(super) states: usize,
    /// the patterns and lengths of strings so far
    pub(super) texts: HashSet<(String, usize, Option<usize>)>,
    /// the bounds of numbers so far
    pub(super) bounds: Vec<Bound>,
    /// the multiples that are asked for
    pub(super) multiples: Vec<f64>,
}

impl<'s> Reader<'s> {
    /// Reads a document, and gives what the compiler gets.
    pub(super) fn read(root: &'s Value) -> Result<Map<String, Value>, SchemaError> {
        let mut reader = Self {
            root,
            place: Vec::new(),
            level: 0,
            schemas: 0,
            definitions: Vec::new(),
            known: HashMap::new(),
            work: 0,
            states: 0,
            texts: HashSet::new(),
            bounds: Vec::new(),
            multiples: Vec::new(),
        };
        let mut map = match reader.schema(root)?.0 {
            Value::Object(map) => map,
            Value::Bool(true) => Map::new(),
            _ => return Err(reader.refuse("allows nothing")),
        };
        let (places, values): (Vec<_>, Vec<_>) = reader
            .definitions
            .into_iter()
            .map(|definition| {
                (
                    definition.place,
                    definition.read.map_or(Value::Null, |read| read.0),
                )
            })
            .unzip();
        let ends = Ends::of(&map, &values);
        let endless = places
            .iter()
            .zip(&ends.definitions)
            .find(|(_, ends)| **ends == 0);
        let endless = endless.map(|(place, _)| place.join("."));
        if let Some(place) = endless.or((ends.root == 0).then(String::new)) {
            return Err(SchemaError {
                place,
                message:
                    "has no answer that comes to an end: it requires itself, or nothing is allowed"
                        .into(),
            });
        }
        if !values.is_empty() {
            let named = (0..).map(|index: usize| index.to_string()).zip(values);
            map.insert("$defs".into(), Value::Object(named.collect()));
        }
        Ok(map)
    }

    /// An error at the place where the reader is.
    pub(super) fn refuse(&self, message: impl Into<String>) -> SchemaError {
        SchemaError {
            place: self.place.join("."),
            message: message.into(),
        }
    }

    /// Does something one step further down.
    pub(super) fn at<T>(
        &mut self,
        step: impl Into<String>,
        act: impl FnOnce(&mut Self) -> Result<T, SchemaError>,
    ) -> Result<T, SchemaError> {
        self.place.push(step.into());
        let result = act(self);
        self.place.pop();
        result
    }

    /// Reads a schema of the document.
    pub(super) fn schema(&mut self, value: &'s Value) -> Result<Read, SchemaError> {
        self.schemas += 1;
        if self.schemas > SCHEMAS_MAX {
            return Err(self.refuse(format!(
                "is beyond the {SCHEMAS_MAX} schemas that are taken"
            )));
        }
        match value {
            Value::Bool(true) => Ok((value.clone(), Measure::ANY)),
            Value::Bool(false) => Ok((value.clone(), Measure::NONE)),
            Value::Object(map) => {
                if self.level == LEVELS_MAX {
                    let message = format!("is beyond {LEVELS_MAX} levels, with references");
                    return Err(self.refuse(message));
                }
                self.level += 1;
                let read = self.keywords(map);
                self.level -= 1;
                read
            }
            _ => Err(self.refuse("must be an object or a boolean")),
        }
    }

    /// Reads what a schema asks. What its type asks stays together, where its properties are: llguidance would not see that
    /// one keyword takes from another if something stood between them.
    fn keywords(&mut self, map: &'s Map<String, Value>) -> Result<Read, SchemaError> {
        let types = self.types(map)?;
        let mut base = Measure {
            types,
            any: false,
            ..Measure::ANY
        };
        let mut group = Map::new();
        self.text(map, &mut group)?;
        for key in map.keys() {
            self.at(key, |reader| {
                reader.assertion(key, map, &mut group, &mut base)
            })?;
        }
        let mut whole = if group.is_empty() && !map.contains_key("type") {
            Measure::ANY
        } else {
            base
        };
        if let Some(types) = map.get("type") {
            group.insert("type".into(), types.clone());
        }
        let first = if map.contains_key("properties") {
            Some("properties")
        } else {
            let of_group = |key: &&String| group.contains_key(*key) || *key == "format";
            map.keys().find(of_group).map(String::as_str)
        };
        let mut out = Map::new();
        for (key, value) in map {
            if first == Some(key) {
                append(&mut out, std::mem::take(&mut group));
            }
            let read = self.at(key, |reader| reader.applicator(key, value))?;
            if let Some((value, measure)) = read {
                self.work = self.work.saturating_add(whole.and(&measure));
                if self.work > WORK_MAX {
                    return Err(self.refuse("has more alternatives than can be multiplied out"));
                }
                append(&mut out, Map::from_iter([(key.clone(), value)]));
            }
        }
        append(&mut out, group);
        Ok((Value::Object(out), whole))
    }

    /// Reads how many alternatives of each type there are.
    fn types(&mut self, map: &'s Map<String, Value>) -> Result<[u64; 6], SchemaError> {
        let Some(types) = map.get("type") else {
            return Ok([1; 6]);
        };
        let names = match types {
            Value::Array(names) if !names.is_empty() => names.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut all = [0; 6];
        for name in names {
            match name.as_str().and_then(type_named) {
                Some(at) => all[at] += 1,
                None => {
                    let message = "must be one of null, boolean, integer, number, string, array, object, or a list of them";
                    return self.at("type", |reader| Err(reader.refuse(message)));
                }
            }
        }
        Ok(all)
    }

    /// Reads a keyword that stands for other schemas or values, if it is one.
    fn applicator(&mut self, key: &str, value: &'s Value) -> Result<Option<Read>, SchemaError> {
        match key {
            "const" => {
                constant(value).map_err(|message| self.refuse(message))?;
                Ok(Some((value.clone(), Measure::of_value(value))))
            }
            "enum" => {
                let mut measure = Measure::NONE;
                for (index, value) in self.list(value)?.iter().enumerate() {
                    if let Err(message) = constant(value) {
                        return self.at(index.to_string(), |reader| Err(reader.refuse(message)));
                    }
                    measure.or(&Measure::of_value(value));
                }
                Ok(Some((value.clone(), measure)))
            }
            "allOf" | "anyOf" | "oneOf" => {
                let mut measure = if key == "allOf" {
                    Measure::ANY
                } else {
                    Measure::NONE
                };
                let mut values = Vec::new();
                for (index, value) in self.list(value)?.iter().enumerate() {
                    let (value, one) = self.at(index.to_string(), |reader| reader.schema(value))?;
                    values.push(value);
                    if key == "allOf" {
                        self.work = self.work.saturating_add(measure.and(&one));
                    } else {
                        measure.or(&one);
                    }
                }
                if key == "oneOf" {
                    self.work = self.work.saturating_add(measure.pairs());
                }
                Ok(Some((Value::Array(values), measure)))
            }
            "$ref" => self.reference(value).map(Some),
            "$id" if self.level > 1 => Err(self.refuse(
                "is not supported below the root, because it would move what references mean",
            )),
            "$schema" => {
                let name = value.as_str().unwrap_or_default().trim_end_matches('#');
                if DRAFTS.contains(&name) {
                    return Ok(None);
                }
                Err(self.refuse("names another draft than 2020-12, 2019-09, 07, 06 or 04"))
            }
            key if NOT_ENFORCED.contains(&key) => Err(self.refuse("is not enforced")),
            // what describes, and what is nowhere known to assert anything
            _ => Ok(None),
        }
    }

    /// A list that is neither empty nor too long.
    pub(super) fn list(&self, value: &'s Value) -> Result<&'s [Value], SchemaError> {
        match value.as_array() {
            Some(list) if list.is_empty() => Err(self.refuse("must not be empty")),
            Some(list) if list.len() > LIST_MAX => Err(self.refuse(format!(
                "has {} elements, at most {LIST_MAX} are taken",
                list.len()
            ))),
            Some(list) => Ok(list),
            None => Err(self.refuse("must be a list")),
        }
    }

    /// A number at this place.
    pub(super) fn number(&self, value: &Value) -> Result<f64, SchemaError> {
        number(value).map_err(|message| self.refuse(message))
    }
}

/// Appends keywords. Of `allOf`, which two of them may have made, both stay.
fn append(out: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (out.get_mut(&key), value) {
            (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
            (_, value) => drop(out.insert(key, value)),
        }
    }
}
