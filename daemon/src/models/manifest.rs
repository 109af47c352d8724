//! A model's signed manifest, `MODEL.manifest` beside the model: it says which file was signed. It is a text that people
//! can read:
//!
//! ```text
//! glowplug model manifest 1
//! architecture = "qwen2"
//! file_sha256 = "…"
//! template_sha256 = "…"
//! tokenizer_sha256 = "…"
//! version = 3
//! signature = "…"
//! ```
//!
//! The signature is an Ed25519 signature of all lines before it. The first line keeps it apart from everything else
//! that a key may sign. The hash of the file would be enough; the other fields tell in what another file differs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use glowplug_model::gguf::{Gguf, GgufError, Value};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::opened::Opened;
use crate::files;
use crate::hex::{hex, unhex};

const FIRST: &str = "glowplug model manifest 1\n";
const SIGNATURE: &str = "signature = \"";
/// Longest manifest, in bytes.
const LONGEST: u64 = 4096;

/// What a manifest says about a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The metadata value `general.architecture`.
    pub architecture: String,
    /// SHA-256 of the whole file.
    pub file_sha256: String,
    /// SHA-256 of `tokenizer.chat_template`; none if the file has no template.
    pub template_sha256: Option<String>,
    /// SHA-256 of all other `tokenizer.*` keys and values.
    pub tokenizer_sha256: String,
    /// It is greater than that of every model before it.
    pub version: u64,
}

/// Why a model is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    #[error("not signed: there is no manifest beside it, and keys are configured")]
    Unsigned,
    #[error("the manifest cannot be parsed: {0}")]
    Malformed(String),
    /// None of the keys signed the manifest, or it was altered.
    #[error("none of the configured keys has signed its manifest")]
    Signature,
    /// This part of the file is not what was signed.
    #[error("altered: its {0} is not the one that was signed")]
    Altered(&'static str),
    /// A newer model was served here before.
    #[error("version {version} is older than version {least}, which was served here")]
    Older {
        version: u64,
        /// The version of the newest model that has answered here.
        least: u64,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

/// The path of the manifest beside a model.
#[must_use]
pub fn path(model: &Path) -> PathBuf {
    files::beside(model, ".manifest")
}

impl Manifest {
    /// Hashes all of a model.
    ///
    /// # Errors
    /// It cannot be read, or is no sound file.
    pub fn of(model: &Path, version: u64) -> Result<Self, Untrusted> {
        let file = Opened::open(model)?;
        let gguf = file.gguf()?;
        Ok(Self {
            architecture: gguf.str("general.architecture")?.to_owned(),
            file_sha256: file.sha256()?,
            template_sha256: template(&gguf),
            tokenizer_sha256: tokenizer(&gguf),
            version,
        })
    }

    /// Signs the manifest and returns the text of its file.
    ///
    /// # Errors
    /// The manifest cannot be written as TOML; one of [`Self::of`] always can.
    pub fn sign(&self, key: &SigningKey) -> Result<String, Untrusted> {
        let body = toml::to_string(self).map_err(|e| Untrusted::Malformed(e.to_string()))?;
        let signed = format!("{FIRST}{body}");
        let signature = hex(&key.sign(signed.as_bytes()).to_bytes());
        Ok(format!("{signed}{SIGNATURE}{signature}\"\n"))
    }

    /// Reads the manifest beside a model. Nothing in it is believed unless one of the keys signed it.
    ///
    /// # Errors
    /// There is no manifest, it cannot be read, or none of the keys signed it.
    pub fn read(model: &Path, keys: &[VerifyingKey]) -> Result<Self, Untrusted> {
        let mut text = String::new();
        match File::open(path(model)) {
            Ok(file) => file.take(LONGEST + 1).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Untrusted::Unsigned);
            }
            Err(error) => return Err(error.into()),
        };
        if text.len() as u64 > LONGEST {
            let why = format!("longer than {LONGEST} bytes");
            return Err(Untrusted::Malformed(why));
        }
        Self::parse(&text, keys)
    }

    fn parse(text: &str, keys: &[VerifyingKey]) -> Result<Self, Untrusted> {
        let malformed = |why: &str| Untrusted::Malformed(why.to_owned());
        let end = text
            .rfind(SIGNATURE)
            .ok_or_else(|| malformed("it has no signature"))?;
        let (signed, signature) = text.split_at(end);
        let signature = signature[SIGNATURE.len()..]
            .strip_suffix("\"\n")
            .and_then(unhex)
            .map(|bytes| Signature::from_bytes(&bytes))
            .ok_or_else(|| malformed("its signature is not 128 hexadecimal digits"))?;
        // strict verification refuses weak keys and signatures that fit many texts
        let ours = |key: &VerifyingKey| key.verify_strict(signed.as_bytes(), &signature).is_ok();
        if !keys.iter().any(ours) {
            return Err(Untrusted::Signature);
        }
        let body = signed
            .strip_prefix(FIRST)
            .ok_or_else(|| malformed("it is of another version"))?;
        toml::from_str(body).map_err(|e| malformed(e.message()))
    }

    /// Checks that a file is the one that was signed, as far as its header says, and new enough. The hash of the whole
    /// file takes longer; it is [`Self::file_sha256`].
    ///
    /// # Errors
    /// [`Untrusted::Altered`] or [`Untrusted::Older`].
    pub fn check(&self, gguf: &Gguf, least: u64) -> Result<(), Untrusted> {
        if self.version < least {
            return Err(Untrusted::Older {
                version: self.version,
                least,
            });
        }
        let same = [
            (
                "architecture",
                gguf.str("general.architecture").ok() == Some(&self.architecture),
            ),
            ("chat template", template(gguf) == self.template_sha256),
            ("tokenizer", tokenizer(gguf) == self.tokenizer_sha256),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(Untrusted::Altered(what)),
            None => Ok(()),
        }
    }
}

