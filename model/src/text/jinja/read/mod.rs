//! Reads a template, by the grammar of Jinja2 3.1. What is not supported is refused here, before a conversation comes.

mod expressions;
mod lexer;
mod parser;
mod statements;

use super::meter::Result;
use super::syntax::Body;
use parser::Parser;

pub(super) fn read(source: &str) -> Result<Body> {
    Ok(Parser::new(source)?.body(&[])?.0)
}
