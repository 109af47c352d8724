//! Text to token ids and back.

mod alphabet;
mod merges;
mod pieces;
mod rules;
mod special_tokens;
mod split;
mod vocabulary;

pub(super) use special_tokens::SpecialTokens;

use super::TextError;
use crate::gguf::Gguf;
use merges::{Merger, Merges};
use pieces::Pieces;
use special_tokens::Stretch;
use split::Rule;
use std::borrow::Cow;
use vocabulary::{BLANK, Kind, Vocabulary};

/// Longest text that is tokenized at once, in bytes.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// A tokenizer of byte-pair encoding, over bytes as GPT-2 has it or over characters as SentencePiece has it. It is built once
/// from the file's metadata.
///
/// Text is split at special tokens, what is between them into words, and each word is merged in O(n log n). What is held is the
/// bytes of the tokens and two tables of numbers, and no text of a client.
#[derive(Debug)]
pub struct Tokenizer {
    rule: Rule,
    spelling: Spelling,
    special: SpecialTokens,
    pieces: Pieces,
    merges: Merges,
    /// ids of the 256 bytes; a vocabulary need not have all of them
    bytes: Vec<Option<u32>>,
    ends: Vec<u32>,
    /// the control tokens that are marks of calls
    marks: Vec<(u32, &'static str)>,
    bos: Option<Named>,
    eos: Option<Named>,
    add_bos: bool,
    /// most ids of a text
    most: usize,
}

/// What the symbols of a word are before they are merged.
#[derive(Debug)]
enum Spelling {
    /// Its bytes. Text loses those that the vocabulary lacks.
    Bytes,
    /// Its characters. One that is in no token is written in bytes, and without these as the unknown token.
    Characters {
        /// whether a blank stands before text
        prefix: bool,
        unknown: Option<u32>,
    },
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
        let named = |id: Option<u32>| {
            let id = id?;
            let text = v.tokens.get(id as usize)?.to_string();
            Some(Named { id, text })
        };
        let (pieces, bytes) = v.pieces()?;
        let (rule, spelling, adds) = match v.kind {
            Kind::Bytes { pre, .. } => {
                let published = split::published(pre)?;
                (Rule::new(published)?, Spelling::Bytes, published.bos)
            }
            Kind::Sentence {
                prefix, unknown, ..
            } => {
                let rule = if pieces.begin_with_blanks() {
                    Rule::blanks()
                } else {
                    Rule::whole()
                };
                (rule, Spelling::Characters { prefix, unknown }, true)
            }
        };
        Ok(Self {
            rule,
            spelling,
            special: SpecialTokens::new(&v.special())?,
            merges: v.merges(&pieces)?,
            pieces,
            bytes,
            ends: v.ends(),
            marks: v.marks(),
            bos: named(v.bos),
            eos: named(v.eos),
            add_bos: v.add_bos.unwrap_or(adds),
            most: usize::MAX,
        })
    }

