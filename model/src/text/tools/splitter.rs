//! Tells the calls in an answer from its text.

use super::Tool;
use super::convention::Convention;
use super::json::{JsonText, json_object};
use super::scan::{Found, Scan};
use super::tagged::TaggedScan;
use super::takes::Parameters;
use glowplug_firmware_config::limits::TOOL_NAME_MAX;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Most bytes of white space within a call's marks, and before a call, that are held back.
const WHITE_MAX: usize = 64;
/// The keys with which the object of a call begins: the name of its tool, or its kind and then the name.
const FIRST: [&str; 2] = ["name", "type"];

/// Splits the text of an answer into what is said and what is called.
///
/// Something is a call when its object is complete and names one of the tools: then it is given out at once. Everything
/// else is text, marks included: an object that is broken, a name that no tool has, a call that never ends, one that was
/// given up ([`Self::give_up`]). So nothing that the model wrote is lost. White space around a call is no text. How the answer
/// is cut into pushes does not matter.
#[derive(Debug)]
pub struct CallSplitter {
    convention: Convention,
    tools: Arc<[Tool]>,
    /// of each tool that was called between tags, so that its schema is read once, however often a call is none
    parameters: HashMap<usize, Parameters>,
    state: SplitState,
    /// text that is not given out yet: white space, and then a partial mark or a call that has begun
    held: String,
    /// bytes of the white space that the text given out ends with, if it was too much to be held
    white: usize,
    /// calls that may still come
    left: usize,
}

/// What an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text for the reader.
    Content(&'a str),
    /// A complete call of one of the tools.
    Call {
        /// The tool, which is one of those that were given.
        name: &'a str,
        /// The text of a JSON object, without blanks.
        arguments: &'a str,
    },
}

#[derive(Debug)]
enum SplitState {
    /// in text, at its very start if nothing but white space has come
    Text { start: bool },
    /// a call has begun after so many bytes of white space in `held`; if it was `given_up`, it is none after all
    Call {
        white: usize,
        scan: Arguments,
        given_up: bool,
    },
    /// a call is complete, and its closing marks may come
    After,
}

/// What finds the end of a call's arguments.
#[derive(Debug)]
enum Arguments {
    Object(Scan),
    Tagged(TaggedScan),
}

/// Where the arguments of a call begin in its text.
enum Head<'a> {
    /// they begin at this byte, and some forms have named the tool before it
    Arguments(usize, Option<&'a str>),
    Undecided,
    Broken,
}

/// The object of a call. Models write other keys too, such as a type, which say nothing.
#[derive(Deserialize)]
struct Object {
    name: String,
    arguments: Option<JsonText>,
    parameters: Option<JsonText>,
}

impl CallSplitter {
    /// Finds calls of these tools, at most `most` of them.
    #[must_use]
    pub fn new(convention: Convention, tools: Arc<[Tool]>, most: usize) -> Self {
        Self {
            convention,
            tools,
            parameters: HashMap::new(),
            state: SplitState::Text { start: true },
            held: String::new(),
            white: 0,
            left: most,
        }
    }

    /// Takes text and calls `emit` with what is decided, never with an empty text.
    pub fn push(&mut self, text: &str, emit: &mut dyn FnMut(Piece<'_>)) {
        if self.left == 0 {
            return;
        }
        self.held.push_str(text);
        while self.left > 0 && self.advance(emit) {}
    }

    /// Whether so many calls have come that the answer ends. What is pushed after that is dropped.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// The text of the call that has begun and is not complete, from its mark, fence or brace on, as soon as it names one of the
    /// tools. A model that means a tool which is not there has said so, and is not made to call another one.
    #[must_use]
    pub fn open_call(&self) -> Option<&str> {
        let SplitState::Call {
            white,
            given_up: false,
            ..
        } = self.state
        else {
            return None;
        };
        let text = &self.held[white..];
        let name = self.convention.named(text)?;
        let known = self.tools.iter().any(|tool| tool.name() == name);
        known.then_some(text)
    }

    /// The call that has begun is none, whatever follows: it is text from the next push on.
    pub fn give_up(&mut self) {
        if let SplitState::Call { given_up, .. } = &mut self.state {
            *given_up = true;
        }
    }

    /// Ends the text and emits what was held back, which did not become a call. A closing mark that was cut off is dropped
    /// with its call.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Piece<'_>)) {
        let closers = self.convention.closers();
        let cut = matches!(self.state, SplitState::After)
            && closers.iter().any(|mark| mark.starts_with(&*self.held));
        if self.left == 0 || cut {
            self.held.clear();
        }
        self.give(self.held.len(), emit);
    }

