//! The vocabulary as llguidance wants it.

use super::written::has_exponent;
use crate::text::{TextError, Tokenizer};
use std::sync::Arc;
use toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

/// The vocabulary as llguidance wants it.
pub(super) struct Vocabulary {
    pub(super) trie: TokTrie,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// the tokens that may have the exponent of a number
    pub(super) exponents: Vec<u32>,
}

impl Vocabulary {
    /// Makes the trie of a vocabulary for a model whose logits are `vocab` long.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, vocab: usize) -> Result<Self, TextError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        if tokenizer.vocab() > vocab {
            let why = format!("{} tokens for {vocab} logits", tokenizer.vocab());
            return Err(TextError::vocabulary(TOKENS, why));
        }
        let words: Vec<Vec<u8>> = (0..vocab as u32)
            .map(|id| match tokenizer.call_mark(id) {
                // a control token that counts in a call is told from its text by a byte that no text has
                Some(mark) => [&[TokTrie::SPECIAL_TOKEN_MARKER], mark.as_bytes()].concat(),
                // other control tokens have no bytes, and what has none is never allowed
                None => tokenizer.token_bytes(id),
            })
            .collect();
        let ends: Vec<u32> = (0..tokenizer.vocab() as u32)
            .filter(|&id| tokenizer.is_end(id))
            .collect();
        let Some(&end) = ends.first() else {
            return Err(TextError::vocabulary(TOKENS, "no token ends a turn"));
        };
        let exponents = (0..).zip(&words).filter(|(_, word)| has_exponent(word));
        let exponents = exponents.map(|(id, _)| id).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end), &words);
        Ok(Self {
            trie: trie.with_eos_tokens(&ends),
            tokenizer,
            exponents,
        })
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        // what is forced is shorter than what may be tokenized at once
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer
                .encode_behind(text, false)
                .unwrap_or_default()
        })
    }
}
