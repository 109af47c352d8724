//! Text to token ids and back.

use super::TextError;
use super::alphabet::{byte_of, char_of};
use super::marks::{Mark, Marks, Stretch};
use super::split::Rule;
use crate::gguf::Gguf;
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

/// Longest text that is tokenized at once, in bytes.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Most tokens of a vocabulary.
const MAX_TOKENS: usize = 1 << 20;
/// Longest token, in bytes of its GPT-2 letters.
const MAX_TOKEN_BYTES: usize = 1024;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

// `enum llama_token_type` of llama.h
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Control tokens that end a turn under whatever key the file names its end token.
const END_NAMES: [&str; 7] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|EOT|>",
    "<｜end▁of▁sentence｜>",
];

/// The file's vocabulary, byte-level BPE; built once from the metadata.
///
/// Merging is done by the `tokenizers` crate (a heap, so O(n log n) in the longest word; its cache of words is off, for
/// it holds up to 84 MB of a client's choosing), splitting by the closed rules of `tokenizer.ggml.pre`.
#[derive(Debug)]
pub struct Tokenizer {
    bpe: BPE,
    rule: Rule,
    marks: Marks,
    /// ids of the 256 bytes; a vocabulary need not have all, text loses those it has not
    bytes: Vec<Option<u32>>,
    pieces: Pieces,
    ends: Vec<u32>,
    bos: Option<Named>,
    eos: Option<Named>,
    add_bos: bool,
}

/// A token that the file names by a key.
#[derive(Debug)]
struct Named {
    id: u32,
    /// as a template writes it
    text: String,
}

/// What the metadata says.
struct Vocabulary<'a> {
    pre: &'a str,
    tokens: Vec<&'a str>,
    types: Vec<i32>,
    merges: Vec<&'a str>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// end of turn, end of message
    ends: Vec<u32>,
    add_bos: Option<bool>,
}

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// [`TextError::Model`] and [`TextError::Pre`] for a kind of vocabulary that is not known, by name;
    /// [`TextError::Vocabulary`] when arrays, ids or merges contradict each other; [`TextError::Gguf`] when one is missing.
    pub fn from_gguf(g: &Gguf) -> Result<Self, TextError> {
        let model = g.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TextError::Model(model.into()));
        }
        let optional = |key: &str| {
            if g.has(key) {
                g.u32(key).map(Some)
            } else {
                Ok(None)
            }
        };
        let add_bos = "tokenizer.ggml.add_bos_token";
        let ends = [
            optional("tokenizer.ggml.eot_token_id")?,
            optional("tokenizer.ggml.eom_token_id")?,
        ];
        Self::build(Vocabulary {
            pre: g.str("tokenizer.ggml.pre")?,
            tokens: g.strings(TOKENS)?,
            types: g.i32s(TYPES)?,
            merges: g.strings(MERGES)?,
            bos: optional("tokenizer.ggml.bos_token_id")?,
            eos: optional("tokenizer.ggml.eos_token_id")?,
            ends: ends.into_iter().flatten().collect(),
            add_bos: if g.has(add_bos) {
                Some(g.bool(add_bos)?)
            } else {
                None
            },
        })
    }

    fn build(v: Vocabulary<'_>) -> Result<Self, TextError> {
        let rule = Rule::named(v.pre)?;
        v.check()?;
        let marks: Vec<Mark<'_>> = (0u32..)
            .zip(v.tokens.iter().zip(&v.types))
            .filter(|(_, (_, ty))| matches!(**ty, CONTROL | USER_DEFINED))
            .map(|(id, (text, ty))| Mark {
                id,
                text,
                control: *ty == CONTROL,
            })
            .collect();
        let named = marks
            .iter()
            .filter(|m| m.control && END_NAMES.contains(&m.text))
            .map(|m| m.id);
        let mut ends: Vec<u32> = named.chain(v.eos).chain(v.ends.iter().copied()).collect();
        ends.sort_unstable();
        ends.dedup();
        let marks = Marks::new(&marks)?;
        let named = |id: Option<u32>| {
            id.map(|id| Named {
                id,
                text: v.tokens[id as usize].to_string(),
            })
        };
        let (bos, eos) = (named(v.bos), named(v.eos));
        let pieces = Pieces::new(&v);
        let add_bos = v.add_bos.unwrap_or(rule.bos);
        let bpe = v.bpe(rule.whole_words)?;
        let bytes = (0..=255)
            .map(|byte| bpe.token_to_id(char_of(byte).encode_utf8(&mut [0; 4])))
            .collect();
        Ok(Self {
            bpe,
            rule,
            marks,
            bytes,
            pieces,
            ends,
            bos,
            eos,
            add_bos,
        })
    }

    /// Ids of `text`. `special`: control tokens in the text become their ids, otherwise they stay text; the
    /// vocabulary's user-defined words become their ids either way, as in llama.cpp. Nothing is added (no BOS).
    ///
    /// # Errors
    /// [`TextError::TooLong`] over [`MAX_TEXT_BYTES`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, special, |stretch| stretch.into())
    }

    /// Ids of a rendered template: control tokens are read, those in guarded contents are text.
    pub(super) fn encode_guarded(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_stretches(text, true, Marks::unguard)
    }

    /// The control tokens of this vocabulary, as text.
    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    fn encode_stretches<'t>(
        &self,
        text: &'t str,
        special: bool,
        plain: impl Fn(&'t str) -> std::borrow::Cow<'t, str>,
    ) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong {
                bytes: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut letters = String::new();
        self.marks.split(text, special, |stretch| match stretch {
            Stretch::Mark(id) => {
                ids.push(id);
                Ok(())
            }
            Stretch::Text(text) => self.rule.split(&plain(text), |word| {
                self.encode_word(word, &mut letters, &mut ids)
            }),
        })?;
        Ok(ids)
    }

    fn encode_word(
        &self,
        word: &str,
        letters: &mut String,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        // bytes that the vocabulary lacks are lost, and nothing merges across them
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
            let tokens = self
                .bpe
                .tokenize(letters)
                .map_err(|e| TextError::vocabulary(TOKENS, e.to_string()))?;
            ids.extend(tokens.iter().map(|t| t.id));
        }
        Ok(())
    }

    /// The bytes of one token (not always whole UTF-8); empty for control and unused tokens and for ids that are not in
    /// the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.pieces.get(id).to_vec()
    }

    /// Does this id end a turn (the file's eos and eot, `<|im_end|>`, `<｜end▁of▁sentence｜>` …)?
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Number of ids.
    pub fn vocab(&self) -> usize {
        self.pieces.ends.len()
    }

    /// The beginning-of-text token, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos.as_ref().map(|t| t.id)
    }

    /// Does a prompt of this model start with [`Self::bos`] (`tokenizer.ggml.add_bos_token`)?
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// `bos_token` of a template.
    pub(super) fn bos_text(&self) -> &str {
        self.bos.as_ref().map_or("", |t| &t.text)
    }

    /// `eos_token` of a template.
    pub(super) fn eos_text(&self) -> &str {
        self.eos.as_ref().map_or("", |t| &t.text)
    }
}

