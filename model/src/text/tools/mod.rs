//! Functions that a model may call, and its calls. A tool is what the client says of it; a call is what the model wrote.
//!
//! The template writes tools, past calls and results as the model was trained to read them (`template`). How the model writes
//! a call is its [`Convention`], by which [`CallSplitter`] finds calls in an answer. Which results must follow which calls
//! is in `results`.

mod convention;
mod json;
mod results;
mod scan;
mod splitter;
mod tagged;
mod takes;

pub use convention::Convention;
pub(in crate::text) use convention::MARKS;
pub use json::{JsonText, json_object};
pub use results::{Misplaced, NOT_ANSWERED, settle_results};
pub use splitter::{CallSplitter, Piece};
pub(in crate::text) use tagged::{FUNCTION_END, KEY_MAX, PARAMETER, PARAMETER_END};
pub(in crate::text) use takes::{Parameters, Takes, pointer, referred};

use glowplug_firmware_config::limits::TOOL_NAME_MAX;
use std::sync::Arc;

/// The schema of a tool that takes nothing.
const NOTHING: &str = r#"{"type":"object","properties":{}}"#;

/// A function that the model may call. It is cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    name: Arc<str>,
    description: Option<Arc<str>>,
    /// a JSON object, in the order in which the client wrote it
    parameters: Arc<str>,
}

impl Tool {
    /// Takes a tool whose arguments are described by a JSON schema. An empty schema stands for no arguments.
    ///
    /// # Errors
    /// [`ToolError`] says what is wrong with its name or its schema. Whether the schema can be enforced is another question.
    pub fn new(name: &str, description: Option<&str>, parameters: &str) -> Result<Self, ToolError> {
        let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        if name.is_empty() || name.len() > TOOL_NAME_MAX || !name.bytes().all(letter) {
            return Err(ToolError::Name);
        }
        let parameters = if parameters.is_empty() {
            NOTHING
        } else {
            parameters
        };
        let parameters = json_object(parameters).map_err(ToolError::Parameters)?;
        Ok(Self {
            name: name.into(),
            description: description.map(Into::into),
            parameters: parameters.into(),
        })
    }

    /// The name by which the model calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, in words for the model.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The JSON schema of its arguments, which is an object.
    #[must_use]
    pub fn parameters(&self) -> &str {
        &self.parameters
    }

    /// Bytes of its text, the schema included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let description = self.description.as_ref().map_or(0, |text| text.len());
        self.name.len() + description + self.parameters.len()
    }
}

/// Why a tool is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// The name is not one that a model could write.
    #[error("must have 1 to {TOOL_NAME_MAX} characters of a-z A-Z 0-9 _ -")]
    Name,
    /// The schema of its arguments is no JSON object.
    #[error("{0}")]
    Parameters(String),
}

/// Whether the model may call tools, or must.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It may call tools or answer in words.
    #[default]
    Auto,
    /// It must call at least one tool.
    Required,
    /// It must call this one.
    Named(Arc<str>),
}

/// The tools of one request, of which there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The tools, with no name twice.
    pub list: Arc<[Tool]>,
    /// Whether one of them must be called.
    pub choice: ToolChoice,
    /// Whether an answer may have several calls.
    pub parallel: bool,
}

impl Tools {
    /// Bytes of their text, the schemas included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.list.iter().map(Tool::bytes).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use glowplug_firmware_config::limits::TOOL_LEVELS_MAX;

    #[test]
    fn a_tool_has_a_name_and_an_object_for_its_schema() {
        let tool = Tool::new("set-light_2", Some("x"), "").unwrap();
        assert_eq!(
            (tool.parameters(), tool.bytes()),
            (NOTHING, 11 + 1 + NOTHING.len())
        );
        for name in ["", "a b", "lämp", "a.b", &"x".repeat(TOOL_NAME_MAX + 1)] {
            assert_eq!(Tool::new(name, None, "{}"), Err(ToolError::Name), "{name}");
        }
        assert!(Tool::new(&"x".repeat(TOOL_NAME_MAX), None, "{}").is_ok());
        for (schema, says) in [
            ("{", "is no JSON: "),
            ("[]", "must be a JSON object"),
            ("{} {}", "is no JSON: "),
            ("7", "must be a JSON object"),
            (&nested(TOOL_LEVELS_MAX + 1), "has more than 64 levels"),
            (&nested(10_000), "has more than 64 levels"),
        ] {
            let error = Tool::new("a", None, schema).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
        assert!(Tool::new("a", None, &nested(TOOL_LEVELS_MAX)).is_ok());
    }

    fn nested(levels: usize) -> String {
        r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels)
    }
}
