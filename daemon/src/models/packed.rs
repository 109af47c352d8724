//! A model's packed file. It is written once beside the model, and mapped in its place as long as the model has the
//! content that it was made from.

use super::layout::{Layouts, Setting};
use super::opened::Opened;
use super::speed::to_measure;
use crate::files::{self, beside};
use glowplug_model::engine::EngineConfig;
use glowplug_model::gguf::pack::{self, REQUANTIZED_HEAD};
use glowplug_model::gguf::{Gguf, GgufError, Large};
use glowplug_model::quant::to_q4_0;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How much must stay free on the disk besides the packed file, in sizes of the model: the disk is not only ours.
const SPARE: u64 = 1;

/// The smallest model whose layouts are compared. What is measured of a smaller one takes a few hundredths of a second, which
/// something else that runs can make twice as long; it is served packed.
const COMPARED: u64 = 128 << 20;

/// Why no packed file was made.
#[derive(Debug, thiserror::Error)]
pub enum NotPacked {
    /// The model cannot be read, or the file cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The model is not sound, or what was written is not what it should be.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Pack(#[from] pack::PackError),
    #[error("{free} bytes are free on the disk, a packed file and as much again needs {needed}")]
    Full {
        free: u64,
        /// How many bytes would have to be free.
        needed: u64,
    },
    #[error("another process is writing it")]
    Busy,
}

/// The path of the packed file beside a model.
#[must_use]
pub fn path(model: &Path) -> PathBuf {
    beside(model, ".packed")
}

/// What a packed file says about its source; no two models have it in common.
fn source(sha256: &str) -> String {
    format!("sha256 {sha256}")
}

/// A model, and its packed file if it has one. One of them is mapped.
#[derive(Debug, Clone)]
pub struct Weights {
    pub model: Opened,
    /// SHA-256 of the model's whole file.
    pub sha256: String,
    /// A packed file that was made of exactly this model.
    pub packed: Option<Opened>,
    /// Whether the model is mapped as it came, because this machine is faster with it so: no packed file is made.
    pub as_it_came: bool,
    /// Bytes of the requantised head of the packed file that was found.
    requantized_head: u64,
}

impl Weights {
    /// A model of this hash, and the packed file beside it if that was made of a model of this hash.
    #[must_use]
    pub fn new(model: Opened, sha256: String) -> Self {
        let mut requantized_head = 0;
        let packed = Opened::open(&path(model.path())).ok().filter(|packed| {
            let gguf = packed.gguf().ok();
            let of_this = |gguf: &Gguf| pack::source(gguf) == Some(source(&sha256).as_str());
            let gguf = gguf.filter(of_this);
            let head = gguf.as_ref().and_then(|gguf| gguf.tensor(REQUANTIZED_HEAD));
            requantized_head = head.map_or(0, |head| head.bytes as u64);
            gguf.is_some()
        });
        Self {
            model,
            sha256,
            packed,
            as_it_came: false,
            requantized_head,
        }
    }

    /// Bytes that only the packed file has: those of a requantised head, if there is one. The padding of tensors to
    /// cache lines, some KB in all, is not counted, so that the plan is the same before and after packing.
    #[must_use]
    pub fn requantized_head(&self) -> u64 {
        self.packed.as_ref().map_or(0, |_| self.requantized_head)
    }

    /// Maps the packed file if there is one, else the model.
    ///
    /// # Errors
    /// The file cannot be read, or is not sound.
    pub fn map(&self) -> Result<Gguf, GgufError> {
        self.packed.as_ref().unwrap_or(&self.model).gguf()
    }

    /// Like [`Self::map`], but first writes the packed file if there is none, it may be faster, and the disk has room for two. If
    /// it cannot be written, the log says why; the model can be served all the same.
    ///
    /// # Errors
    /// Those of [`Self::map`]; or the model was changed in place since it was opened.
    pub fn prepare(&mut self) -> Result<Gguf, GgufError> {
        self.packed.take_if(|packed| packed.unchanged().is_err());
        self.model.unchanged()?;
        let gguf = self.map()?;
        if self.as_it_came || pack::source(&gguf).is_some() {
            return Ok(gguf);
        }
        let begun = Instant::now();
        match self.pack(gguf.file_bytes()) {
            Ok(packed) => {
                tracing::info!(
                    "packed the model for faster decoding, into {}, in {:.1} s",
                    packed.path().display(),
                    begun.elapsed().as_secs_f64()
                );
                self.packed = Some(packed);
                self.map()
            }
            Err(error) => {
                tracing::info!(
                    "there is no packed file, so the model is served as it is and decodes slower: {error}"
                );
                if self.model.is_exposed()? {
                    tracing::warn!(
                        "other users may write {}: if one of them shortens it, the daemon ends; \
                         take that right away (`chmod go-w`), or give the file to this user",
                        self.model.path().display()
                    );
                }
                Ok(gguf)
            }
        }
    }

