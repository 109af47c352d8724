//! The thread counts that `glowplug tune` measured, in a small file beside the model. The command writes it; the memory
//! plan reads it if the configuration names no counts.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::files;
use glowplug_firmware_config::limits::THREADS_MAX;
use glowplug_model::quant::{Isa, Kernels};
use serde::{Deserialize, Serialize};

/// A larger file is not ours: its four values take some 80 bytes.
const BYTES_MAX: u64 = 4096;

/// The thread counts, and where they were measured: another machine's counts are worth nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The instruction set that they were measured with.
    isa: String,
    /// How many threads the machine runs at once.
    cores: usize,
    pub prefill: usize,
    pub decode: usize,
}

/// Why the file beside a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Useless {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is too large, or not what `glowplug tune` writes.
    #[error("not a file of `glowplug tune`: {0}")]
    Malformed(String),
    /// The model is on another machine now, or the instruction set is forced to another one.
    #[error(
        "measured with {isa} on {cores} cores, which is not this machine: run `glowplug tune` here"
    )]
    Elsewhere { isa: String, cores: usize },
}

impl Tuned {
    /// The counts that were measured on this machine.
    #[must_use]
    pub fn here(isa: Option<Isa>, cores: usize, prefill: usize, decode: usize) -> Self {
        Self {
            isa: level(isa),
            cores,
            prefill,
            decode,
        }
    }

    /// The path of the file beside a model.
    #[must_use]
    pub fn path(model: &Path) -> PathBuf {
        files::beside(model, ".tuned.json")
    }

    /// Reads what was measured for this model on this machine, if anything was.
    ///
    /// # Errors
    /// There is a file, and it is [`Useless`].
    pub fn read(model: &Path, isa: Option<Isa>, cores: usize) -> Result<Option<Self>, Useless> {
        let mut text = String::new();
        match File::open(Self::path(model)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?
                .take(BYTES_MAX + 1)
                .read_to_string(&mut text)
                .map(drop)?,
        }
        if text.len() as u64 > BYTES_MAX {
            return Err(Useless::Malformed(format!("more than {BYTES_MAX} bytes")));
        }
        let tuned: Self =
            serde_json::from_str(&text).map_err(|error| Useless::Malformed(error.to_string()))?;
        for (field, threads) in [("prefill", tuned.prefill), ("decode", tuned.decode)] {
            if !(1..=THREADS_MAX).contains(&threads) {
                return Err(Useless::Malformed(format!(
                    "`{field}` is {threads}: from 1 to {THREADS_MAX}"
                )));
            }
        }
        if tuned.isa != level(isa) || tuned.cores != cores {
            let Self { isa, cores, .. } = tuned;
            return Err(Useless::Elsewhere { isa, cores });
        }
        Ok(Some(tuned))
    }

    /// Writes the file. Whatever happens, either the old file or this one is there afterwards.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, model: &Path) -> io::Result<()> {
        files::replace_json(&Self::path(model), self)
    }
}

/// The instruction set that would be used. (A forced one that this machine lacks is refused where the model is loaded.)
pub(super) fn level(isa: Option<Isa>) -> String {
    match Kernels::detect(isa) {
        Ok(kernels) => kernels.isa().to_string(),
        Err(unsupported) => unsupported.0.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_was_found_here_is_read_here_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a.gguf");
        assert_eq!(Tuned::read(&model, None, 4).unwrap(), None);
        let tuned = Tuned::here(None, 4, 4, 2);
        tuned.write(&model).unwrap();
        assert_eq!(Tuned::read(&model, None, 4).unwrap(), Some(tuned));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for (isa, cores) in [(None, 8), (Some(Isa::Scalar), 4)] {
            let error = Tuned::read(&model, isa, cores).unwrap_err();
            assert!(matches!(error, Useless::Elsewhere { cores: 4, .. }));
        }
    }

    #[test]
    fn what_tune_did_not_write_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a.gguf");
        let long = format!("{}{{}}", " ".repeat(BYTES_MAX as usize));
        for (text, says) in [
            ("", "EOF"),
            (long.as_str(), "more than 4096 bytes"),
            (
                r#"{"isa":"avx2","cores":2,"prefill":0,"decode":1}"#,
                "`prefill` is 0",
            ),
            (
                r#"{"isa":"avx2","cores":2,"prefill":1,"decode":99999}"#,
                "`decode` is 99999",
            ),
            (
                r#"{"isa":"avx2","cores":2,"prefill":1,"decode":1,"x":1}"#,
                "`x`",
            ),
        ] {
            fs::write(Tuned::path(&model), text).unwrap();
            let error = Tuned::read(&model, None, 2).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
