//! Why a file is not a model we read.

use std::fmt::Display;

/// Names the key or tensor and the limit; never a path, which the caller knows and a client must not.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("the model file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Not GGUF at all.
    #[error("not a GGUF file: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// GGUF, but of a version we do not read; a big-endian file shows as 50331648.
    #[error("GGUF version {0} is not supported, only 2 and 3 in little endian")]
    Version(u32),
    /// A length or offset reaches past the end of the file.
    #[error("the file ends inside {what}")]
    Truncated {
        /// the key, tensor or part of the head
        what: String,
    },
    /// A length above its limit.
    #[error("{what} is {got}, the limit is {limit}")]
    Limit {
        /// the length of what
        what: String,
        /// in the file
        got: u64,
        /// ours
        limit: u64,
    },
    /// A key or a tensor that comes twice.
    #[error("{what} is there twice")]
    Duplicate {
        /// the key or tensor
        what: String,
    },
    /// Any other value that a rule forbids.
    #[error("{what} {why}")]
    Invalid {
        /// the key or tensor
        what: String,
        /// the rule, with the limit where there is one
        why: String,
    },
    /// A tensor of a type that there are no kernels for.
    #[error("tensor {tensor} uses {ty}, which is not supported")]
    UnsupportedType {
        /// name of the tensor
        tensor: String,
        /// ggml's name of the type, or its id
        ty: String,
    },
    /// A key that is needed is not there.
    #[error("metadata key `{key}` is missing")]
    Missing {
        /// the key
        key: String,
    },
    /// A key is there with another type.
    #[error("metadata key `{key}` is of type {got}, expected {want}")]
    WrongType {
        /// the key
        key: String,
        /// what it has to be
        want: String,
        /// what it is
        got: String,
    },
}

impl GgufError {
    pub(super) fn invalid(what: impl Display, why: impl Display) -> Self {
        Self::Invalid {
            what: what.to_string(),
            why: why.to_string(),
        }
    }

    pub(super) fn wrong_type(key: &str, want: impl Display, got: impl Display) -> Self {
        Self::WrongType {
            key: key.to_owned(),
            want: want.to_string(),
            got: got.to_string(),
        }
    }
}
