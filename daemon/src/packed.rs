//! A model's packed file: written once, beside the model, and mapped in its place for as long as the model is the file that
//! it was made of.

use crate::files::beside;
use glowplug_model::gguf::pack::{self, COARSE_HEAD};
use glowplug_model::gguf::{Gguf, GgufError};
use glowplug_model::quant::to_q4_0;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What must stay free on the disk beside the packed file, in sizes of the model: the disk is not only ours.
const SPARE: u64 = 1;

/// Why there is no packed file.
#[derive(Debug, thiserror::Error)]
pub enum NotPacked {
    /// the model cannot be read, or the file cannot be written
    #[error(transparent)]
    Io(#[from] io::Error),
    /// the model is no model, or what was written is not what was to be written
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// see there
    #[error(transparent)]
    Pack(#[from] pack::PackError),
    /// the disk is too full
    #[error("{free} bytes are free on the disk, a packed file and as much again needs {needed}")]
    Full {
        /// there are
        free: u64,
        /// there would have to be
        needed: u64,
    },
    /// two at once
    #[error("another process is writing it")]
    Busy,
}

/// The packed file beside a model.
#[must_use]
pub fn path(model: &Path) -> PathBuf {
    beside(model, ".packed")
}

/// Bytes that the packed file beside a model has and the model has not: those of a coarse head, if there is one. What each
/// tensor's place in a cache line takes, some KB in all, is not counted: the plan is the same before and after packing.
#[must_use]
pub(crate) fn coarse_head(model: &Path) -> u64 {
    made_of(model).map_or(0, |gguf| {
        gguf.tensor(COARSE_HEAD).map_or(0, |of| of.bytes as u64)
    })
}

/// What tells a model from one that was put in its place: its size, and when it was written.
fn source(model: &Path) -> io::Result<String> {
    let of = fs::metadata(model)?;
    Ok(format!(
        "{} bytes of {}.{:09}",
        of.len(),
        of.mtime(),
        of.mtime_nsec()
    ))
}

/// Opens the packed file beside a model if there is one of just this model, else the model.
///
/// # Errors
/// The model cannot be read, or is no sound file.
pub fn open(model: &Path) -> Result<Gguf, GgufError> {
    match made_of(model) {
        Some(gguf) => Ok(gguf),
        None => Gguf::open(model),
    }
}

/// The packed file beside a model, if there is one of just this model.
fn made_of(model: &Path) -> Option<Gguf> {
    let gguf = Gguf::open(&path(model)).ok()?;
    let source = source(model).ok()?;
    (pack::source(&gguf) == Some(source.as_str())).then_some(gguf)
}

/// As [`open`], but the packed file is written first if there is none and the disk has room for two. Why there is none goes
/// to the log: the model can be served all the same.
///
/// # Errors
/// As [`open`].
pub fn prepare(model: &Path) -> Result<Gguf, GgufError> {
    let gguf = open(model)?;
    if pack::source(&gguf).is_some() {
        return Ok(gguf);
    }
    let begun = Instant::now();
    match room(model, gguf.file_bytes()).and_then(|()| write(model, &path(model), false)) {
        Ok(()) => {
            tracing::info!(
                "packed the model for faster decoding, into {}, in {:.1} s",
                path(model).display(),
                begun.elapsed().as_secs_f64()
            );
            open(model)
        }
        Err(error) => {
            tracing::info!(
                "the model is served as it is, decoding is slower: no packed file beside it: {error}"
            );
            Ok(gguf)
        }
    }
}

/// Removes the packed file beside a model: it proved to be damaged. False: there is none.
#[must_use]
pub fn discard(model: &Path) -> bool {
    fs::remove_file(path(model)).is_ok()
}

/// Is there room for a packed file of `bytes`?
fn room(model: &Path, bytes: u64) -> Result<(), NotPacked> {
    let disk = rustix::fs::statvfs(folder(model)).map_err(io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = bytes.saturating_mul(1 + SPARE);
    if free < needed {
        return Err(NotPacked::Full { free, needed });
    }
    Ok(())
}

/// Where a file lies.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Writes `out`, with a coarse head or without: an old file stays until the new one is whole, on the disk, and has been read
/// again.
///
/// # Errors
/// [`NotPacked`]; nothing of ours stays behind.
pub fn write(model: &Path, out: &Path, coarse_head: bool) -> Result<(), NotPacked> {
    let gguf = Gguf::open(model)?;
    let part = beside(out, ".part");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&part)?;
    file.try_lock().map_err(|_| NotPacked::Busy)?;
    if !fs::metadata(&part)
        .is_ok_and(|now| Some(now.ino()) == file.metadata().ok().map(|m| m.ino()))
    {
        // somebody else finished it between our opening and our lock
        return Err(NotPacked::Busy);
    }
    let written = (|| {
        file.set_len(0)?;
        let mut buffered = BufWriter::new(&file);
        let coarsen: Option<pack::Coarsen> = coarse_head.then_some(to_q4_0);
        pack::write(&gguf, &source(model)?, coarsen, &mut buffered)?;
        buffered.flush()?;
        file.sync_all()?;
        Gguf::open(&part)?.touch()?;
        fs::rename(&part, out)?;
        File::open(folder(out))?.sync_all()?;
        Ok(())
    })();
    if written.is_err() {
        // it may be gone already: what counts is the error that there is
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_said_in_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a.gguf");
        assert!(room(&model, 1).is_ok());
        let error = room(&model, u64::MAX / 4).unwrap_err();
        assert!(matches!(error, NotPacked::Full { needed, .. } if needed == u64::MAX / 4 * 2));
        assert!(room(Path::new("a.gguf"), 1).is_ok());
    }

    #[test]
    fn a_file_that_another_writes_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a.gguf");
        // no tensors, no keys: enough for a head
        let head = [&b"GGUF"[..], &3u32.to_le_bytes(), &[0; 16]].concat();
        fs::write(&model, head).unwrap();
        let part = beside(&path(&model), ".part");
        let other = File::create(&part).unwrap();
        other.lock().unwrap();
        assert!(matches!(
            write(&model, &path(&model), false),
            Err(NotPacked::Busy)
        ));
        assert!(part.is_file());
        drop(other);
        assert!(write(&model, &path(&model), false).is_ok());
        assert!(!part.exists());
        assert!(pack::source(&open(&model).unwrap()).is_some());
        // another model in its place is not that one
        fs::write(
            &model,
            [&b"GGUF"[..], &2u32.to_le_bytes(), &[0; 16]].concat(),
        )
        .unwrap();
        assert_eq!(pack::source(&open(&model).unwrap()), None);
    }
}
