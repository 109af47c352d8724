//! Splits text into words. Byte-pair merges do not go across the border of a word.
//!
//! The rules are closed: no expression comes from a model file. They are those of llama.cpp's `src/llama-vocab.cpp`
//! (`llm_tokenizer_bpe`), which follows each model's own `tokenizer.json`. They end in `\s+(?!\S)|\s+`. The look-ahead is done
//! by hand here, so that the rest is a plain regular expression that never backtracks and passes over a word once.

use crate::text::TextError;
use regex::Regex;

/// The rule by which a vocabulary splits text.
#[derive(Debug)]
pub(super) struct Rule {
    words: Regex,
    /// whether each numeric character is cut out before the other rules see the text
    lone_digits: bool,
    /// whether white space that ends in a newline is a word of its own
    newlines: bool,
    /// whether a word that is itself a token is that token, whatever the merges say
    pub(super) whole_words: bool,
    /// whether a prompt starts with the beginning-of-text token if the file does not say
    pub(super) bos: bool,
}

/// The values of `tokenizer.ggml.pre` that are known.
pub(super) const PRE_RULES: [&str; 5] =
    ["qwen2", "deepseek-r1-qwen", "smollm", "llama-bpe", "gpt-2"];

const GPT2: &str = r"\A(?:'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+)";
const QWEN2: &str = concat!(
    r"\A(?:'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+)"
);
const LLAMA3: &str = concat!(
    r"\A(?:'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+)"
);

impl Rule {
    /// Finds the rule of this name. A name that is not known is refused.
    pub(super) fn named(name: &str) -> Result<Self, TextError> {
        let (words, lone_digits, newlines, llama) = match name {
            "qwen2" | "deepseek-r1-qwen" => (QWEN2, false, true, false),
            "smollm" => (GPT2, true, false, false),
            "llama-bpe" => (LLAMA3, false, true, true),
            "gpt-2" => (GPT2, false, false, false),
            _ => {
                return Err(TextError::Pre {
                    pre: name.into(),
                    known: PRE_RULES.join(", "),
                });
            }
        };
        let words = Regex::new(words)
            .map_err(|e| TextError::vocabulary("tokenizer.ggml.pre", e.to_string()))?;
        Ok(Self {
            words,
            lone_digits,
            newlines,
            whole_words: llama,
            bos: llama,
        })
    }

    /// Calls `word` with each word, one after the other. Together they are `text`.
    pub(super) fn split<'t, E>(
        &self,
        text: &'t str,
        mut word: impl FnMut(&'t str) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.lone_digits {
            return self.split_run(text, &mut word);
        }
        let mut rest = text;
        while let Some((at, digit)) = rest.char_indices().find(|(_, c)| c.is_numeric()) {
            let (before, after) = rest.split_at(at);
            let (digit, after) = after.split_at(digit.len_utf8());
            self.split_run(before, &mut word)?;
            word(digit)?;
            rest = after;
        }
        self.split_run(rest, &mut word)
    }

    fn split_run<'t, E>(
        &self,
        mut text: &'t str,
        word: &mut impl FnMut(&'t str) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(first) = text.chars().next() {
            // every character is a word by some alternative; if the tables of the crate disagree, it stands alone
            let end = self.words.find(text).map_or(first.len_utf8(), |m| m.end());
            let (head, tail) = text.split_at(self.leave_one(&text[..end], &text[end..]));
            word(head)?;
            text = tail;
        }
        Ok(())
    }

    /// Does what `\s+(?!\S)` does: of white space before a word the last character is left to that word.
    fn leave_one(&self, found: &str, rest: &str) -> usize {
        let Some(last) = found.chars().next_back().filter(|c| c.is_whitespace()) else {
            return found.len();
        };
        let keeps = rest.is_empty() || (self.newlines && matches!(last, '\r' | '\n'));
        let shorter = found.len() - last.len_utf8();
        if keeps || shorter == 0 {
            found.len()
        } else {
            shorter
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use fancy_regex::Regex as Fancy;
    use proptest::prelude::*;

    fn words<'t>(rule: &str, text: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        Rule::named(rule)
            .unwrap()
            .split(text, |w| {
                words.push(w);
                Ok::<_, ()>(())
            })
            .unwrap();
        words
    }

    #[test]
    fn an_unknown_rule_is_refused_by_name() {
        let message = Rule::named("dbrx").unwrap_err().to_string();
        assert_eq!(
            message,
            "`tokenizer.ggml.pre` is `dbrx`, known are qwen2, deepseek-r1-qwen, smollm, llama-bpe, gpt-2"
        );
        for name in PRE_RULES {
            Rule::named(name).unwrap();
        }
    }

    #[test]
    fn rules_differ_where_they_should() {
        #[rustfmt::skip]
        let table: &[(&str, &str, &[&str])] = &[
            ("qwen2", "I'LL pay 1234", &["I", "'LL", " pay", " ", "1", "2", "3", "4"]),
            ("llama-bpe", "I'LL pay 1234", &["I", "'LL", " pay", " ", "123", "4"]),
            ("gpt-2", "I'LL pay 1234", &["I", "'", "LL", " pay", " 1234"]),
            ("smollm", "I'LL pay 1234", &["I", "'", "LL", " pay", " ", "1", "2", "3", "4"]),
            ("qwen2", "a  b\n\n c;\n\n", &["a", " ", " b", "\n\n", " c", ";\n\n"]),
            ("gpt-2", "a  b\n\n c;\n\n", &["a", " ", " b", "\n\n", " c", ";", "\n\n"]),
            ("smollm", "   7", &["   ", "7"]),
            ("gpt-2", "   7", &["  ", " 7"]),
        ];
        for (rule, text, expected) in table {
            assert_eq!(words(rule, text), *expected, "{rule} {text:?}");
        }
    }

    /// The rules as they are published, with the look-ahead.
    fn published(rule: &str, text: &str) -> Vec<String> {
        let contraction = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
        let tail = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
            .to_string();
        let split = |re: String, text: &str| -> Vec<String> {
            Fancy::new(&re)
                .unwrap()
                .find_iter(text)
                .map(|m| m.unwrap().as_str().to_string())
                .collect()
        };
        match rule {
            "gpt-2" => split(gpt2, text),
            "smollm" => split(r"\p{N}|[^\p{N}]+".into(), text)
                .iter()
                .flat_map(|t| split(gpt2.clone(), t))
                .collect(),
            "llama-bpe" => split(
                format!(r"{contraction}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{tail}"),
                text,
            ),
            _ => split(
                format!(r"{contraction}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{tail}"),
                text,
            ),
        }
    }

    proptest! {
        #[test]
        fn equals_the_published_rules(
            text in prop_oneof![
                "[ \\t\\r\\na1'sLl.;é界½\u{3000}\u{a0}\u{200d}\u{301}]{0,24}",
                any::<String>(),
            ],
            rule in prop::sample::select(&PRE_RULES[..]),
        ) {
            prop_assert_eq!(words(rule, &text), published(rule, &text));
        }
    }
}
