//! Files that are replaced as a whole. After a crash, a full disk or a power cut the old file is there or the new one,
//! never a part of either.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
pub(crate) mod fault;

/// Comes before every operation on the disk. In tests it can fail, or end the caller there as SIGKILL does.
#[cfg(not(test))]
pub(crate) fn operation(_what: &'static str) -> io::Result<()> {
    Ok(())
}
#[cfg(test)]
pub(crate) use fault::operation;

/// How many of `bytes` the next write may take: all of them but in tests.
#[cfg(not(test))]
fn writable(bytes: &[u8]) -> io::Result<&[u8]> {
    Ok(bytes)
}
#[cfg(test)]
use fault::writable;

/// Makes a file, or puts it in place of the one at `path`: `write` fills `part`, which lies in the same folder. The bytes
/// are on the disk before the file gets its name, and the name is on the disk before this returns. `mode` is that of a
/// new `part`, less the umask.
///
/// # Errors
/// The disk's, and those of `write`. What was at `path` is there still, and `part` is removed; but after an error of the
/// very last operation, which brings the name to the disk, the new file has its name.
pub fn replace<E: From<io::Error>>(
    path: &Path,
    part: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    operation("open")?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(part)?;
    let mut file = Part(file);
    let written = write(&mut file).and_then(|()| Ok(file.name(part, path)?));
    if let Err(error) = written {
        // the first error is the one that counts
        let _ = fs::remove_file(part);
        return Err(error);
    }
    Ok(sync_folder(path)?)
}

/// A file that has no name yet.
struct Part(File);

impl Part {
    fn name(&self, part: &Path, path: &Path) -> io::Result<()> {
        operation("sync")?;
        self.0.sync_all()?;
        operation("rename")?;
        fs::rename(part, path)
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(writable(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Brings what happened to the names in a file's folder to the disk.
///
/// # Errors
/// The disk's.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    operation("sync folder")?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Removes a file; gives if it was there. [`sync_folder`] makes it last.
///
/// # Errors
/// It is there still.
pub fn remove(path: &Path) -> io::Result<bool> {
    operation("remove")?;
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        // of what is not there a file system that cannot be written says that it cannot be written
        Err(error) => match fs::symlink_metadata(path) {
            Err(none) if is_missing(&none) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Does an error say that a file is not there?
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// Makes a folder that only its owner can look into, with those above it; one that is there stays as it is.
///
/// # Errors
/// It cannot be made.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    operation("make folder")?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests;
