//! Reads an expression as ECMAScript does, with its flag `u`.

use super::{LAST, Node, Ranges};
use std::iter::Peekable;
use std::str::Chars;

/// Groups within each other.
const LEVELS_MAX: usize = 32;

/// The characters of `\s`: ECMAScript's WhiteSpace and LineTerminator.
const SPACES: [(u32, u32); 10] = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
];
const DIGITS: [(u32, u32); 1] = [(0x30, 0x39)];
const LETTERS: [(u32, u32); 4] = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
/// What `.` does not match.
const LINE_ENDS: [(u32, u32); 3] = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)];

/// One of the alternatives that an expression consists of.
pub(super) struct Alternative {
    pub(super) node: Node,
    /// whether it begins where the text does
    pub(super) at_start: bool,
    /// whether it ends where the text does
    pub(super) at_end: bool,
}

/// Reads an expression.
///
/// # Errors
/// What is wrong with it, as a sentence without a subject.
pub(super) fn alternatives(text: &str) -> Result<Vec<Alternative>, String> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
    };
    let mut all = Vec::new();
    loop {
        let at_start = reader.skip('^');
        let node = reader.concat(0)?;
        let at_end = reader.skip('$');
        all.push(Alternative {
            node,
            at_start,
            at_end,
        });
        match reader.rest.next() {
            None => return Ok(all),
            Some('|') => {}
            Some(')') => return Err("closes a group that is not open".into()),
            Some(_) => return Err(ANCHOR.into()),
        }
    }
}

const ANCHOR: &str = "has `^` or `$` elsewhere than at an end of it or of one of its alternatives";

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
}

