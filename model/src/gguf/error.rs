//! Why a file is not a model that we can read.

use std::fmt::Display;

/// Why a file was refused. The error names the key or tensor and the limit, and never a path, which the caller knows and a
/// client must not know.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("the model file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The file is not GGUF at all.
    #[error("not a GGUF file: it starts with {0:02x?}")]
    Magic([u8; 4]),
    /// The file is GGUF of a version that we do not read. A big-endian file shows as version 50331648.
    #[error("GGUF version {0} is not supported, only 2 and 3 in little endian")]
    Version(u32),
    /// A length or offset reaches past the end of the file.
    #[error("the file ends inside {what}")]
    Truncated {
        /// The key, tensor or part of the header that is cut off.
        what: String,
    },
    /// A length is above its limit.
    #[error("{what} is {got}, the limit is {limit}")]
    Limit {
        /// What the length is of.
        what: String,
        /// The length in the file.
        got: u64,
        /// The largest length that we accept.
        limit: u64,
    },
    /// A key or a tensor comes twice.
    #[error("{what} is there twice")]
    Duplicate {
        /// The key or tensor in question.
        what: String,
    },
    /// A value breaks any other rule.
    #[error("{what} {why}")]
    Invalid {
        /// The key or tensor in question.
        what: String,
        /// The rule, with the limit where there is one.
        why: String,
    },
    /// A tensor has a type that there are no kernels for.
    #[error("tensor {tensor} uses {ty}, which is not supported")]
    UnsupportedType {
        /// The name of the tensor.
        tensor: String,
        /// The name that ggml has for the type, or its id.
        ty: String,
    },
    /// A key that is needed is not there.
    #[error("metadata key `{key}` is missing")]
    Missing {
        /// The key in question.
        key: String,
    },
    /// A key is there with another type.
    #[error("metadata key `{key}` is of type {got}, expected {want}")]
    WrongType {
        /// The key in question.
        key: String,
        /// The type that it must have.
        want: String,
        /// The type that it has.
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
