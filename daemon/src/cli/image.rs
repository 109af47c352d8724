//! Flash images of the configuration: who may sign them, and which are too old.
//!
//! Keys do not come from what they check: `GLOWPLUG_TRUST_KEYS` names them, in the unit that starts the daemon. The same
//! variable is that of the key `trust.keys`: who may sign a configuration may sign a model.

use super::failure::Failure;
use crate::config::{Draft, trust_keys};
use crate::files;
use crate::hex::unhex;
use glowplug_firmware_config::image::{self, MAGIC, SigningKey, Trust, VerifyingKey};
use std::env::{self, VarError};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Public keys of Ed25519 in hexadecimal, with commas between them.
pub(crate) const KEYS: &str = "GLOWPLUG_TRUST_KEYS";
/// In the state folder: the greatest counter that was ever served with.
const COUNTER_FILE: &str = "config-counter";

/// Is there an image in a slot of this?
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    image::slots(bytes).any(|slot| slot.starts_with(MAGIC))
}

/// Who may sign.
pub(crate) fn keys() -> Result<Vec<VerifyingKey>, Failure> {
    let text = match env::var(KEYS) {
        Ok(text) => text,
        Err(VarError::NotPresent) => String::new(),
        // taken for none, it would let everybody sign
        Err(VarError::NotUnicode(_)) => return Err(Failure::Use(format!("{KEYS} is not UTF-8"))),
    };
    trust_keys(&text).map_err(|why| Failure::Use(format!("{KEYS}: {why}")))
}

/// The secret key in a file: 64 hexadecimal digits.
pub(crate) fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Use(format!("{}: {error}", path.display())))?;
    unhex(text.trim())
        .map(|bytes| SigningKey::from_bytes(&bytes))
        .ok_or_else(|| {
            Failure::Use(format!(
                "{}: a secret key is 64 hexadecimal digits",
                path.display()
            ))
        })
}

/// The newest good image, as a configuration.
pub(crate) fn draft(bytes: &[u8], keys: &[VerifyingKey], least: u64) -> Result<Draft, String> {
    let trust = Trust { keys, least };
    let (_, image) = image::newest(bytes, trust).map_err(|error| error.to_string())?;
    Draft::from_settings(&image.settings, image.counter).map_err(|error| error.to_string())
}

/// The least counter that is accepted: the greatest that was.
pub(crate) fn least(state_dir: &Path) -> Result<u64, Failure> {
    let path = state_dir.join(COUNTER_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| {
            Failure::Use(format!(
                "{}: is not a counter; images cannot be told from older ones",
                path.display()
            ))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Failure::io("read", &path, &error)),
    }
}

/// An image with this counter is served with: older ones are refused from now on.
pub(crate) fn accepted(state_dir: &Path, counter: u64) -> Result<(), Failure> {
    if counter <= least(state_dir)? {
        return Ok(());
    }
    let path = state_dir.join(COUNTER_FILE);
    fs::create_dir_all(state_dir)
        .and_then(|()| files::replace(&path, format!("{counter}\n").as_bytes()))
        .map_err(|error| Failure::io("write", &path, &error))
}