impl Reader<'_> {
    fn skip(&mut self, c: char) -> bool {
        self.rest.next_if_eq(&c).is_some()
    }

    /// Reads up to the end of an alternative.
    fn concat(&mut self, level: usize) -> Result<Node, String> {
        let mut parts = Vec::new();
        while let Some(&c) = self.rest.peek() {
            if matches!(c, '|' | ')' | '$') {
                break;
            }
            let part = self.atom(level)?;
            parts.push(self.repeated(part)?);
        }
        Ok(match parts.len() {
            0 => Node::Empty,
            1 => parts.remove(0),
            _ => Node::Concat(parts),
        })
    }

    fn atom(&mut self, level: usize) -> Result<Node, String> {
        let set = match self.rest.next() {
            None => return Ok(Node::Empty),
            Some('(') => return self.group(level),
            Some('[') => self.class()?,
            Some('.') => negated(LINE_ENDS.to_vec()),
            Some('\\') => self.escape(false)?,
            Some('^') => return Err(ANCHOR.into()),
            Some(c @ ('*' | '+' | '?' | '{' | '}' | ']')) => {
                return Err(format!(
                    "has `{c}` where nothing is repeated; write `\\{c}` for the character"
                ));
            }
            Some(c) => vec![(u32::from(c), u32::from(c))],
        };
        Ok(Node::Set(set))
    }

    fn group(&mut self, level: usize) -> Result<Node, String> {
        if level == LEVELS_MAX {
            return Err(format!(
                "has more than {LEVELS_MAX} groups within each other"
            ));
        }
        if self.skip('?') {
            match self.rest.next() {
                Some(':') => {}
                Some('<') if !matches!(self.rest.peek(), Some('=' | '!')) => {
                    // a name is for whoever reads the match
                    let name = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '$');
                    while self.rest.next_if(name).is_some() {}
                    if !self.skip('>') {
                        return Err("has a group whose name does not end".into());
                    }
                }
                _ => return Err("looks ahead or behind, which is not enforced".into()),
            }
        }
        let mut alternatives = vec![self.concat(level + 1)?];
        loop {
            match self.rest.next() {
                Some(')') => break,
                Some('|') => alternatives.push(self.concat(level + 1)?),
                Some(_) => return Err(ANCHOR.into()),
                None => return Err("has a group that is not closed".into()),
            }
        }
        Ok(Node::Alternatives(alternatives))
    }

    /// Reads how often `node` may come.
    fn repeated(&mut self, node: Node) -> Result<Node, String> {
        let (least, most) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.rest.next();
                let least = self.number()?;
                let most = if self.skip(',') {
                    match self.rest.peek() {
                        Some('}') => None,
                        _ => Some(self.number()?),
                    }
                } else {
                    Some(least)
                };
                if self.rest.peek() != Some(&'}') {
                    return Err(
                        "has a repeat that does not end; write `\\{` for the character".into(),
                    );
                }
                (least, most)
            }
            _ => return Ok(node),
        };
        self.rest.next();
        if most.is_some_and(|most| most < least) {
            return Err("has a repeat whose end is below its beginning".into());
        }
        // whether as few as possible are taken makes no other texts
        self.skip('?');
        Ok(Node::Repeat(Box::new(node), least, most))
    }

    fn number(&mut self) -> Result<u32, String> {
        let mut digits = String::new();
        while let Some(c) = self.rest.next_if(char::is_ascii_digit) {
            digits.push(c);
        }
        digits.parse().map_err(|_| {
            "has a repeat that is no number below 4,294,967,296; write `\\{` for the character"
                .into()
        })
    }

    /// Reads a class behind its bracket.
    fn class(&mut self) -> Result<Ranges, String> {
        let not = self.skip('^');
        let mut ranges = Vec::new();
        loop {
            let first = match self.rest.next() {
                None => return Err("has a class that is not closed".into()),
                Some(']') => break,
                Some('\\') => self.escape(true)?,
                Some(c) => vec![(u32::from(c), u32::from(c))],
            };
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && !matches!(ahead.peek(), None | Some(']'));
            if !is_range {
                ranges.extend(first);
                continue;
            }
            self.rest.next();
            let last = match self.rest.next() {
                Some('\\') => self.escape(true)?,
                Some(c) => vec![(u32::from(c), u32::from(c))],
                None => return Err("has a class that is not closed".into()),
            };
            match (&first[..], &last[..]) {
                (&[(a, b)], &[(c, d)]) if a == b && c == d && a <= c => ranges.push((a, c)),
                _ => return Err("has a range in a class that is none".into()),
            }
        }
        let ranges = sorted(ranges);
        Ok(if not { negated(ranges) } else { ranges })
    }

    /// Reads what stands behind a backslash.
    fn escape(&mut self, in_class: bool) -> Result<Ranges, String> {
        let Some(c) = self.rest.next() else {
            return Err("ends with a backslash".into());
        };
        let one = |c: u32| Ok(vec![(c, c)]);
        match c {
            'd' => Ok(DIGITS.to_vec()),
            'D' => Ok(negated(DIGITS.to_vec())),
            'w' => Ok(LETTERS.to_vec()),
            'W' => Ok(negated(LETTERS.to_vec())),
            's' => Ok(SPACES.to_vec()),
            'S' => Ok(negated(SPACES.to_vec())),
            't' => one(0x09),
            'n' => one(0x0A),
            'v' => one(0x0B),
            'f' => one(0x0C),
            'r' => one(0x0D),
            'b' if in_class => one(0x08),
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => one(0),
            'c' => match self.rest.next() {
                Some(letter) if letter.is_ascii_alphabetic() => one(u32::from(letter) % 32),
                _ => Err("has `\\c` without a letter".into()),
            },
            'x' => {
                let code = self.hex(2)?;
                one(code)
            }
            'u' => {
                let code = self.unicode()?;
                one(code)
            }
            'b' | 'B' => Err("has `\\b` or `\\B`, which are not enforced".into()),
            'p' | 'P' => Err("has `\\p`, which is not enforced".into()),
            'k' | '1'..='9' => Err("refers to a group, which is not enforced".into()),
            c if c.is_alphanumeric() => Err(format!("has `\\{c}`, which means nothing")),
            c => one(u32::from(c)),
        }
    }

    fn hex(&mut self, digits: usize) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.rest.next().and_then(|c| c.to_digit(16));
            code = code * 16 + digit.ok_or("has an escape without its hexadecimal digits")?;
        }
        Ok(code)
    }

    /// Reads what stands behind `\u`. Two surrogates are one character.
    fn unicode(&mut self) -> Result<u32, String> {
        const NONE: &str = "has an escape that is no character";
        let code = if self.skip('{') {
            let mut code: u32 = 0;
            while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(16)) {
                self.rest.next();
                code = code.checked_mul(16).ok_or(NONE)? + digit;
            }
            if !self.skip('}') {
                return Err("has an escape without its hexadecimal digits".into());
            }
            code
        } else {
            let code = self.hex(4)?;
            match code {
                0xD800..0xDC00 if self.skip('\\') && self.skip('u') => {
                    let low = self.hex(4)?.checked_sub(0xDC00).filter(|low| *low < 0x400);
                    0x10000 + ((code - 0xD800) << 10) + low.ok_or(NONE)?
                }
                _ => code,
            }
        };
        char::from_u32(code)
            .map(u32::from)
            .ok_or_else(|| NONE.into())
    }
}

/// The ranges in order, those that touch as one.
pub(super) fn sorted(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut all: Ranges = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match all.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => all.push((first, last)),
        }
    }
    all
}

/// All characters but these.
fn negated(ranges: Ranges) -> Ranges {
    let mut all = Vec::with_capacity(ranges.len() + 1);
    let mut next = 0;
    for (first, last) in ranges {
        if next < first {
            all.push((next, first - 1));
        }
        next = last + 1;
    }
    if next <= LAST {
        all.push((next, LAST));
    }
    all
}
