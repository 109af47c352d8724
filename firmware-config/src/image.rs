//! The configuration as a flash image: for integrators whose configuration is a partition and not a file.
//!
//! A partition has two slots of [`SLOT`] bytes. A slot holds one image, numbers little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 4 | `GPCF` |
//! | 2 | schema of the settings: [`SCHEMA`] |
//! | 2 | bytes of the settings |
//! | 8 | counter, greater than that of every image before |
//! | … | [`Settings`], in postcard's format |
//! | 4 | CRC-32 of all before |
//! | 64 | Ed25519 signature of [`DOMAIN`] and all before; zeros: not signed |
//!
//! The newest good image counts; of two with the same counter it is the first. A new image is written over the other slot, so
//! that a power cut leaves the one before.

use crate::settings::Settings;
use ed25519_dalek::{Signature, Signer};
pub use ed25519_dalek::{SigningKey, VerifyingKey};

/// Bytes of a slot, which is a sector of common flash.
pub const SLOT: usize = 4096;
/// Number of slots in a partition.
pub const SLOTS: usize = 2;
/// Version of the format in which [`Settings`] are written. Older images are read as well: schema 1 ends before `trust`,
/// schema 2 before `share`, schema 3 before `homeassistant`, and schema 4 before `tls`. A newer one is refused.
pub const SCHEMA: u16 = 5;
/// Bytes that are signed before the image, so that a key which also signs other things never signs an image by chance.
pub const DOMAIN: &[u8] = b"glowplug configuration\0";

/// The first bytes of every image.
pub const MAGIC: &[u8; 4] = b"GPCF";
const HEAD: usize = 16;
const CRC: usize = 4;
const SIGNATURE: usize = 64;
/// Most bytes of settings that fit into a slot.
pub const SETTINGS_MAX: usize = SLOT - HEAD - CRC - SIGNATURE;

/// Why an image is refused or cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The slot does not begin with [`MAGIC`].
    #[error("no image")]
    Empty,
    /// The bytes end before the length that the image states.
    #[error("the image is cut off: it ends before its own length")]
    Truncated,
    /// This version does not read images of this schema.
    #[error("the image has schema {0}, this version reads 1 to {SCHEMA}")]
    Schema(u16),
    /// The image was altered or only half written.
    #[error("checksum mismatch: the image is damaged or incomplete")]
    Crc,
    /// The image has no signature, but keys are configured.
    #[error("the image is not signed, but keys are configured")]
    Unsigned,
    /// No configured key made the signature, or it is the signature of another image.
    #[error("the signature matches none of the configured keys")]
    Signature,
    /// The image is older than one that was accepted before.
    #[error("the image has counter {counter}, at least {least} is accepted")]
    Old {
        /// Counter of the image.
        counter: u64,
        /// The smallest counter that is accepted.
        least: u64,
    },
    /// The bytes of the settings cannot be decoded.
    #[error("the settings in the image cannot be read")]
    Settings,
    /// The settings have too many bytes for a slot.
    #[error("the settings take more than {SETTINGS_MAX} bytes")]
    TooLong,
}

/// What an image must have to be accepted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// Keys that may have signed it. If there are none, it need not be signed.
    pub keys: &'a [VerifyingKey],
    /// The smallest counter that is accepted.
    pub least: u64,
}

/// An image that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its counter: a newer image has a larger one.
    pub counter: u64,
    /// Whether it carries a signature, of whatever key.
    pub signed: bool,
    /// Index of the key in [`Trust::keys`] that signed it.
    pub key: Option<usize>,
    /// The settings that it holds.
    pub settings: Settings,
}

/// Reads the image that a slot begins with. What follows the image does not count.
///
/// # Errors
/// The first check that the image does not pass. The settings are read last, when everything else was found to be as it was
/// written.
pub fn read(slot: &[u8], trust: Trust<'_>) -> Result<Image, ImageError> {
    let (magic, rest) = take::<4>(slot).ok_or(ImageError::Empty)?;
    if magic != MAGIC {
        return Err(ImageError::Empty);
    }
    let (schema, rest) = take(rest).ok_or(ImageError::Truncated)?;
    let (length, rest) = take(rest).ok_or(ImageError::Truncated)?;
    let (counter, rest) = take(rest).ok_or(ImageError::Truncated)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (settings, rest) = rest.split_at_checked(length).ok_or(ImageError::Truncated)?;
    let (crc, rest) = take(rest).ok_or(ImageError::Truncated)?;
    let (signature, _) = take::<SIGNATURE>(rest).ok_or(ImageError::Truncated)?;
    // checked before the schema, because nothing of a damaged image is believed
    if crc32fast::hash(&slot[..HEAD + length]) != u32::from_le_bytes(*crc) {
        return Err(ImageError::Crc);
    }
    let schema = u16::from_le_bytes(*schema);
    if !(1..=SCHEMA).contains(&schema) {
        return Err(ImageError::Schema(schema));
    }
    let key = signer(&slot[..HEAD + length + CRC], signature, trust.keys)?;
    let counter = u64::from_le_bytes(*counter);
    if counter < trust.least {
        return Err(ImageError::Old {
            counter,
            least: trust.least,
        });
    }
    Ok(Image {
        counter,
        signed: signature != &[0; SIGNATURE],
        key,
        settings: settings_of(schema, settings).ok_or(ImageError::Settings)?,
    })
}

