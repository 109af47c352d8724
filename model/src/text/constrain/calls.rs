//! The grammar of calls: what [`Convention::write`] writes, with the arguments held to the schema of their tool.

use super::SchemaError;
use super::schema::{self, Schema};
use crate::text::{Convention, Tokenizer, ToolChoice, Tools};
use serde_json::Value;
use std::fmt::Write;

/// What a model may write between the parts of a call's object: one blank, or a line break and an indentation of four levels of two.
const BLANKS: &str = r"\x20|\x0A\x20{0,8}";

/// A tool that may be called.
struct Callable<'t> {
    name: &'t str,
    arguments: Schema,
}

/// The tools that may be called by this choice, their schemas checked.
fn callable(tools: &Tools) -> Result<Vec<Callable<'_>>, SchemaError> {
    let mut all = Vec::new();
    for (index, tool) in tools.list.iter().enumerate() {
        if matches!(&tools.choice, ToolChoice::Named(name) if **name != *tool.name()) {
            continue;
        }
        let arguments = schema::read(tool.parameters()).and_then(Schema::of_object);
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
    for (index, tool) in callable(tools)?.into_iter().enumerate() {
        let rule = if index == 0 { "call:" } else { "    |" };
        let (before, behind) = (mark(form.before), mark(form.behind));
        let between = mark(&format!("{}{}", tool.name, form.between));
        let arguments = tool.arguments.grammar();
        let _ = writeln!(
            grammar,
            "{rule} {before} {between} %json {arguments} {behind}"
        );
    }
    Ok(grammar)
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
    let deep_seek = convention == Convention::DeepSeek;
    let (open, close) = if deep_seek {
        let open = format!("({})? {} name", either(form.open), either(form.before));
        (open, format!("({})?", either(form.behind)))
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
    if !deep_seek {
        grammar += r#"object: "{" ws? ("\"type\"" ws? ":" ws? "\"function\"" ws? "," ws?)? "\"name\"" ws? ":" ws? name "#;
        grammar += "\n";
    }
    for (index, tool) in callable(tools)?.into_iter().enumerate() {
        let rule = if index == 0 { "name:" } else { "    |" };
        let arguments = tool.arguments.grammar();
        let _ = if deep_seek {
            let head = either(&format!("{}{}", tool.name, form.between));
            writeln!(grammar, "{rule} {head} %json {arguments}")
        } else {
            let name = Value::from(format!("\"{}\"", tool.name));
            let key = Value::from(format!("\"{}\"", convention.key()));
            writeln!(
                grammar,
                r#"{rule} {name} ws? "," ws? {key} ws? ":" ws? %json {arguments} ws? "}}""#
            )
        };
    }
    Ok(grammar)
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
