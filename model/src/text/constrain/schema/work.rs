//! How much work a schema is for the compiler, counted before it begins.
//!
//! llguidance multiplies schemas out: what stands beside each other is intersected, alternative by alternative, with copies of
//! both. The numbers here are upper bounds of that.

use serde_json::Value;

/// The types of JSON that a schema tells apart.
pub(super) const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];

/// What a schema is as a part of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure {
    /// alternatives of each of [`TYPES`]
    pub(super) types: [u64; 6],
    /// schemas that it consists of
    pub(super) nodes: u64,
    /// the same with those that it refers to, at each place where it does
    pub(super) deep: u64,
    /// whether it allows everything
    pub(super) any: bool,
    /// whether it refers to what it is a part of
    pub(super) recursive: bool,
}

/// A schema that is read, and what it is as a part.
pub(super) type Read = (Value, Measure);

impl Measure {
    /// A schema that asks nothing.
    pub(super) const ANY: Self = Self {
        types: [1; 6],
        nodes: 1,
        deep: 1,
        any: true,
        recursive: false,
    };
    /// A schema that allows nothing.
    pub(super) const NONE: Self = Self {
        types: [0; 6],
        any: false,
        ..Self::ANY
    };
    /// What is being read: it refers to itself.
    pub(super) const SELF: Self = Self {
        any: false,
        recursive: true,
        ..Self::ANY
    };

    /// The schema of one constant.
    pub(super) fn of_value(value: &Value) -> Self {
        let mut types = [0; 6];
        types[type_of(value)] = 1;
        let nodes = nodes(value);
        Self {
            types,
            nodes,
            deep: nodes,
            any: false,
            recursive: false,
        }
    }

    fn alternatives(&self) -> u64 {
        self.types
            .iter()
            .fold(0, |sum, one| sum.saturating_add(*one))
    }

    /// A part: a property, an item.
    pub(super) fn contain(&mut self, part: &Self) {
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.deep = self.deep.saturating_add(part.deep);
        self.recursive |= part.recursive;
    }

    /// One of several that are allowed.
    pub(super) fn or(&mut self, other: &Self) {
        for (sum, one) in self.types.iter_mut().zip(other.types) {
            *sum = sum.saturating_add(one);
        }
        self.any |= other.any;
        self.contain(other);
    }

    /// What stands beside each other. Gives the work that it is.
    pub(super) fn and(&mut self, other: &Self) -> u64 {
        if self.any || other.any {
            let both = [*self, *other];
            *self = if self.any { *other } else { *self };
            self.nodes = both
                .iter()
                .fold(0, |sum, one| sum.saturating_add(one.nodes));
            return 0;
        }
        let (left, right) = (self.alternatives(), other.alternatives());
        let copies = left
            .saturating_mul(other.nodes)
            .saturating_add(right.saturating_mul(self.nodes));
        let mut work = left.saturating_mul(right).saturating_add(copies);
        if self.deep > self.nodes && other.deep > other.nodes {
            // where both refer to others, these are intersected too
            work = work.saturating_add(self.deep.min(other.deep).saturating_mul(8));
        }
        for (one, other) in self.types.iter_mut().zip(other.types) {
            *one = one.saturating_mul(other);
        }
        self.nodes = copies;
        self.deep = copies.max(self.deep).max(other.deep);
        self.recursive |= other.recursive;
        work
    }

    /// The work of finding out that no two of its alternatives allow the same.
    pub(super) fn pairs(&self) -> u64 {
        self.alternatives().saturating_mul(self.alternatives())
    }
}

/// The place of a type's name in [`TYPES`]; an integer is a number.
pub(super) fn type_named(name: &str) -> Option<usize> {
    let name = if name == "integer" { "number" } else { name };
    TYPES.iter().position(|known| *known == name)
}

/// The type of a value, as a place in [`TYPES`].
pub(super) fn type_of(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

fn nodes(value: &Value) -> u64 {
    1 + match value {
        Value::Array(values) => values.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}
