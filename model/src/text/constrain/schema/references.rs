//! Reads references and follows them.

use super::SchemaError;
use super::definition::Definition;
use super::keywords::Reader;
use super::work::{Measure, Read};
use crate::text::tools::pointer;
use serde_json::Value;

/// Most schemas that are referred to.
const DEFINITIONS_MAX: usize = 256;

impl<'s> Reader<'s> {
    /// Reads a reference, and what it refers to if that was not read before.
    pub(super) fn reference(&mut self, value: &'s Value) -> Result<Read, SchemaError> {
        let Some(target) = value.as_str() else {
            return Err(self.refuse("must be a string"));
        };
        let Some(pointer) = pointer(target) else {
            return Err(self.refuse("refers to another document, which is never fetched"));
        };
        if !(pointer.is_empty() || pointer.starts_with('/')) {
            return Err(self.refuse("refers to an anchor; write the way to it, as `#/$defs/name`"));
        }
        let Some(found) = self.root.pointer(&pointer) else {
            return Err(self.refuse("refers to nothing"));
        };
        if std::ptr::eq(found, self.root) {
            return Ok(("#".into(), Measure::SELF));
        }
        let index = match self.known.get(&std::ptr::from_ref(found)) {
            Some(index) => *index,
            None => self.define(&pointer, found)?,
        };
        let read = &self.definitions[index].read;
        let measure = read.as_ref().map_or(Measure::SELF, |(_, measure)| Measure {
            nodes: 1,
            ..*measure
        });
        Ok((format!("#/$defs/{index}").into(), measure))
    }

    fn define(&mut self, pointer: &str, found: &'s Value) -> Result<usize, SchemaError> {
        let index = self.definitions.len();
        if index == DEFINITIONS_MAX {
            let message =
                format!("is beyond the {DEFINITIONS_MAX} schemas that may be referred to");
            return Err(self.refuse(message));
        }
        let steps = pointer.split('/').skip(1);
        let place: Vec<String> = steps
            .map(|step| step.replace("~1", "/").replace("~0", "~"))
            .collect();
        self.known.insert(found, index);
        self.definitions.push(Definition {
            place: place.clone(),
            read: None,
        });
        let here = std::mem::replace(&mut self.place, place);
        let read = self.schema(found)?;
        self.place = here;
        self.definitions[index].read = Some(read);
        Ok(index)
    }
}
