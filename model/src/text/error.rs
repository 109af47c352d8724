//! Why text could not be handled.

use crate::gguf::GgufError;

/// Why text could not be handled. Messages name the field of the file and the limit; none of them contains a user's text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file's metadata cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),

    /// The vocabulary is of another kind.
    #[error(
        "`tokenizer.ggml.model` is `{0}`, only `gpt2` (byte-level BPE) and `llama` (SentencePiece's BPE) are read"
    )]
    Model(String),

    /// The rule for splitting text into words is not known.
    #[error(
        "`tokenizer.ggml.pre` is `{pre}`, a rule for splitting words that is not known; known are {known}. Take a newer glowplug \
         or another file of this model; if `tokenizer.json` of the model has the expression of a known rule, write that \
         rule's name into the file (gguf-new-metadata --pre-tokenizer NAME), and if not, ask for the rule by its name"
    )]
    Pre {
        /// Name of the rule that the file asks for.
        pre: String,
        /// Names of the rules that are known.
        known: String,
    },

    /// The vocabulary contradicts itself.
    #[error("`{key}`: {why}")]
    Vocabulary {
        /// The metadata key of the part that is wrong.
        key: &'static str,
        /// What is wrong there, with the limit.
        why: String,
    },

    /// There is more text than is tokenized at once.
    #[error("text of {bytes} bytes, at most {limit} are tokenized at once")]
    TooLong {
        /// Bytes of the text.
        bytes: usize,
        /// Most bytes, which are [`super::MAX_TEXT_BYTES`].
        limit: usize,
    },

    /// The text has more tokens than its reader wants, and nobody counted how many more.
    #[error("the text has more than {limit} tokens")]
    TooManyTokens {
        /// Most tokens of a text.
        limit: usize,
    },

    /// The chat template does not compile, or is itself over a limit.
    #[error("the chat template: {0}")]
    Template(String),

    /// The chat template refused this conversation or ran over a limit.
    #[error("the chat template failed on this conversation: {0}")]
    Render(String),

    /// The network's output cannot be sampled.
    #[error("logits are not finite")]
    Numeric,

    /// A row of logits belongs to another vocabulary.
    #[error("{got} logits for a vocabulary of {vocab}")]
    Logits {
        /// Length of the row.
        got: usize,
        /// Size of the vocabulary that the sampler was made for.
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
