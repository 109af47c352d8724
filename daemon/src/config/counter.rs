//! The age of the flash images that were served with, in the state folder: an older one is refused from then on.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::files;

/// The file: one number on one line.
#[must_use]
pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("config-counter")
}

/// The greatest counter that was served with; 0: none.
///
/// # Errors
/// There is a file, and it cannot be read; `InvalidData`: as a number, which stays so.
pub(crate) fn read(state_dir: &Path) -> io::Result<u64> {
    match fs::read_to_string(path(state_dir)) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "is not a counter")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// A daemon has answered with an image of this counter.
///
/// # Errors
/// The folder cannot be written, or holds something else.
pub(crate) fn served(state_dir: &Path, counter: u64) -> io::Result<()> {
    if counter <= read(state_dir)? {
        return Ok(());
    }
    files::replace(&path(state_dir), format!("{counter}\n").as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn it_only_grows_and_what_is_no_number_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), 0);
        for (counter, greatest) in [(7, 7), (6, 7), (u64::MAX, u64::MAX)] {
            served(folder.path(), counter).unwrap();
            assert_eq!(read(folder.path()).unwrap(), greatest);
        }
        fs::write(path(folder.path()), "many").unwrap();
        assert!(read(folder.path()).is_err());
        assert!(served(folder.path(), 9).is_err());
    }
}
