//! Which processor computes, and how long a step may keep the GPU before it is taken for lost.

use std::time::Duration;

use glowplug_firmware_config::limits::DEVICE_WAIT_MAX;
use glowplug_model::engine::{Compute, EngineConfig, gpu};
use glowplug_model::ops::memory::GpuKind;

use crate::config::Device;
use crate::models::device::{Comparison, Setting};
use crate::models::packed::Weights;
use crate::models::plan::Plan;
use crate::models::speed::to_measure;

/// A step may take so many times as long as the slowest one before. A chunk of a prompt takes some ten times as long as a token.
const SLOWER: u32 = 20;
/// A step may take so long in any case, so that a machine which others use too loses no GPU that works. With what it takes to
/// load the processor's side, requests are answered again within ten seconds after a GPU hung.
const LEAST: Duration = Duration::from_secs(5);

/// The processor that computes, and why it is that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computes {
    pub compute: Compute,
    pub why: String,
}

impl Computes {
    pub(super) fn cpu(why: String) -> Self {
        Self {
            compute: Compute::Cpu,
            why,
        }
    }

    /// As the configuration names it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.compute {
            Compute::Cpu => "cpu",
            Compute::Gpu => "gpu",
        }
    }
}

/// Chooses by the configuration and, where that leaves the choice, by what was measured with this model on this machine.
pub(super) fn choose(
    plan: &Plan,
    weights: &mut Weights,
    config: &EngineConfig,
    cores: usize,
) -> Computes {
    if let Err(why) = &plan.gpu {
        return Computes::cpu(why.clone());
    }
    match plan.device {
        Device::Cpu => Computes::cpu("`model.device` is `cpu`".to_owned()),
        Device::Gpu => Computes {
            compute: Compute::Gpu,
            why: "`model.device` is `gpu`".to_owned(),
        },
        Device::Auto => measured(weights, config, cores).unwrap_or_else(Computes::cpu),
    }
}

/// The faster one. It is measured once for this machine, driver and model, before the model is loaded. The error says why there
/// is nothing to measure.
fn measured(
    weights: &mut Weights,
    config: &EngineConfig,
    cores: usize,
) -> Result<Computes, String> {
    let gpu = gpu().map_err(|error| error.to_string())?;
    if gpu.kind == GpuKind::Software {
        return Err(format!("`{}` is a processor and no GPU", gpu.name));
    }
    let gguf = weights.prepare().map_err(|error| error.to_string())?;
    let model = weights.model.path();
    let setting = Setting::here(&gpu, config.isa, cores, gguf.file_bytes());
    let compared = match Comparison::read(model, &setting) {
        Some(compared) => compared,
        None => {
            tracing::info!("measuring once whether the GPU is faster: {}", gpu.name);
            let compared = Comparison::measure(setting, &gguf, &to_measure(config));
            let compared = compared.map_err(|error| error.to_string())?;
            if let Err(error) = compared.write(model) {
                tracing::warn!(
                    "the speeds cannot be kept, and the next start measures them again: {error}"
                );
            }
            compared
        }
    };
    Ok(Computes {
        compute: compared.faster(),
        why: compared.to_string(),
    })
}

/// How long a step may take on a GPU, by the steps before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    most: Duration,
    /// None before the first step.
    slowest: Option<Duration>,
}

impl Patience {
    /// Never longer than half of what the watchdog waits, which hears nothing meanwhile.
    pub(super) fn new(watchdog: Option<Duration>) -> Self {
        let half = watchdog.map_or(DEVICE_WAIT_MAX, |longest| longest / 2);
        Self {
            most: half.min(DEVICE_WAIT_MAX),
            slowest: None,
        }
    }

    /// Takes note of a step that took so long.
    pub(super) fn took(&mut self, step: Duration) {
        self.slowest = self.slowest.max(Some(step));
    }

    /// The longest that the next step may take.
    pub(super) fn longest(&self) -> Duration {
        let by_steps = |slowest: Duration| slowest.saturating_mul(SLOWER).max(LEAST);
        self.slowest.map_or(self.most, by_steps).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_may_take_twenty_times_as_long_as_the_slowest_before() {
        let ms = Duration::from_millis;
        let mut patience = Patience::new(None);
        assert_eq!(patience.longest(), DEVICE_WAIT_MAX);
        for (took, longest) in [(10, 5000), (250, 5000), (300, 6000), (100, 6000)] {
            patience.took(ms(took));
            assert_eq!(patience.longest(), ms(longest), "after {took} ms");
        }
        patience.took(ms(2000));
        assert_eq!(patience.longest(), DEVICE_WAIT_MAX);
    }

    #[test]
    fn a_watchdog_hears_of_it_before_its_time_is_over() {
        let mut patience = Patience::new(Some(Duration::from_secs(20)));
        assert_eq!(patience.longest(), Duration::from_secs(10));
        patience.took(Duration::from_millis(1));
        assert_eq!(patience.longest(), LEAST);
        let patience = Patience::new(Some(Duration::from_secs(4)));
        assert_eq!(patience.longest(), Duration::from_secs(2));
    }
}
