//! Why text could not be handled.

use crate::gguf::GgufError;

/// Why text could not be handled. Messages name the field of the file and the limit; none carries a
/// user's text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// the file's metadata
    #[error(transparent)]
    Gguf(#[from] GgufError),

    /// a vocabulary that is not byte-level BPE
    #[error("`tokenizer.ggml.model` is `{0}`, only `gpt2` (byte-level BPE) is read")]
    Model(String),

    /// an unknown rule for splitting text into words
    #[error("`tokenizer.ggml.pre` is `{0}`, known are {known}", known = super::tokenizer::PRE_RULES.join(", "))]
    Pre(String),

    /// the vocabulary contradicts itself
    #[error("`{key}`: {why}")]
    Vocabulary {
        /// the metadata key
        key: &'static str,
        /// what is wrong there
        why: String,
    },

    /// more text than is tokenized at once
    #[error("text of {bytes} bytes, at most {limit} are tokenized at once")]
    TooLong {
        /// what came
        bytes: usize,
        /// [`super::MAX_TEXT_BYTES`]
        limit: usize,
    },

    /// the chat template does not compile, or is over a limit of its own
    #[error("the chat template: {0}")]
    Template(String),

    /// the chat template refused this conversation or ran over a limit
    #[error("the chat template failed on this conversation: {0}")]
    Render(String),

    /// the network's output cannot be sampled
    #[error("logits are not finite")]
    Numeric,

    /// a row of logits of another vocabulary
    #[error("{got} logits for a vocabulary of {vocab}")]
    Logits {
        /// what came
        got: usize,
        /// what the sampler was made for
        vocab: usize,
    },
}

impl TextError {
    /// A [`Self::Vocabulary`] at `key`.
    pub(super) fn vocabulary(key: &'static str, why: impl Into<String>) -> Self {
        Self::Vocabulary {
            key,
            why: why.into(),
        }
    }
}
