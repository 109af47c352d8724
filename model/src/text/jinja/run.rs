//! Runs a template: its statements, in scopes, and its expressions.

use super::filters::apply;
use super::functions::{self, FUNCTIONS, kept};
use super::meter::{JinjaError, Meter, Result, error, fail};
use super::methods;
use super::operators::{arithmetic, attribute, compare, item, slice};
use super::predicates::test;
use super::syntax::{Arguments, Body, Expression, For, Kind, Macro, Name, Step, Target};
use super::value::{Closure, Given, Loop, Sequence, Value};
use super::write::{Writer, escape};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Whether the statements behind one run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Names of a part of the template, and the scope around it.
struct Scope {
    around: usize,
    names: HashMap<Name, Value>,
}

/// Runs a template with the names of `context`. The context's own values are not charged.
pub(super) fn run(body: &Body, context: Vec<(&str, Value)>, meter: Meter) -> Result<String> {
    let names = context.into_iter();
    let names = names.map(|(name, value)| (Name::from(name), value));
    let mut run = Run {
        meter,
        out: String::new(),
        scopes: vec![Scope {
            around: 0,
            names: names.collect(),
        }],
        scope: 0,
        line: 1,
    };
    match run.body(body) {
        Ok(_) => Ok(run.out),
        Err(error) => Err(JinjaError {
            line: run.line,
            why: error.why,
        }),
    }
}

struct Run {
    meter: Meter,
    out: String,
    scopes: Vec<Scope>,
    /// the innermost scope of what runs; the first is the whole template's
    scope: usize,
    line: u32,
}

impl Run {
    fn body(&mut self, body: &Body) -> Result<Flow> {
        self.meter.enter()?;
        for statement in body {
            self.line = statement.line;
            let flow = self.statement(&statement.kind)?;
            if flow != Flow::On {
                self.meter.leave();
                return Ok(flow);
            }
        }
        self.meter.leave();
        Ok(Flow::On)
    }