fn template(gguf: &Gguf) -> Option<String> {
    let template = gguf.str(TEMPLATE).ok()?;
    Some(hex(&Sha256::digest(template.as_bytes())))
}

const TEMPLATE: &str = "tokenizer.chat_template";

/// Hashes every key and value in the order of the file, each with its length or its type before it.
fn tokenizer(gguf: &Gguf) -> String {
    let mut hash = Sha256::new();
    let ours = |key: &str| key.starts_with("tokenizer.") && key != TEMPLATE;
    for (key, value) in gguf.metadata().filter(|(key, _)| ours(key)) {
        feed(&mut hash, Value::Str(key));
        feed(&mut hash, value);
    }
    hex(&hash.finalize())
}

fn feed(hash: &mut Sha256, value: Value<'_>) {
    match value {
        Value::Str(text) => {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        Value::Array(array) => {
            hash.update((array.len() as u64).to_le_bytes());
            for element in array.iter() {
                feed(hash, element);
            }
        }
        number => hash.update(format!("{number:?};")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            architecture: "qwen2".into(),
            file_sha256: "ab".repeat(32),
            template_sha256: None,
            tokenizer_sha256: "cd".repeat(32),
            version: 3,
        }
    }

    #[test]
    fn what_was_signed_is_read_and_nothing_else() {
        let (key, other) = (
            SigningKey::from_bytes(&[7; 32]),
            SigningKey::from_bytes(&[8; 32]),
        );
        let keys = [other.verifying_key(), key.verifying_key()];
        for manifest in [
            manifest(),
            Manifest {
                template_sha256: Some("ef".repeat(32)),
                ..manifest()
            },
        ] {
            let text = manifest.sign(&key).unwrap();
            assert_eq!(Manifest::parse(&text, &keys).unwrap(), manifest);
            let refused = Manifest::parse(&text, &keys[..1]);
            assert!(matches!(refused, Err(Untrusted::Signature)));
            // every byte counts, and so does every one that is missing
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                let altered = String::from_utf8(bytes).unwrap();
                assert!(Manifest::parse(&altered, &keys).is_err(), "{altered}");
                assert!(Manifest::parse(&text[..at], &keys).is_err());
            }
        }
    }

    #[test]
    fn a_signature_of_something_else_is_none() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let keys = [key.verifying_key()];
        for (signed, says) in [
            (format!("{FIRST}version = 3\n"), "missing field"),
            (format!("{FIRST}x = 3\n"), "unknown field"),
            ("version = 3\n".to_owned(), "another version"),
        ] {
            let signature = hex(&key.sign(signed.as_bytes()).to_bytes());
            let text = format!("{signed}{SIGNATURE}{signature}\"\n");
            let error = Manifest::parse(&text, &keys).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
