//! The read-only map of a model file: the only unsafe code of this folder.

use bytes::Bytes;
use memmap2::Mmap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Maps a whole regular file for reading. Pages are read when they are touched, and shared with every other reader.
///
/// The file must not be changed in place while it is mapped: replace a model by writing a new file and renaming it.
/// A file that is shortened under the map ends the process with SIGBUS at the next touch of the lost part.
///
/// # Errors
/// The file cannot be opened or mapped, or is no regular file (a FIFO would block, a device has no length).
pub(super) fn map(path: &Path) -> io::Result<Bytes> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let file = File::open(path)?;
    // SAFETY: the map is only ever read, through slices bounded by the length memmap2 takes from this same descriptor.
    // Bytes that somebody else changes under it are wrong data, which every reader here already expects.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_whole_and_outlives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let bytes = map(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(&bytes[..], b"abc");
        assert_eq!(&bytes.slice(1..)[..], b"bc");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            map(dir.path()).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            map(Path::new("/dev/zero")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            map(&dir.path().join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"").unwrap();
        assert!(map(&path).unwrap().is_empty());
    }
}
