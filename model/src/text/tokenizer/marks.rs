//! Tokens that are written as they are in a text: control tokens and a vocabulary's own words.

use crate::text::TextError;
use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};
use std::collections::BTreeSet;

/// Most marks of a vocabulary. Llama 3 has 256, the largest known about a thousand.
const MAX_MARKS: usize = 4096;
/// Longest mark, in bytes.
const MAX_MARK_BYTES: usize = 128;

/// A noncharacter, which no text interchange may carry (Unicode 16, 23.7): it breaks up marks in
/// message contents.
const BREAKER: char = '\u{FDD0}';

const KEY: &str = "tokenizer.ggml.token_type";

/// A mark of the vocabulary.
pub(super) struct Mark<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    /// control token; else a word of the vocabulary's own (GGUF's "user defined")
    pub(super) control: bool,
}

/// Finds marks in a text, and keeps them from being found in a message.
#[derive(Debug)]
pub(in crate::text) struct Marks {
    all: Finder,
    words: Finder,
    first_letters: BTreeSet<char>,
}

/// A stretch of text.
pub(super) enum Stretch<'t> {
    Text(&'t str),
    Mark(u32),
}

impl Marks {
    /// Refuses more marks than [`MAX_MARKS`], longer ones than [`MAX_MARK_BYTES`], and control
    /// tokens that cannot be broken up because they are a single character.
    pub(super) fn new(marks: &[Mark<'_>]) -> Result<Self, TextError> {
        if marks.len() > MAX_MARKS {
            let why = format!(
                "{} control and user-defined tokens, at most {MAX_MARKS}",
                marks.len()
            );
            return Err(TextError::vocabulary(KEY, why));
        }
        for mark in marks {
            let (id, len) = (mark.id, mark.text.len());
            if len > MAX_MARK_BYTES {
                return Err(TextError::vocabulary(
                    KEY,
                    format!("token {id}: {len} bytes, at most {MAX_MARK_BYTES}"),
                ));
            }
            if mark.control && mark.text.chars().count() < 2 {
                return Err(TextError::vocabulary(
                    KEY,
                    format!("control token {id} has fewer than two characters"),
                ));
            }
        }
        let first_letters = marks
            .iter()
            .filter(|m| m.text.chars().count() > 1)
            .filter_map(|m| m.text.chars().next());
        Ok(Self {
            all: Finder::new(marks.iter())?,
            words: Finder::new(marks.iter().filter(|m| !m.control))?,
            first_letters: first_letters.collect(),
        })
    }

    /// Cuts `text` at its marks, the leftmost and of those the longest first. `control`: control
    /// tokens too.
    pub(super) fn split<'t>(
        &self,
        text: &'t str,
        control: bool,
        mut stretch: impl FnMut(Stretch<'t>) -> Result<(), TextError>,
    ) -> Result<(), TextError> {
        let finder = if control { &self.all } else { &self.words };
        let mut at = 0;
        for found in finder.automaton.find_iter(text) {
            stretch(Stretch::Text(&text[at..found.start()]))?;
            stretch(Stretch::Mark(finder.ids[found.pattern()]))?;
            at = found.end();
        }
        stretch(Stretch::Text(&text[at..]))
    }

    /// Message contents with every mark broken up, so that [`Self::split`] finds none in them;
    /// [`Self::unguard`] gives the text back. `but`: marks that are left whole.
    ///
    /// A breaker follows each letter that begins a mark, whether one follows or not: that needs no
    /// search and so cannot be misled by marks that overlap.
    pub(in crate::text) fn guard(&self, content: &str, but: &[&str]) -> String {
        let mut out = String::with_capacity(content.len() + content.len() / 8);
        for (at, c) in content.char_indices() {
            if c == BREAKER {
                out.push(char::REPLACEMENT_CHARACTER);
                continue;
            }
            out.push(c);
            if self.first_letters.contains(&c)
                && !but.iter().any(|mark| content[at..].starts_with(mark))
            {
                out.push(BREAKER);
            }
        }
        out
    }

    /// A stretch of rendered text without its breakers.
    pub(super) fn unguard(text: &str) -> std::borrow::Cow<'_, str> {
        if text.contains(BREAKER) {
            text.replace(BREAKER, "").into()
        } else {
            text.into()
        }
    }
}

