//! Whether a model runs faster on the GPU than on the processor: what was measured once on this machine, in a small file beside
//! the model, and the rule that decides by it. A daemon with `model.device = "auto"` measures where there is no such file, and
//! `glowplug tune` measures anew.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use glowplug_model::engine::{Compute, EngineConfig};
use glowplug_model::gguf::Gguf;
use glowplug_model::ops::memory::GpuFacts;
use glowplug_model::quant::Isa;
use serde::{Deserialize, Serialize};

use super::speed::{NotMeasured, QUESTION, Speed};
use super::tuned::level;

/// A larger file is not ours: its values take some 300 bytes.
const BYTES_MAX: usize = 4096;
/// The GPU has to take at most this part of the processor's time. Where they are nearly as fast, the processor stays: it rounds
/// as the tests of the model were made, and cannot be lost.
const FASTER: f64 = 0.9;

/// On what a comparison was made. One of another machine, driver or file is worth nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    gpu: String,
    driver: String,
    isa: String,
    cores: usize,
    file_bytes: u64,
}

impl Setting {
    /// This machine with this file.
    #[must_use]
    pub fn here(gpu: &GpuFacts, isa: Option<Isa>, cores: usize, file_bytes: u64) -> Self {
        Self {
            gpu: gpu.name.clone(),
            driver: gpu.driver.clone(),
            isa: level(isa),
            cores,
            file_bytes,
        }
    }
}

/// The speeds of processor and GPU with one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    setting: Setting,
    pub processor: Speed,
    pub gpu: Speed,
}

impl Comparison {
    /// Measures both, one after the other, so that no two copies of the weights are in memory.
    ///
    /// # Errors
    /// [`NotMeasured`]: the GPU cannot run the model, or it is lost.
    pub fn measure(
        setting: Setting,
        gguf: &Gguf,
        config: &EngineConfig,
    ) -> Result<Self, NotMeasured> {
        let speed = |compute| {
            let config = EngineConfig {
                compute,
                ..config.clone()
            };
            Speed::measure(gguf, &config)
        };
        Ok(Self {
            setting,
            processor: speed(Compute::Cpu)?,
            gpu: speed(Compute::Gpu)?,
        })
    }

    /// The path of the file beside a model.
    #[must_use]
    pub fn path(model: &Path) -> PathBuf {
        files::beside(model, ".device.json")
    }

    /// Reads what was measured in this setting, if anything was. What cannot be used is measured anew.
    #[must_use]
    pub fn read(model: &Path, setting: &Setting) -> Option<Self> {
        let read: Self = files::read_json(&Self::path(model), BYTES_MAX)?;
        (read.setting == *setting && read.processor.is_speed() && read.gpu.is_speed())
            .then_some(read)
    }

    /// Writes the file. Whatever happens, either the old file or this one is there afterwards.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, model: &Path) -> io::Result<()> {
        files::replace_json(&Self::path(model), self)
    }

    /// The processor that computes: the GPU only if a question of 256 tokens with an answer of 128 takes it at most nine tenths
    /// of the processor's time.
    #[must_use]
    pub fn faster(&self) -> Compute {
        if self.gpu.question_s() <= FASTER * self.processor.question_s() {
            Compute::Gpu
        } else {
            Compute::Cpu
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [prompt, answer] = QUESTION;
        write!(
            f,
            "a prompt of {prompt} tokens and an answer of {answer} take the GPU {:.2} s and the processor {:.2} s",
            self.gpu.question_s(),
            self.processor.question_s()
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn setting(driver: &str) -> Setting {
        Setting {
            gpu: "G".to_owned(),
            driver: driver.to_owned(),
            isa: "avx2".to_owned(),
            cores: 4,
            file_bytes: 7,
        }
    }

    fn comparison(processor: (f64, f64), gpu: (f64, f64)) -> Comparison {
        let speed = |(prefill_tps, decode_tps)| Speed {
            prefill_tps,
            decode_tps,
        };
        Comparison {
            setting: setting("1"),
            processor: speed(processor),
            gpu: speed(gpu),
        }
    }

    #[test]
    fn the_gpu_is_taken_where_the_whole_question_is_faster() {
        let faster = |processor, gpu| comparison(processor, gpu).faster();
        for (processor, gpu, computes) in [
            // as fast in all, in a tenth less time, and in a bit more than that
            ((256.0, 128.0), (256.0, 128.0), Compute::Cpu),
            ((256.0, 128.0), (284.5, 142.3), Compute::Gpu),
            ((256.0, 128.0), (284.0, 142.0), Compute::Cpu),
            // one that reads prompts much faster may decode somewhat slower, as where both share the memory
            ((100.0, 20.0), (1000.0, 19.0), Compute::Gpu),
            ((400.0, 20.0), (4000.0, 19.0), Compute::Cpu),
            ((100.0, 20.0), (10.0, 40.0), Compute::Cpu),
        ] {
            assert_eq!(faster(processor, gpu), computes, "{processor:?} {gpu:?}");
        }
    }

    /// On whatever device Vulkan gives, as the tests of the kernels do.
    #[cfg(feature = "wgpu")]
    #[test]
    fn both_are_measured() {
        use glowplug_firmware_config::kv::KvFormat;
        use glowplug_model::engine::KvFormats;
        let tiny = glowplug_tests::world::tiny();
        let gguf = Gguf::from_bytes(tiny.bytes().into()).unwrap();
        let config = EngineConfig::new(128, 1, KvFormats::both(KvFormat::Q8_0));
        let measured = Comparison::measure(setting("1"), &gguf, &config).unwrap();
        assert!(measured.processor.is_speed() && measured.gpu.is_speed());
    }

    #[test]
    fn what_was_measured_counts_in_its_setting_alone() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("a.gguf");
        assert_eq!(Comparison::read(&model, &setting("1")), None);
        let measured = comparison((100.0, 20.0), (1000.0, 19.0));
        measured.write(&model).unwrap();
        assert_eq!(
            Comparison::read(&model, &setting("1")),
            Some(measured.clone())
        );
        assert_eq!(Comparison::read(&model, &setting("2")), None);
        let says = measured.to_string();
        assert!(says.contains("6.99 s") && says.contains("8.96 s"), "{says}");
        comparison((100.0, 0.0), (1.0, 1.0)).write(&model).unwrap();
        assert_eq!(Comparison::read(&model, &setting("1")), None);
        for text in ["", "{}", &" ".repeat(BYTES_MAX + 1)] {
            std::fs::write(Comparison::path(&model), text).unwrap();
            assert_eq!(Comparison::read(&model, &setting("1")), None);
        }
    }
}
