//! The file's own chat template: a conversation as the model was trained to read it.

use super::{Message, Role, TextError, Tokenizer};
use crate::gguf::Gguf;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context};
use std::io;

/// Longest template, in bytes. Real ones are 0.3 to 10 KiB.
const MAX_TEMPLATE_BYTES: usize = 64 << 10;
const FUEL: u64 = 50_000;
const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const KEY: &str = "tokenizer.chat_template";

/// The file's own chat template, compiled once.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    thinks: bool,
}

/// What to feed for a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// token ids, BOS included where the template has it
    pub tokens: Vec<u32>,
    /// the prompt leaves a thought open
    pub thinking_open: bool,
}

impl ChatTemplate {
    /// From `tokenizer.chat_template`.
    ///
    /// # Errors
    /// [`TextError::Gguf`] if the file has none, [`TextError::Template`] if it does not compile.
    pub fn from_gguf(g: &Gguf) -> Result<Self, TextError> {
        let has_marks = g.strings("tokenizer.ggml.tokens")?.contains(&CLOSE);
        Self::new(g.str(KEY)?, has_marks)
    }

    fn new(source: &str, has_marks: bool) -> Result<Self, TextError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            let why = format!("{} bytes, at most {MAX_TEMPLATE_BYTES}", source.len());
            return Err(TextError::Template(why));
        }
        let mut env = Environment::new();
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function(
            "raise_exception",
            |why: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
            },
        );
        env.add_template_owned(KEY, source.to_string())
            .map_err(|e| TextError::Template(e.to_string()))?;
        let thinks = has_marks || source.contains(OPEN) || source.contains(CLOSE);
        Ok(Self { env, thinks })
    }

    /// Renders with the generation prompt and tokenizes. Control tokens in message contents stay text.
    /// `thinking == false` on a thinking model: an empty thought (`<think>\n\n</think>\n\n`) is written for the model.
    ///
    /// # Errors
    /// [`TextError::Render`] if the template refuses the conversation or runs over a limit; [`TextError::TooLong`].
    pub fn prompt(
        &self,
        tok: &Tokenizer,
        messages: &[Message],
        thinking: bool,
    ) -> Result<Prompt, TextError> {
        let mut text = self.render(tok, messages, thinking)?;
        let thinking_open = text.trim_end().ends_with(OPEN);
        if !thinking && self.thinks {
            close_thought(&mut text);
        }
        let mut tokens = tok.encode_guarded(&text)?;
        if let Some(bos) = tok
            .bos()
            .filter(|bos| tok.adds_bos() && tokens.first() != Some(bos))
        {
            tokens.insert(0, bos);
        }
        Ok(Prompt {
            tokens,
            thinking_open: thinking_open && thinking,
        })
    }

    /// Does this model think (template or vocabulary names `<think>`)?
    pub fn thinks(&self) -> bool {
        self.thinks
    }

    fn render(
        &self,
        tok: &Tokenizer,
        messages: &[Message],
        thinking: bool,
    ) -> Result<String, TextError> {
        let refused = |e: minijinja::Error| TextError::Render(e.to_string());
        let guarded: Vec<Value> = messages
            .iter()
            .map(|m| {
                // the template cuts the thought out of past answers: it must see the marks there
                let but: &[&str] = if m.role == Role::Assistant {
                    &[OPEN, CLOSE]
                } else {
                    &[]
                };
                context! { role => m.role.as_str(), content => tok.marks().guard(&m.content, but) }
            })
            .collect();
        let limit = messages
            .iter()
            .map(|m| 4 * m.content.len() + 256)
            .sum::<usize>()
            + 16 * 1024;
        let mut out = Bounded {
            text: Vec::new(),
            limit,
        };
        let template = self.env.get_template(KEY).map_err(refused)?;
        let context = context! {
            messages => guarded,
            add_generation_prompt => true,
            bos_token => tok.bos_text(),
            eos_token => tok.eos_text(),
            enable_thinking => thinking,
        };
        template
            .render_captured_to(context, &mut out)
            .map_err(refused)?;
        String::from_utf8(out.text).map_err(|e| TextError::Render(e.to_string()))
    }
}

/// Ends the thought that the prompt opened, or writes an empty one; nothing if the template did already.
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

struct Bounded {
    text: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if self.limit - self.text.len() < part.len() {
            return Err(io::Error::other("output too long"));
        }
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
