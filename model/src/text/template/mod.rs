//! The chat template of a model file: it writes a conversation as the model was trained to read it.

mod support;
mod values;

use super::jinja::{Jinja, JinjaError};
use super::tokenizer::SpecialTokens;
use super::{Convention, Format, MAX_TEXT_BYTES, Message, Role, TextError, Tokenizer, Tool};
use crate::gguf::{Gguf, MAX_TEMPLATE};
use glowplug_firmware_config::limits::TOOL_CALLS_MAX;
use std::borrow::Cow;
use support::Support;
use values::{Calls, Values};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const KEY: &str = "tokenizer.chat_template";

/// A chat template that was read.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    template: Jinja,
    thinks: bool,
    /// whether it names `</think>` and so cuts the thought out of past answers
    cuts: bool,
    support: Support,
}

/// The tokens to feed for a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids, with the beginning-of-text token where the template has it.
    pub tokens: Vec<u32>,
    /// Whether the prompt leaves a thought open, which the answer goes on with.
    pub thinking_open: bool,
    /// How many of the first tokens are the same whatever the client says: see [`ChatTemplate::with_system`].
    pub common: usize,
}

impl ChatTemplate {
    /// Takes the template from the file's `tokenizer.chat_template`.
    ///
    /// # Errors
    /// [`TextError::Gguf`] if the file has none, [`TextError::Template`] if it cannot be read.
    pub fn from_gguf(g: &Gguf) -> Result<Self, TextError> {
        Self::given(g.str(KEY)?, g)
    }

    /// Takes the template from `source` instead, for the vocabulary of this file.
    ///
    /// # Errors
    /// [`TextError::Gguf`] if the file has no vocabulary, [`TextError::Template`] if the source cannot be read or is longer
    /// than [`MAX_TEMPLATE`].
    pub fn given(source: &str, g: &Gguf) -> Result<Self, TextError> {
        if source.len() > MAX_TEMPLATE {
            let bytes = source.len();
            return Err(TextError::Template(format!(
                "it has {bytes} bytes, the limit is {MAX_TEMPLATE}"
            )));
        }
        let has_tags = g.strings("tokenizer.ggml.tokens")?.contains(&CLOSE);
        Self::new(source, has_tags)
    }

    fn new(source: &str, has_tags: bool) -> Result<Self, TextError> {
        let template = Jinja::new(source).map_err(|e| TextError::Template(short(&e)))?;
        let cuts = source.contains(CLOSE);
        let thinks = has_tags || cuts || source.contains(OPEN);
        Ok(Self {
            thinks,
            cuts,
            support: Support::of(source, &template),
            template,
        })
    }

    /// Renders the conversation and the tools that are offered, with the generation prompt, and tokenizes it. Control tokens in
    /// what clients wrote stay text. If a model that thinks must not, an empty thought (`<think>\n\n</think>\n\n`) is written
    /// for it.
    ///
    /// Where a template says nothing of tools, they are described in the system message, and calls and results are written
    /// into the texts of their messages.
    ///
    /// # Errors
    /// [`TextError::Render`] if the template refuses the conversation or runs over a limit, [`TextError::TooLong`] if there is
    /// more text than is tokenized at once.
    pub fn prompt(
        &self,
        tok: &Tokenizer,
        messages: &[Message],
        tools: &[Tool],
        thinking: bool,
    ) -> Result<Prompt, TextError> {
        let (text, thinking_open) = self.write(tok, messages, tools, thinking)?;
        let mut tokens = tok.encode_guarded(&text)?;
        if let Some(bos) = tok
            .bos()
            .filter(|bos| tok.adds_bos() && tokens.first() != Some(bos))
        {
            tokens.insert(0, bos);
        }
        Ok(Prompt {
            tokens,
            thinking_open,
            common: 0,
        })
    }

