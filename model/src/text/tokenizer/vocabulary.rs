//! What the metadata says of the vocabulary, and what is made of it.

use super::alphabet::decode;
use super::merges::{Merges, Ranks, order};
use super::pieces::Pieces;
use super::special_tokens::SpecialToken;
use crate::gguf::Gguf;
use crate::text::TextError;
use crate::text::tools::MARKS;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";

// `enum llama_token_type` of llama.cpp's `llama.h`
#[cfg(test)]
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

/// The character that SentencePiece writes for a blank.
pub(super) const BLANK: char = '▁';

/// Control tokens that end a turn, under whatever key the file names its end token.
const END_NAMES: [&str; 8] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|EOT|>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
];

/// The vocabulary as the file has it. The GGUF reader has checked that the arrays are as long as each other, that scores are
/// finite and that the ids lie within them.
pub(super) struct Vocabulary<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) tokens: Vec<&'a str>,
    pub(super) types: Vec<i32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    /// ids of the end-of-turn and the end-of-message token
    pub(super) other_ends: Vec<u32>,
    pub(super) add_bos: Option<bool>,
}

/// How tokens are written, and what merges them.
pub(super) enum Kind<'a> {
    /// GPT-2's alphabet of bytes, the rule for splitting words, and a list of merges.
    Bytes { pre: &'a str, merges: Vec<&'a str> },
    /// SentencePiece: text with [`BLANK`] for blanks, a score for each token, and bytes of what is no token.
    Sentence {
        scores: Vec<f32>,
        /// whether a blank stands before text
        prefix: bool,
        unknown: Option<u32>,
    },
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(g: &'a Gguf) -> Result<Self, TextError> {
        let id = |key: &str| {
            if g.has(key) {
                g.u32(key).map(Some)
            } else {
                Ok(None)
            }
        };
        let bool = |key: &str| {
            if g.has(key) {
                g.bool(key).map(Some)
            } else {
                Ok(None)
            }
        };
        let tokens = g.strings(TOKENS)?;
        let mut bos = id("tokenizer.ggml.bos_token_id")?;
        let mut eos = id("tokenizer.ggml.eos_token_id")?;
        let kind = match g.str("tokenizer.ggml.model")? {
            "gpt2" => Kind::Bytes {
                pre: g.str("tokenizer.ggml.pre")?,
                merges: g.strings(MERGES)?,
            },
            "llama" => {
                // where a file names none, these are Llama's
                let default = |id: u32| Some(id).filter(|id| (*id as usize) < tokens.len());
                (bos, eos) = (bos.or(default(1)), eos.or(default(2)));
                Kind::Sentence {
                    scores: g.f32s("tokenizer.ggml.scores")?,
                    prefix: bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
                    unknown: id("tokenizer.ggml.unknown_token_id")?.or(default(0)),
                }
            }
            other => return Err(TextError::Model(other.into())),
        };
        let other_ends = [
            id("tokenizer.ggml.eot_token_id")?,
            id("tokenizer.ggml.eom_token_id")?,
        ];
        Ok(Self {
            kind,
            tokens,
            types: g.i32s(TYPES)?,
            bos,
            eos,
            other_ends: other_ends.into_iter().flatten().collect(),
            add_bos: bool("tokenizer.ggml.add_bos_token")?,
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

    /// The bytes of every token, and the ids of the 256 bytes. By its bytes only a token is found that text can become: no
    /// control token, and none whose characters stand for no byte.
    pub(super) fn pieces(&self) -> Result<(Pieces, Vec<Option<u32>>), TextError> {
        let bytes = self.tokens.iter().map(|token| token.len()).sum();
        let mut pieces = Pieces::with_capacity(self.tokens.len(), bytes);
        let mut letters = vec![None; 256];
        let twice = |id: u32| TextError::vocabulary(TOKENS, format!("token {id} stands twice"));
        let mut piece = Vec::new();
        for (id, text, ty) in self.entries() {
            piece.clear();
            let found = match (&self.kind, ty) {
                (_, UNKNOWN | CONTROL | UNUSED) => false,
                (Kind::Bytes { .. }, USER_DEFINED) => {
                    // such a token may be what merges make, and is written as itself and not as bytes
                    let all = decode(text, &mut piece) && piece == text.as_bytes();
                    piece.clear();
                    piece.extend_from_slice(text.as_bytes());
                    all
                }
                (Kind::Bytes { .. }, _) => decode(text, &mut piece),
                (Kind::Sentence { .. }, USER_DEFINED) => {
                    piece.extend_from_slice(text.as_bytes());
                    !text.contains([BLANK, ' '])
                }
                (Kind::Sentence { .. }, BYTE) => {
                    let byte = byte_token(text).ok_or_else(|| {
                        let why = format!("token {id} is a byte and is not written as <0x0A>");
                        TextError::vocabulary(TYPES, why)
                    })?;
                    piece.push(byte);
                    if letters[usize::from(byte)].replace(id).is_some() {
                        return Err(twice(id));
                    }
                    false
                }
                (Kind::Sentence { .. }, _) => {
                    let mut buffer = [0; 4];
                    for c in text.chars().map(|c| if c == BLANK { ' ' } else { c }) {
                        piece.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                    }
                    // no text has a blank once it is written with the other character
                    !text.contains(' ')
                }
            };
            pieces.push(&piece);
            if found && !piece.is_empty() && !pieces.index_last() {
                return Err(twice(id));
            }
        }
        if let Kind::Bytes { .. } = self.kind {
            for (byte, letter) in (0..=255u8).zip(&mut letters) {
                *letter = pieces.find(&[byte]);
            }
        }
        Ok((pieces, letters))
    }

    /// What merges the tokens. Every merge of the file is of two known tokens and makes a known one, none of them a control
    /// token, so that no text can be merged into one. Merges of characters that stand for no byte are of no text and left out.
    pub(super) fn merges(&self, pieces: &Pieces) -> Result<Merges, TextError> {
        let merges = match &self.kind {
            Kind::Bytes { merges, .. } => merges,
            Kind::Sentence { scores, .. } => {
                return Ok(Merges::Orders(scores.iter().copied().map(order).collect()));
            }
        };
        let mut ranks = Ranks::with_capacity(merges.len());
        let mut both = Vec::new();
        for (number, merge) in merges.iter().enumerate() {
            let wrong = |why: &str| TextError::vocabulary(MERGES, format!("merge {number} {why}"));
            let pair = merge
                .split_once(' ')
                .filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '));
            let Some((left, right)) = pair else {
                return Err(wrong("is not of two tokens"));
            };
            both.clear();
            let all = decode(left, &mut both);
            let middle = both.len();
            if !all || !decode(right, &mut both) {
                continue;
            }
            let find = |bytes: &[u8], text: &[&str]| {
                let none = || {
                    wrong(&format!(
                        "has `{}`, which no text can become",
                        text.concat()
                    ))
                };
                pieces.find(bytes).ok_or_else(none)
            };
            ranks.push(
                find(&both[..middle], &[left])?,
                find(&both[middle..], &[right])?,
                find(&both, &[left, right])?,
            );
        }
        Ok(Merges::Ranks(ranks))
    }
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hex)
}
