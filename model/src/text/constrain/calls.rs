//! The grammar of calls: what [`Convention::write`] writes, with the arguments held to the schema of their tool.

use super::SchemaError;
use super::schema::{self, Schema};
use super::tagged;
use crate::text::tools::Parameters;
use crate::text::{Convention, Tokenizer, ToolChoice, Tools};
use serde_json::Value;
use std::fmt::Write;

/// What a model may write between the parts of a call's object: one blank, or a line break and an indentation of four levels of two.
const BLANKS: &str = r"\x20|\x0A\x20{0,8}";

/// A tool that may be called.
struct Callable<'t> {
    name: &'t str,
    /// the grammar of its arguments
    arguments: String,
}

/// The tools that may be called by this choice, their schemas checked. Terminals that their arguments need are put into `texts`.
fn callable<'t>(
    convention: Convention,
    tools: &'t Tools,
    texts: &mut Vec<String>,
) -> Result<Vec<Callable<'t>>, SchemaError> {
    let mut all = Vec::new();
    for (index, tool) in tools.list.iter().enumerate() {
        if matches!(&tools.choice, ToolChoice::Named(name) if **name != *tool.name()) {
            continue;
        }
        let read = schema::read(tool.parameters()).and_then(Schema::of_object);
        let arguments = read.and_then(|schema| match convention {
            Convention::Tagged => tagged::grammar(&schema, &Parameters::of(tool), texts),
            _ => Ok(format!("%json {}", schema.grammar())),
        });
        let arguments = arguments.map_err(|error| SchemaError {
            place: format!("tools[{index}].function.parameters.{}", error.place)
                .trim_end_matches('.')
                .to_owned(),
            ..error
        })?;
        all.push(Callable {
            name: tool.name(),
            arguments,
        });
    }
    if all.is_empty() {
        return Err(SchemaError {
            place: "tool_choice".to_owned(),
            message: "names no tool of this request".to_owned(),
        });
    }
    Ok(all)
}

/// The grammar of an answer that is one to `most` calls and nothing else.
pub(super) fn answer(
    convention: Convention,
    tools: &Tools,
    most: usize,
    tokenizer: &Tokenizer,
) -> Result<String, SchemaError> {
    let mark = |text: &str| marked(text, tokenizer);
    let form = convention.form();
    let mut grammar = format!("start: {} call", mark(form.open));
    if most > 1 {
        let _ = write!(grammar, " ({} call){{0,{}}}", mark(form.next), most - 1);
    }
    let _ = writeln!(grammar, " {}", mark(form.close));
    let mut texts = Vec::new();
    for (index, tool) in callable(convention, tools, &mut texts)?.iter().enumerate() {
        let rule = if index == 0 { "call:" } else { "    |" };
        let (before, behind) = (mark(form.before), mark(form.behind));
        let between = mark(&format!("{}{}", tool.name, form.between));
        let arguments = &tool.arguments;
        let _ = writeln!(grammar, "{rule} {before} {between} {arguments} {behind}");
    }
    Ok(grammar + &terminals(&texts))
}

/// The grammar of one call within an answer. Its mark or brace is written already when it is known to be a call, and the model
/// may write its object with other blanks than the template does.
pub(super) fn within(
    convention: Convention,
    tools: &Tools,
    tokenizer: &Tokenizer,
) -> Result<String, SchemaError> {
    let form = convention.form();
    let either = |text: &str| either(text, tokenizer);
    let optional = |text: String| match text.is_empty() {
        true => text,
        false => format!("({text})?"),
    };
    let is_outside = convention.around_name().is_some();
    let (open, close) = if convention == Convention::Tagged {
        let [mark, tag] = [0, 1].map(|at| either(convention.openers()[at]));
        (
            format!("({mark} ws?)? {tag} name"),
            optional(either(form.behind)),
        )
    } else if is_outside {
        let (open, before) = (optional(either(form.open)), either(form.before));
        (
            format!("{open} {before} name"),
            optional(either(form.behind)),
        )
    } else {
        let fence = convention.fence().map(|fence| (fence, "\n```"));
        let marks = convention.marks().into_iter().chain(fence);
        let (openers, closers): (Vec<_>, Vec<_>) = marks
            .map(|(open, close)| (format!("{} ", either(open)), either(close)))
            .unzip();
        (
            format!("(({}) ws?)? object", openers.join("| ")),
            format!("({})?", closers.join("| ")),
        )
    };
    let mut grammar = format!("start: {open} {close}\nws: /{BLANKS}/\n");
    if !is_outside {
        grammar += r#"object: "{" ws? ("\"type\"" ws? ":" ws? "\"function\"" ws? "," ws?)? "\"name\"" ws? ":" ws? name "#;
        grammar += "\n";
    }
    let mut texts = Vec::new();
    for (index, tool) in callable(convention, tools, &mut texts)?.iter().enumerate() {
        let rule = if index == 0 { "name:" } else { "    |" };
        let arguments = &tool.arguments;
        let _ = if is_outside {
            let head = either(&format!("{}{}", tool.name, form.between));
            writeln!(grammar, "{rule} {head} {arguments}")
        } else {
            let name = Value::from(format!("\"{}\"", tool.name));
            let key = Value::from(format!("\"{}\"", convention.key()));
            writeln!(
                grammar,
                r#"{rule} {name} ws? "," ws? {key} ws? ":" ws? {arguments} ws? "}}""#
            )
        };
    }
    Ok(grammar + &terminals(&texts))
}

/// The terminals of these texts.
fn terminals(texts: &[String]) -> String {
    let one = |(at, text): (usize, &String)| format!("TEXT_{at}: {text}\n");
    texts.iter().enumerate().map(one).collect()
}

/// A text of the grammar. Marks that are control tokens of the vocabulary are tokens in it, all else is text.
fn marked(text: &str, tokenizer: &Tokenizer) -> String {
    split(text, tokenizer, |id, _| format!("<[{id}]>"))
}

/// The same, where marks may also have come as text: what begins a call is given as text.
fn either(text: &str, tokenizer: &Tokenizer) -> String {
    split(text, tokenizer, |id, mark| {
        format!("(<[{id}]> | {})", Value::from(mark))
    })
}

fn split(text: &str, tokenizer: &Tokenizer, mark: impl Fn(u32, &str) -> String) -> String {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (at, found) = match tokenizer.first_mark(rest) {
            Some((at, id, text)) => (at, Some((id, text))),
            None => (rest.len(), None),
        };
        if at > 0 {
            parts.push(Value::from(&rest[..at]).to_string());
        }
        rest = &rest[at..];
        if let Some((id, text)) = found {
            parts.push(mark(id, text));
            rest = &rest[text.len()..];
        }
    }
    parts.join(" ")
}
