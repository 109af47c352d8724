//! The state of one answer that is held to a format.

use super::mask::Mask;
use super::vocabulary::Vocabulary;
use super::written::Written;
use llguidance::Matcher;
use llguidance::api::StopReason;
use std::sync::Arc;

/// Why an answer cannot go on under its constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The token may not come here.
    #[error("token {0} is not allowed here")]
    Token(u32),
    /// The text that was already written is not how such an answer begins.
    #[error("what is already written does not fit the format")]
    Text,
    /// No token of the vocabulary may follow, or finding out which may takes more work or memory than a constraint has.
    #[error("the format cannot be enforced any further: nothing may follow, or it is too complex")]
    Stuck,
}

/// What may come next in one answer. It is moved on by [`Self::accept`], token by token.
pub struct Constraint {
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
    /// where its JSON is; none if it is no JSON
    written: Option<Written>,
    mask: Option<Mask>,
    /// whether the answer may end here
    complete: bool,
    /// whether an end token has come
    ended: bool,
}

impl Constraint {
    pub(super) fn new(
        matcher: Matcher,
        vocabulary: &Arc<Vocabulary>,
        written: Option<Written>,
    ) -> Result<Self, ConstraintError> {
        let mut new = Self {
            matcher,
            vocabulary: Arc::clone(vocabulary),
            written,
            mask: None,
            complete: false,
            ended: false,
        };
        new.moved()?;
        Ok(new)
    }

    /// The tokens that may come now. The model's end tokens are among them only where the answer is complete.
    ///
    /// # Errors
    /// [`ConstraintError::Stuck`], after which nothing else comes.
    pub fn mask(&mut self) -> Result<&Mask, ConstraintError> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None if self.is_over() => Mask(self.vocabulary.trie.eos_token_set()),
            None => match self.matcher.compute_mask() {
                Ok(mask) => self.bearable(Mask(mask)),
                Err(_) => return Err(ConstraintError::Stuck),
            },
        };
        Ok(self.mask.insert(mask))
    }

    /// Takes the token that came.
    ///
    /// # Errors
    /// [`ConstraintError::Token`] if it may not come here, after which nothing has changed, and [`ConstraintError::Stuck`].
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        if self.vocabulary.tokenizer.is_end(token) {
            if !self.complete {
                return Err(ConstraintError::Token(token));
            }
            self.ended = true;
        } else if self.is_over() || !self.writes(token) {
            return Err(ConstraintError::Token(token));
        } else {
            match self.matcher.try_consume_tokens(&[token]) {
                Ok(0) => return Err(ConstraintError::Token(token)),
                Ok(_) => self.write(token),
                Err(_) => return Err(ConstraintError::Stuck),
            }
        }
        self.moved()
    }

    /// Takes text that the model has already written, such as the mark of a call, before any token.
    ///
    /// # Errors
    /// [`ConstraintError::Text`] if it does not fit, after which it may be restarted.
    pub fn begin(&mut self, text: &str) -> Result<(), ConstraintError> {
        let tokens = self.vocabulary.tokenizer.encode_behind(text, false);
        for token in tokens.map_err(|_| ConstraintError::Text)? {
            match self.matcher.try_consume_tokens(&[token]) {
                Ok(0) => return Err(ConstraintError::Text),
                Ok(_) => self.write(token),
                Err(_) => return Err(ConstraintError::Stuck),
            }
        }
        self.moved()
    }

    /// Begins again at the first token.
    ///
    /// # Errors
    /// [`ConstraintError::Stuck`] if it was that before.
    pub fn restart(&mut self) -> Result<(), ConstraintError> {
        self.ended = false;
        if let Some(written) = &mut self.written {
            written.clear();
        }
        if self.matcher.reset().is_err() {
            return Err(ConstraintError::Stuck);
        }
        self.moved()
    }

    /// The tokens that must come next in any case, as the tokenizer writes their text. They are not accepted yet.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_over() {
            return Vec::new();
        }
        self.matcher.compute_ff_tokens()
    }

    /// How many tokens of a draft are allowed, one after the other.
    pub fn agreed(&mut self, draft: &[u32]) -> usize {
        if self.is_over() {
            return 0;
        }
        let texts = draft.iter().map(|token| self.vocabulary.trie.token(*token));
        let texts = texts.take_while(|bytes| !bytes.is_empty());
        let bearable = match &self.written {
            Some(written) => written.bears(texts),
            None => texts.count(),
        };
        self.matcher
            .validate_tokens(&draft[..bearable])
            .unwrap_or(0)
    }

    /// Whether the answer may end here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether nothing but an end may follow.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended || self.matcher.stop_reason() == StopReason::NoExtension
    }

    /// The mask without tokens that would make numbers or levels that not every reader can bear, unless nothing else may come.
    fn bearable(&self, mask: Mask) -> Mask {
        let Some(written) = &self.written else {
            return mask;
        };
        let text = |token: &u32| self.vocabulary.trie.token(*token);
        let too_much = |token: &u32| written.bears(std::iter::once(text(token))) == 0;
        let out: Vec<u32> = if written.is_near() {
            mask.tokens().filter(too_much).collect()
        } else {
            let exponents = self.vocabulary.exponents.iter().copied();
            exponents
                .filter(|token| mask.allows(*token) && too_much(token))
                .collect()
        };
        if out.len() == mask.count() {
            return mask;
        }
        let Mask(mut bits) = mask;
        out.iter().for_each(|token| bits.disallow_token(*token));
        Mask(bits)
    }

    /// Takes note of a token that came.
    fn write(&mut self, token: u32) {
        if let Some(written) = &mut self.written {
            written.push(self.vocabulary.trie.token(token));
        }
    }

    /// Whether a token is of the vocabulary and has a text, or is a mark of calls.
    fn writes(&self, token: u32) -> bool {
        !self.vocabulary.trie.token(token).is_empty()
    }

    /// What is known after a token has come.
    fn moved(&mut self) -> Result<(), ConstraintError> {
        self.mask = None;
        self.complete = if self.is_over() {
            true
        } else {
            match self.matcher.is_accepting() {
                Ok(complete) => complete,
                Err(_) => return Err(ConstraintError::Stuck),
            }
        };
        Ok(())
    }
}
