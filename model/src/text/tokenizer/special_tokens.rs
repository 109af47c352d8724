//! Special tokens: those that stand in a text as they are written. They are control tokens and a vocabulary's own words.

use crate::text::TextError;
use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};
use std::collections::BTreeSet;

/// Most special tokens of a vocabulary. Llama 3 has 256, the largest vocabulary known about a thousand.
const MAX_TOKENS: usize = 4096;
/// Longest special token, in bytes.
const MAX_TOKEN_BYTES: usize = 128;

/// A noncharacter, which no interchanged text may have (Unicode 16, 23.7). It breaks up special tokens in message contents.
const BREAKER: char = '\u{FDD0}';

const KEY: &str = "tokenizer.ggml.token_type";

/// A special token of the vocabulary.
pub(super) struct SpecialToken<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    /// whether it is a control token; else it is a word of the vocabulary's own (GGUF's "user defined")
    pub(super) control: bool,
}

/// Finds special tokens in a text, and keeps them from being found in a message.
#[derive(Debug)]
pub(in crate::text) struct SpecialTokens {
    all: Finder,
    words: Finder,
    first_letters: BTreeSet<char>,
}

/// A stretch of text, or a special token between two of them.
pub(super) enum Stretch<'t> {
    Text(&'t str),
    Special(u32),
}

impl SpecialTokens {
    /// Refuses more tokens than [`MAX_TOKENS`], longer ones than [`MAX_TOKEN_BYTES`], and control tokens that cannot be broken
    /// up because they are a single character.
    pub(super) fn new(tokens: &[SpecialToken<'_>]) -> Result<Self, TextError> {
        if tokens.len() > MAX_TOKENS {
            let why = format!(
                "{} control and user-defined tokens, at most {MAX_TOKENS}",
                tokens.len()
            );
            return Err(TextError::vocabulary(KEY, why));
        }
        for token in tokens {
            let (id, len) = (token.id, token.text.len());
            if len > MAX_TOKEN_BYTES {
                return Err(TextError::vocabulary(
                    KEY,
                    format!("token {id}: {len} bytes, at most {MAX_TOKEN_BYTES}"),
                ));
            }
            if token.control && token.text.chars().count() < 2 {
                return Err(TextError::vocabulary(
                    KEY,
                    format!("control token {id} has fewer than two characters"),
                ));
            }
        }
        let first_letters = tokens
            .iter()
            .filter(|m| m.text.chars().count() > 1)
            .filter_map(|m| m.text.chars().next());
        Ok(Self {
            all: Finder::new(tokens.iter())?,
            words: Finder::new(tokens.iter().filter(|m| !m.control))?,
            first_letters: first_letters.collect(),
        })
    }

    /// Cuts `text` at its special tokens: the leftmost first, and of those that begin at the same character the longest.
    /// Control tokens are only found with `control`.
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
            stretch(Stretch::Special(finder.ids[found.pattern()]))?;
            at = found.end();
        }
        stretch(Stretch::Text(&text[at..]))
    }

    /// Breaks up every special token in message contents but those in `but`, so that [`Self::split`] finds none of them.
    /// [`Self::unguard`] gives the text back.
    ///
    /// A breaker follows each letter that begins a special token, whether the rest of one follows or not. That needs no
    /// search, and so tokens that overlap cannot mislead it.
    pub(in crate::text) fn guard(&self, content: &str, but: &[&str]) -> String {
        let mut out = String::with_capacity(content.len() + content.len() / 8);
        for (at, c) in content.char_indices() {
            if c == BREAKER {
                out.push(char::REPLACEMENT_CHARACTER);
                continue;
            }
            out.push(c);
            if self.first_letters.contains(&c)
                && !but.iter().any(|token| content[at..].starts_with(token))
            {
                out.push(BREAKER);
            }
        }
        out
    }

    /// Takes the breakers out of a stretch of rendered text.
    pub(in crate::text) fn unguard(text: &str) -> std::borrow::Cow<'_, str> {
        if text.contains(BREAKER) {
            text.replace(BREAKER, "").into()
        } else {
            text.into()
        }
    }
}

