//! Text to token ids and back.

mod alphabet;
mod special_tokens;
mod split;
mod vocabulary;

pub(super) use special_tokens::SpecialTokens;

use super::TextError;
use crate::gguf::Gguf;
use alphabet::char_of;
use special_tokens::Stretch;
use split::Rule;
use std::borrow::Cow;
use tokenizers::Model;
use tokenizers::models::bpe::BPE;
use vocabulary::{Pieces, Vocabulary};

/// Longest text that is tokenized at once, in bytes.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// A byte-level BPE tokenizer, built once from the file's metadata.
///
/// Words are found by the closed rules of `tokenizer.ggml.pre` and merged by the `tokenizers` crate, which takes O(n log n) in
/// the longest word. The crate's cache of words is off: it never forgets, and ten thousand words of a client's choosing are
/// 80 MB.
#[derive(Debug)]
pub struct Tokenizer {
    bpe: BPE,
    rule: Rule,
    special: SpecialTokens,
    /// ids of the 256 bytes; a vocabulary need not have all of them, and text loses the bytes that it lacks
    bytes: Vec<Option<u32>>,
    pieces: Pieces,
    ends: Vec<u32>,
    /// the control tokens that are marks of calls
    marks: Vec<(u32, &'static str)>,
    bos: Option<Named>,
    eos: Option<Named>,
    add_bos: bool,
    /// most ids of a text
    most: usize,
}

/// A token that the file names by a key.
#[derive(Debug)]
struct Named {
    id: u32,
    /// its text as a template writes it
    text: String,
}

impl Tokenizer {
    /// Builds the tokenizer from the keys `tokenizer.ggml.*` of a file.
    ///
    /// # Errors
    /// [`TextError::Model`] or [`TextError::Pre`] if the kind of vocabulary is not known, [`TextError::Vocabulary`] if tokens,
    /// types or merges contradict each other, [`TextError::Gguf`] if one of them is missing.
    pub fn from_gguf(g: &Gguf) -> Result<Self, TextError> {
        Self::build(&Vocabulary::read(g)?)
    }

    fn build(v: &Vocabulary<'_>) -> Result<Self, TextError> {
        let rule = Rule::named(v.pre)?;
        let named = |id: Option<u32>| {
            let id = id?;
            let text = v.tokens.get(id as usize)?.to_string();
            Some(Named { id, text })
        };
        let (bos, eos) = (named(v.bos), named(v.eos));
        let add_bos = v.add_bos.unwrap_or(rule.bos);
        let (special, ends, pieces) = (SpecialTokens::new(&v.special())?, v.ends(), Pieces::new(v));
        let bpe = v.bpe(rule.whole_words)?;
        let id = |byte| bpe.token_to_id(char_of(byte).encode_utf8(&mut [0; 4]));
        let bytes = (0..=255).map(id).collect();
        Ok(Self {
            bpe,
            rule,
            special,
            bytes,
            pieces,
            ends,
            marks: v.marks(),
            bos,
            eos,
            add_bos,
            most: usize::MAX,
        })
    }

    /// The same tokenizer, which stops as soon as a text has more than `most` tokens: [`TextError::TooManyTokens`].
    #[must_use]
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Gives the ids of `text`. Nothing is added, not even a beginning-of-text token.
    ///
    /// With `special`, control tokens in the text become their ids; otherwise they stay text. The vocabulary's user-defined
    /// words become their ids either way, as in llama.cpp.
    ///
    /// # Errors
    /// [`TextError::TooLong`] if the text has more than [`MAX_TEXT_BYTES`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, special, Cow::Borrowed)
    }

    /// Gives the ids of a rendered template. Its own control tokens are read, and those in guarded contents stay text.
    pub(super) fn encode_guarded(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, true, SpecialTokens::unguard)
    }

    /// The special tokens that message contents are guarded against.
    pub(super) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    fn encode_stretches<'t>(
        &self,
        text: &'t str,
        special: bool,
        plain: impl Fn(&'t str) -> Cow<'t, str>,
    ) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong {
                bytes: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        let mut ids = Vec::with_capacity((text.len() / 3).min(self.most));
        let mut letters = String::new();
        self.special.split(text, special, |stretch| match stretch {
            Stretch::Special(id) => {
                ids.push(id);
                self.room_for(&ids)
            }
            Stretch::Text(text) => self.rule.split(&plain(text), |word| {
                self.encode_word(word, &mut letters, &mut ids)?;
                self.room_for(&ids)
            }),
        })?;
        Ok(ids)
    }

    fn room_for(&self, ids: &[u32]) -> Result<(), TextError> {
        if ids.len() > self.most {
            return Err(TextError::TooManyTokens { limit: self.most });
        }
        Ok(())
    }

    fn encode_word(
        &self,
        word: &str,
        letters: &mut String,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        // bytes that the vocabulary lacks are lost, and no merge goes across them
        for run in word
            .as_bytes()
            .split(|&byte| self.bytes[usize::from(byte)].is_none())
        {
            if let [byte] = run {
                ids.extend(self.bytes[usize::from(*byte)]);
                continue;
            }
            letters.clear();
            letters.extend(run.iter().map(|&byte| char_of(byte)));
            let tokens = self.bpe.tokenize(letters);
            let tokens =
                tokens.map_err(|e| TextError::vocabulary(vocabulary::TOKENS, e.to_string()))?;
            ids.extend(tokens.iter().map(|t| t.id));
        }
        Ok(())
    }

    /// The bytes of one token, which need not be whole UTF-8. Control tokens, unused tokens and ids that are not in the
    /// vocabulary have none.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.pieces.get(id).to_vec()
    }

    /// The text of a control token that is a mark of calls, which counts where a model may call tools.
    pub(crate) fn call_mark(&self, id: u32) -> Option<&'static str> {
        let mark = self.marks.iter().find(|(mark, _)| *mark == id);
        mark.map(|(_, text)| *text)
    }

    /// The first mark in a text that is a control token: where it begins, its token and its text.
    pub(in crate::text) fn first_mark(&self, text: &str) -> Option<(usize, u32, &'static str)> {
        let found = |&(id, mark): &(u32, &'static str)| Some((text.find(mark)?, id, mark));
        self.marks.iter().filter_map(found).min()
    }

    /// Whether this token ends a turn: the file's eos and eot, `<|im_end|>`, `<｜end▁of▁sentence｜>` and others of this kind.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Bytes of the longest token: a text of `n` bytes has at least `n / longest` tokens. There is none if the vocabulary lacks
    /// bytes, because a text of these has no tokens at all.
    pub fn longest(&self) -> Option<usize> {
        if self.bytes.iter().any(Option::is_none) {
            return None;
        }
        let lengths = (0..self.pieces.count() as u32).map(|id| self.pieces.get(id).len());
        lengths.max().filter(|longest| *longest > 0)
    }

    /// Number of token ids.
    pub fn vocab(&self) -> usize {
        self.pieces.count()
    }

    /// The beginning-of-text token, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos.as_ref().map(|t| t.id)
    }

    /// Whether a prompt of this model starts with [`Self::bos`], by `tokenizer.ggml.add_bos_token`.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// The variable `bos_token` of a template.
    pub(super) fn bos_text(&self) -> &str {
        self.bos.as_ref().map_or("", |t| &t.text)
    }

    /// The variable `eos_token` of a template.
    pub(super) fn eos_text(&self) -> &str {
        self.eos.as_ref().map_or("", |t| &t.text)
    }
}

#[cfg(test)]
pub(super) mod tests;
