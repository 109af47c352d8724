//! The set of tokens that may come next.

use toktrie::SimpleVob;

/// A set of token ids, one bit for each logit of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(pub(super) SimpleVob);

impl Mask {
    /// Whether this token may come. Ids that the vocabulary does not have may not.
    #[must_use]
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// Number of tokens that may come.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.num_set()
    }

    /// The tokens that may come, in the order of their ids.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter()
    }

    /// Lets this token come too.
    pub(crate) fn allow(&mut self, token: u32) {
        if (token as usize) < self.0.len() {
            self.0.allow_token(token);
        }
    }

    /// Lets all tokens come too that another mask of this vocabulary allows.
    pub(crate) fn join(&mut self, other: &Self) {
        self.0.or(&other.0);
    }

    /// Makes the logits of all other tokens negative infinity, so that no sampler draws them.
    pub fn apply(&self, logits: &mut [f32]) {
        for (block, &bits) in logits.chunks_mut(32).zip(self.0.as_slice()) {
            if bits == u32::MAX {
                continue;
            }
            for (bit, logit) in block.iter_mut().enumerate() {
                if bits & (1 << bit) == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}
