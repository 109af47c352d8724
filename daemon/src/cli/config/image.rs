//! Flash images of the configuration: who may sign them, and which are too old.
//!
//! Keys do not come from what they check: `GLOWPLUG_TRUST_KEYS` names them, in the unit that starts the daemon. The same
//! variable is that of the key `trust.keys`: who may sign a configuration may sign a model. While it is set, a configuration
//! is a signed image or is refused: a file that nobody has to sign would be a second way in.

use crate::cli::failure::Failure;
use crate::config::counter;
use crate::config::{Draft, trust_keys};
use crate::hex::unhex;
use glowplug_firmware_config::image::{
    self, Image, ImageError, MAGIC, SigningKey, Trust, VerifyingKey,
};
use std::cmp::Reverse;
use std::env::{self, VarError};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Public keys of Ed25519 in hexadecimal, with commas between them.
pub(crate) const KEYS: &str = "GLOWPLUG_TRUST_KEYS";

/// Whether one of the slots holds an image, good or not.
pub(crate) fn is_one(bytes: &[u8]) -> bool {
    image::slots(bytes).any(|slot| slot.starts_with(MAGIC))
}

/// The keys that may sign. If there are none, nobody has to. A variable that is set and names none is an error.
pub(crate) fn keys() -> Result<Vec<VerifyingKey>, Failure> {
    let text = match env::var(KEYS) {
        Ok(text) => text,
        Err(VarError::NotPresent) => return Ok(Vec::new()),
        // taken for none, it would let everybody sign
        Err(VarError::NotUnicode(_)) => return Err(Failure::Use(format!("{KEYS} is not UTF-8"))),
    };
    trust_keys(&text).map_err(|why| Failure::Use(format!("{KEYS}: {why}")))
}

/// Reads a secret key from a file with 64 hexadecimal digits.
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

/// The newest good image whose values this version takes, as a configuration; why newer ones were passed over. Where there
/// is none of which every value is taken, the newest good one: its error is said when it is used.
pub(crate) fn draft(
    bytes: &[u8],
    keys: &[VerifyingKey],
    least: u64,
    state_dir: &Path,
) -> Result<(Draft, Vec<String>), String> {
    let trust = Trust { keys, least };
    let mut images = good(bytes, trust).map_err(|error| error.to_string())?;
    images.sort_by_key(|(_, image)| Reverse(image.counter));
    let mut passed = Vec::new();
    let mut first = None;
    for (slot, image) in images {
        let taken = Draft::from_settings(&image.settings, image.counter).and_then(|draft| {
            first.get_or_insert_with(|| draft.clone());
            let checked = draft.clone().finish("node", state_dir.to_owned());
            checked.map(|_| draft)
        });
        match taken {
            Ok(draft) => return Ok((draft, passed)),
            Err(error) => passed.push(format!(
                "image {} in slot {slot} is passed over: {error}",
                image.counter
            )),
        }
    }
    match first {
        Some(draft) => Ok((draft, Vec::new())),
        None => Err(passed.join("; ")),
    }
}

/// Finds all good images with their slots; it is an error if there is none.
fn good(bytes: &[u8], trust: Trust<'_>) -> Result<Vec<(usize, Image)>, ImageError> {
    image::newest(bytes, trust)?;
    let slots = image::slots(bytes).enumerate();
    let read = slots.filter_map(|(n, slot)| Some((n, image::read(slot, trust).ok()?)));
    Ok(read.collect())
}

/// The slot to write next, and the least counter to write there. What is kept is the image that the strictest reader takes:
/// one of ours before one that somebody else signed before one that nobody did, the newest of these. A power cut while the
/// other slot is written then leaves every reader what it had, or an older one.
pub(crate) fn next(partition: &[u8], keys: &[VerifyingKey]) -> (usize, Option<u64>) {
    let ours = |slot: &[u8]| {
        let trust = Trust { keys, least: 0 };
        !keys.is_empty() && image::read(slot, trust).is_ok()
    };
    let slots = image::slots(partition).enumerate();
    let images: Vec<_> = slots
        .filter_map(|(n, slot)| {
            let image = image::read(slot, Trust::default()).ok()?;
            // of two of the same age the first counts
            Some((ours(slot), image.signed, image.counter, Reverse(n)))
        })
        .collect();
    let kept = images.iter().max();
    let slot = kept.map_or(0, |(.., Reverse(n))| (n + 1) % image::SLOTS);
    let newest = images.iter().map(|(_, _, counter, _)| *counter).max();
    (
        slot,
        newest.map_or(Some(1), |counter| counter.checked_add(1)),
    )
}

/// The least counter that is accepted: the greatest that was served with.
pub(crate) fn least(state_dir: &Path) -> Result<u64, Failure> {
    counter::read(state_dir).map_err(|error| {
        let path = counter::path(state_dir);
        match error.kind() {
            ErrorKind::InvalidData => Failure::Use(format!(
                "{}: {error}; images cannot be told from older ones",
                path.display()
            )),
            _ => Failure::io("read", &path, &error),
        }
    })
}