    /// Takes one step through the held text. Gives true if there may be another.
    fn advance(&mut self, emit: &mut dyn FnMut(Piece<'_>)) -> bool {
        match self.state {
            SplitState::Text { start } => self.text(start, emit),
            SplitState::Call {
                white,
                given_up: true,
                ..
            } => self.no_call(white, emit),
            SplitState::Call { white, .. } => self.call(white, emit),
            SplitState::After => self.after(),
        }
    }

    /// Gives out text up to where a call begins, or all that cannot become the beginning of one.
    fn text(&mut self, start: bool, emit: &mut dyn FnMut(Piece<'_>)) -> bool {
        if start && self.convention.bare() {
            let white = white_start(&self.held);
            let text = &self.held[white..];
            let fence = self.convention.fence().unwrap_or("{");
            if white <= WHITE_MAX && (text.starts_with('{') || text.starts_with(fence)) {
                self.begin(white);
                return true;
            }
            if white <= WHITE_MAX && fence.starts_with(text) {
                return false;
            }
        }
        let openers = self.convention.openers();
        let first = openers.iter().filter_map(|mark| self.held.find(mark)).min();
        if let Some(at) = first {
            let before = self.white_end(at);
            self.give(before, emit);
            self.begin(at - before);
            return true;
        }
        let partial = partial(&self.held, openers);
        let safe = self.white_end(self.held.len() - partial);
        self.give(safe, emit);
        false
    }

    fn begin(&mut self, white: usize) {
        self.state = SplitState::Call {
            white,
            scan: match self.convention {
                Convention::Tagged => Arguments::Tagged(TaggedScan::default()),
                _ => Arguments::Object(Scan::default()),
            },
            given_up: false,
        };
    }

    /// Where the white space begins that ends at `end` and may be held back.
    fn white_end(&self, end: usize) -> usize {
        let text = self.held[..end].trim_end();
        let white = end - text.len();
        // white space that was too much to be held goes on
        let given = if text.is_empty() { self.white } else { 0 };
        if given + white > WHITE_MAX {
            end
        } else {
            text.len()
        }
    }

    /// Looks whether the call that has begun is complete, or is none.
    fn call(&mut self, white: usize, emit: &mut dyn FnMut(Piece<'_>)) -> bool {
        let text = &self.held[white..];
        let (at, named) = match head(self.convention, text) {
            Head::Arguments(at, named) => (at, named),
            Head::Undecided => return false,
            Head::Broken => return self.no_call(white, emit),
        };
        let arguments = &text[at..];
        let marked = (self.convention.openers().iter()).any(|mark| text.starts_with(mark));
        if !marked && !may_be_call(arguments) {
            return self.no_call(white, emit);
        }
        let SplitState::Call { scan, .. } = &mut self.state else {
            return false;
        };
        let known = |name: &str| self.tools.iter().position(|tool| tool.name() == name);
        let (found, tagged) = match scan {
            Arguments::Object(scan) => (scan.object(arguments), None),
            Arguments::Tagged(scan) => {
                // of a tool that is not there, nobody knows where a value ends
                let Some(tool) = named.and_then(known) else {
                    return self.no_call(white, emit);
                };
                let read = || Parameters::of(&self.tools[tool]);
                let parameters = &*self.parameters.entry(tool).or_insert_with(read);
                (
                    scan.parameters(arguments, parameters),
                    Some((&*scan, parameters)),
                )
            }
        };
        let end = match found {
            Found::End(end) => end,
            Found::More => return false,
            Found::Broken => return self.no_call(white, emit),
        };
        // arguments before the name of their tool were held to nothing
        let tool = self.convention.named(text).and_then(known);
        let called = tool.and_then(|tool| {
            let tool = &self.tools[tool];
            let arguments = match tagged {
                Some((scan, parameters)) => scan.arguments(arguments, parameters),
                None => object_of(&arguments[..end], named, tool),
            };
            Some((tool, arguments?))
        });
        let Some((tool, arguments)) = called else {
            return self.no_call(white, emit);
        };
        emit(Piece::Call {
            name: tool.name(),
            arguments: &arguments,
        });
        let used = white + at + end;
        self.held.drain(..used);
        self.left -= 1;
        self.white = 0;
        self.state = SplitState::After;
        true
    }

    /// What looked like a call is text: its first character is given out, and the rest is looked at again.
    fn no_call(&mut self, white: usize, emit: &mut dyn FnMut(Piece<'_>)) -> bool {
        let first = self.held[white..].chars().next();
        self.give(white + first.map_or(0, char::len_utf8), emit);
        true
    }

    /// Drops white space and closing marks behind a call, and sees what follows.
    fn after(&mut self) -> bool {
        let white = white_start(&self.held);
        self.held.drain(..white);
        let (openers, closers) = (self.convention.openers(), self.convention.closers());
        let begins = |mark: &&&str| self.held.starts_with(**mark);
        // a block of code may end here, and another begin
        if let Some(fence) = self.convention.fence() {
            if self.held.starts_with(fence) {
                self.begin(0);
                return true;
            }
            if fence.starts_with(&*self.held) {
                return false;
            }
        }
        if let Some(mark) = closers.iter().find(begins) {
            self.held.drain(..mark.len());
        } else if openers.iter().any(|mark| begins(&mark))
            || self.convention.bare() && self.held.starts_with('{')
        {
            self.begin(0);
        } else if openers
            .iter()
            .chain(closers)
            .any(|mark| mark.starts_with(&*self.held))
        {
            return false;
        } else {
            self.state = SplitState::Text { start: false };
        }
        true
    }

    /// Emits the first `len` held bytes as text.
    fn give(&mut self, len: usize, emit: &mut dyn FnMut(Piece<'_>)) {
        if len == 0 {
            return;
        }
        let text = &self.held[..len];
        let white = len - text.trim_end().len();
        self.white = if white == len {
            self.white + white
        } else {
            white
        };
        emit(Piece::Content(text));
        self.held.drain(..len);
        self.state = SplitState::Text { start: false };
    }
}

/// Bytes of the white space that a text begins with.
fn white_start(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// Bytes of the longest end of a text that begins one of these marks.
fn partial(text: &str, marks: &[&str]) -> usize {
    let longest = |mark: &&str| {
        // both are whole UTF-8, so an end that equals a beginning starts and ends at a character
        let begins = |&n: &usize| text.as_bytes().ends_with(&mark.as_bytes()[..n]);
        (1..mark.len()).rev().find(begins)
    };
    marks.iter().filter_map(longest).max().unwrap_or(0)
}

/// Finds where the arguments begin in a call that begins with `text`.
fn head(convention: Convention, text: &str) -> Head<'_> {
    let (before, behind) = convention.around_name().unwrap_or_default();
    let mut rest = text;
    // DeepSeek has one mark for all calls and one for each
    for mark in convention.openers() {
        match skip(rest, mark) {
            _ if before.contains(mark) => {}
            Some(Ok(behind)) => rest = behind,
            Some(Err(())) if rest.len() < text.len() => return Head::Undecided,
            _ => {}
        }
    }
    let mut name = None;
    if convention.around_name().is_some() {
        for mark in before {
            match skip(rest, mark) {
                Some(Ok(behind)) => rest = behind,
                Some(Err(())) => return Head::Undecided,
                None => return Head::Broken,
            }
        }
        let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let end = rest.find(|c| !letter(c));
        let Some(end) = end.filter(|end| *end <= TOOL_NAME_MAX) else {
            return if rest.len() > TOOL_NAME_MAX {
                Head::Broken
            } else {
                Head::Undecided
            };
        };
        name = Some(&rest[..end]);
        rest = &rest[end..];
        for mark in behind {
            match skip(rest, mark) {
                Some(Ok(behind)) => rest = behind,
                Some(Err(())) => return Head::Undecided,
                None => return Head::Broken,
            }
        }
    }
    if convention == Convention::Tagged {
        return Head::Arguments(text.len() - rest.len(), name);
    }
    if let Some(fence) = convention.fence().filter(|_| rest.len() == text.len()) {
        rest = rest.strip_prefix(fence).unwrap_or(rest);
    }
    let white = white_start(rest);
    match rest[white..].chars().next() {
        _ if white > WHITE_MAX => Head::Broken,
        None => Head::Undecided,
        Some('{') => Head::Arguments(text.len() - rest.len() + white, name),
        Some(_) => Head::Broken,
    }
}

/// Skips white space and then a mark. None: something else is there; an error: it may still come.
fn skip<'t>(text: &'t str, mark: &str) -> Option<Result<&'t str, ()>> {
    let behind = text.trim_start();
    if text.len() - behind.len() > WHITE_MAX {
        return None;
    }
    match behind.strip_prefix(mark) {
        Some(rest) => Some(Ok(rest)),
        None => mark.starts_with(behind).then_some(Err(())),
    }
}

/// Whether an object that no mark announces may still become a call, by its first key.
fn may_be_call(object: &str) -> bool {
    let white = white_start(&object[1..]);
    let key = &object[1 + white..];
    if white > WHITE_MAX {
        return false;
    }
    match key
        .strip_prefix('"')
        .map(|key| key.split_once('"').ok_or(key))
    {
        None => key.is_empty(),
        Some(Ok((key, _))) => FIRST.contains(&key),
        Some(Err(begun)) => FIRST.iter().any(|first| first.starts_with(begun)),
    }
}

impl Convention {
    /// The tool that a call names which begins with `text`, as soon as the name is complete and nothing but the kind of a call came
    /// before it.
    fn named(self, text: &str) -> Option<&str> {
        let object = match head(self, text) {
            Head::Arguments(_, Some(name)) => return Some(name),
            Head::Arguments(at, None) => &text[at + 1..],
            Head::Undecided | Head::Broken => return None,
        };
        let (mut key, mut value, rest) = member(object)?;
        if key == FIRST[1] {
            (key, value, _) = member(rest.trim_start().strip_prefix(',')?)?;
        }
        (key == FIRST[0]).then_some(value)
    }
}

/// The first member of an object if it is a text without escapes: its key, its value, and what follows.
fn member(text: &str) -> Option<(&str, &str, &str)> {
    let (key, rest) = quoted(text)?;
    let (value, rest) = quoted(rest.trim_start().strip_prefix(':')?)?;
    Some((key, value, rest))
}

/// A text between quotes, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let (inner, rest) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    (!inner.contains('\\')).then_some((inner, rest))
}

/// The arguments of a call of this tool, if its object has them. `named`: the object is the arguments, because the name came
/// before it.
fn object_of(text: &str, named: Option<&str>, tool: &Tool) -> Option<String> {
    if named.is_some() {
        return json_object(text).ok();
    }
    let object: Object = serde_json::from_str(text).ok()?;
    if object.name != tool.name() {
        return None;
    }
    match object.arguments.or(object.parameters) {
        // a tool that takes nothing
        None => Some("{}".to_owned()),
        // some write them as the client gets them, as a string
        Some(JsonText(text)) if text.starts_with('"') => {
            json_object(&serde_json::from_str::<String>(&text).ok()?).ok()
        }
        Some(JsonText(text)) => text.starts_with('{').then_some(text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
