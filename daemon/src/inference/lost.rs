//! Why an engine ended or never began, and whether another start can help.

use glowplug_model::engine::LoadError;

use crate::models::registry;

/// Why there is no engine (any more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub why: String,
    /// Whether it stays so until somebody changes the model or the configuration: then another start cannot help.
    pub stays: bool,
}

/// What went wrong at run time may go right the next time.
impl From<String> for Lost {
    fn from(why: String) -> Self {
        Self { why, stays: false }
    }
}

impl From<LoadError> for Lost {
    fn from(error: LoadError) -> Self {
        let stays = match &error {
            LoadError::Gguf(error) => registry::stays(error),
            LoadError::NoMemory(_) | LoadError::Threads(_) => false,
            _ => true,
        };
        Self {
            why: error.to_string(),
            stays,
        }
    }
}

impl Lost {
    /// The model's file was cut while it is served, or its disk fails.
    pub(super) fn weights() -> Self {
        let why = "a part of the model's file is not there any more: it was cut in place, or its disk fails";
        why.to_owned().into()
    }
}
