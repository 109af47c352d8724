//! The language of chat templates: Jinja2 as Hugging Face's transformers set it up, within bounds.
//!
//! A template comes from a model file and is treated as hostile. Its values are Python's and are made in one place each, so
//! what an operation makes is charged to a [`Meter`] before it makes it, whichever filter, method or operator it is. One
//! number bounds memory and time alike. What recurses is bounded by levels: of the source when it is read, of values when
//! they are made, of steps when they run. Containers never change, so nothing holds itself.
//!
//! What is not supported (inheritance, other templates, filters for web pages) is refused when a template is read, with its
//! line. Where it differs from Jinja2: what `safe` and `escape` make is markup only where it is added to other texts on the spot, and plain
//! text once it has a name; generators can be gone through twice and have a length, `strftime_now` is in UTC, and numbers have 128
//! bits.

mod filters;
mod format;
mod functions;
mod meter;
mod methods;
mod operators;
mod predicates;
mod read;
mod run;
mod syntax;
mod value;
mod write;

pub use meter::JinjaError;
pub(super) use meter::Meter;
use std::sync::Arc;
pub(super) use value::Value;

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Jinja(Arc<syntax::Body>);

impl Jinja {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong in it or not supported, with its line.
    pub fn new(source: &str) -> Result<Self, JinjaError> {
        Ok(Self(Arc::new(read::read(source)?)))
    }

    /// Runs the template with these names and for at most so much work, a unit of which is a byte that is made.
    pub(super) fn render(
        &self,
        context: Vec<(&str, Value)>,
        work: usize,
    ) -> Result<String, JinjaError> {
        run::run(&self.0, context, Meter::new(work))
    }

    /// Runs the template with the names of a JSON object: the language by itself, as tests compare it with Jinja2.
    ///
    /// # Errors
    /// Why the template ended, with its line; or that this is no JSON object.
    pub fn render_json(&self, context: &str, work: usize) -> Result<String, JinjaError> {
        let json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(context).map_err(|why| meter::error(why.to_string()))?;
        let mut meter = Meter::new(usize::MAX);
        let names = json
            .iter()
            .map(|(name, value)| Ok((&**name, value_of(value, &mut meter)?)));
        self.render(names.collect::<Result<_, JinjaError>>()?, work)
    }
}

fn value_of(json: &serde_json::Value, meter: &mut Meter) -> Result<Value, JinjaError> {
    use serde_json::Value as J;
    Ok(match json {
        J::Null => Value::None,
        J::Bool(value) => Value::Bool(*value),
        J::Number(number) => match (number.as_i128(), number.as_f64()) {
            (Some(int), _) => Value::Int(int),
            (None, float) => Value::Float(float.unwrap_or(f64::NAN)),
        },
        J::String(text) => text.as_str().into(),
        J::Array(items) => {
            let items = items.iter().map(|item| value_of(item, meter));
            Value::list(items.collect::<Result<_, _>>()?)?
        }
        J::Object(items) => {
            let mut made = Vec::new();
            for (key, value) in items {
                made.push((key.as_str().into(), value_of(value, meter)?));
            }
            Value::map(made, meter)?
        }
    })
}

/// The JSON of a value, as `tojson` writes it without arguments.
pub(super) fn json(value: &Value, meter: &mut Meter) -> Result<String, JinjaError> {
    write::tojson(value, &mut value::Given::default(), meter)
}

#[cfg(test)]
mod tests;
