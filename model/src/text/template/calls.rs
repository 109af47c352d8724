//! What a template may call, and what each call costs.

use super::sandbox::{ADD, CONCAT, FLAT, Ink, PAY, SCALAR, TOO_MUCH, refuse};
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters, functions, tests};
use minijinja_contrib::pycompat;
use std::sync::Arc;

/// What an element of a list costs besides its text.
const ELEMENT: usize = 32;

/// Python's methods of texts and maps. Not `format`, which pads to any width, nor `count`, which never
/// ends for an empty text (minijinja-contrib 2.24).
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

/// The environment in which every call pays from `ink`.
pub(super) fn environment(ink: &Arc<Ink>) -> Environment<'static> {
    let mut env = Environment::empty();
    add_operators(&mut env, ink);
    add_filters(&mut env, ink);
    add_tests(&mut env);
    let pays = ink.clone();
    env.add_function(
        "range",
        move |from: isize, to: Option<isize>, step: Option<isize>| {
            let range = functions::range(from, to, step)?;
            pays.look(&range)?;
            Ok::<_, Error>(range)
        },
    );
    let (pays, namespace) = (ink.clone(), Value::from_function(functions::namespace));
    env.add_function("namespace", move |state: &State, given: Rest<Value>| {
        for value in given.iter() {
            pays.look(value)?;
            flat(value)?;
        }
        namespace.call(state, &given)
    });
    env.add_function("raise_exception", |why: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    let pays = ink.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        if !METHODS.contains(&method) {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let given: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
        pays.call(method, &given)?;
        let made = pycompat::unknown_method_callback(state, value, method, args)?;
        pays.pay(made.as_str().map_or(0, str::len))?;
        Ok(made)
    });
    let pays = ink.clone();
    env.set_formatter(move |out, _, value| {
        let text = text_of(value)?;
        pays.pay(text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    env
}

fn add_operators(env: &mut Environment<'static>, ink: &Arc<Ink>) {
    let pays = ink.clone();
    env.add_filter(CONCAT, move |a: &Value, b: &Value| {
        pays.concat(&text_of(a)?, &text_of(b)?)
    });
    let pays = ink.clone();
    env.add_filter(ADD, move |a: &Value, b: &Value| {
        match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) => pays.concat(a, b),
            _ => sum(a, b),
        }
    });
    let pays = ink.clone();
    env.add_filter(PAY, move |value: Value| {
        pays.look(&value)?;
        Ok::<_, Error>(value)
    });
    let pays = ink.clone();
    env.add_filter(FLAT, move |value: Value| {
        flat(&value)?;
        pays.look(&value)?;
        Ok::<_, Error>(value)
    });
    env.add_filter(SCALAR, |value: Value| {
        if is_scalar(&value) {
            Ok(value)
        } else {
            Err(refuse("a namespace holds only texts and numbers"))
        }
    });
}

fn add_filters(env: &mut Environment<'static>, ink: &Arc<Ink>) {
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
        ("tojson", Value::from_function(filters::tojson)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ] {
        let pays = ink.clone();
        env.add_filter(name, move |state: &State, given: Rest<Value>| {
            pays.call(name, &given)?;
            let made = filter.call(state, &given)?;
            pays.pay(made.as_str().map_or(0, str::len))?;
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

impl Ink {
    fn look(&self, value: &Value) -> Result<(), Error> {
        self.pay(size(value, self.left())?)
    }

    fn call(&self, name: &str, given: &[Value]) -> Result<(), Error> {
        self.pay(price(name, given, self.left())?)
    }

    fn concat(&self, a: &str, b: &str) -> Result<Value, Error> {
        self.pay(a.len() + b.len())?;
        Ok([a, b].concat().into())
    }
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

/// The text of a value as Jinja2 writes it, of texts and numbers only: writing a list of lists can
/// take for ever.
fn text_of(value: &Value) -> Result<String, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::String | ValueKind::Number => value.to_string(),
        _ => return Err(refuse("only texts and numbers can be written")),
    })
}

/// Containers within containers are refused where a template builds them: they can be written in no
/// known time, and a namespace could hold itself.
fn flat(container: &Value) -> Result<(), Error> {
    let map = container.kind() == ValueKind::Map;
    for element in container.try_iter()? {
        if !is_scalar(&element) || (map && !is_scalar(&container.get_item(&element)?)) {
            return Err(refuse("lists and maps hold only texts and numbers"));
        }
    }
    Ok(())
}

fn is_scalar(value: &Value) -> bool {
    use ValueKind as K;
    matches!(
        value.kind(),
        K::Undefined | K::None | K::Bool | K::Number | K::String
    )
}

/// Bytes in a value, everything in it included; it is not looked at further than `most` bytes.
fn size(value: &Value, most: usize) -> Result<usize, Error> {
    /// The deepest that is given to a template is a text in a message in the list of messages.
    const MAX_NESTING: usize = 4;
    fn add(sum: &mut usize, value: &Value, most: usize, depth: usize) -> Result<(), Error> {
        if depth > MAX_NESTING {
            return Err(refuse("a value is nested too deeply"));
        }
        if let Some(text) = value.as_str() {
            *sum += text.len();
        } else if matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        ) {
            for element in value.try_iter()? {
                *sum += ELEMENT;
                add(sum, &element, most, depth + 1)?;
                if value.kind() == ValueKind::Map {
                    add(sum, &value.get_item(&element)?, most, depth + 1)?;
                }
                if *sum > most {
                    return Err(refuse(TOO_MUCH));
                }
            }
        }
        Ok(())
    }
    let mut sum = 0;
    add(&mut sum, value, most, 0)?;
    Ok(sum)
}

/// What the filter or method `name` makes at most of these arguments, the first being what it is
/// applied to.
fn price(name: &str, given: &[Value], most: usize) -> Result<usize, Error> {
    let takes_no_look = matches!(name, "count" | "d" | "default" | "first" | "length");
    let mut all = 0;
    for value in given.iter().filter(|v| !takes_no_look || is_scalar(v)) {
        all += size(value, most)?;
    }
    let text = |at: usize| given.get(at).and_then(Value::as_str);
    let more = match (name, text(0), text(1)) {
        ("split", Some(text), Some(by)) => (1 + text.matches(by).count()).saturating_mul(ELEMENT),
        ("splitlines", Some(text), _) => (1 + text.matches(['\n', '\r']).count()) * ELEMENT,
        // characters, or what lies between runs of white space
        ("list" | "map" | "reject" | "select" | "split" | "unique", Some(text), _) => {
            text.len().saturating_mul(ELEMENT)
        }
        // as a filter the separator is the second, as a method the first
        ("join", Some(a), Some(b)) => a.len().saturating_mul(b.len()),
        ("join", a, b) => (all / ELEMENT).saturating_mul(a.or(b).map_or(0, str::len)),
        ("replace", Some(whole), Some(from)) => whole
            .matches(from)
            .count()
            .saturating_mul(text(2).map_or(0, str::len)),
        ("indent" | "tojson", _, _) => all.saturating_mul(numbers(given)?),
        _ => 0,
    };
    Ok(all.saturating_add(more))
}

/// The sum of all numbers among the arguments: each may be a width.
fn numbers(given: &[Value]) -> Result<usize, Error> {
    let mut sum = 0usize;
    for value in given {
        sum = sum.saturating_add(value.as_usize().unwrap_or(0));
        if value.is_kwargs() {
            for key in value.try_iter()? {
                sum = sum.saturating_add(value.get_item(&key)?.as_usize().unwrap_or(0));
            }
        }
    }
    Ok(sum)
}
