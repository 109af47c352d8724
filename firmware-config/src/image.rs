//! The configuration as a flash image: for integrators whose configuration is a partition and not a file.
//!
//! A partition has two slots of [`SLOT`] bytes. A slot holds one image, numbers little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 4 | `GPCF` |
//! | 2 | schema of the settings: [`SCHEMA`] |
//! | 2 | bytes of the settings |
//! | 8 | counter: greater than that of every image before |
//! | … | [`Settings`], in postcard's format |
//! | 4 | CRC-32 of all before |
//! | 64 | Ed25519 signature of [`DOMAIN`] and all before; zeros: not signed |
//!
//! The newest good image counts (of two of the same age the first). A new one is written over the other slot, so that a power cut leaves the one before.

use crate::settings::Settings;
use ed25519_dalek::{Signature, Signer};
pub use ed25519_dalek::{SigningKey, VerifyingKey};

/// Bytes of a slot: a sector of common flash.
pub const SLOT: usize = 4096;
/// Slots of a partition.
pub const SLOTS: usize = 2;
/// What [`Settings`] are written as. An older image is read as well: 1 ends before `trust`, 2 before `share`. A newer one is refused.
pub const SCHEMA: u16 = 3;
/// What is signed before the image: a key that signs other things as well signs nothing that is an image by chance.
pub const DOMAIN: &[u8] = b"glowplug configuration\0";

/// What an image begins with.
pub const MAGIC: &[u8; 4] = b"GPCF";
const HEAD: usize = 16;
const CRC: usize = 4;
const SIGNATURE: usize = 64;
/// Bytes of settings that fit.
pub const SETTINGS_MAX: usize = SLOT - HEAD - CRC - SIGNATURE;

/// Why an image is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// nothing was ever written here, or something else
    #[error("no image")]
    Empty,
    /// it ends before its own length
    #[error("ends before its own length")]
    Truncated,
    /// of a schema that this version does not read
    #[error("is of schema {0}, this version reads 1 to {SCHEMA}")]
    Schema(u16),
    /// altered or half written
    #[error("altered or half written: the CRC is another")]
    Crc,
    /// no signature, and there are keys
    #[error("not signed, and keys are configured")]
    Unsigned,
    /// of none of the keys, or of another image
    #[error("the signature is of none of the configured keys")]
    Signature,
    /// older than one that was accepted before
    #[error("has counter {counter}, at least {least} is accepted")]
    Old {
        /// its counter
        counter: u64,
        /// the least that is accepted
        least: u64,
    },
    /// its settings are none
    #[error("its settings cannot be read")]
    Settings,
    /// too many bytes of settings to be written
    #[error("the settings take more than {SETTINGS_MAX} bytes")]
    TooLong,
}

/// What an image must be to be taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// who may sign; none: nobody needs to
    pub keys: &'a [VerifyingKey],
    /// the least counter
    pub least: u64,
}

/// A good image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// its age among images
    pub counter: u64,
    /// does it carry a signature, whosever it is
    pub signed: bool,
    /// which of the keys signed it
    pub key: Option<usize>,
    /// what it says
    pub settings: Settings,
}

/// Reads the image that a slot begins with; what follows it does not count.
///
/// # Errors
/// The first check that it does not pass. Settings are read last, when all else is as it was written.
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
    // before the schema: of an altered image no word is believed
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

/// What an older schema ends before is empty: of each a zero, for a table of an empty list or an absent value.
fn settings_of(schema: u16, bytes: &[u8]) -> Option<Settings> {
    // settings that no slot has room for are none, even where more than a slot was handed over
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

/// Which of the keys signed these bytes; none where there are no keys.
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
    // strict: no key and no signature that fits many messages
    keys.iter()
        .position(|key| key.verify_strict(&message[..length], &signature).is_ok())
        .map(Some)
        .ok_or(ImageError::Signature)
}

/// What is signed, and how long it is.
fn message(signed: &[u8]) -> Option<([u8; DOMAIN.len() + SLOT], usize)> {
    let mut message = [0; DOMAIN.len() + SLOT];
    let length = DOMAIN.len() + signed.len();
    message[..DOMAIN.len()].copy_from_slice(DOMAIN);
    message
        .get_mut(DOMAIN.len()..length)?
        .copy_from_slice(signed);
    Some((message, length))
}

/// The slots of a partition; what is behind them does not count.
pub fn slots(partition: &[u8]) -> impl Iterator<Item = &[u8]> {
    partition.chunks(SLOT).take(SLOTS)
}

/// The newest good image of a partition, and its slot.
///
/// # Errors
/// Without a good one, of the slots' errors the one that says most: any other before [`ImageError::Empty`].
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

/// Writes an image for a slot. What is behind it in the slot is the caller's.
///
/// # Errors
/// [`ImageError::TooLong`].
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
