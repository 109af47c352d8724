//! What an answer may be made of: a mask over the vocabulary at every token, from a JSON schema, a pattern, or tools that have
//! to be called.
//!
//! [`Format::check`] reads what the client asks for without a model: what it does not refuse is enforced. [`Constrainer`] knows
//! one vocabulary, and compiles a format or calls into a [`Constraint`], which is the state of one answer.

mod calls;
mod constrainer;
mod constraint;
mod mask;
mod pattern;
mod schema;
mod tagged;
mod vocabulary;
mod written;

pub use constrainer::Constrainer;
pub use constraint::{Constraint, ConstraintError};
pub use mask::Mask;

use glowplug_firmware_config::limits::SCHEMA_BYTES_MAX;
use pattern::Pattern;
use std::sync::Arc;

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A JSON object, whatever its keys are.
    JsonObject,
    /// JSON that validates against this schema, which is the text of a JSON value. The answer has the schema's order of keys.
    JsonSchema(Arc<str>),
    /// A text that matches this pattern from its first character to its last.
    Regex(Arc<str>),
}

/// Why a schema is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct SchemaError {
    /// Where in the schema it is, as `properties.a.not`, or the keyword; empty for the whole.
    pub place: String,
    /// What is wrong there, as a sentence without a subject that names the limit.
    pub message: String,
}

impl SchemaError {
    /// Of the whole, not of a place in it.
    fn whole(message: impl Into<String>) -> Self {
        Self {
            place: String::new(),
            message: message.into(),
        }
    }
}

impl Format {
    /// Checks the format by itself, without a model. What passes may still be refused by [`Constrainer::compile`] if it is too
    /// much for this vocabulary.
    ///
    /// # Errors
    /// [`SchemaError`] names the first place that cannot be enforced.
    pub fn check(&self) -> Result<(), SchemaError> {
        match self {
            Self::JsonObject => Ok(()),
            Self::JsonSchema(text) => schema::read(text).map(drop),
            Self::Regex(text) => regex(text).map(drop),
        }
    }

    /// Bytes of the text that says what an answer has to be.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(text) | Self::Regex(text) => text.len(),
        }
    }
}

/// The pattern of a whole answer, as the compiler gets it.
fn regex(text: &str) -> Result<String, SchemaError> {
    if text.len() > SCHEMA_BYTES_MAX {
        return Err(SchemaError::whole(format!(
            "has {} bytes, at most {SCHEMA_BYTES_MAX} are taken",
            text.len()
        )));
    }
    let pattern = Pattern::whole(text).map_err(SchemaError::whole)?;
    pattern.states(0, None).map_err(SchemaError::whole)?;
    Ok(pattern.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
