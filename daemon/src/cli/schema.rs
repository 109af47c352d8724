//! The schema that `--schema FILE` names.

use super::failure::Failure;
use glowplug_firmware_config::limits::SCHEMA_BYTES_MAX;
use glowplug_model::text::{Format, JsonText};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A schema that can be enforced, as far as that can be told without a model.
pub(super) struct Schema {
    text: String,
}

impl Schema {
    /// Reads and checks it.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let at = path.display();
        let wrong = |why: String| Failure::Use(format!("--schema {at}: {why}"));
        let mut bytes = Vec::new();
        // blanks are not counted, so a file may be longer than a schema
        File::open(path)
            .and_then(|file| {
                file.take(4 * SCHEMA_BYTES_MAX as u64)
                    .read_to_end(&mut bytes)
            })
            .map_err(|error| wrong(error.to_string()))?;
        let JsonText(text) =
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let schema = Self { text };
        match schema.format().check() {
            Ok(()) => Ok(schema),
            Err(error) if error.place.is_empty() => Err(wrong(error.message)),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// What an answer is held to.
    pub(super) fn format(&self) -> Format {
        Format::JsonSchema(self.text.as_str().into())
    }

    /// The field `response_format` of a request.
    pub(super) fn response_format(&self) -> Result<Value, Failure> {
        // its keys stay in their order, which is that of the answer
        let schema: Value =
            serde_json::from_str(&self.text).map_err(|error| Failure::Run(error.to_string()))?;
        Ok(json!({
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": true, "schema": schema},
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Schema, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.json");
        std::fs::write(&path, text).unwrap();
        Schema::read(&path).map_err(|failure| failure.to_string())
    }

    #[test]
    fn its_keys_stay_in_order_and_what_is_wrong_is_said() {
        let schema = read("{\"properties\": {\"z\": {},\n \"a\": {}}}\n").unwrap();
        let format = schema.response_format().unwrap();
        assert_eq!(
            format["json_schema"]["schema"].to_string(),
            r#"{"properties":{"z":{},"a":{}}}"#
        );
        for (text, says) in [
            ("{", "EOF"),
            ("7", "s.json: "),
            (r#"{"items": {"not": {}}}"#, "items.not"),
        ] {
            let error = read(text).err().unwrap();
            assert!(error.contains(says), "{error}");
        }
        assert!(Schema::read(Path::new("/none/s.json")).is_err());
    }
}