impl Vocabulary<'_> {
    /// The arrays agree, every id is one of the vocabulary, no text stands twice.
    fn check(&self) -> Result<(), TextError> {
        let count = self.tokens.len();
        if count > MAX_TOKENS {
            return Err(TextError::vocabulary(
                TOKENS,
                format!("{count} tokens, at most {MAX_TOKENS}"),
            ));
        }
        if self.types.len() != count {
            return Err(TextError::vocabulary(
                TYPES,
                format!("{} entries for {count} tokens", self.types.len()),
            ));
        }
        for (id, (text, ty)) in self.tokens.iter().zip(&self.types).enumerate() {
            if text.len() > MAX_TOKEN_BYTES {
                let why = format!(
                    "token {id}: {} bytes, at most {MAX_TOKEN_BYTES}",
                    text.len()
                );
                return Err(TextError::vocabulary(TOKENS, why));
            }
            if !(1..=6).contains(ty) {
                return Err(TextError::vocabulary(
                    TYPES,
                    format!("token {id}: type {ty} is not one of 1 to 6"),
                ));
            }
        }
        let ids = [
            ("tokenizer.ggml.bos_token_id", self.bos),
            ("tokenizer.ggml.eos_token_id", self.eos),
        ];
        let ends = self
            .ends
            .iter()
            .map(|&id| ("tokenizer.ggml.eot_token_id", Some(id)));
        for (key, id) in ids.into_iter().chain(ends) {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(TextError::vocabulary(
                    key,
                    format!("{id} is not below the {count} tokens"),
                ));
            }
        }
        Ok(())
    }

    /// Every merge is of two known tokens and makes a known one, none of them a control token: no text can be merged
    /// into one.
    fn bpe(self, whole_words: bool) -> Result<BPE, TextError> {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, (text, ty)) in (0u32..).zip(self.tokens.iter().zip(&self.types)) {
            if matches!(*ty, CONTROL | UNKNOWN) {
                continue;
            }
            if vocab.insert((*text).to_string(), id).is_some() {
                return Err(TextError::vocabulary(
                    TOKENS,
                    format!("token {id} stands twice"),
                ));
            }
        }
        let mut merges = Vec::with_capacity(self.merges.len());
        for (rank, merge) in self.merges.iter().enumerate() {
            let (a, b) = merge
                .split_once(' ')
                .filter(|(a, b)| !a.is_empty() && !b.is_empty())
                .ok_or_else(|| {
                    TextError::vocabulary(MERGES, format!("merge {rank} is not of two tokens"))
                })?;
            merges.push((a.to_string(), b.to_string()));
        }
        let builder = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .cache_capacity(0)
            .ignore_merges(whole_words);
        builder
            .build()
            .map_err(|e| TextError::vocabulary(MERGES, e.to_string()))
    }
}

/// The bytes of every token, end to end.
#[derive(Debug)]
struct Pieces {
    bytes: Vec<u8>,
    /// where each token ends
    ends: Vec<u32>,
}

impl Pieces {
    fn new(v: &Vocabulary<'_>) -> Self {
        let mut pieces = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(v.tokens.len()),
        };
        for (text, ty) in v.tokens.iter().zip(&v.types) {
            match *ty {
                UNKNOWN | CONTROL | UNUSED => {}
                USER_DEFINED => pieces.bytes.extend_from_slice(text.as_bytes()),
                _ => {
                    for c in text.chars() {
                        match byte_of(c) {
                            Some(byte) => pieces.bytes.push(byte),
                            // not one of the letters: the token means itself
                            None => pieces
                                .bytes
                                .extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                        }
                    }
                }
            }
            // MAX_TOKENS times MAX_TOKEN_BYTES is 2^30
            pieces.ends.push(pieces.bytes.len() as u32);
        }
        pieces
    }

    fn get(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else {
            return &[];
        };
        let start = (id as usize)
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }
}
