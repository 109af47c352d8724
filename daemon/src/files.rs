//! Whole files: replaced, hashed, and recognised again.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use glowplug_model::files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::hex::hex;

/// The path beside a file that has its name and a suffix.
#[must_use]
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(suffix);
    path.into()
}

/// Replaces a file. Whatever happens, either the old file or this one is there afterwards: it is written beside the old
/// one, and renamed once it is on the disk.
///
/// # Errors
/// The folder cannot be written; nothing of ours is left there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::replace(path, &beside(path, ".part"), 0o666, |file| {
        file.write_all(bytes)
    })
}

/// Replaces a file, as [`replace`] does, by a line of JSON.
///
/// # Errors
/// Those of [`replace`].
pub(crate) fn replace_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    replace(path, &text)
}

/// Reads what [`replace_json`] wrote, in at most `most` bytes. None: there is no such file, or it is something else.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, most: usize) -> Option<T> {
    let text = text(path, &File::open(path).ok()?, most).ok()?;
    serde_json::from_str(&text).ok()
}

/// Reads an open file as text of at most `most` bytes. Errors name the file.
///
/// # Errors
/// It cannot be read, is longer, or is not UTF-8.
pub(crate) fn text(path: &Path, file: &File, most: usize) -> io::Result<String> {
    let named = |why: &dyn Display| io::Error::other(format!("{}: {why}", path.display()));
    let mut text = String::new();
    let limit = most as u64 + 1;
    file.take(limit)
        .read_to_string(&mut text)
        .map_err(|error| named(&error))?;
    if text.len() > most {
        return Err(named(&format_args!("longer than {most} bytes")));
    }
    Ok(text)
}

/// Bytes that this user may still write to the disk of a folder.
///
/// # Errors
/// The folder is not there.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The SHA-256 of a whole file in hexadecimal. It takes seconds for gigabytes, so never call it in the select loop.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    sha256_of(&File::open(path)?)
}

/// Like [`sha256`], for a file that is open, from its first byte.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn sha256_of(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => {
                hash.update(&buffer[..n]);
                at += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a file is recognised by without being read. The kernel sets the time of its last change, and nobody can turn it
/// back without the rights of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: (u64, u64),
    links: u64,
    bytes: u64,
    /// When its content was written, in seconds and nanoseconds.
    written: (i64, i64),
    /// When its content, owner, rights or names were changed.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    /// The file system does not say.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let of = file.metadata()?;
        Ok(Self {
            inode: (of.dev(), of.ino()),
            links: of.nlink(),
            bytes: of.len(),
            written: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        })
    }

    /// The stamp as it is kept over restarts. None: it would say nothing, because no kernel set the time of the last
    /// change. Whoever makes an image of a file system sets it too, to a whole second, and often to the same one for
    /// every file of every image.
    pub(crate) fn lasting(&self) -> Option<String> {
        let Self {
            inode: (device, inode),
            bytes,
            written,
            changed,
            ..
        } = self;
        let text = format!(
            "{device}:{inode} {bytes} bytes of {}.{:09}, {}.{:09}",
            written.0, written.1, changed.0, changed.1
        );
        (changed.1 != 0).then_some(text)
    }

    /// Whether the file still has the content that it had before. Losing a name, as when another file is renamed over
    /// it, is a change but not one of the content.
    pub(crate) fn has_content_of(&self, before: &Self) -> bool {
        let content = |of: &Self| (of.inode, of.bytes, of.written);
        content(self) == content(before)
            && (self.changed == before.changed || self.links != before.links)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        replace(&path, b"old").unwrap();
        // no byte has room there
        std::os::unix::fs::symlink("/dev/full", beside(&path, ".part")).unwrap();
        let error = replace(&path, b"new").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_has_the_hash_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        // FIPS 180-2, appendix B.1
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_text_is_bounded_and_its_errors_name_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "näh").unwrap();
        let text = |path: &Path, most| text(path, &File::open(path).unwrap(), most);
        assert_eq!(text(&path, 4).unwrap(), "näh");
        let mut bad = vec![text(&path, 3).unwrap_err()];
        fs::write(&path, b"\xff").unwrap();
        bad.extend([
            text(&path, 9).unwrap_err(),
            text(dir.path(), 9).unwrap_err(),
        ]);
        for error in bad {
            assert!(
                error
                    .to_string()
                    .starts_with(&*dir.path().to_string_lossy()),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_was_written_has_another_stamp_whatever_its_time_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let (before, time) = (Stamp::of(&file).unwrap(), fs::metadata(&path).unwrap());
        assert_eq!(Stamp::of(&file).unwrap(), before);
        // a clock of the kernel's may tick every 10 ms only: it is waited for, not slept
        while Stamp::of(&file).unwrap() == before {
            (&file).write_all(b"x").unwrap();
            file.set_modified(time.modified().unwrap()).unwrap();
        }
        assert!(!Stamp::of(&file).unwrap().has_content_of(&before));
    }

    #[test]
    fn a_file_that_lost_its_name_has_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let file = File::open(&path).unwrap();
        let before = Stamp::of(&file).unwrap();
        fs::remove_file(&path).unwrap();
        let after = Stamp::of(&file).unwrap();
        assert_ne!(after, before);
        assert!(after.has_content_of(&before));
    }

    #[test]
    fn a_time_that_no_kernel_set_says_nothing_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let mut stamp = Stamp::of(&File::open(&path).unwrap()).unwrap();
        stamp.changed = (1, 5);
        assert!(stamp.lasting().is_some());
        stamp.changed = (1, 0);
        assert_eq!(stamp.lasting(), None);
    }
}
