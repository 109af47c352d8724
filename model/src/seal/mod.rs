//! Files that only a key opens: ChaCha20-Poly1305 of RFC 8439, as ring has it.
//!
//! Each file has a key of its own, which HKDF-SHA-256 makes of one of the owner's keys and of 32 random bytes in the file.
//! So its parts can simply be numbered: the number is the nonce, and none comes twice under one key, whatever is written.
//! A part that was altered, changed its place or came from another file does not open.

mod file;

pub use file::{KeyFile, KeyFileError};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;

/// Bytes that a sealed part has besides its own.
pub const TAG_BYTES: usize = 16;
/// Bytes of a [`FileLock`].
pub const LOCK_BYTES: usize = ID_BYTES + SALT_BYTES;
const ID_BYTES: usize = 8;
const SALT_BYTES: usize = 32;
const SECRET_BYTES: usize = 32;
/// Most keys of an owner: the one that is written with, and those of which files may be left.
const KEYS_MAX: usize = 8;
/// What the keys of files are derived for, so that a key that is used elsewhere too gives others there.
const FOR_FILES: &[u8] = b"glowplug session file";
const FOR_NAMES: &[u8] = b"glowplug session key";

/// What stands in the clear in a file: which key it is sealed with, and the file's own random bytes.
pub type FileLock = [u8; LOCK_BYTES];

/// What is wrong with a text of keys. It never shows a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A line holds something else.
    #[error("line {0}: a key is 64 hexadecimal digits, as `openssl rand -hex 32` prints them")]
    Shape(usize),
    /// A key is in the file twice.
    #[error("line {0}: the key is there already")]
    Twice(usize),
    /// There are more keys than are tried.
    #[error("line {0}: there are more than {KEYS_MAX} keys")]
    Many(usize),
    /// There are only comments and empty lines.
    #[error("there is no key in it")]
    None,
}

/// A part does not open: it is not what was sealed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what was sealed was altered")]
pub struct Altered;

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: [u8; ID_BYTES],
    secret: [u8; SECRET_BYTES],
}

/// The owner's keys, the newest first: files are sealed with that one, and opened with any of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads a key a line, the newest first; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let secret = secret(line).ok_or(KeysError::Shape(number))?;
            if keys.iter().any(|known| known.secret == secret) {
                return Err(KeysError::Twice(number));
            }
            if keys.len() == KEYS_MAX {
                return Err(KeysError::Many(number));
            }
            let name = Sha256::new().chain_update(FOR_NAMES).chain_update(secret);
            let mut id = [0; ID_BYTES];
            id.copy_from_slice(&name.finalize()[..ID_BYTES]);
            keys.push(Key { id, secret });
        }
        if keys.is_empty() {
            return Err(KeysError::None);
        }
        Ok(Self(keys))
    }

    /// Makes the lock of a new file and the key behind it, from the newest key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn lock(&self) -> io::Result<(FileLock, FileKey)> {
        let mut lock = [0; LOCK_BYTES];
        let (id, salt) = lock.split_at_mut(ID_BYTES);
        // there is one at least
        let newest = self.0.first().ok_or_else(|| refused("no key"))?;
        id.copy_from_slice(&newest.id);
        let random = SystemRandom::new().fill(salt);
        random.map_err(|_| refused("the system gives no random bytes"))?;
        let key = FileKey::derive(newest, salt)?;
        Ok((lock, key))
    }

    /// Gives the key behind a file's lock, and whether that is made of the newest one. None: no key of these fits.
    #[must_use]
    pub fn behind(&self, lock: &FileLock) -> Option<(FileKey, bool)> {
        let (id, salt) = lock.split_at(ID_BYTES);
        let at = self.0.iter().position(|key| key.id == id)?;
        let key = FileKey::derive(&self.0[at], salt).ok()?;
        Some((key, at == 0))
    }

    /// How many keys there are; never none.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// The name of the key that a file is sealed with, which tells nothing of the key.
#[must_use]
pub fn key_name(lock: &FileLock) -> String {
    let digits = lock[..ID_BYTES].iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Keys are never printed.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

fn secret(line: &str) -> Option<[u8; SECRET_BYTES]> {
    let (digits, rest) = line.as_bytes().as_chunks::<2>();
    let mut secret = [0; SECRET_BYTES];
    if digits.len() != SECRET_BYTES || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in secret.iter_mut().zip(digits) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(secret)
}

fn refused(why: &'static str) -> io::Error {
    io::Error::other(why)
}

/// The key of one file, half a kilobyte with what is prepared of it.
#[derive(Debug)]
pub struct FileKey(Box<LessSafeKey>);

impl FileKey {
    fn derive(key: &Key, salt: &[u8]) -> io::Result<Self> {
        let file = Salt::new(HKDF_SHA256, salt).extract(&key.secret);
        let file = file.expand(&[FOR_FILES], &CHACHA20_POLY1305);
        let file = file.map_err(|_| refused("a key that cannot be derived"))?;
        Ok(Self(Box::new(LessSafeKey::new(UnboundKey::from(file)))))
    }

    /// Seals a part in its place and gives what is needed to open it. `number` is that part's alone in its file, and is
    /// sealed once. What stands `beside` it in the clear is bound to it.
    ///
    /// # Errors
    /// The part is longer than 256 GiB.
    pub fn seal(&self, number: u64, beside: &[u8], part: &mut [u8]) -> io::Result<[u8; TAG_BYTES]> {
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce(number), Aad::from(beside), part);
        let tag = sealed.map_err(|_| refused("a part that is too long to be sealed"))?;
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Opens a part in its place.
    ///
    /// # Errors
    /// [`Altered`]; what is in its place then means nothing.
    pub fn open(
        &self,
        number: u64,
        beside: &[u8],
        part: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> Result<(), Altered> {
        let (nonce, beside, tag) = (nonce(number), Aad::from(beside), Tag::from(tag));
        let opened = self
            .0
            .open_in_place_separate_tag(nonce, beside, tag, part, 0..);
        opened.map(|_| ()).map_err(|_| Altered)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
