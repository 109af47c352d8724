//! Splits text into words. Byte-pair merges do not go across the border of a word.

use super::rules::{PUBLISHED, Published, Step};
use crate::text::TextError;
use regex::Regex;

/// The rule by which a vocabulary splits text.
#[derive(Debug)]
pub(super) struct Rule {
    steps: Vec<Compiled>,
    /// whether a word that is itself a token is that token, whatever the merges say
    pub(super) whole_words: bool,
}

/// A step of a rule.
#[derive(Debug)]
enum Compiled {
    Apart(Regex),
    Words {
        words: Regex,
        newlines: bool,
    },
    /// A word begins with each run of blanks.
    Blanks,
}

/// The rule of this name, as it is published. A name that is not known is refused.
pub(super) fn published(name: &str) -> Result<&'static Published, TextError> {
    let found = PUBLISHED.iter().find(|rule| rule.names.contains(&name));
    found.ok_or_else(|| TextError::Pre {
        pre: name.into(),
        known: names().collect::<Vec<_>>().join(", "),
    })
}

/// The values of `tokenizer.ggml.pre` that are known.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().flat_map(|rule| rule.names).copied()
}

impl Rule {
    /// Compiles a published rule.
    pub(super) fn new(published: &Published) -> Result<Self, TextError> {
        let compile = |words: &str| {
            Regex::new(words)
                .map_err(|e| TextError::vocabulary("tokenizer.ggml.pre", e.to_string()))
        };
        let steps = published
            .steps
            .iter()
            .map(|step| -> Result<Compiled, TextError> {
                Ok(match step {
                    Step::Apart(matches) => Compiled::Apart(compile(matches)?),
                    Step::Words { words, newlines } => Compiled::Words {
                        words: compile(words)?,
                        newlines: *newlines,
                    },
                })
            });
        Ok(Self {
            steps: steps.collect::<Result<_, _>>()?,
            whole_words: published.whole_words,
        })
    }

    /// A word begins with each run of blanks.
    pub(super) fn blanks() -> Self {
        Self {
            steps: vec![Compiled::Blanks],
            whole_words: false,
        }
    }

    /// All of a text is one word.
    pub(super) fn whole() -> Self {
        Self {
            steps: Vec::new(),
            whole_words: false,
        }
    }

    /// Calls `word` with each word, one after the other. Together they are `text`.
    pub(super) fn split<'t, E>(
        &self,
        text: &'t str,
        mut word: impl FnMut(&'t str) -> Result<(), E>,
    ) -> Result<(), E> {
        split(&self.steps, text, &mut word)
    }
}

/// Does the first step with `text`, and those behind it with what it gives.
fn split<'t, E>(
    steps: &[Compiled],
    text: &'t str,
    word: &mut dyn FnMut(&'t str) -> Result<(), E>,
) -> Result<(), E> {
    if text.is_empty() {
        return Ok(());
    }
    let Some((step, steps)) = steps.split_first() else {
        return word(text);
    };
    match step {
        Compiled::Apart(matches) => {
            let mut at = 0;
            for found in matches.find_iter(text) {
                split(steps, &text[at..found.start()], word)?;
                split(steps, found.as_str(), word)?;
                at = found.end();
            }
            split(steps, &text[at..], word)
        }
        Compiled::Words { words, newlines } => {
            let (mut rest, mut between) = (text, 0);
            while let Some(first) = rest[between..].chars().next() {
                let (before, found) = rest.split_at(between);
                let Some(end) = words.find(found).map(|found| found.end()) else {
                    // what is of no word stays in one
                    between += first.len_utf8();
                    continue;
                };
                let (head, tail) =
                    found.split_at(leave_one(&found[..end], &found[end..], *newlines));
                split(steps, before, word)?;
                split(steps, head, word)?;
                (rest, between) = (tail, 0);
            }
            split(steps, rest, word)
        }
        Compiled::Blanks => {
            let mut rest = text;
            while let Some((at, _)) = {
                let begins = rest.match_indices(' ');
                let mut begins = begins.filter(|(at, _)| *at > 0 && !rest[..*at].ends_with(' '));
                begins.next()
            } {
                let (head, tail) = rest.split_at(at);
                split(steps, head, word)?;
                rest = tail;
            }
            split(steps, rest, word)
        }
    }
}

/// Does what `\s+(?!\S)` does: of white space before a word the last character is left to that word.
fn leave_one(found: &str, rest: &str, newlines: bool) -> usize {
    let Some(last) = found.chars().next_back().filter(|c| c.is_whitespace()) else {
        return found.len();
    };
    let keeps = rest.is_empty() || (newlines && matches!(last, '\r' | '\n'));
    let shorter = found.len() - last.len_utf8();
    if keeps || shorter == 0 {
        found.len()
    } else {
        shorter
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
