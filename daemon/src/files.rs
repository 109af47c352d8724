//! Files as a whole: replaced, hashed, and known again.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use glowplug_model::files;
use sha2::{Digest, Sha256};

use crate::hex::hex;

/// What lies beside a file, by its name and more.
#[must_use]
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(suffix);
    path.into()
}

/// The old file or this one is there, whatever happens: written beside it, and named when it is on the disk.
///
/// # Errors
/// The folder cannot be written; nothing of ours is left there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    files::replace(path, &beside(path, ".part"), 0o666, |file| {
        file.write_all(bytes)
    })
}

/// A file that is text of at most so many bytes. Errors name it.
///
/// # Errors
/// It cannot be read, is longer, or is not UTF-8.
pub(crate) fn text(path: &Path, most: usize) -> io::Result<String> {
    let named = |why: &dyn Display| io::Error::other(format!("{}: {why}", path.display()));
    let mut text = String::new();
    let limit = most as u64 + 1;
    let file = File::open(path).map_err(|error| named(&error))?;
    file.take(limit)
        .read_to_string(&mut text)
        .map_err(|error| named(&error))?;
    if text.len() > most {
        return Err(named(&format_args!("longer than {most} bytes")));
    }
    Ok(text)
}

/// SHA-256 of a whole file, in hexadecimal. Takes seconds for gigabytes: not for the select loop.
///
/// # Errors
/// It cannot be read.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// What a file is known again by without being read: the kernel sets the time of its last change, which nobody can turn
/// back without the rights of the system.
///
/// # Errors
/// It is not there.
pub(crate) fn stamp(path: &Path) -> io::Result<String> {
    let of = fs::metadata(path)?;
    Ok(format!(
        "{}:{} {} bytes of {}.{:09}, {}.{:09}",
        of.dev(),
        of.ino(),
        of.len(),
        of.mtime(),
        of.mtime_nsec(),
        of.ctime(),
        of.ctime_nsec()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
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
        assert_eq!(text(&path, 4).unwrap(), "näh");
        let mut bad = vec![text(&path, 3).unwrap_err()];
        fs::write(&path, b"\xff").unwrap();
        bad.extend([
            text(&path, 9).unwrap_err(),
            text(dir.path(), 9).unwrap_err(),
        ]);
        fs::remove_file(&path).unwrap();
        bad.push(text(&path, 9).unwrap_err());
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
        let (before, time) = (stamp(&path).unwrap(), fs::metadata(&path).unwrap());
        assert_eq!(stamp(&path).unwrap(), before);
        let file = File::options().write(true).open(&path).unwrap();
        // a clock of the kernel's may be as coarse as 10 ms: it is waited for, not slept
        while stamp(&path).unwrap() == before {
            (&file).write_all(b"x").unwrap();
            file.set_modified(time.modified().unwrap()).unwrap();
        }
    }
}
