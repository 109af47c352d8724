//! Hashes of files that nobody could compute beforehand. They are pinned at the first pull, in `pins.toml` in the
//! models folder.

use crate::cli::failure::Failure;
use crate::files;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A larger file is not ours: it has one line for each entry of the catalogue.
const PINS_MAX: u64 = 64 * 1024;

/// The pins of one models folder: file name to SHA-256.
pub(crate) struct Pins {
    path: PathBuf,
    pinned: BTreeMap<String, String>,
}

impl Pins {
    /// Reads the folder's pins; none if there is no file yet.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join("pins.toml");
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    pinned: BTreeMap::new(),
                });
            }
            Err(error) => return Err(Failure::io("read", &path, &error)),
        };
        if length > PINS_MAX {
            return Err(Failure::Run(format!(
                "{}: {length} bytes, the limit is {PINS_MAX}",
                path.display()
            )));
        }
        let text = fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
        let pinned = toml::from_str(&text)
            .map_err(|error| Failure::Run(format!("{}: {error}", path.display())))?;
        Ok(Self { path, pinned })
    }

    /// The path of the pins file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The pinned hash of a file.
    pub(crate) fn get(&self, file: &str) -> Option<&str> {
        self.pinned.get(file).map(String::as_str)
    }

    /// Pins a hash; it is on the disk when this returns.
    pub(crate) fn add(&mut self, file: &str, sha256: &str) -> Result<(), Failure> {
        self.pinned.insert(file.to_owned(), sha256.to_owned());
        let mut text = String::from(
            "# SHA-256 of each file as its hub reported it when it was first pulled\n",
        );
        for (file, sha256) in &self.pinned {
            text.push_str(&format!("{file:?} = {sha256:?}\n"));
        }
        files::replace(&self.path, text.as_bytes())
            .map_err(|error| Failure::io("write", &self.path, &error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives() {
        let folder = tempfile::tempdir().unwrap();
        let mut pins = Pins::read(folder.path()).unwrap();
        assert_eq!(pins.get("a.gguf"), None);
        pins.add("b.gguf", "bb").unwrap();
        pins.add("a.gguf", "aa").unwrap();
        let pins = Pins::read(folder.path()).unwrap();
        assert_eq!(
            (pins.get("a.gguf"), pins.get("b.gguf")),
            (Some("aa"), Some("bb"))
        );
    }

    #[test]
    fn a_broken_or_oversized_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (text, says) in [
            ("x".to_owned(), "pins.toml"),
            ("#".repeat(PINS_MAX as usize + 1), "the limit is 65536"),
        ] {
            fs::write(folder.path().join("pins.toml"), text).unwrap();
            let failure = Pins::read(folder.path()).map(|_| ()).unwrap_err();
            assert!(failure.to_string().contains(says), "{failure}");
        }
    }
}
