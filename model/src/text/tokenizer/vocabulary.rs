//! What the metadata says of the vocabulary, and what is made of it.

use super::alphabet::byte_of;
use super::special_tokens::SpecialToken;
use crate::gguf::{Gguf, MAX_ARRAY, MAX_TOKEN};
use crate::text::TextError;
use crate::text::tools::MARKS;
use tokenizers::models::bpe::{BPE, Vocab};

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

// `enum llama_token_type` of llama.cpp's `llama.h`
#[cfg(test)]
pub(super) const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;

/// Control tokens that end a turn, under whatever key the file names its end token.
const END_NAMES: [&str; 7] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|EOT|>",
    "<｜end▁of▁sentence｜>",
];

/// The vocabulary as the file has it. The GGUF reader has checked that the arrays are as long as each other and that the ids
/// lie within them.
pub(super) struct Vocabulary<'a> {
    pub(super) pre: &'a str,
    pub(super) tokens: Vec<&'a str>,
    pub(super) types: Vec<i32>,
    pub(super) merges: Vec<&'a str>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    /// ids of the end-of-turn and the end-of-message token
    pub(super) other_ends: Vec<u32>,
    pub(super) add_bos: Option<bool>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(g: &'a Gguf) -> Result<Self, TextError> {
        let model = g.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TextError::Model(model.into()));
        }
        let id = |key: &str| {
            if g.has(key) {
                g.u32(key).map(Some)
            } else {
                Ok(None)
            }
        };
        let other_ends = [
            id("tokenizer.ggml.eot_token_id")?,
            id("tokenizer.ggml.eom_token_id")?,
        ];
        let add_bos = "tokenizer.ggml.add_bos_token";
        Ok(Self {
            pre: g.str("tokenizer.ggml.pre")?,
            tokens: g.strings(TOKENS)?,
            types: g.i32s("tokenizer.ggml.token_type")?,
            merges: g.strings(MERGES)?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            other_ends: other_ends.into_iter().flatten().collect(),
            add_bos: if g.has(add_bos) {
                Some(g.bool(add_bos)?)
            } else {
                None
            },
        })
    }

    fn entries(&self) -> impl Iterator<Item = (u32, &'a str, i32)> {
        (0..)
            .zip(self.tokens.iter().zip(&self.types))
            .map(|(id, (text, ty))| (id, *text, *ty))
    }

    /// The control tokens and the user-defined words.
    pub(super) fn special(&self) -> Vec<SpecialToken<'a>> {
        self.entries()
            .filter(|(_, _, ty)| matches!(*ty, CONTROL | USER_DEFINED))
            .map(|(id, text, ty)| SpecialToken {
                id,
                text,
                control: ty == CONTROL,
            })
            .collect()
    }

    /// The ids of the tokens that end a turn.
    pub(super) fn ends(&self) -> Vec<u32> {
        let named = |(_, text, ty): &(u32, &str, i32)| *ty == CONTROL && END_NAMES.contains(text);
        let named = self.entries().filter(named).map(|(id, _, _)| id);
        let mut ends: Vec<u32> = named
            .chain(self.eos)
            .chain(self.other_ends.iter().copied())
            .collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// The control tokens that are marks of calls.
    pub(super) fn marks(&self) -> Vec<(u32, &'static str)> {
        let control = self.entries().filter(|(_, _, ty)| *ty == CONTROL);
        let mark = |(id, text, _): (u32, &str, i32)| {
            let mark = MARKS.iter().find(|mark| **mark == text);
            mark.map(|mark| (id, *mark))
        };
        control.filter_map(mark).collect()
    }

    /// Builds the merger. Every merge is of two known tokens and makes a known one, none of them a control token, so that no
    /// text can be merged into one.
    pub(super) fn bpe(&self, whole_words: bool) -> Result<BPE, TextError> {
        let mut vocab = Vocab::with_capacity(self.tokens.len());
        for (id, text, ty) in self.entries() {
            if matches!(ty, CONTROL | UNKNOWN) {
                continue;
            }
            if vocab.insert(text.to_string(), id).is_some() {
                return Err(TextError::vocabulary(
                    TOKENS,
                    format!("token {id} stands twice"),
                ));
            }
        }
        let mut merges = Vec::with_capacity(self.merges.len());
        for (rank, merge) in self.merges.iter().enumerate() {
            let pair = merge
                .split_once(' ')
                .filter(|(a, b)| !a.is_empty() && !b.is_empty());
            let Some((a, b)) = pair else {
                return Err(TextError::vocabulary(
                    MERGES,
                    format!("merge {rank} is not of two tokens"),
                ));
            };
            merges.push((a.to_string(), b.to_string()));
        }
        BPE::builder()
            .vocab_and_merges(vocab, merges)
            .cache_capacity(0)
            .ignore_merges(whole_words)
            .build()
            .map_err(|e| TextError::vocabulary(MERGES, e.to_string()))
    }
}

/// The bytes of every token, end to end.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// where each token ends in `bytes`
    ends: Vec<u32>,
}

const _: () = assert!(
    MAX_ARRAY as u64 * MAX_TOKEN as u64 <= u32::MAX as u64,
    "`ends` are u32"
);

impl Pieces {
    pub(super) fn new(v: &Vocabulary<'_>) -> Self {
        let mut pieces = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(v.tokens.len()),
        };
        for (_, text, ty) in v.entries() {
            match ty {
                UNKNOWN | CONTROL | UNUSED => {}
                USER_DEFINED => pieces.bytes.extend_from_slice(text.as_bytes()),
                _ => text.chars().for_each(|c| match byte_of(c) {
                    Some(byte) => pieces.bytes.push(byte),
                    // a character that stands for no byte means itself
                    None => pieces
                        .bytes
                        .extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }),
            }
            pieces.ends.push(pieces.bytes.len() as u32);
        }
        pieces
    }

    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else {
            return &[];
        };
        let start = (id as usize)
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }
}
