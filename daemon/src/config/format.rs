//! What answers are held to where a request does not say, as a value of the configuration.

use glowplug_model::text::Format;
use toml::Value;

use super::kinds::{Kind, wrong};
use super::{ConfigError, invalid};
use crate::wire::chat::format;

/// What answers are held to, as the field `response_format` of a request has it: JSON in a text, or a table.
pub(super) struct OwnFormat;

impl Kind for OwnFormat {
    type Value = Option<Format>;
    const TEXT: bool = true;

    fn read(&self, key: &'static str, value: Option<&Value>) -> Result<Self::Value, ConfigError> {
        let json = match value {
            None => return Ok(None),
            Some(Value::String(json)) => json.clone(),
            Some(Value::Table(table)) => {
                serde_json::to_string(table).map_err(|error| invalid(key, error.to_string()))?
            }
            Some(value) => return Err(wrong(key, "JSON in a text, or a table", value)),
        };
        let read = format::read(&json).map_err(|fault| {
            let at = fault.param.unwrap_or_default();
            invalid(key, format!("`{at}`: {}", fault.message))
        });
        Ok(read?.format())
    }

    fn page(&self) -> (String, String) {
        let values = "JSON in a text, as in a request; or a table, whose keys are sorted";
        (values.to_owned(), "any text".to_owned())
    }
}
