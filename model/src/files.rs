//! Replaces files as a whole. After a crash, a full disk or a power cut the old file is there or the new one, never a part of
//! either.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
pub(crate) mod fault;

/// Called before every operation on the disk. In tests it can fail, or end the caller there as SIGKILL would.
#[cfg(not(test))]
pub(crate) fn operation(_what: &'static str) -> io::Result<()> {
    Ok(())
}
#[cfg(test)]
pub(crate) use fault::operation;

/// The part of `bytes` that the next write takes: all of them, except in tests.
#[cfg(not(test))]
fn writable(bytes: &[u8]) -> io::Result<&[u8]> {
    Ok(bytes)
}
#[cfg(test)]
use fault::writable;

/// Makes or replaces the file at `path`. `write` fills `part`, which lies in the same folder and is then renamed. The bytes are
/// on the disk before the file gets its name, and the name is on the disk before this returns. `mode` is that of a new `part`,
/// less the umask.
///
/// # Errors
/// The error of `write`, or of the disk. What was at `path` is still there, and `part` is removed. Only after an error of the
/// very last operation, which brings the name to the disk, the new file has its name already.
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
        // the error of the write is the one to report
        let _ = fs::remove_file(part);
        return Err(error);
    }
    Ok(sync_folder(path)?)
}

/// A file that does not have its final name yet.
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

/// Brings changes of the names in a file's folder to the disk.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    operation("sync folder")?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Removes a file and gives whether it was there. The removal survives a power cut after [`sync_folder`].
///
/// # Errors
/// The file is still there.
pub fn remove(path: &Path) -> io::Result<bool> {
    operation("remove")?;
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        // a read-only file system gives its own error even for a file that is not there
        Err(error) => match fs::symlink_metadata(path) {
            Err(none) if is_missing(&none) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Whether an error says that a file is not there.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// Makes a folder that only its owner can look into, and those above it. A folder that is there stays as it is.
///
/// # Errors
/// The folder cannot be made.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    operation("make folder")?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests;
