//! The file of the owner's keys, read again when it has changed.

use super::{Keys, KeysError};
use crate::files;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of the file: eight keys, and a page of comments.
const FILE_MAX: u64 = 8 << 10;
/// The rights that nobody may have: those of others, and that of the group to write. A group may read, as where root
/// owns the file and the daemon's group is let in.
const RIGHTS_REFUSED: u32 = 0o027;

/// What is wrong with a file of keys, in a sentence that names it.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read `{}` (`sessions.key_file`): {source}", path.display())]
    Read {
        /// The file that was named.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a folder or a device.
    #[error("`{}` (`sessions.key_file`) is no file", path.display())]
    NoFile {
        /// What was named instead.
        path: PathBuf,
    },
    /// Others can read or write the keys.
    #[error(
        "`{}` (`sessions.key_file`) has the mode {mode:03o}, so that others can read or write the keys: `chmod 600` it",
        path.display()
    )]
    Open {
        /// The file that was named.
        path: PathBuf,
        /// Its rights as they are.
        mode: u32,
    },
    /// It holds something else than keys.
    #[error("`{}` (`sessions.key_file`) has more than {FILE_MAX} bytes", path.display())]
    Long {
        /// The file that was named.
        path: PathBuf,
    },
    /// A line of it is no key.
    #[error("`{}` (`sessions.key_file`), {why}", path.display())]
    Content {
        /// The file that was named.
        path: PathBuf,
        /// Which line, and why.
        why: KeysError,
    },
}

/// The keys of a file, as they are now.
pub struct KeyFile {
    path: PathBuf,
    held: Mutex<Held>,
}

struct Held {
    /// What the file is recognised by; none if it is not there.
    stamp: Option<[i64; 7]>,
    keys: Arc<Keys>,
}

/// Keys are never printed.
impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the keys of {}", self.path.display())
    }
}

impl KeyFile {
    /// Reads the keys of a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let stamp = stamp(path);
        let keys = Arc::new(read(path)?);
        Ok(Self {
            path: path.to_owned(),
            held: Mutex::new(Held { stamp, keys }),
        })
    }

    /// The keys as they are now. If the file is another one than before, the second value says whether its keys count
    /// from now on: where it cannot be used, those before go on.
    pub fn keys(&self) -> (Arc<Keys>, Option<Result<(), KeyFileError>>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // before it is read, so that a write in between is seen the next time
        let stamp = stamp(&self.path);
        if stamp == held.stamp {
            return (Arc::clone(&held.keys), None);
        }
        // looked at once more only when it changes again
        held.stamp = stamp;
        let news = read(&self.path).map(|keys| held.keys = Arc::new(keys));
        (Arc::clone(&held.keys), Some(news))
    }
}

fn stamp(path: &Path) -> Option<[i64; 7]> {
    let of: Metadata = fs::metadata(path).ok()?;
    Some([
        of.ino().cast_signed(),
        of.len().cast_signed(),
        of.mtime(),
        of.mtime_nsec(),
        of.ctime(),
        of.ctime_nsec(),
        i64::from(of.mode()),
    ])
}

fn read(path: &Path) -> Result<Keys, KeyFileError> {
    let unread = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let path_of = || path.to_owned();
    files::operation("open").map_err(unread)?;
    // a FIFO would block
    if !fs::metadata(path).map_err(unread)?.is_file() {
        return Err(KeyFileError::NoFile { path: path_of() });
    }
    let file = File::open(path).map_err(unread)?;
    let mode = file.metadata().map_err(unread)?.mode() & 0o777;
    if mode & RIGHTS_REFUSED != 0 {
        let path = path_of();
        return Err(KeyFileError::Open { path, mode });
    }
    let mut text = String::new();
    file.take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unread)?;
    if text.len() as u64 > FILE_MAX {
        return Err(KeyFileError::Long { path: path_of() });
    }
    Keys::parse(&text).map_err(|why| KeyFileError::Content {
        path: path_of(),
        why,
    })
}