#[derive(Debug)]
struct Finder {
    automaton: AhoCorasick,
    /// by pattern
    ids: Vec<u32>,
}

impl Finder {
    fn new<'a>(marks: impl Iterator<Item = &'a Mark<'a>>) -> Result<Self, TextError> {
        let (texts, ids): (Vec<_>, Vec<_>) = marks
            .filter(|m| !m.text.is_empty())
            .map(|m| (m.text, m.id))
            .unzip();
        let automaton = AhoCorasickBuilder::new()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts);
        Ok(Self {
            automaton: automaton.map_err(|e| TextError::vocabulary(KEY, e.to_string()))?,
            ids,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks(texts: &[(&str, bool)]) -> Result<Marks, TextError> {
        let marks: Vec<Mark<'_>> = texts
            .iter()
            .zip(0..)
            .map(|(&(text, control), id)| Mark { id, text, control })
            .collect();
        Marks::new(&marks)
    }

    fn split(marks: &Marks, text: &str, control: bool) -> Vec<Result<u32, String>> {
        let mut stretches = Vec::new();
        let push = |s| {
            match s {
                Stretch::Text("") => {}
                Stretch::Text(t) => stretches.push(Err(t.to_string())),
                Stretch::Mark(id) => stretches.push(Ok(id)),
            }
            Ok(())
        };
        marks.split(text, control, push).unwrap();
        stretches
    }

    #[test]
    fn leftmost_then_longest() {
        let m = marks(&[("<a>", true), ("<a><b>", true), ("<c>", false)]).unwrap();
        assert_eq!(
            split(&m, "x<a><b><a>y<c>", true),
            [Err("x".into()), Ok(1), Ok(0), Err("y".into()), Ok(2)]
        );
        assert_eq!(
            split(&m, "x<a><c>y", false),
            [Err("x<a>".into()), Ok(2), Err("y".into())]
        );
        assert_eq!(
            split(&marks(&[]).unwrap(), "x<a>", true),
            [Err("x<a>".into())]
        );
    }

    #[test]
    fn limits() {
        let refused = |texts: &[(&str, bool)]| marks(texts).unwrap_err().to_string();
        assert_eq!(
            refused(&[("<", true)]),
            "`tokenizer.ggml.token_type`: control token 0 has fewer than two characters"
        );
        let long = "x".repeat(MAX_MARK_BYTES + 1);
        assert_eq!(
            refused(&[(&long, false)]),
            "`tokenizer.ggml.token_type`: token 0: 129 bytes, at most 128"
        );
        let many = vec![("<a>", true); MAX_MARKS + 1];
        assert!(refused(&many).ends_with("4097 control and user-defined tokens, at most 4096"));
        assert!(marks(&many[1..]).is_ok());
        assert!(marks(&[("", false), ("\n", false)]).is_ok());
    }

    #[test]
    fn some_marks_may_pass() {
        let m = marks(&[("<think>", false), ("<end>", true)]).unwrap();
        let guarded = m.guard("<think>a<end>", &["<think>"]);
        assert_eq!(split(&m, &guarded, true).len(), 2);
        assert_eq!(split(&m, &m.guard("<think>a<end>", &[]), true).len(), 1);
    }

    proptest! {
        /// Also where marks overlap, contain each other, or stand in the middle of a guarded text.
        #[test]
        fn no_mark_survives_the_guard(
            texts in prop::collection::vec(("[<|>ab]{2,5}", any::<bool>()), 1..6),
            content in "[<|>abé\u{FDD0}]{0,40}",
        ) {
            let texts: Vec<(&str, bool)> = texts.iter().map(|(t, c)| (t.as_str(), *c)).collect();
            let m = marks(&texts).unwrap();
            let guarded = m.guard(&content, &[]);
            prop_assert!(split(&m, &guarded, true).iter().all(Result::is_err));
            prop_assert_eq!(Marks::unguard(&guarded), content.replace(BREAKER, "\u{FFFD}"));
        }
    }
}
