//! Values of a template, which are Python's. Containers never change, so they hold no cycle, and each knows how deep it is.

use super::meter::{ELEMENT, Meter, Result, error, fail};
use super::syntax::{For, Macro};
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Deepest value: what writes, compares and drops one recurses. The deepest that a template is given are the arguments of a
/// call, which have 64 levels and lie in a function in a call in calls in a message in messages.
const DEPTH: usize = 128;

#[derive(Debug, Clone)]
pub(in crate::text) enum Value {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    List(Rc<List>),
    Map(Rc<Map>),
    Namespace(Rc<Namespace>),
    Macro(Rc<Closure>),
    Loop(Rc<Loop>),
    /// one of the functions that every template has
    Function(&'static str),
    /// a value and the name of a method of it
    Method(Rc<(Value, Arc<str>)>),
}

/// The kinds of what is iterated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequence {
    List,
    Tuple,
    /// what a filter gives element by element in Python: true though it is empty, and no sequence
    Generator,
}

#[derive(Debug)]
pub(in crate::text) struct List {
    pub(super) items: Vec<Value>,
    pub(super) sequence: Sequence,
    depth: usize,
}

#[derive(Debug)]
pub(in crate::text) struct Map {
    pub(super) entries: Vec<(Value, Value)>,
    /// where the entries are whose keys are texts
    index: HashMap<Arc<str>, usize>,
    depth: usize,
}

/// Names with values that a template may change.
#[derive(Debug)]
pub(in crate::text) struct Namespace(pub(super) RefCell<HashMap<Arc<str>, Value>>);

/// A macro, and the scope in which it was defined.
#[derive(Debug)]
pub(in crate::text) struct Closure {
    pub(super) definition: Arc<Macro>,
    pub(super) scope: usize,
}

/// What `loop` is in the body of a loop.
#[derive(Debug)]
pub(in crate::text) struct Loop {
    pub(super) items: Rc<List>,
    pub(super) at: Cell<usize>,
    pub(super) depth: usize,
    /// the loop and the scope around it
    pub(super) of: (Arc<For>, usize),
    /// what `loop.changed` was given last
    pub(super) changed: RefCell<Option<Value>>,
}

/// White space, by Python.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

pub(super) fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

pub(super) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// How deep an element is. A container holds data only: what a template may change could hold itself.
fn depth_of(element: &Value) -> Result<usize> {
    Ok(match element {
        Value::List(list) => list.depth,
        Value::Map(map) => map.depth,
        Value::Namespace(_) | Value::Macro(_) | Value::Loop(_) | Value::Method(_) => {
            return fail(format!("a container cannot hold a {}", element.kind()));
        }
        _ => 0,
    })
}

fn deeper(depth: usize) -> Result<usize> {
    if depth >= DEPTH {
        return fail(format!("values within each other more than {DEPTH} deep"));
    }
    Ok(depth + 1)
}

impl Value {
    pub(in crate::text) fn list(items: Vec<Value>) -> Result<Value> {
        Self::sequence(items, Sequence::List)
    }

    pub(super) fn sequence(items: Vec<Value>, sequence: Sequence) -> Result<Value> {
        let mut depth = 0;
        for item in &items {
            depth = depth.max(depth_of(item)?);
        }
        let depth = deeper(depth)?;
        Ok(Value::List(Rc::new(List {
            items,
            sequence,
            depth,
        })))
    }

    /// A map of these entries, of which the later ones replace those with the same key.
    pub(in crate::text) fn map(
        entries: impl IntoIterator<Item = (Value, Value)>,
        meter: &mut Meter,
    ) -> Result<Value> {
        let mut map = Map {
            entries: Vec::new(),
            index: HashMap::new(),
            depth: 0,
        };
        for (key, value) in entries {
            meter.charge_elements(2)?;
            if matches!(key, Value::List(_) | Value::Map(_)) {
                return fail("the keys of a map must be texts and numbers");
            }
            map.depth = map.depth.max(depth_of(&key)?).max(depth_of(&value)?);
            if let Some(at) = map.find(&key, meter)? {
                map.entries[at].1 = value;
                continue;
            }
            if let Value::Text(key) = &key {
                map.index.insert(key.clone(), map.entries.len());
            }
            map.entries.push((key, value));
        }
        map.depth = deeper(map.depth)?;
        Ok(Value::Map(Rc::new(map)))
    }

    /// The text that was made, whose bytes are charged.
    pub(super) fn text(text: String, meter: &mut Meter) -> Result<Value> {
        meter.charge(text.len() + ELEMENT)?;
        Ok(Value::Text(text.into()))
    }

