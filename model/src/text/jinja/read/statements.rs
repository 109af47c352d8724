//! Reads statements, from tag to tag.

use super::lexer::Token;
use super::parser::Parser;
use crate::text::jinja::meter::Result;
use crate::text::jinja::syntax::{
    Body, Expression, For, Kind, Macro, Name, Statement, Step, Target,
};
use std::sync::Arc;

/// Most parameters of a macro, each of which is looked for among all arguments.
const PARAMETERS_MAX: usize = 64;

impl Parser {
    /// Reads statements up to a tag that begins with one of these words, and says with which. The word is read too.
    pub(super) fn body(&mut self, ends: &[&str]) -> Result<(Body, String)> {
        self.nested(|parser| {
            let mut body = Vec::new();
            loop {
                let line = parser.line();
                let kind = match parser.tokens.get_mut(parser.at).map(|(token, _)| token) {
                    None if ends.is_empty() => return Ok((body, String::new())),
                    Some(Token::Data(text)) => {
                        let text = std::mem::take(text).into();
                        parser.at += 1;
                        Kind::Text(text)
                    }
                    Some(Token::PrintBegin) => {
                        parser.at += 1;
                        Kind::Print(parser.tuple(true)?)
                    }
                    Some(Token::BlockBegin) => {
                        parser.at += 1;
                        let word = parser.name()?;
                        if ends.contains(&&*word) {
                            return Ok((body, word.to_string()));
                        }
                        parser.statement(&word)?
                    }
                    _ => return parser.unexpected(),
                };
                if !matches!(kind, Kind::Text(_)) {
                    parser.tag_end()?;
                }
                body.push(Statement { line, kind });
            }
        })
    }

    /// Reads a tag's end, statements, and the word of the tag behind them.
    fn block(&mut self, end: &str) -> Result<Body> {
        self.tag_end()?;
        Ok(self.body(&[end])?.0)
    }

    /// Reads a statement up to the end of its last tag.
    fn statement(&mut self, word: &str) -> Result<Kind> {
        Ok(match word {
            "if" => self.conditions()?,
            "for" => self.for_loop()?,
            "set" => {
                let target = self.target(true)?;
                if self.skip("=") {
                    Kind::Set(target, self.tuple(true)?)
                } else {
                    let filters = self.filters()?;
                    Kind::SetBlock(target, filters, self.block("endset")?)
                }
            }
            "filter" => {
                let mut filters = vec![self.filter()?];
                filters.extend(self.filters()?);
                Kind::FilterBlock(filters, self.block("endfilter")?)
            }
            "with" => {
                let mut values = Vec::new();
                while self.peek() != Some(&Token::TagEnd) {
                    if !values.is_empty() {
                        self.require(",")?;
                    }
                    let target = self.target(false)?;
                    self.require("=")?;
                    values.push((target, self.expression()?));
                }
                Kind::With(values, self.block("endwith")?)
            }
            "generation" => {
                let outside = std::mem::replace(&mut self.in_loop, false);
                let body = self.block("endgeneration")?;
                self.in_loop = outside;
                Kind::With(Vec::new(), body)
            }
            "macro" => {
                let name = self.name()?;
                Kind::Macro(self.macro_(name, "endmacro")?)
            }
            "call" => self.call_block()?,
            "break" | "continue" if !self.in_loop => {
                return Err(self.error(format!("`{word}` outside of a loop")));
            }
            "break" => Kind::Break,
            "continue" => Kind::Continue,
            _ => return Err(self.error(format!("the tag `{word}` is not supported"))),
        })
    }

    fn conditions(&mut self) -> Result<Kind> {
        let mut bodies = Vec::new();
        self.conditions += 1;
        loop {
            let condition = self.tuple(false)?;
            self.tag_end()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            bodies.push((condition, body));
            let otherwise = match &*end {
                "elif" => continue,
                "else" => self.block("endif")?,
                _ => Vec::new(),
            };
            self.conditions -= 1;
            return Ok(Kind::If(bodies, otherwise));
        }
    }

    fn for_loop(&mut self) -> Result<Kind> {
        let target = self.target(false)?;
        if !self.skip_word("in") {
            return self.unexpected();
        }
        let iterated = self.tuple(false)?;
        let condition = self.skip_word("if");
        let condition = condition.then(|| self.expression()).transpose()?;
        let recursive = self.skip_word("recursive");
        self.tag_end()?;
        let outside = std::mem::replace(&mut self.in_loop, true);
        let (body, end) = self.body(&["endfor", "else"])?;
        self.in_loop = outside;
        let otherwise = match &*end {
            "else" => self.block("endfor")?,
            _ => Vec::new(),
        };
        Ok(Kind::For(Arc::new(For {
            target,
            iterated,
            condition,
            recursive,
            body,
            otherwise,
        })))
    }

    /// Reads parameters, if there are any, and the body of a macro.
    fn macro_(&mut self, name: Name, end: &str) -> Result<Arc<Macro>> {
        let parameters = self.parameters()?;
        self.macro_body(name, parameters, end)
    }

    fn parameters(&mut self) -> Result<Vec<(Name, Option<Expression>)>> {
        let mut parameters = Vec::new();
        if !self.skip("(") {
            return Ok(parameters);
        }
        while !self.skip(")") {
            if !parameters.is_empty() {
                self.require(",")?;
            }
            let name = self.name()?;
            let default = self.skip("=");
            let default = default.then(|| self.expression()).transpose()?;
            if default.is_none() && parameters.last().is_some_and(|(_, d)| d.is_some()) {
                return Err(self.error("a parameter without a default after one that has one"));
            }
            parameters.push((name, default));
            if parameters.len() > PARAMETERS_MAX {
                return Err(self.error(format!("more than {PARAMETERS_MAX} parameters")));
            }
        }
        Ok(parameters)
    }

    fn macro_body(
        &mut self,
        name: Name,
        parameters: Vec<(Name, Option<Expression>)>,
        end: &str,
    ) -> Result<Arc<Macro>> {
        let outside = (self.in_loop, self.varargs, self.kwargs);
        (self.in_loop, self.varargs, self.kwargs) = (false, false, false);
        let body = self.block(end)?;
        let (varargs, kwargs) = (self.varargs, self.kwargs);
        (self.in_loop, self.varargs, self.kwargs) = outside;
        Ok(Arc::new(Macro {
            name,
            parameters,
            body,
            varargs,
            kwargs,
        }))
    }

    fn call_block(&mut self) -> Result<Kind> {
        let parameters = self.parameters()?;
        let mut call = self.expression()?;
        let body = self.macro_body("caller".into(), parameters, "endcall")?;
        let Expression::Chain(_, steps) = &mut call else {
            return self.unexpected();
        };
        let Some(Step::Call(arguments)) = steps.last_mut() else {
            return self.unexpected();
        };
        let caller = Expression::Caller(body);
        arguments.named.push(("caller".into(), caller));
        Ok(Kind::Print(call))
    }

    /// Reads what a value is given to: names, and where `attributes` is set, attributes of namespaces.
    fn target(&mut self, attributes: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut several = false;
        loop {
            targets.push(if self.skip("(") {
                let target = self.nested(|parser| parser.target(attributes))?;
                self.require(")")?;
                target
            } else {
                let name = self.name()?;
                match attributes && self.skip(".") {
                    true => Target::Attribute(name, self.name()?),
                    false => Target::Name(name),
                }
            });
            if !self.skip(",") {
                break;
            }
            several = true;
            if self.is("=") || self.is(")") || self.is_word("in") {
                break;
            }
        }
        match targets.pop() {
            Some(target) if !several => Ok(target),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }
}
