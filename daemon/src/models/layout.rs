//! Whether a model is faster from its packed file or as it came: what was measured once on this machine, in a small file beside
//! the model. Kernels stream both, and which of them wins is the processor's doing: on AVX2 and Zen 4 it was the packed one, on an
//! Intel server with AVX-512 the other.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use glowplug_model::engine::{EngineConfig, LoadError};
use glowplug_model::quant::Isa;
use serde::{Deserialize, Serialize};

use super::opened::Opened;
use super::speed::{NotMeasured, Speed};
use super::tuned::level;

/// A larger file is not ours: its values take some 300 bytes.
const BYTES_MAX: usize = 4096;
/// The model as it came has to take at most this part of the packed file's time. Where they are nearly as fast, the packed file
/// stays, which is read and checked already.
const FASTER: f64 = 0.97;

/// On what a comparison was made. One of another machine or file is worth nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    isa: String,
    cores: usize,
    /// SHA-256 of the model's whole file.
    sha256: String,
    /// Whether the packed file has a requantised head besides the model's own, which makes it faster.
    four_bit_head: bool,
}

impl Setting {
    /// This machine with this model.
    #[must_use]
    pub fn here(isa: Option<Isa>, cores: usize, sha256: &str, four_bit_head: bool) -> Self {
        Self {
            isa: level(isa),
            cores,
            sha256: sha256.to_owned(),
            four_bit_head,
        }
    }
}

/// The speeds of one model in its two layouts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layouts {
    setting: Setting,
    pub packed: Speed,
    pub as_it_came: Speed,
}

impl Layouts {
    /// Measures both, one after the other, so that no two copies of the weights are in memory. If the model as it came seems to be
    /// faster, both are measured once more, because something else may have run during one of the two; the faster round of
    /// each counts.
    ///
    /// # Errors
    /// [`NotMeasured`]: the model cannot be loaded.
    pub fn measure(
        setting: &Setting,
        model: &Opened,
        packed: &Opened,
        config: &EngineConfig,
    ) -> Result<Self, NotMeasured> {
        // mapped for as long as it is measured, because the memory plan has room for the weights once
        let speed = |file: &Opened| {
            let gguf = file.gguf().map_err(LoadError::from)?;
            Speed::measure(&gguf, config)
        };
        let once = || -> Result<Self, NotMeasured> {
            Ok(Self {
                setting: setting.clone(),
                packed: speed(packed)?,
                as_it_came: speed(model)?,
            })
        };
        let first = once()?;
        if first.packed_is_faster() {
            return Ok(first);
        }
        let second = once()?;
        Ok(Self {
            packed: first.packed.faster(second.packed),
            as_it_came: first.as_it_came.faster(second.as_it_came),
            ..first
        })
    }

    /// The path of the file beside a model.
    #[must_use]
    pub fn path(model: &Path) -> PathBuf {
        files::beside(model, ".layout.json")
    }

    /// Reads what was measured in this setting, if anything was. What cannot be used is measured anew.
    #[must_use]
    pub fn read(model: &Path, setting: &Setting) -> Option<Self> {
        let read: Self = files::read_json(&Self::path(model), BYTES_MAX)?;
        (read.setting == *setting && read.packed.is_speed() && read.as_it_came.is_speed())
            .then_some(read)
    }

    /// Writes the file. Whatever happens, either the old file or this one is there afterwards.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, model: &Path) -> io::Result<()> {
        files::replace_json(&Self::path(model), self)
    }

    /// Whether the packed file is to be served.
    #[must_use]
    pub fn packed_is_faster(&self) -> bool {
        self.as_it_came.question_s() > FASTER * self.packed.question_s()
    }
}

impl fmt::Display for Layouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = |speed: Speed| format!("{:.1} and {:.2}", speed.prefill_tps, speed.decode_tps);
        write!(
            f,
            "prefill and decode of {} tokens/s packed, {} as it came",
            speed(self.packed),
            speed(self.as_it_came)
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn layouts(packed: (f64, f64), as_it_came: (f64, f64)) -> Layouts {
        let speed = |(prefill_tps, decode_tps)| Speed {
            prefill_tps,
            decode_tps,
        };
        Layouts {
            setting: Setting::here(None, 2, "ab", false),
            packed: speed(packed),
            as_it_came: speed(as_it_came),
        }
    }

    #[test]
    fn the_model_as_it_came_is_taken_where_a_question_is_clearly_faster() {
        for (packed, as_it_came, packed_is_faster) in [
            ((100.0, 20.0), (100.0, 20.0), true),
            ((100.0, 20.0), (102.0, 20.4), true),
            ((100.0, 20.0), (104.0, 20.8), false),
            // as measured on an Intel server
            ((162.0, 14.5), (174.0, 17.1), false),
            ((98.0, 15.7), (57.0, 11.0), true),
        ] {
            let layouts = layouts(packed, as_it_came);
            assert_eq!(layouts.packed_is_faster(), packed_is_faster, "{layouts}");
        }
    }

    #[test]
    fn what_was_measured_counts_in_its_setting_alone() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a.gguf");
        let here = Setting::here(None, 2, "ab", false);
        assert_eq!(Layouts::read(&model, &here), None);
        let measured = layouts((100.0, 20.0), (90.0, 21.0));
        measured.write(&model).unwrap();
        assert_eq!(Layouts::read(&model, &here), Some(measured));
        for elsewhere in [
            Setting::here(Some(Isa::Scalar), 2, "ab", false),
            Setting::here(None, 4, "ab", false),
            Setting::here(None, 2, "cd", false),
            Setting::here(None, 2, "ab", true),
        ] {
            assert_eq!(Layouts::read(&model, &elsewhere), None);
        }
        layouts((0.0, 20.0), (90.0, 21.0)).write(&model).unwrap();
        assert_eq!(Layouts::read(&model, &here), None);
        for text in ["", "{}", &" ".repeat(BYTES_MAX + 1)] {
            std::fs::write(Layouts::path(&model), text).unwrap();
            assert_eq!(Layouts::read(&model, &here), None);
        }
    }
}