/// Finds a set of special tokens.
#[derive(Debug)]
struct Finder {
    automaton: AhoCorasick,
    /// id of the token, by the number of its pattern
    ids: Vec<u32>,
}

impl Finder {
    fn new<'a>(tokens: impl Iterator<Item = &'a SpecialToken<'a>>) -> Result<Self, TextError> {
        let (texts, ids): (Vec<_>, Vec<_>) = tokens
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

    fn tokens(texts: &[(&str, bool)]) -> Result<SpecialTokens, TextError> {
        let tokens: Vec<SpecialToken<'_>> = texts
            .iter()
            .zip(0..)
            .map(|(&(text, control), id)| SpecialToken { id, text, control })
            .collect();
        SpecialTokens::new(&tokens)
    }

    fn split(tokens: &SpecialTokens, text: &str, control: bool) -> Vec<Result<u32, String>> {
        let mut stretches = Vec::new();
        let push = |s| {
            match s {
                Stretch::Text("") => {}
                Stretch::Text(t) => stretches.push(Err(t.to_string())),
                Stretch::Special(id) => stretches.push(Ok(id)),
            }
            Ok(())
        };
        tokens.split(text, control, push).unwrap();
        stretches
    }

    #[test]
    fn leftmost_then_longest() {
        let m = tokens(&[("<a>", true), ("<a><b>", true), ("<c>", false)]).unwrap();
        assert_eq!(
            split(&m, "x<a><b><a>y<c>", true),
            [Err("x".into()), Ok(1), Ok(0), Err("y".into()), Ok(2)]
        );
        assert_eq!(
            split(&m, "x<a><c>y", false),
            [Err("x<a>".into()), Ok(2), Err("y".into())]
        );
        assert_eq!(
            split(&tokens(&[]).unwrap(), "x<a>", true),
            [Err("x<a>".into())]
        );
    }

    #[test]
    fn limits() {
        let refused = |texts: &[(&str, bool)]| tokens(texts).unwrap_err().to_string();
        assert_eq!(
            refused(&[("<", true)]),
            "`tokenizer.ggml.token_type`: control token 0 has fewer than two characters"
        );
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        assert_eq!(
            refused(&[(&long, false)]),
            "`tokenizer.ggml.token_type`: token 0: 129 bytes, at most 128"
        );
        let many = vec![("<a>", true); MAX_TOKENS + 1];
        assert!(refused(&many).ends_with("4097 control and user-defined tokens, at most 4096"));
        assert!(tokens(&many[1..]).is_ok());
        assert!(tokens(&[("", false), ("\n", false)]).is_ok());
    }

    #[test]
    fn some_tokens_may_pass() {
        let m = tokens(&[("<think>", false), ("<end>", true)]).unwrap();
        let guarded = m.guard("<think>a<end>", &["<think>"]);
        assert_eq!(split(&m, &guarded, true).len(), 2);
        assert_eq!(split(&m, &m.guard("<think>a<end>", &[]), true).len(), 1);
    }

    proptest! {
        /// Also where special tokens overlap, contain each other, or stand in the middle of a guarded text.
        #[test]
        fn no_special_token_survives_the_guard(
            texts in prop::collection::vec(("[<|>ab]{2,5}", any::<bool>()), 1..6),
            content in "[<|>abé\u{FDD0}]{0,40}",
        ) {
            let texts: Vec<(&str, bool)> = texts.iter().map(|(t, c)| (t.as_str(), *c)).collect();
            let m = tokens(&texts).unwrap();
            let guarded = m.guard(&content, &[]);
            prop_assert!(split(&m, &guarded, true).iter().all(Result::is_err));
            prop_assert_eq!(SpecialTokens::unguard(&guarded), content.replace(BREAKER, "\u{FFFD}"));
        }
    }
}
