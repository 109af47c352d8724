//! The keys that clients of HTTP show, and the segments that they stand for.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::wire::topics::valid_segment;

/// Most keys of a file. Each segment of them has a connection of its own.
const KEYS_MAX: usize = 32;

/// Shortest key in bytes: it is all that keeps strangers out.
const KEY_MIN: usize = 16;

/// Longest key, in bytes.
const KEY_MAX: usize = 256;

/// What is wrong with a file of keys. It never shows a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("line {0}: a line must be a key, a blank and the client's segment")]
    Shape(usize),
    #[error("line {0}: a key has {KEY_MIN} to {KEY_MAX} bytes")]
    Length(usize),
    #[error("line {0}: a segment has 1 to 64 characters of A-Z a-z 0-9 . _ -")]
    Segment(usize),
    #[error("line {0}: the key is there already")]
    Twice(usize),
    #[error("there are more than {KEYS_MAX} keys")]
    Many,
    #[error("there is no key in it")]
    None,
}

/// The keys of a file, as hashes.
#[derive(Debug)]
pub struct Keys(Vec<([u8; 32], String)>);

impl Keys {
    /// Reads a key a line with its segment; empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<([u8; 32], String)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            let (key, segment) = match [words.next(), words.next(), words.next()] {
                [None, ..] => continue,
                [Some(word), ..] if word.starts_with('#') => continue,
                [Some(key), Some(segment), None] => (key, segment),
                _ => return Err(KeysError::Shape(number)),
            };
            if !(KEY_MIN..=KEY_MAX).contains(&key.len()) {
                return Err(KeysError::Length(number));
            }
            if !valid_segment(segment) {
                return Err(KeysError::Segment(number));
            }
            let hash: [u8; 32] = Sha256::digest(key).into();
            if keys.iter().any(|(known, _)| *known == hash) {
                return Err(KeysError::Twice(number));
            }
            if keys.len() == KEYS_MAX {
                return Err(KeysError::Many);
            }
            keys.push((hash, segment.to_owned()));
        }
        if keys.is_empty() {
            return Err(KeysError::None);
        }
        Ok(Self(keys))
    }

    /// The segments, each once.
    #[must_use]
    pub fn clients(&self) -> BTreeSet<String> {
        self.0.iter().map(|(_, client)| client.clone()).collect()
    }

    /// The segment that a key stands for. It takes the same time whichever of the keys is meant, and if none is.
    #[must_use]
    pub fn client(&self, key: &str) -> Option<&str> {
        let shown: [u8; 32] = Sha256::digest(key).into();
        let (mut found, mut at) = (Choice::from(0), 0_u32);
        for (index, (hash, _)) in (0..).zip(&self.0) {
            let same = hash.ct_eq(&shown);
            at.conditional_assign(&index, same);
            found |= same;
        }
        bool::from(found).then(|| self.0[at as usize].1.as_str())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_its_segment() {
        let text = "# of the kitchen\nsk-0123456789abcdef kitchen\n\n  sk-0123456789abcdeg\thall  \nsk-0123456789abcdeh hall\n";
        let keys = Keys::parse(text).unwrap();
        assert_eq!(
            keys.clients().into_iter().collect::<Vec<_>>(),
            ["hall", "kitchen"]
        );
        assert_eq!(keys.client("sk-0123456789abcdef"), Some("kitchen"));
        assert_eq!(keys.client("sk-0123456789abcdeg"), Some("hall"));
        assert_eq!(keys.client("sk-0123456789abcdeh"), Some("hall"));
        for wrong in ["", "sk-0123456789abcde", "sk-0123456789abcdef ", "#"] {
            assert_eq!(keys.client(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_its_key() {
        let long = "k".repeat(KEY_MAX + 1);
        let many: String = (0..=KEYS_MAX)
            .map(|n| format!("0123456789abcde{n} c\n"))
            .collect();
        let table = [
            ("", KeysError::None),
            ("# none\n", KeysError::None),
            ("0123456789abcdef", KeysError::Shape(1)),
            ("\n0123456789abcdef a b", KeysError::Shape(2)),
            ("0123456789abcde a", KeysError::Length(1)),
            (&format!("{long} a"), KeysError::Length(1)),
            ("0123456789abcdef a/b", KeysError::Segment(1)),
            (
                "0123456789abcdef a\n0123456789abcdef b",
                KeysError::Twice(2),
            ),
            (&many, KeysError::Many),
        ];
        for (text, error) in table {
            assert!(!error.to_string().contains("0123456789"), "{error}");
            assert_eq!(Keys::parse(text).unwrap_err(), error, "{text}");
        }
        // as many as there may be
        let most = many.lines().take(KEYS_MAX).map(|line| format!("{line}\n"));
        assert_eq!(
            Keys::parse(&most.collect::<String>()).unwrap().0.len(),
            KEYS_MAX
        );
    }
}
