//! The plan of a GPU's memory, beside that of the host.

use super::{DoesNotFit, Limit, sum};

/// Bytes that a model takes of a GPU's memory, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceBytes {
    /// The weights, as its kernels read them.
    pub weights: u64,
    /// The pages of keys and values.
    pub kv_pages: u64,
    /// The buffers that steps compute in.
    pub steps: u64,
    /// What its runtime keeps for the arguments of kernels.
    pub driver: u64,
}

/// Where every byte of a GPU's memory goes. [`device_plan`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePlan {
    /// The limit that the plan stays below, where anything says how much memory there is.
    pub limit: Option<Limit>,
    lines: [(&'static str, u64); 4],
}

impl DevicePlan {
    /// Every consumer with its bytes: `gpu_weights`, `gpu_kv_pages`, `gpu_steps` and `gpu_driver`. All of it is taken when the
    /// model is loaded.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.lines.into_iter()
    }

    /// The sum of all lines.
    #[must_use]
    pub fn total(&self) -> u64 {
        sum(&self.lines)
    }
}

/// Lays out the memory of a GPU below its limit, if it is known.
///
/// # Errors
/// [`DoesNotFit`] names the first line that crosses the limit.
pub fn device_plan(limit: Option<Limit>, bytes: &DeviceBytes) -> Result<DevicePlan, DoesNotFit> {
    let lines = [
        ("gpu_weights", bytes.weights),
        ("gpu_kv_pages", bytes.kv_pages),
        ("gpu_steps", bytes.steps),
        ("gpu_driver", bytes.driver),
    ];
    if let Some(limit) = limit {
        super::check(&limit, &lines)?;
    }
    Ok(DevicePlan { limit, lines })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::LimitSource;
    use super::*;

    const BYTES: DeviceBytes = DeviceBytes {
        weights: 1000,
        kv_pages: 200,
        steps: 30,
        driver: 4,
    };

    fn limit(bytes: u64) -> Option<Limit> {
        let from = LimitSource::Gpu;
        Some(Limit { bytes, from })
    }

    #[test]
    fn the_first_line_above_the_limit_is_named() {
        for (bytes, line) in [
            (999, "gpu_weights"),
            (1199, "gpu_kv_pages"),
            (1229, "gpu_steps"),
            (1233, "gpu_driver"),
        ] {
            let error = device_plan(limit(bytes), &BYTES).unwrap_err();
            assert_eq!((error.line, error.need), (line, 1234));
            assert_eq!(error.missing, 1234 - bytes);
        }
        let plan = device_plan(limit(1234), &BYTES).unwrap();
        assert_eq!(plan.total(), 1234);
        assert_eq!(device_plan(None, &BYTES).unwrap().total(), 1234);
    }
}
