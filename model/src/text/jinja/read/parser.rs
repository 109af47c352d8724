//! The tokens of a template that is read, and where in them the reader is.

use super::lexer::{Token, tokens};
use crate::text::jinja::meter::{JinjaError, Result};
use crate::text::jinja::syntax::Name;

/// Most expressions and statements within each other; what reads them, runs them and drops them recurses.
const LEVELS: usize = 60;

pub(super) struct Parser {
    pub(super) tokens: Vec<(Token, u32)>,
    pub(super) at: usize,
    levels: usize,
    pub(super) in_loop: bool,
    /// conditions around what is read: what is not supported there may never run, and is refused when it does, as in Jinja2
    pub(super) conditions: usize,
    /// whether `varargs` was named in the macro that is read
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
}

impl Parser {
    pub(super) fn new(source: &str) -> Result<Self> {
        Ok(Self {
            tokens: tokens(source)?,
            at: 0,
            levels: 0,
            in_loop: false,
            conditions: 0,
            varargs: false,
            kwargs: false,
        })
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub(super) fn line(&self) -> u32 {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.map_or(1, |(_, line)| *line)
    }

    pub(super) fn error(&self, why: impl Into<String>) -> JinjaError {
        JinjaError {
            line: self.line(),
            why: why.into(),
        }
    }

    pub(super) fn unexpected<T>(&self) -> Result<T> {
        Err(self.error(match self.peek() {
            None => "unexpected end of the template".to_owned(),
            Some(Token::TagEnd) => "unexpected end of a tag".to_owned(),
            Some(Token::Name(name)) => format!("unexpected `{name}`"),
            Some(Token::Operator(operator)) => format!("unexpected `{operator}`"),
            Some(_) => "unexpected value".to_owned(),
        }))
    }

    pub(super) fn is(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == word)
    }

    pub(super) fn skip(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    pub(super) fn require(&mut self, operator: &str) -> Result<()> {
        match self.skip(operator) {
            true => Ok(()),
            false => self.unexpected(),
        }
    }

    pub(super) fn tag_end(&mut self) -> Result<()> {
        match self.peek() {
            Some(Token::TagEnd) => {
                self.at += 1;
                Ok(())
            }
            _ => self.unexpected(),
        }
    }

    pub(super) fn name(&mut self) -> Result<Name> {
        let Some(Token::Name(name)) = self.peek() else {
            return self.unexpected();
        };
        let name = name.as_str().into();
        self.at += 1;
        Ok(name)
    }

    pub(super) fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.levels += 1;
        if self.levels > LEVELS {
            return Err(self.error(format!(
                "more than {LEVELS} tags and brackets within each other"
            )));
        }
        let read = read(self)?;
        self.levels -= 1;
        Ok(read)
    }
}
