//! Everything that a template may call: operators, filters, tests, functions and methods. Each is charged to the budget.

use super::budget::{Budget, is_scalar, refuse};
use super::json;
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters, functions, tests};
use minijinja_contrib::pycompat;
use std::sync::Arc;

/// Names of the filters that [`super::sandbox`] puts between a template's own steps. They are not identifiers, so no template
/// can call them.
pub(super) const CONCAT: &str = "~";
pub(super) const ADD: &str = "+";
pub(super) const CHARGE: &str = "$";
pub(super) const SCALARS_ONLY: &str = "[]";
pub(super) const SCALAR_ONLY: &str = "=";

/// Python's methods of texts and maps. `format` is left out because it pads to any width, and `count` because it never ends
/// for an empty text (minijinja-contrib 2.24).
const METHODS: [&str; 22] = [
    "capitalize",
    "endswith",
    "find",
    "get",
    "isalpha",
    "isdigit",
    "isspace",
    "items",
    "join",
    "keys",
    "lower",
    "lstrip",
    "replace",
    "rfind",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
    "values",
];

/// Makes the environment in which every call is charged to `budget`.
pub(super) fn environment(budget: &Arc<Budget>) -> Environment<'static> {
    let mut env = Environment::empty();
    add_operators(&mut env, budget);
    add_filters(&mut env, budget);
    add_tests(&mut env);
    let charged = budget.clone();
    env.add_function(
        "range",
        move |from: isize, to: Option<isize>, step: Option<isize>| {
            let range = functions::range(from, to, step)?;
            charged.charge_value(&range)?;
            Ok::<_, Error>(range)
        },
    );
    let (charged, namespace) = (budget.clone(), Value::from_function(functions::namespace));
    env.add_function("namespace", move |state: &State, given: Rest<Value>| {
        for value in given.iter() {
            charged.charge_value(value)?;
            scalars_only(value)?;
        }
        namespace.call(state, &given)
    });
    env.add_function("raise_exception", |why: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    let charged = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        if !METHODS.contains(&method) {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let given: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
        charged.charge_call(method, &given)?;
        let made = pycompat::unknown_method_callback(state, value, method, args)?;
        charged.charge(made.as_str().map_or(0, str::len))?;
        Ok(made)
    });
    let charged = budget.clone();
    env.set_formatter(move |out, _, value| {
        let text = text_of(value)?;
        charged.charge(text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    env
}

fn add_operators(env: &mut Environment<'static>, budget: &Arc<Budget>) {
    let charged = budget.clone();
    env.add_filter(CONCAT, move |a: &Value, b: &Value| {
        concat(&charged, &text_of(a)?, &text_of(b)?)
    });
    let charged = budget.clone();
    env.add_filter(ADD, move |a: &Value, b: &Value| {
        match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) => concat(&charged, a, b),
            _ => sum(a, b),
        }
    });
    let charged = budget.clone();
    env.add_filter(CHARGE, move |value: Value| {
        charged.charge_value(&value)?;
        Ok::<_, Error>(value)
    });
    let charged = budget.clone();
    env.add_filter(SCALARS_ONLY, move |value: Value| {
        scalars_only(&value)?;
        charged.charge_value(&value)?;
        Ok::<_, Error>(value)
    });
    env.add_filter(SCALAR_ONLY, |value: Value| {
        if is_scalar(&value) {
            Ok(value)
        } else {
            Err(refuse("a namespace holds only texts and numbers"))
        }
    });
}

fn add_filters(env: &mut Environment<'static>, budget: &Arc<Budget>) {
    for (name, filter) in [
        ("abs", Value::from_function(filters::abs)),
        ("attr", Value::from_function(filters::attr)),
        ("bool", Value::from_function(filters::bool)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("count", Value::from_function(filters::length)),
        ("d", Value::from_function(filters::default)),
        ("default", Value::from_function(filters::default)),
        ("first", Value::from_function(filters::first)),
        ("float", Value::from_function(filters::float)),
        ("indent", Value::from_function(filters::indent)),
        ("int", Value::from_function(filters::int)),
        ("items", Value::from_function(filters::items)),
        ("join", Value::from_function(filters::join)),
        ("last", Value::from_function(filters::last)),
        ("length", Value::from_function(filters::length)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("map", Value::from_function(filters::map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("replace", Value::from_function(filters::replace)),
        ("reverse", Value::from_function(filters::reverse)),
        ("round", Value::from_function(filters::round)),
        ("safe", Value::from_function(filters::safe)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("split", Value::from_function(filters::split)),
        ("string", Value::from_function(filters::string)),
        ("title", Value::from_function(filters::title)),
        ("tojson", Value::from_function(json::tojson)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ] {
        let charged = budget.clone();
        env.add_filter(name, move |state: &State, given: Rest<Value>| {
            charged.charge_call(name, &given)?;
            let made = filter.call(state, &given)?;
            charged.charge(made.as_str().map_or(0, str::len))?;
            Ok::<_, Error>(made)
        });
    }
}

fn add_tests(env: &mut Environment<'static>) {
    env.add_test("boolean", tests::is_boolean);
    env.add_test("defined", tests::is_defined);
    env.add_test("eq", tests::is_eq);
    env.add_test("equalto", tests::is_eq);
    env.add_test("even", tests::is_even);
    env.add_test("false", tests::is_false);
    env.add_test("float", tests::is_float);
    env.add_test("in", tests::is_in);
    env.add_test("integer", tests::is_integer);
    env.add_test("iterable", tests::is_iterable);
    env.add_test("mapping", tests::is_mapping);
    env.add_test("ne", tests::is_ne);
    env.add_test("none", tests::is_none);
    env.add_test("number", tests::is_number);
    env.add_test("odd", tests::is_odd);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("string", tests::is_string);
    env.add_test("true", tests::is_true);
    env.add_test("undefined", tests::is_undefined);
}

fn concat(budget: &Budget, a: &str, b: &str) -> Result<Value, Error> {
    budget.charge(a.len() + b.len())?;
    Ok([a, b].concat().into())
}

fn sum(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Ok(a), Ok(b)) = (i64::try_from(a.clone()), i64::try_from(b.clone())) {
        return a
            .checked_add(b)
            .map(Value::from)
            .ok_or_else(|| refuse("a number is too large"));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(a), Ok(b)) => Ok((a + b).into()),
        _ => Err(refuse("only texts and numbers can be added")),
    }
}

/// The text of a value as Jinja2 writes it. Only texts and numbers are written, because writing a list of lists can take for
/// ever.
fn text_of(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String | ValueKind::Number => value.to_string(),
        _ => return Err(refuse("only texts and numbers can be written")),
    })
}

/// Refuses containers within containers where a template builds them. Nobody knows how long writing them takes, and a
/// namespace could hold itself.
fn scalars_only(container: &Value) -> Result<(), Error> {
    let map = container.kind() == ValueKind::Map;
    for element in container.try_iter()? {
        if !is_scalar(&element) || (map && !is_scalar(&container.get_item(&element)?)) {
            return Err(refuse("lists and maps hold only texts and numbers"));
        }
    }
    Ok(())
}