    pub(in crate::text) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number without a fraction, as which Python takes bools too.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(value) => Some(i128::from(*value)),
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            _ => self.as_int().map(|value| value as f64),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) => list.sequence == Sequence::Generator || !list.items.is_empty(),
            Value::Map(map) => !map.entries.is_empty(),
            _ => true,
        }
    }

    /// What this is called in errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Undefined => "undefined value",
            Value::None => "none",
            Value::Bool(_) => "bool",
            Value::Int(_) => "integer",
            Value::Float(_) => "float",
            Value::Text(_) => "text",
            Value::List(list) => match list.sequence {
                Sequence::List => "list",
                Sequence::Tuple => "tuple",
                Sequence::Generator => "generator",
            },
            Value::Map(_) => "map",
            Value::Namespace(_) => "namespace",
            Value::Macro(_) => "macro",
            Value::Loop(_) => "loop",
            Value::Function(_) => "function",
            Value::Method(_) => "method",
        }
    }

    /// What a loop over this goes through: the elements, the characters, or the keys.
    pub(super) fn elements(&self, meter: &mut Meter) -> Result<Rc<List>> {
        let items: Vec<Value> = match self {
            Value::List(list) => return Ok(list.clone()),
            Value::Undefined => Vec::new(),
            Value::Text(text) => {
                meter.charge_elements(text.chars().count())?;
                let mut buffer = [0; 4];
                let one = |c: char| Value::from(&*c.encode_utf8(&mut buffer));
                text.chars().map(one).collect()
            }
            Value::Map(map) => {
                meter.charge_elements(map.entries.len())?;
                map.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            _ => return fail(format!("a {} cannot be iterated", self.kind())),
        };
        Ok(Rc::new(List {
            items,
            sequence: Sequence::List,
            depth: 1,
        }))
    }

    /// The elements in a vector of their own.
    pub(super) fn into_vec(self, meter: &mut Meter) -> Result<Vec<Value>> {
        let list = self.elements(meter)?;
        meter.charge_elements(list.items.len())?;
        Ok(list.items.clone())
    }

    /// Whether two values are equal, by Python.
    pub(super) fn equals(&self, other: &Value, meter: &mut Meter) -> Result<bool> {
        meter.charge(ELEMENT / 4)?;
        Ok(match (self, other) {
            (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => true,
            (Value::Text(a), Value::Text(b)) => {
                meter.charge(a.len().min(b.len()) / 4)?;
                a == b
            }
            (Value::List(a), Value::List(b)) => {
                if a.sequence != b.sequence || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, meter)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.get(key, meter)? {
                        Some(other) if value.equals(other, meter)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => match (self.as_float(), other.as_float()) {
                    (Some(a), Some(b)) => a == b,
                    _ => false,
                },
            },
        })
    }

    /// Which of two values is less, where Python has an order of them.
    pub(super) fn compare(&self, other: &Value, meter: &mut Meter) -> Result<Ordering> {
        meter.charge(ELEMENT / 4)?;
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(a.cmp(&b));
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return Ok(a.partial_cmp(&b).unwrap_or_else(|| a.total_cmp(&b)));
        }
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => {
                meter.charge(a.len().min(b.len()) / 4)?;
                Ok(a.cmp(b))
            }
            (Value::List(a), Value::List(b)) if a.sequence == b.sequence => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, meter)? {
                        return a.compare(b, meter);
                    }
                }
                Ok(a.items.len().cmp(&b.items.len()))
            }
            _ => fail(format!(
                "a {} and a {} have no order",
                self.kind(),
                other.kind()
            )),
        }
    }
}

impl Map {
    fn find(&self, key: &Value, meter: &mut Meter) -> Result<Option<usize>> {
        if let Value::Text(text) = key {
            meter.charge(text.len() / 2)?;
            return Ok(self.index.get(text).copied());
        }
        if self.index.len() == self.entries.len() {
            return Ok(None);
        }
        for (at, (found, _)) in self.entries.iter().enumerate() {
            if found.equals(key, meter)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    pub(super) fn get(&self, key: &Value, meter: &mut Meter) -> Result<Option<&Value>> {
        Ok(self.find(key, meter)?.map(|at| &self.entries[at].1))
    }

    /// The value of a key that is a text.
    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|at| &self.entries[*at].1)
    }
}

impl Loop {
    pub(super) fn attribute(&self, name: &str) -> Option<Value> {
        let (at, length) = (self.at.get(), self.items.items.len());
        let beside = |at: Option<usize>| at.and_then(|at| self.items.items.get(at)).cloned();
        let number = match name {
            "index" => at + 1,
            "index0" => at,
            "revindex" => length - at,
            "revindex0" => length - at - 1,
            "length" => length,
            "depth" => self.depth + 1,
            "depth0" => self.depth,
            "first" => return Some(Value::Bool(at == 0)),
            "last" => return Some(Value::Bool(at + 1 == length)),
            "previtem" => return beside(at.checked_sub(1)),
            "nextitem" => return beside(Some(at + 1)),
            _ => return None,
        };
        Some(Value::Int(number as i128))
    }
}

/// What a filter, a test or a function is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) positional: VecDeque<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Given {
    /// The next argument: by its position, or else by this name.
    pub(super) fn next(&mut self, name: &str) -> Option<Value> {
        self.positional.pop_front().or_else(|| self.named(name))
    }

    /// The argument that is only given by its name.
    pub(super) fn named(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(known, _)| **known == *name)?;
        Some(self.named.swap_remove(at).1)
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Value> {
        self.next(name)
            .ok_or_else(|| error(format!("the argument `{name}` is missing")))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<Arc<str>>> {
        match self.next(name) {
            None | Some(Value::None) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => fail(format!("the argument `{name}` is a {}", other.kind())),
        }
    }

    pub(super) fn int(&mut self, name: &str) -> Result<Option<i128>> {
        match self.next(name) {
            None | Some(Value::None) => Ok(None),
            Some(value) => {
                let wrong = || error(format!("the argument `{name}` is a {}", value.kind()));
                value.as_int().ok_or_else(wrong).map(Some)
            }
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        self.next(name).is_some_and(|value| value.is_true())
    }

    /// Refuses what was given and not asked for.
    pub(super) fn end(self, of: &str) -> Result<()> {
        match self.positional.is_empty() && self.named.is_empty() {
            true => Ok(()),
            false => fail(format!("`{of}` takes no such arguments")),
        }
    }
}