    /// Decides whether the packed file or the model as it came is mapped from now on: the one that this machine is faster with.
    /// That is measured once, when there is a packed file for the first time; one that is slower is removed. Where others may write
    /// the model, the packed file is mapped in any case, which they may not, and so it is of a small model. What cannot be measured
    /// changes nothing, and whoever loads the model is told why it cannot be loaded.
    pub fn choose_layout(&mut self, config: &EngineConfig, cores: usize) {
        let bytes = fs::metadata(self.model.path()).map_or(0, |of| of.len());
        if bytes < COMPARED || self.model.is_exposed().unwrap_or(true) {
            return;
        }
        let four_bit_head = self.requantized_head() > 0;
        let setting = Setting::here(config.isa, cores, &self.sha256, four_bit_head);
        let known = Layouts::read(self.model.path(), &setting);
        let Some(layouts) = known.or_else(|| self.measure_layouts(&setting, config)) else {
            return;
        };
        self.as_it_came = !layouts.packed_is_faster();
        if self.as_it_came && self.discard() {
            tracing::info!("the packed file is slower here, and was removed");
        }
    }

    fn measure_layouts(&mut self, setting: &Setting, config: &EngineConfig) -> Option<Layouts> {
        drop(self.prepare().ok()?);
        // there is nothing to choose from where none could be written, or where the model itself is a packed file
        let packed = self.packed.as_ref()?;
        match Layouts::measure(setting, &self.model, packed, &to_measure(config)) {
            Ok(layouts) => {
                tracing::info!("measured once with this model: {layouts}");
                if let Err(error) = layouts.write(self.model.path()) {
                    tracing::warn!(
                        "the speeds cannot be kept, and the next start measures them again: {error}"
                    );
                }
                Some(layouts)
            }
            Err(error) => {
                tracing::debug!("the layouts of the weights are not compared: {error}");
                None
            }
        }
    }

    fn pack(&self, bytes: u64) -> Result<Opened, NotPacked> {
        let out = path(self.model.path());
        // what lies there was made of another model, or nobody knows by whom; its room is needed
        match fs::remove_file(&out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => room(self.model.path(), bytes)?,
        }
        write(&self.model, &self.sha256, &out, false)
    }

    /// Removes the packed file, because it proved to be damaged. False: there is none.
    #[must_use]
    pub fn discard(&mut self) -> bool {
        let packed = self.packed.take();
        packed.is_some_and(|packed| fs::remove_file(packed.path()).is_ok())
    }
}

/// Checks that there is room for a packed file of `bytes`.
fn room(model: &Path, bytes: u64) -> Result<(), NotPacked> {
    let free = files::free(folder(model))?;
    let needed = bytes.saturating_mul(1 + SPARE);
    if free < needed {
        return Err(NotPacked::Full { free, needed });
    }
    Ok(())
}