    fn statement(&mut self, kind: &Kind) -> Result<Flow> {
        match kind {
            Kind::Text(text) => {
                self.meter.charge(text.len() + 32)?;
                self.out.push_str(text);
            }
            Kind::Print(expression) => {
                let value = self.value(expression)?;
                self.write(&value)?;
            }
            Kind::If(bodies, otherwise) => {
                for (condition, body) in bodies {
                    if self.value(condition)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Kind::For(of) => {
                let iterated = self.value(&of.iterated)?;
                return self.for_loop(of, &iterated, 0);
            }
            Kind::Set(target, expression) => {
                let value = self.value(expression)?;
                self.set(target, value)?;
            }
            Kind::SetBlock(target, filters, body) => {
                let (flow, value) = self.captured(filters, body)?;
                self.set(target, value)?;
                return Ok(flow);
            }
            Kind::FilterBlock(filters, body) => {
                let (flow, value) = self.captured(filters, body)?;
                self.write(&value)?;
                return Ok(flow);
            }
            Kind::With(values, body) => {
                let mut made = Vec::new();
                for (target, expression) in values {
                    made.push((target, self.value(expression)?));
                }
                let outside = self.push_scope(self.scope)?;
                for (target, value) in made {
                    self.set(target, value)?;
                }
                let flow = self.body(body)?;
                self.pop_scope(outside);
                return Ok(flow);
            }
            Kind::Macro(definition) => {
                let closure = self.closure(definition);
                self.name(&definition.name, closure)?;
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn write(&mut self, value: &Value) -> Result<()> {
        let (out, meter) = (&mut self.out, &mut self.meter);
        Writer { out, meter }.text(value)
    }

    /// Runs a body in a scope of its own, and gives what it writes, filtered.
    fn captured(&mut self, filters: &[Step], body: &Body) -> Result<(Flow, Value)> {
        let outside = self.push_scope(self.scope)?;
        let before = std::mem::take(&mut self.out);
        let flow = self.body(body)?;
        let made = std::mem::replace(&mut self.out, before);
        self.pop_scope(outside);
        let mut value = Value::text(made, &mut self.meter)?;
        for filter in filters {
            value = self.step(value, filter)?;
        }
        Ok((flow, value))
    }

    /// Opens a scope within another one, and says which was the innermost.
    fn push_scope(&mut self, around: usize) -> Result<usize> {
        self.meter.charge_elements(1)?;
        self.scopes.push(Scope {
            around,
            names: HashMap::new(),
        });
        Ok(std::mem::replace(&mut self.scope, self.scopes.len() - 1))
    }

    fn pop_scope(&mut self, outside: usize) {
        self.scopes.pop();
        self.scope = outside;
    }

    fn name(&mut self, name: &Name, value: Value) -> Result<()> {
        self.meter.charge_elements(2)?;
        self.scopes[self.scope].names.insert(name.clone(), value);
        Ok(())
    }

    fn set(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.name(name, value),
            Target::Attribute(of, name) => {
                let Value::Namespace(names) = self.look_up(of)? else {
                    return fail(format!("`{of}` is no namespace"));
                };
                self.meter.charge_elements(2)?;
                names.0.borrow_mut().insert(name.clone(), kept(value)?);
                Ok(())
            }
            Target::Tuple(targets) => {
                let values = value.elements(&mut self.meter)?;
                if values.items.len() != targets.len() {
                    let (is, wants) = (values.items.len(), targets.len());
                    return fail(format!("{wants} names for {is} values"));
                }
                for (target, value) in targets.iter().zip(&values.items) {
                    self.set(target, value.clone())?;
                }
                Ok(())
            }
        }
    }

    fn look_up(&mut self, name: &Name) -> Result<Value> {
        let mut at = self.scope;
        loop {
            self.meter.charge(16 + name.len() / 2)?;
            let scope = &self.scopes[at];
            if let Some(value) = scope.names.get(name) {
                return Ok(value.clone());
            }
            if at == 0 {
                let function = FUNCTIONS.into_iter().find(|known| **name == **known);
                return Ok(function.map_or(Value::Undefined, Value::Function));
            }
            at = scope.around;
        }
    }

    fn for_loop(&mut self, of: &Arc<For>, iterated: &Value, depth: usize) -> Result<Flow> {
        let around = self.scope;
        let mut items = iterated.elements(&mut self.meter)?;
        if let Some(condition) = &of.condition {
            let mut chosen = Vec::new();
            for item in &items.items {
                self.meter.charge_elements(1)?;
                let outside = self.push_scope(around)?;
                self.set(&of.target, item.clone())?;
                if self.value(condition)?.is_true() {
                    chosen.push(item.clone());
                }
                self.pop_scope(outside);
            }
            items = Value::list(chosen)?.elements(&mut self.meter)?;
        }
        if items.items.is_empty() {
            return self.body(&of.otherwise);
        }
        let this = Rc::new(Loop {
            items: items.clone(),
            at: Cell::new(0),
            depth,
            of: (of.clone(), around),
            changed: RefCell::new(None),
        });
        let name = Name::from("loop");
        for (at, item) in items.items.iter().enumerate() {
            this.at.set(at);
            let outside = self.push_scope(around)?;
            self.name(&name, Value::Loop(this.clone()))?;
            self.set(&of.target, item.clone())?;
            let flow = self.body(&of.body)?;
            self.pop_scope(outside);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn closure(&self, definition: &Arc<Macro>) -> Value {
        Value::Macro(Rc::new(Closure {
            definition: definition.clone(),
            scope: self.scope,
        }))
    }

    fn value(&mut self, expression: &Expression) -> Result<Value> {
        self.meter.enter()?;
        let value = match expression {
            Expression::None => Value::None,
            Expression::Bool(value) => Value::Bool(*value),
            Expression::Int(value) => Value::Int(*value),
            Expression::Float(value) => Value::Float(*value),
            Expression::Text(text) => Value::Text(text.clone()),
            Expression::Name(name) => self.look_up(name)?,
            Expression::Chain(first, steps) => {
                let mut value = self.value(first)?;
                for step in steps {
                    value = self.step(value, step)?;
                }
                value
            }
            Expression::If(both, otherwise) => {
                let [condition, value] = &**both;
                match (self.value(condition)?.is_true(), otherwise) {
                    (true, _) => self.value(value)?,
                    (false, Some(otherwise)) => self.value(otherwise)?,
                    (false, None) => Value::Undefined,
                }
            }
            Expression::Caller(definition) => self.closure(definition),
            _ => self.compound(expression)?,
        };
        self.meter.leave();
        Ok(value)
    }

    /// The value of what has several parts. It is not a part of [`Self::value`], whose frames are the most on the stack.
    #[inline(never)]
    fn compound(&mut self, expression: &Expression) -> Result<Value> {
        Ok(match expression {
            Expression::List(items) => Value::list(self.values(items)?)?,
            Expression::Tuple(items) => Value::sequence(self.values(items)?, Sequence::Tuple)?,
            Expression::Map(items) => {
                let mut made = Vec::new();
                for (key, value) in items {
                    made.push((self.value(key)?, self.value(value)?));
                }
                Value::map(made, &mut self.meter)?
            }
            Expression::Not(operand) => Value::Bool(!self.value(operand)?.is_true()),
            Expression::Negative(operand) => match self.value(operand)? {
                Value::Float(float) => Value::Float(-float),
                value => {
                    let int = value.as_int().and_then(i128::checked_neg);
                    Value::Int(int.ok_or_else(|| error(format!("`-` of a {}", value.kind())))?)
                }
            },
            Expression::Positive(operand) => self.value(operand)?,
            Expression::Escaped(operand) => match self.value(operand)? {
                Value::Text(text) => escape(&text, &mut self.meter)?,
                value => value,
            },
            Expression::And(operands) => self.first(operands, false)?,
            Expression::Or(operands) => self.first(operands, true)?,
            Expression::Compare(first, rest) => {
                let mut left = self.value(first)?;
                for (comparison, operand) in rest {
                    let right = self.value(operand)?;
                    if !compare(*comparison, &left, &right, &mut self.meter)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expression::Arithmetic(first, rest) => {
                let mut left = self.value(first)?;
                for (operator, operand) in rest {
                    let right = self.value(operand)?;
                    left = arithmetic(*operator, &left, &right, &mut self.meter)?;
                }
                left
            }
            Expression::Concat(operands) => {
                let mut made = String::new();
                for operand in operands {
                    let value = self.value(operand)?;
                    let (out, meter) = (&mut made, &mut self.meter);
                    Writer { out, meter }.text(&value)?;
                }
                Value::text(made, &mut self.meter)?
            }
            _ => return fail("an expression that is read elsewhere"),
        })
    }

    fn values(&mut self, expressions: &[Expression]) -> Result<Vec<Value>> {
        self.meter.charge_elements(expressions.len())?;
        expressions.iter().map(|one| self.value(one)).collect()
    }

    /// The first operand that is as true as `wanted`, or else the last.
    fn first(&mut self, operands: &[Expression], wanted: bool) -> Result<Value> {
        let mut last = Value::Undefined;
        for operand in operands {
            last = self.value(operand)?;
            if last.is_true() == wanted {
                break;
            }
        }
        Ok(last)
    }

    #[inline(never)]
    fn step(&mut self, value: Value, step: &Step) -> Result<Value> {
        self.meter.charge_step()?;
        match step {
            Step::Attribute(name) => attribute(&value, name, &mut self.meter),
            Step::Item(key) => {
                let key = self.value(key)?;
                item(&value, &key, &mut self.meter)
            }
            Step::Slice(bounds) => {
                let mut given = [None; 3];
                for (bound, expression) in given.iter_mut().zip(&**bounds) {
                    let Some(expression) = expression else {
                        continue;
                    };
                    let value = self.value(expression)?;
                    if !matches!(value, Value::None) {
                        let wrong = || error(format!("a slice to a {}", value.kind()));
                        *bound = Some(value.as_int().ok_or_else(wrong)?);
                    }
                }
                slice(&value, given, &mut self.meter)
            }
            Step::Call(arguments) => {
                let given = self.given(arguments)?;
                self.call(&value, given)
            }
            Step::Filter(name, arguments) => {
                let given = self.given(arguments)?;
                apply(name, value, given, &mut self.meter)
            }
            Step::Test(name, negated, arguments) => {
                let given = self.given(arguments)?;
                let passes = test(name, &value, given, &mut self.meter)?;
                Ok(Value::Bool(passes != *negated))
            }
        }
    }

    fn given(&mut self, arguments: &Arguments) -> Result<Given> {
        let mut given = Given::default();
        for expression in &arguments.positional {
            given.positional.push_back(self.value(expression)?);
        }
        for (name, expression) in &arguments.named {
            given.named.push((name.clone(), self.value(expression)?));
        }
        if let Some(expression) = &arguments.more_positional {
            let more = self.value(expression)?.into_vec(&mut self.meter)?;
            given.positional.extend(more);
        }
        if let Some(expression) = &arguments.more_named {
            let Value::Map(map) = self.value(expression)? else {
                return fail("`**` needs a map");
            };
            self.meter.charge_elements(map.entries.len())?;
            for (key, value) in &map.entries {
                let Value::Text(key) = key else {
                    return fail("`**` needs a map of names");
                };
                given.named.push((key.clone(), value.clone()));
            }
        }
        Ok(given)
    }

    fn call(&mut self, callee: &Value, given: Given) -> Result<Value> {
        match callee {
            Value::Method(of) => methods::call(&of.0, &of.1, given, &mut self.meter),
            Value::Macro(of) => self.call_macro(of, given),
            Value::Function(name) => functions::call(name, given, &mut self.meter),
            Value::Loop(of) if of.of.0.recursive => {
                let mut given = given;
                let iterated = given.required("iterable")?;
                given.end("loop")?;
                let outside = std::mem::replace(&mut self.scope, of.of.1);
                let before = std::mem::take(&mut self.out);
                self.meter.enter()?;
                self.for_loop(&of.of.0, &iterated, of.depth + 1)?;
                self.meter.leave();
                let made = std::mem::replace(&mut self.out, before);
                self.scope = outside;
                Value::text(made, &mut self.meter)
            }
            _ => fail(format!("a {} cannot be called", callee.kind())),
        }
    }

    fn call_macro(&mut self, of: &Closure, mut given: Given) -> Result<Value> {
        let (definition, line) = (&of.definition, self.line);
        let outside = self.push_scope(of.scope)?;
        let before = std::mem::take(&mut self.out);
        if let Some(caller) = given.named("caller") {
            self.name(&"caller".into(), caller)?;
        }
        for (name, default) in &definition.parameters {
            let value = match (given.next(name), default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.value(default)?,
                (None, None) => Value::Undefined,
            };
            self.name(name, value)?;
        }
        if definition.varargs {
            let more = given.positional.drain(..).collect();
            self.name(&"varargs".into(), Value::sequence(more, Sequence::Tuple)?)?;
        }
        if definition.kwargs {
            let more = std::mem::take(&mut given.named);
            let more = more
                .into_iter()
                .map(|(name, value)| (Value::Text(name), value));
            let more = Value::map(more, &mut self.meter)?;
            self.name(&"kwargs".into(), more)?;
        }
        given.end(&definition.name)?;
        self.body(&definition.body)?;
        let made = std::mem::replace(&mut self.out, before);
        self.pop_scope(outside);
        self.line = line;
        Value::text(made, &mut self.meter)
    }
}