/// Decodes settings. Where an older schema ends, zeros are added, one for each table that it lacks: a zero is an empty list or
/// an absent value.
fn settings_of(schema: u16, bytes: &[u8]) -> Option<Settings> {
    // more settings than a slot has room for are refused, even if the caller gave more bytes than a slot
    if bytes.len() > SETTINGS_MAX {
        return None;
    }
    let mut whole = [0; SETTINGS_MAX + SCHEMA as usize];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let length = bytes.len() + usize::from(SCHEMA.checked_sub(schema)?);
    match postcard::take_from_bytes(whole.get(..length)?) {
        Ok((settings, [])) => Some(settings),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8])> {
    bytes.split_first_chunk()
}

/// Finds the key that signed these bytes. Gives none if there are no keys.
fn signer(
    signed: &[u8],
    signature: &[u8; SIGNATURE],
    keys: &[VerifyingKey],
) -> Result<Option<usize>, ImageError> {
    if keys.is_empty() {
        return Ok(None);
    }
    if signature == &[0; SIGNATURE] {
        return Err(ImageError::Unsigned);
    }
    let (message, length) = message(signed).ok_or(ImageError::Signature)?;
    let signature = Signature::from_bytes(signature);
    // strict: it refuses weak keys and signatures that fit many messages
    keys.iter()
        .position(|key| key.verify_strict(&message[..length], &signature).is_ok())
        .map(Some)
        .ok_or(ImageError::Signature)
}

/// The bytes that are signed, and how many of the buffer they are.
fn message(signed: &[u8]) -> Option<([u8; DOMAIN.len() + SLOT], usize)> {
    let mut message = [0; DOMAIN.len() + SLOT];
    let length = DOMAIN.len() + signed.len();
    message[..DOMAIN.len()].copy_from_slice(DOMAIN);
    message
        .get_mut(DOMAIN.len()..length)?
        .copy_from_slice(signed);
    Some((message, length))
}

/// The slots of a partition. What lies behind them does not count.
pub fn slots(partition: &[u8]) -> impl Iterator<Item = &[u8]> {
    partition.chunks(SLOT).take(SLOTS)
}

/// Finds the newest good image of a partition, and the number of its slot.
///
/// # Errors
/// If no slot has a good image, the error of a slot that has a bad one, or else [`ImageError::Empty`].
pub fn newest(partition: &[u8], trust: Trust<'_>) -> Result<(usize, Image), ImageError> {
    let mut best: Option<(usize, Image)> = None;
    let mut error = ImageError::Empty;
    for (slot, bytes) in slots(partition).enumerate() {
        match read(bytes, trust) {
            Ok(image) => {
                if best.as_ref().is_none_or(|(_, b)| b.counter < image.counter) {
                    best = Some((slot, image));
                }
            }
            Err(ImageError::Empty) => {}
            Err(other) => error = other,
        }
    }
    best.ok_or(error)
}

/// Writes an image to the beginning of a slot and leaves the rest of the slot as it is.
///
/// # Errors
/// [`ImageError::TooLong`] if the settings do not fit.
pub fn write(
    settings: &Settings,
    counter: u64,
    key: Option<&SigningKey>,
    slot: &mut [u8; SLOT],
) -> Result<(), ImageError> {
    let body = &mut slot[HEAD..HEAD + SETTINGS_MAX];
    let length = postcard::to_slice(settings, body)
        .map_err(|_| ImageError::TooLong)?
        .len();
    slot[..4].copy_from_slice(MAGIC);
    slot[4..6].copy_from_slice(&SCHEMA.to_le_bytes());
    slot[6..8].copy_from_slice(&(length as u16).to_le_bytes());
    slot[8..HEAD].copy_from_slice(&counter.to_le_bytes());
    let end = HEAD + length;
    let crc = crc32fast::hash(&slot[..end]).to_le_bytes();
    slot[end..end + CRC].copy_from_slice(&crc);
    let signed = end + CRC;
    let signature = match key {
        Some(key) => {
            let (message, length) = message(&slot[..signed]).ok_or(ImageError::TooLong)?;
            key.sign(&message[..length]).to_bytes()
        }
        None => [0; SIGNATURE],
    };
    slot[signed..signed + SIGNATURE].copy_from_slice(&signature);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