/// The folder that a file lies in.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Writes `out`, with or without a requantised head. An old file stays until the new one is complete, on the disk, and
/// was read again. The file that is returned is the one that was written, whatever others put under its name.
///
/// # Errors
/// [`NotPacked`]; nothing of ours stays behind.
pub fn write(
    model: &Opened,
    sha256: &str,
    out: &Path,
    requantized_head: bool,
) -> Result<Opened, NotPacked> {
    let gguf = model.gguf()?;
    let part = beside(out, ".part");
    let file = ours(&part)?;
    file.try_lock().map_err(|_| NotPacked::Busy)?;
    if !fs::metadata(&part)
        .is_ok_and(|now| Some(now.ino()) == file.metadata().ok().map(|m| m.ino()))
    {
        // somebody else finished it between our opening and our lock
        return Err(NotPacked::Busy);
    }
    let written = (|| {
        file.set_len(0)?;
        let mut buffered = Large::new(&file);
        let requantize: Option<pack::Requantize> = requantized_head.then_some(to_q4_0);
        pack::write(&gguf, &source(sha256), requantize, &mut buffered)?;
        buffered.flush()?;
        file.sync_all()?;
        Gguf::from_file(&file)?.touch(1)?;
        // the bytes that were read are those of this hash
        model.unchanged()?;
        fs::rename(&part, out)?;
        File::open(folder(out))?.sync_all()?;
        file.unlock()?;
        Ok(())
    })();
    match written {
        // a rename is a change too, so the stamp is taken after it
        Ok(()) => Ok(Opened::of(out.to_owned(), file)?),
        Err(error) => {
            // it may be gone already; the error that we have is the one that counts
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

/// Creates a file to write to, anew where another process could go on writing to the old one.
fn ours(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .mode(0o644)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let file = options.clone().create(true).truncate(false).open(path);
    let is_ours = |file: &File| -> io::Result<bool> {
        let of = file.metadata()?;
        let owner = of.uid() == rustix::process::geteuid().as_raw();
        Ok(of.is_file() && owner && of.nlink() == 1 && of.mode() & 0o022 == 0)
    };
    match file {
        Ok(file) if is_ours(&file)? => Ok(file),
        _ => {
            fs::remove_file(path)?;
            options.create_new(true).open(path)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// No tensors, no keys: enough for a head.
    fn head(version: u32) -> Vec<u8> {
        [&b"GGUF"[..], &version.to_le_bytes(), &[0; 16]].concat()
    }

    fn weights(model: &Path) -> Weights {
        let model = Opened::open(model).unwrap();
        let sha256 = model.sha256().unwrap();
        Weights::new(model, sha256)
    }

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
        let path = folder.path().join("a.gguf");
        fs::write(&path, head(3)).unwrap();
        let part = beside(&super::path(&path), ".part");
        let other = ours(&part).unwrap();
        other.lock().unwrap();
        let mut model = weights(&path);
        assert!(matches!(model.pack(1), Err(NotPacked::Busy)));
        assert!(part.is_file());
        drop(other);
        let gguf = model.prepare().unwrap();
        assert!(pack::source(&gguf).is_some() && model.packed.is_some());
        assert!(!part.exists());
        assert!(weights(&path).packed.is_some());
    }

    /// Size and time of a file say nothing of what is in it: images give every file the same time.
    #[test]
    fn a_packed_file_of_another_content_is_not_taken_whatever_its_time_and_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        fs::write(&path, head(3)).unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let mut first = weights(&path);
        first.prepare().unwrap();
        assert!(weights(&path).packed.is_some());
        fs::write(&path, head(2)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        let mut second = weights(&path);
        assert!(second.packed.is_none());
        assert_ne!(second.sha256, first.sha256);
        // it is made again, and is the new one's alone
        second.prepare().unwrap();
        assert!(weights(&path).packed.is_some());
        // and the old one was changed in place
        assert!(first.prepare().is_err());
    }

    /// Whoever may write the folder: what is written is a file of our own, and what is given back is that file.
    #[test]
    fn what_others_could_write_in_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        fs::write(&path, head(3)).unwrap();
        let part = beside(&super::path(&path), ".part");
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        let tricks: [&dyn Fn(); 3] = [
            &|| symlink(&elsewhere, &part).unwrap(),
            &|| fs::hard_link(&elsewhere, &part).unwrap(),
            &|| {
                fs::write(&part, "").unwrap();
                fs::set_permissions(&part, Permissions::from_mode(0o666)).unwrap();
            },
        ];
        for trick in tricks {
            trick();
            let theirs = File::options().write(true).open(&part).unwrap();
            let mut model = weights(&path);
            model.prepare().unwrap();
            let packed = model.packed.clone().unwrap();
            assert_ne!(
                fs::metadata(packed.path()).unwrap().ino(),
                theirs.metadata().unwrap().ino()
            );
            assert!(!packed.is_exposed().unwrap());
            // what lies under the name afterwards is not what is mapped
            fs::write(&elsewhere, "theirs").unwrap();
            fs::rename(&elsewhere, packed.path()).unwrap();
            assert!(pack::source(&model.prepare().unwrap()).is_some());
            fs::remove_file(packed.path()).unwrap();
            fs::write(&elsewhere, "theirs").unwrap();
        }
    }

    #[test]
    fn a_damaged_one_is_discarded_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        fs::write(&path, head(3)).unwrap();
        let mut model = weights(&path);
        assert!(!model.discard());
        model.prepare().unwrap();
        assert!(model.discard() && !super::path(&path).exists());
        assert!(!model.discard());
    }
}