    /// The same for a [`conversation`] with a system text of the configuration.
    ///
    /// The tokens that do not depend on the messages are counted: they are those that the prompt shares with one whose messages
    /// begin with another letter and which offers no tools, because tools are the client's.
    ///
    /// # Errors
    /// Those of [`Self::prompt`].
    pub fn with_system(
        &self,
        tok: &Tokenizer,
        system: &str,
        messages: &[Message],
        tools: &[Tool],
        thinking: bool,
    ) -> Result<Prompt, TextError> {
        let first = messages.first();
        let letter = another_letter(first);
        let other = match first {
            Some(m) if m.role == Role::System => {
                vec![Message::new(Role::System, letter), Message::user("x")]
            }
            _ => vec![Message::user(letter)],
        };
        let mut prompt = self.prompt(tok, &conversation(system, messages), tools, thinking)?;
        // a template that refuses the other conversation has nothing in common with it
        let other = self.prompt(tok, &conversation(system, &other), &[], thinking);
        let other = other.map_or_else(|_| Vec::new(), |prompt| prompt.tokens);
        let pairs = prompt.tokens.iter().zip(&other);
        prompt.common = pairs.take_while(|(a, b)| a == b).count();
        Ok(prompt)
    }

    /// The text of a prompt, of which [`Self::prompt`] makes tokens. A control token that somebody said looks in it like one that
    /// the template wrote.
    ///
    /// # Errors
    /// Those of [`Self::prompt`].
    pub fn text(
        &self,
        tok: &Tokenizer,
        messages: &[Message],
        thinking: bool,
    ) -> Result<String, TextError> {
        let (text, _) = self.write(tok, messages, &[], thinking)?;
        let text = SpecialTokens::unguard(&text);
        let bos = tok.bos_text();
        if tok.adds_bos() && !text.starts_with(bos) {
            return Ok(format!("{bos}{text}"));
        }
        Ok(text.into_owned())
    }

    /// Renders the conversation. Gives whether a thought is left open; if there must be none, an empty one is written.
    fn write(
        &self,
        tok: &Tokenizer,
        messages: &[Message],
        tools: &[Tool],
        thinking: bool,
    ) -> Result<(String, bool), TextError> {
        let mut text = self.render(tok, messages, tools, thinking)?;
        let open = text.trim_end().ends_with(OPEN);
        if !thinking && self.thinks {
            close_thought(&mut text);
        }
        Ok((text, open && thinking))
    }

    /// Whether this model thinks: its template or its vocabulary names `<think>`.
    pub fn thinks(&self) -> bool {
        self.thinks
    }

    /// How the model of this template writes a call, and how many calls of one answer the template can read again.
    pub fn calls(&self) -> (Convention, usize) {
        let most = if self.support.several {
            TOOL_CALLS_MAX
        } else {
            1
        };
        (self.support.convention, most)
    }

    fn render(
        &self,
        tok: &Tokenizer,
        messages: &[Message],
        tools: &[Tool],
        thinking: bool,
    ) -> Result<String, TextError> {
        let bytes = messages.iter().map(Message::bytes).sum::<usize>()
            + tools.iter().map(Tool::bytes).sum::<usize>();
        if bytes > MAX_TEXT_BYTES {
            return Err(TextError::TooLong {
                bytes,
                limit: MAX_TEXT_BYTES,
            });
        }
        let plain = |m: &Message| m.role != Role::Tool && m.tool_calls.is_empty();
        let messages = if tools.is_empty() && messages.iter().all(plain) {
            Cow::Borrowed(messages)
        } else {
            Cow::Owned(self.support.adapt(messages, tools))
        };
        let tools = if self.support.tools { tools } else { &[] };
        let refused = |error: JinjaError| TextError::Render(short(&error));
        let guard = |text: &str| tok.special().guard(text, &[]);
        let mut values = Values::new(&guard, self.support.calls.unwrap_or(Calls::ALL[0]));
        let mut made = Vec::with_capacity(messages.len());
        for (i, message) in messages.iter().enumerate() {
            let called = called(&messages[..i], message);
            let content = self.guard(tok.special(), message);
            made.push(values.message(message, &content, called).map_err(refused)?);
        }
        let tools = tools.iter().map(|tool| values.tool(tool));
        let tools = tools.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let work = work(made.len(), values.bytes, values.nodes);
        let context = values::context(made, tools, tok.bos_text(), tok.eos_text(), thinking);
        let text = context.and_then(|context| self.template.render(context, work));
        text.map_err(refused)
    }

