//! Constraints over a vocabulary of bytes and a few words.

mod calls;
mod judge;
mod refused;
mod walks;

use super::*;
use crate::text::Tokenizer;
use crate::text::tokenizer::tests::Tiny;
use crate::text::tokenizer::tests::sentence::{FIRST_PIECE, Sentence};
use serde_json::Value;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(Tiny::default().build().unwrap()));
static CONSTRAINER: LazyLock<Constrainer> =
    LazyLock::new(|| Constrainer::new(Arc::clone(&TOKENIZER), 300).unwrap());

fn schema(text: &(impl ToString + ?Sized)) -> Format {
    Format::JsonSchema(text.to_string().into())
}

/// A generator of the same numbers every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Draws tokens of the mask until the answer is complete, those that end something more often than others. None if it is not
/// complete after `most` tokens.
fn walk(
    constraint: &mut Constraint,
    tokenizer: &Tokenizer,
    seed: u64,
    most: usize,
) -> Option<String> {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut bytes = Vec::new();
    for _ in 0..most {
        if constraint.is_over() || constraint.is_complete() && dice.below(3) == 0 {
            return Some(String::from_utf8(bytes).unwrap());
        }
        let mask = constraint.mask().unwrap();
        assert_eq!(mask.count(), mask.tokens().count());
        assert!(mask.count() > 0);
        let tokens: Vec<u32> = mask
            .tokens()
            .filter(|token| !tokenizer.is_end(*token))
            .collect();
        let ends = |token: &&u32| matches!(&*tokenizer.token_bytes(**token), b"\"" | b"}" | b"]");
        let ending: Vec<u32> = tokens.iter().filter(ends).copied().collect();
        let among = if ending.is_empty() || dice.below(4) > 0 {
            &tokens
        } else {
            &ending
        };
        if among.is_empty() {
            assert!(constraint.is_complete());
            continue;
        }
        let token = among[dice.below(among.len())];
        match tokenizer.call_mark(token) {
            Some(mark) => bytes.extend_from_slice(mark.as_bytes()),
            None => bytes.extend_from_slice(&tokenizer.token_bytes(token)),
        }
        constraint.accept(token).unwrap();
    }
    None
}

/// The JSON of a finished answer.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn an_answer_is_moved_on_and_ends() {
    let format = schema(
        r#"{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"],"additionalProperties":false}"#,
    );
    let mut constraint = CONSTRAINER.compile(&format).unwrap();
    let id = |text: &str| TOKENIZER.encode(text, false).unwrap();
    // what is forced is taken by the mask too
    assert_eq!(constraint.forced()[..1], id("{"));
    assert_eq!(
        constraint.accept(id("x")[0]),
        Err(ConstraintError::Token(id("x")[0]))
    );
    let draft = id("{\"on\":true,");
    assert_eq!(constraint.agreed(&draft), draft.len() - 1);
    for token in id("{\"on\": true") {
        assert!(!constraint.is_complete());
        constraint.accept(token).unwrap();
    }
    let end = (0..300).find(|id| TOKENIZER.is_end(*id)).unwrap();
    assert_eq!(constraint.accept(end), Err(ConstraintError::Token(end)));
    assert!(!constraint.mask().unwrap().allows(end));
    constraint.accept(id("}")[0]).unwrap();
    assert!(constraint.is_complete() && constraint.is_over());
    let ends: Vec<u32> = constraint.mask().unwrap().tokens().collect();
    assert_eq!(ends, [260, 262, 263]);
    assert_eq!(
        (constraint.forced(), constraint.agreed(&draft)),
        (vec![], 0)
    );
    constraint.accept(end).unwrap();
    assert!(constraint.accept(id("{")[0]).is_err());
    constraint.restart().unwrap();
    assert!(!constraint.is_complete());
    assert_eq!(constraint.agreed(&draft), draft.len() - 1);
    constraint.begin("{\"on\"").unwrap();
    assert_eq!(
        constraint.accept(id("x")[0]),
        Err(ConstraintError::Token(id("x")[0]))
    );
    constraint.restart().unwrap();
    assert_eq!(constraint.begin("{\"off\""), Err(ConstraintError::Text));
}

#[test]
fn a_mask_takes_logits_away_and_tokens_without_text_are_never_allowed() {
    let mut constraint = CONSTRAINER
        .compile(&Format::Regex("[a-c]+".into()))
        .unwrap();
    let mask = constraint.mask().unwrap();
    let mut logits = [1.0; 300];
    mask.apply(&mut logits);
    let left: Vec<usize> = (0..300).filter(|id| logits[*id] == 1.0).collect();
    assert_eq!(left, [97, 98, 99]);
    assert!(
        logits
            .iter()
            .all(|logit| *logit == 1.0 || *logit == f32::NEG_INFINITY)
    );
    assert!(!mask.allows(299) && !mask.allows(300) && !mask.allows(u32::MAX));
    for token in [299, 300, u32::MAX, 261] {
        assert_eq!(constraint.accept(token), Err(ConstraintError::Token(token)));
        assert_eq!(constraint.agreed(&[97, token, 97]), 1);
    }
    // letters of one character beyond ASCII are tokens of their own here
    let mut constraint = CONSTRAINER.compile(&Format::Regex("é".into())).unwrap();
    assert_eq!(walk(&mut constraint, &TOKENIZER, 1, 9).unwrap(), "é");
}

/// SentencePiece's blanks and bytes are what they stand for, also where a piece and a byte are the same.
#[test]
fn pieces_of_sentencepiece_are_held_by_their_bytes() {
    let tokenizer = Arc::new(Sentence::default().build().unwrap());
    let constrainer = Constrainer::new(Arc::clone(&tokenizer), 280).unwrap();
    let mut constraint = constrainer
        .compile(&Format::Regex("[ t]h?".into()))
        .unwrap();
    let allowed: Vec<u32> = constraint.mask().unwrap().tokens().collect();
    // a blank and a letter, each as a byte and as a piece
    let byte = |byte: u8| 3 + u32::from(byte);
    let pieces = [5, 6].map(|piece| FIRST_PIECE + piece);
    assert_eq!(allowed, [&[byte(b' '), byte(b't')][..], &pieces].concat());
    for seed in 0..20 {
        constraint.restart().unwrap();
        let text = walk(&mut constraint, &tokenizer, seed, 9).unwrap();
        assert!([" ", " h", "t", "th"].contains(&&*text), "{text:?}");
    }
}

#[test]
fn a_vocabulary_has_to_have_an_end_and_to_fit() {
    let says = |tiny: &Tiny, vocab| {
        let made = Constrainer::new(Arc::new(tiny.build().unwrap()), vocab);
        made.err().unwrap().to_string()
    };
    let tiny = Tiny::default();
    assert_eq!(
        says(&tiny, 268),
        "`tokenizer.ggml.tokens`: 269 tokens for 268 logits"
    );
}
