//! Regular expressions of a client: read as ECMAScript's, which JSON Schema asks for, and written as llguidance reads them.
//!
//! What llguidance would have to guess is refused: assertions, back references, Unicode's properties. How much work an
//! expression is, is counted before llguidance sees it ([`Pattern::states`]).

mod automaton;
mod parse;

pub(super) use automaton::STATES_MAX;

use std::fmt::Write;

/// The last character of Unicode.
const LAST: u32 = 0x0010_FFFF;

/// A set of characters, as sorted ranges that do not touch.
type Ranges = Vec<(u32, u32)>;

/// An expression as a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Empty,
    /// one character of these ranges
    Set(Ranges),
    Concat(Vec<Node>),
    Alternatives(Vec<Node>),
    /// so many times at least, and at most, if there is an end
    Repeat(Box<Node>, u32, Option<u32>),
}

/// An expression that matches a text from its first character to its last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Node);

impl Pattern {
    /// Reads an expression that has to match all of a text.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence without a subject.
    pub(super) fn whole(text: &str) -> Result<Self, String> {
        let alternatives = parse::alternatives(text)?;
        let nodes = alternatives.into_iter().map(|alternative| alternative.node);
        Ok(Self(Node::Alternatives(nodes.collect())))
    }

    /// Reads an expression that may match anywhere in a text, as `pattern` of JSON Schema does.
    ///
    /// # Errors
    /// As [`Self::whole`].
    pub(super) fn within(text: &str) -> Result<Self, String> {
        let any = || Node::Repeat(Box::new(Node::Set(vec![(0, LAST)])), 0, None);
        let nodes = parse::alternatives(text)?.into_iter().map(|alternative| {
            let mut parts = vec![alternative.node];
            if !alternative.at_start {
                parts.insert(0, any());
            }
            if !alternative.at_end {
                parts.push(any());
            }
            Node::Concat(parts)
        });
        Ok(Self(Node::Alternatives(nodes.collect())))
    }

    /// The expression for texts of these characters alone.
    pub(super) fn only(mut self, is: impl Fn(char) -> bool) -> Self {
        // the others are few and low, so that the ranges between them are found one by one
        let mut gaps: Ranges = Vec::new();
        for c in (0..=0x7F).filter(|c| char::from_u32(*c).is_some_and(|c| !is(c))) {
            gaps.push((c, c));
        }
        without(&mut self.0, &parse::sorted(gaps));
        self
    }

    /// Counts the states of the automaton that finds this expression in texts of so many characters.
    ///
    /// # Errors
    /// There are more than [`STATES_MAX`], or it takes too much work to find out.
    pub(super) fn states(&self, least: usize, most: Option<usize>) -> Result<usize, String> {
        automaton::states(&self.0, least, most)
    }

    /// The expression as the crate `regex-syntax` reads it, anchored at both ends.
    pub(super) fn text(&self) -> String {
        let mut out = String::from("^");
        write(&self.0, &mut out);
        out.push('$');
        out
    }
}

/// Takes these characters out of all sets.
fn without(node: &mut Node, gaps: &[(u32, u32)]) {
    match node {
        Node::Empty => {}
        Node::Set(ranges) => {
            for &(from, to) in gaps {
                let parts = ranges.iter().flat_map(|&(first, last)| {
                    let below = (first < from).then(|| (first, last.min(from - 1)));
                    let above = (last > to).then(|| (first.max(to + 1), last));
                    below.into_iter().chain(above)
                });
                *ranges = parts.collect();
            }
        }
        Node::Concat(nodes) | Node::Alternatives(nodes) => {
            nodes.iter_mut().for_each(|node| without(node, gaps));
        }
        Node::Repeat(node, ..) => without(node, gaps),
    }
}

/// Writes a node so that it can be repeated and followed by others.
fn write(node: &Node, out: &mut String) {
    match node {
        Node::Empty => out.push_str("(?:)"),
        Node::Set(ranges) => {
            out.push('[');
            for &(first, last) in ranges {
                // surrogates are no characters, and regex-syntax takes none
                for (first, last) in [(first, last.min(0xD7FF)), (first.max(0xE000), last)] {
                    if first <= last {
                        let _ = write!(out, r"\x{{{first:X}}}-\x{{{last:X}}}");
                    }
                }
            }
            if out.ends_with('[') {
                // no character at all
                out.push_str(r"^\x{0}-\x{10FFFF}");
            }
            out.push(']');
        }
        Node::Concat(nodes) => {
            out.push_str("(?:");
            nodes.iter().for_each(|node| write(node, out));
            out.push(')');
        }
        Node::Alternatives(nodes) => {
            out.push_str("(?:");
            for (index, node) in nodes.iter().enumerate() {
                if index > 0 {
                    out.push('|');
                }
                write(node, out);
            }
            out.push(')');
        }
        Node::Repeat(node, least, most) => {
            out.push_str("(?:");
            write(node, out);
            let _ = match most {
                Some(most) => write!(out, "){{{least},{most}}}"),
                None => write!(out, "){{{least},}}"),
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
