//! A model's file, opened once. What is looked at, hashed and planned for is what is mapped and packed later, whatever
//! lies under its name by then.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glowplug_model::gguf::{Gguf, GgufError, open_file};
use rustix::fs::StatVfsMountFlags;

use crate::files::{self, Stamp};

/// An open file. It is cheap to clone: all clones are the same open file.
#[derive(Debug, Clone)]
pub struct Opened {
    path: PathBuf,
    file: Arc<File>,
    stamp: Stamp,
}

impl Opened {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// It cannot be opened, or is no regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(path.to_owned(), open_file(path)?)
    }

    /// Wraps a file that is open already.
    ///
    /// # Errors
    /// The file system does not say what the file is.
    pub(crate) fn of(path: PathBuf, file: File) -> io::Result<Self> {
        let stamp = Stamp::of(&file)?;
        Ok(Self {
            path,
            file: Arc::new(file),
            stamp,
        })
    }

    /// The path where it was when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is recognised by, as of when it was opened.
    pub(crate) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// Maps the file and validates its header.
    ///
    /// # Errors
    /// It cannot be mapped, or is no sound file.
    pub fn gguf(&self) -> Result<Gguf, GgufError> {
        Gguf::from_file(&self.file)
    }

    /// Reads the file as text of at most `most` bytes. Errors name the file.
    ///
    /// # Errors
    /// It cannot be read, is longer, or is not UTF-8.
    pub(crate) fn text(&self, most: usize) -> io::Result<String> {
        files::text(&self.path, &self.file, most)
    }

    /// The SHA-256 of the whole file in hexadecimal. This takes seconds for gigabytes.
    ///
    /// # Errors
    /// It cannot be read, or was changed meanwhile.
    pub fn sha256(&self) -> io::Result<String> {
        let hash = files::sha256_of(&self.file)?;
        self.unchanged()?;
        Ok(hash)
    }

    /// Checks that it still has the content that it had when it was opened.
    ///
    /// # Errors
    /// Somebody wrote to it or shortened it.
    pub fn unchanged(&self) -> io::Result<()> {
        if Stamp::of(&self.file)?.has_content_of(&self.stamp) {
            return Ok(());
        }
        let why =
            "the file was changed in place: a model is replaced by a new file that is renamed";
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Whether others than this process's user and the system may write to it in place. Then what was checked might not
    /// be what is used.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn is_exposed(&self) -> io::Result<bool> {
        let of = self.file.metadata()?;
        let owners = [0, rustix::process::geteuid().as_raw()];
        if owners.contains(&of.uid()) && of.mode() & 0o022 == 0 {
            return Ok(false);
        }
        // the file system is mounted read-only, so nobody writes there whatever the file's mode says
        let disk = rustix::fs::fstatvfs(&self.file)?;
        Ok(!disk.f_flag.contains(StatVfsMountFlags::RDONLY))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn another_file_under_the_name_is_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "abc").unwrap();
        let opened = Opened::open(&path).unwrap();
        let hash = opened.sha256().unwrap();
        fs::write(folder.path().join("g"), "xyz").unwrap();
        fs::rename(folder.path().join("g"), &path).unwrap();
        assert_eq!(files::sha256_of(&opened.file).unwrap(), hash);
        assert_ne!(Opened::open(&path).unwrap().sha256().unwrap(), hash);
    }

    #[test]
    fn what_is_written_in_place_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "abc").unwrap();
        let opened = Opened::open(&path).unwrap();
        opened.unchanged().unwrap();
        // the kernel's clock may tick every 10 ms only: it is waited for, not slept
        while opened.unchanged().is_ok() {
            let mut file = File::options().write(true).open(&path).unwrap();
            file.write_all(b"x").unwrap();
        }
        assert!(opened.sha256().is_err());
    }

    #[test]
    fn who_may_write_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "abc").unwrap();
        for (mode, exposed) in [(0o644, false), (0o400, false), (0o664, true), (0o602, true)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let opened = Opened::open(&path).unwrap();
            assert_eq!(opened.is_exposed().unwrap(), exposed, "{mode:o}");
        }
    }
}
