//! Cuts a template into tokens: the text between tags, and what tags are made of. White space is trimmed as Jinja2 does with
//! `trim_blocks` and `lstrip_blocks`.

use crate::text::jinja::meter::{JinjaError, Result};
use crate::text::jinja::value::{is_space, trim_end, trim_start};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// text outside of tags
    Data(String),
    /// the tag `{{` begins
    PrintBegin,
    /// the tag `{%` begins
    BlockBegin,
    /// a tag ends, by `}}` or `%}`
    TagEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Operator(&'static str),
}

/// Longest name: looking one up is a step, however long it is.
const NAME_MAX: usize = 128;

/// Operators and brackets, those that begin like others after them.
#[rustfmt::skip]
const OPERATORS: [&str; 25] = [
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",",
];

/// The tokens with their lines.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, u32)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        counted: 0,
        tokens: Vec::new(),
    };
    lexer.all()?;
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    /// the line at `counted`, which is where the last token began
    line: u32,
    counted: usize,
    tokens: Vec<(Token, u32)>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token, begin: usize) {
        let lines = self.source[self.counted..begin].matches('\n').count();
        self.line += lines as u32;
        self.counted = begin;
        self.tokens.push((token, self.line));
    }

    fn error(&self, why: impl Into<String>) -> JinjaError {
        let line = self.source[..self.at].matches('\n').count() as u32 + 1;
        JinjaError {
            line,
            why: why.into(),
        }
    }

    /// Goes on behind `text` if it comes next.
    fn skip(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn skip_space(&mut self) {
        self.at = self.source.len() - trim_start(self.rest()).len();
    }

    fn all(&mut self) -> Result<()> {
        // whether what came before ended a line, so that blanks before a tag are the beginning of one
        let mut line_begins = true;
        loop {
            let rest = self.rest();
            let tag = rest
                .match_indices('{')
                .find(|(at, _)| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
            let Some((length, _)) = tag else {
                if !rest.is_empty() {
                    self.push(Token::Data(rest.to_owned()), self.at);
                }
                return Ok(());
            };
            let kind = rest.as_bytes()[length + 1];
            let begin = self.at;
            self.at += length + 2;
            self.data(begin, &rest[..length], kind != b'{', line_begins);
            let tag = begin + length;
            match kind {
                b'#' => {
                    let end = self.rest().find("#}");
                    let end = end.ok_or_else(|| self.error("a comment does not end"))?;
                    let last = self.rest().as_bytes()[..end].last().copied();
                    self.at += end + 2;
                    self.trim_behind(last);
                }
                b'%' if self.raw()? => {}
                _ => {
                    let token = match kind {
                        b'%' => Token::BlockBegin,
                        _ => Token::PrintBegin,
                    };
                    self.push(token, tag);
                    self.tag(kind == b'%')?;
                }
            }
            line_begins = self.source[..self.at].ends_with('\n');
        }
    }

    /// Takes the text before a tag, trimmed as the sign behind the tag's beginning says.
    fn data(&mut self, begin: usize, text: &str, strips: bool, line_begins: bool) {
        let text = if self.skip("-") {
            trim_end(text)
        } else if !self.skip("+") && strips {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            let blank = text[line..].chars().all(is_space);
            match blank && (line > 0 || line_begins) {
                true => &text[..line],
                false => text,
            }
        } else {
            text
        };
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()), begin);
        }
    }

    /// Trims behind a block or comment whose last sign this is.
    fn trim_behind(&mut self, sign: Option<u8>) {
        match sign {
            Some(b'-') => self.skip_space(),
            Some(b'+') => {}
            _ => {
                self.skip("\n");
            }
        }
    }

    /// Takes a raw block whole, if `{%` begins one.
    fn raw(&mut self) -> Result<bool> {
        let begin = self.at;
        self.skip_space();
        let raw = self.skip("raw");
        self.skip_space();
        let trims = self.skip("-");
        if !raw || !self.skip("%}") {
            self.at = begin;
            return Ok(false);
        }
        if trims {
            self.skip_space();
        }
        let begin = self.at;
        loop {
            let next = self.rest().find("{%");
            let next = next.ok_or_else(|| self.error("a raw block does not end"))?;
            self.at += next;
            let (text, tag) = (&self.source[begin..self.at], self.at);
            self.at += 2;
            let sign = self.at;
            if !self.skip("-") {
                self.skip("+");
            }
            self.skip_space();
            if !self.skip("endraw") {
                self.at = tag + 2;
                continue;
            }
            self.skip_space();
            let last = self.rest().as_bytes().first().copied();
            self.at += usize::from(matches!(last, Some(b'-' | b'+')));
            if !self.skip("%}") {
                self.at = tag + 2;
                continue;
            }
            let end = std::mem::replace(&mut self.at, sign);
            self.data(begin, text, true, false);
            self.at = end;
            self.trim_behind(last);
            return Ok(true);
        }
    }

    /// Takes the tokens of a tag and its end.
    fn tag(&mut self, block: bool) -> Result<()> {
        let mut open = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty() && self.tag_end(block) {
                return Ok(());
            }
            let begin = self.at;
            let Some(first) = self.rest().chars().next() else {
                return Err(self.error("a tag does not end"));
            };
            let token = if first.is_alphabetic() || first == '_' {
                let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
                if word.len() > NAME_MAX {
                    return Err(self.error(format!("a name of more than {NAME_MAX} bytes")));
                }
                Token::Name(word.to_owned())
            } else if first.is_ascii_digit() {
                self.number()?
            } else if first == '\'' || first == '"' {
                Token::Text(self.text(first)?)
            } else {
                let operator = OPERATORS.into_iter().find(|text| self.skip(text));
                let operator =
                    operator.ok_or_else(|| self.error(format!("unexpected `{first}`")))?;
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(operator) => {
                        return Err(self.error(format!("unexpected `{operator}`")));
                    }
                    _ => {}
                }
                Token::Operator(operator)
            };
            self.push(token, begin);
        }
    }

    fn tag_end(&mut self, block: bool) -> bool {
        let begin = self.at;
        let sign = self.rest().as_bytes().first().copied();
        let signed = match sign {
            Some(b'-') => true,
            Some(b'+') => block,
            _ => false,
        };
        self.at += usize::from(signed);
        if !self.skip(if block { "%}" } else { "}}" }) {
            self.at = begin;
            return false;
        }
        self.push(Token::TagEnd, begin);
        if block {
            self.trim_behind(sign);
        } else if signed {
            self.skip_space();
        }
        true
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'s str {
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn digits(&mut self) -> String {
        self.take_while(|c| c.is_ascii_digit() || c == '_')
            .replace('_', "")
    }

    fn number(&mut self) -> Result<Token> {
        for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
            if self.skip(prefix) {
                let digits = self.take_while(|c| c.is_digit(radix) || c == '_');
                return i128::from_str_radix(&digits.replace('_', ""), radix)
                    .map(Token::Int)
                    .map_err(|_| self.error("a number is too large"));
            }
        }
        // `a.0.1` has no fraction in it
        let whole = self.source[..self.at].ends_with('.');
        let mut number = self.digits();
        let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let mut float = false;
        if !whole && self.rest().starts_with('.') && begins(&self.rest()[1..]) {
            self.at += 1;
            float = true;
            number = format!("{number}.{}", self.digits());
        }
        let exponent = self.rest().strip_prefix(['e', 'E']);
        let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
        if let Some(digits) = exponent.filter(|text| !whole && begins(text)) {
            let sign = &self.rest()[..self.rest().len() - digits.len()];
            self.at += sign.len();
            float = true;
            number = format!("{number}{sign}{}", self.digits());
        }
        if float {
            let float = number.parse().map(Token::Float);
            return float.map_err(|_| self.error("this is no number"));
        }
        let int = number.parse().map(Token::Int);
        int.map_err(|_| self.error("a number is too large"))
    }

    /// A text between quotes, with Python's escapes.
    fn text(&mut self, quote: char) -> Result<String> {
        let mut text = String::new();
        self.at += 1;
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(self.error("a text does not end"));
            };
            self.at += c.len_utf8();
            if c == quote {
                return Ok(text);
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            let Some(c) = self.rest().chars().next() else {
                return Err(self.error("a text does not end"));
            };
            self.at += c.len_utf8();
            match c {
                '\n' => {}
                'a' => text.push('\x07'),
                'b' => text.push('\x08'),
                'f' => text.push('\x0c'),
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                'v' => text.push('\x0b'),
                '\\' | '\'' | '"' => text.push(c),
                'x' => text.push(self.escape(2, 16)?),
                'u' => text.push(self.escape(4, 16)?),
                'U' => text.push(self.escape(8, 16)?),
                '0'..='7' => {
                    self.at -= 1;
                    let digits = self.rest().bytes().take(3);
                    let digits = digits.take_while(|b| matches!(b, b'0'..=b'7')).count();
                    text.push(self.escape(digits, 8)?);
                }
                _ => text.extend(['\\', c]),
            }
        }
    }

    /// The character whose number the next digits are.
    fn escape(&mut self, digits: usize, radix: u32) -> Result<char> {
        let number = self.rest().get(..digits);
        let number = number.and_then(|text| u32::from_str_radix(text, radix).ok());
        let Some(c) = number.and_then(char::from_u32) else {
            return Err(self.error("an escape in a text names no character"));
        };
        self.at += digits;
        Ok(c)
    }
}