    /// The contents of a message without control tokens. A template that knows thoughts cuts them out of past answers, so
    /// there the tags up to the last `</think>` stay; the template leaves none of them.
    fn guard(&self, special: &SpecialTokens, m: &Message) -> String {
        let thought = if m.role == Role::Assistant && self.cuts {
            m.content.rfind(CLOSE).map_or(0, |at| at + CLOSE.len())
        } else {
            0
        };
        let (thought, rest) = m.content.split_at(thought);
        special.guard(thought, &[OPEN, CLOSE]) + &special.guard(rest, &[])
    }
}

/// A text that begins with another letter than a message.
#[must_use]
pub fn another_letter(message: Option<&Message>) -> &'static str {
    match message.map(|m| m.content.trim_start()) {
        Some(text) if text.starts_with('x') => "y",
        _ => "x",
    }
}

/// A conversation with a system text of the configuration before it. If the messages begin with a system message of their own, it
/// is the end of that text, because templates know one such message.
pub fn conversation(system: &str, messages: &[Message]) -> Vec<Message> {
    let (own, rest) = match messages {
        [own, rest @ ..] if own.role == Role::System => (Some(&own.content), rest),
        _ => (None, messages),
    };
    let content = match own {
        Some(own) => format!("{system}\n\n{own}"),
        None => system.to_owned(),
    };
    [&[Message::new(Role::System, content)], rest].concat()
}

/// A conversation in which the model is told what its answer is held to, by the last lines of the system message.
pub fn described(messages: &[Message], format: &Format) -> Vec<Message> {
    let text = match format {
        Format::JsonObject => "Answer with a JSON object.".to_owned(),
        Format::JsonSchema(schema) => {
            format!("Answer with JSON that is valid against this JSON schema:\n{schema}")
        }
        Format::Regex(pattern) => {
            format!(
                "Answer with a text that matches this regular expression as a whole:\n{pattern}"
            )
        }
    };
    let mut messages = messages.to_vec();
    match messages.first_mut() {
        Some(system) if system.role == Role::System => {
            system.content.push_str("\n\n");
            system.content.push_str(&text);
        }
        _ => messages.insert(0, Message::new(Role::System, text)),
    }
    messages
}

/// The name of the tool whose result a message is.
fn called<'m>(before: &'m [Message], message: &Message) -> Option<&'m str> {
    let id = message.tool_call_id.as_ref()?;
    let mut calls = before.iter().rev().flat_map(|m| &m.tool_calls);
    calls.find(|call| call.id == *id).map(|call| &*call.name)
}

/// How much work a template may do on so many messages of so many bytes together, with so many values in tools and calls.
fn work(messages: usize, bytes: usize, nodes: usize) -> usize {
    (8 << 20) + (16 << 10) * messages + (4 << 10) * nodes + 16 * bytes
}

/// The beginning of an error's first line. The template may have written the message itself, so it must not be long.
fn short(e: &JinjaError) -> String {
    let text = e.to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

/// Ends the thought that the prompt opened, or writes an empty one. Does nothing if the template has done so already.
fn close_thought(text: &mut String) {
    let end = text.trim_end();
    if end.ends_with(CLOSE) {
        return;
    }
    let open = end.ends_with(OPEN);
    if !open {
        text.push_str("<think>\n");
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("\n</think>\n\n");
}

#[cfg(test)]
pub(super) mod tests;