    /// The same tokenizer, which stops as soon as a text has more than `most` tokens: [`TextError::TooManyTokens`].
    #[must_use]
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Gives the ids of `text`, with which a prompt begins. Nothing is added but the blank that SentencePiece has before text,
    /// not even a beginning-of-text token.
    ///
    /// With `special`, control tokens in the text become their ids; otherwise they stay text. The vocabulary's user-defined
    /// words become their ids either way, as in llama.cpp.
    ///
    /// # Errors
    /// [`TextError::TooLong`] if the text has more than [`MAX_TEXT_BYTES`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, true, special, Cow::Borrowed)
    }

    /// Gives the ids of `text` as it stands behind other text: no blank comes before it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_behind(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, false, special, Cow::Borrowed)
    }

    /// Gives the ids of a rendered template. Its own control tokens are read, and those in guarded contents stay text.
    pub(super) fn encode_guarded(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, true, true, SpecialTokens::unguard)
    }

    /// The special tokens that message contents are guarded against.
    pub(super) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    fn encode_stretches<'t>(
        &self,
        text: &'t str,
        mut begins: bool,
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
        let mut merger = Merger::default();
        self.special.split(text, special, |stretch| match stretch {
            Stretch::Special(id) => {
                begins = true;
                ids.push(id);
                self.room_for(&ids)
            }
            Stretch::Text("") => Ok(()),
            Stretch::Text(text) => {
                let text = self.spell(plain(text), begins);
                begins = false;
                self.rule.split(&text, |word| {
                    self.encode_word(word, &mut merger, &mut ids);
                    self.room_for(&ids)
                })
            }
        })?;
        Ok(ids)
    }

    fn room_for(&self, ids: &[u32]) -> Result<(), TextError> {
        if ids.len() > self.most {
            return Err(TextError::TooManyTokens { limit: self.most });
        }
        Ok(())
    }

    /// The text as tokens have it. SentencePiece writes blanks as [`BLANK`] and so takes that character for a blank; here both
    /// are blanks.
    fn spell<'t>(&self, text: Cow<'t, str>, begins: bool) -> Cow<'t, str> {
        let Spelling::Characters { prefix, .. } = self.spelling else {
            return text;
        };
        let text = if text.contains(BLANK) {
            text.replace(BLANK, " ").into()
        } else {
            text
        };
        // a prompt's first text, and text behind a special token, has a blank before it as a word within a line has
        if begins && prefix && !text.is_empty() {
            format!(" {text}").into()
        } else {
            text
        }
    }

    fn encode_word(&self, word: &str, merger: &mut Merger, ids: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        if self.rule.whole_words
            && let Some(id) = self.pieces.find(bytes)
        {
            ids.push(id);
            return;
        }
        match self.spelling {
            Spelling::Bytes => {
                // no merge goes across bytes that are lost
                for run in bytes.split(|&byte| self.bytes[usize::from(byte)].is_none()) {
                    for (end, &byte) in (1..).zip(run) {
                        merger.push(end, self.bytes[usize::from(byte)]);
                    }
                    let symbols = merger.merge(run, &self.merges, &self.pieces);
                    ids.extend(symbols.filter_map(|symbol| symbol.id));
                }
            }
            Spelling::Characters { unknown, .. } => {
                for (start, c) in word.char_indices() {
                    let end = start + c.len_utf8();
                    merger.push(end, self.pieces.find(&bytes[start..end]));
                }
                for symbol in merger.merge(bytes, &self.merges, &self.pieces) {
                    if let Some(id) = symbol.id {
                        ids.push(id);
                        continue;
                    }
                    let symbol = &bytes[symbol.start as usize..symbol.end as usize];
                    let in_bytes = symbol.iter().map(|&byte| self.bytes[usize::from(byte)]);
                    match in_bytes.collect::<Option<Vec<u32>>>() {
                        Some(in_bytes) => ids.extend(in_bytes),
                        None => ids.extend(unknown),
                    }
                }
            }
        }
    }

    /// The bytes of one token, which need not be whole UTF-8. Control tokens, unused tokens and ids that are not in the
    /// vocabulary have none.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.pieces.get(id).to_vec()
    }

    /// The bytes of the first token of a text. The blank that [`Self::encode`] puts before text is not of the text.
    pub fn first_bytes(&self, id: u32) -> Vec<u8> {
        let bytes = self.pieces.get(id);
        let prefixed = matches!(self.spelling, Spelling::Characters { prefix: true, .. });
        bytes
            .strip_prefix(b" ")
            .filter(|_| prefixed)
            .unwrap_or(bytes)
            .to_vec()
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

    /// Bytes of text that the longest token can stand for: a text of `n` bytes has at least `n / longest` tokens. There is none if
    /// the vocabulary lacks bytes, because a text of these has no tokens at all.
    pub fn longest(&self) -> Option<usize> {
        if self.bytes.iter().any(Option::is_none) {
            return None;
        }
        let blank = match self.spelling {
            Spelling::Bytes => 1,
            Spelling::Characters { .. } => BLANK.len_utf8(),
        };
        let length = |id| {
            let piece = self.pieces.get(id);
            let blanks = piece.iter().filter(|byte| **byte == b' ').count();
            piece.len() + blanks * (blank - 1)
        };
        let lengths = (0..self.pieces.count() as u32).map(length);
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
