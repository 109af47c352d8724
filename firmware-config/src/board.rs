//! Boards: what is known of a board before anything runs on it. Each board is one file in `boards/`, named after it.

use crate::kv::KvFormat;
use crate::limits::CLIENT_MAX;
use crate::units::{Bytes, Capacity, Celsius};
use heapless::{String, Vec};

#[cfg(feature = "std")]
mod raw;
#[cfg(feature = "std")]
pub use raw::{BoardError, find};

/// Most clusters that a board has.
pub const CLUSTERS_MAX: usize = 4;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../boards/", $name, ".toml")))),*]
    };
}

/// The boards that are compiled in: the name and the text of each file. With feature `std`, [`find`] reads them.
pub const FILES: &[(&str, &str)] = files![
    "generic-aarch64-4g",
    "generic-x86-64-8g",
    "imx8mp-4g",
    "jetson-orin-nano-8g",
    "raspberry-pi-4-2g",
    "raspberry-pi-4-4g",
    "raspberry-pi-4-8g",
    "raspberry-pi-5-4g",
    "raspberry-pi-5-8g",
    "rk3588-8g",
    "sa8155p",
    "sa8295p",
];

/// What one board has, and the model that is meant for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Its name, which is in [`FILES`].
    pub name: &'static str,
    /// Memory of the board.
    pub ram: Bytes,
    /// Memory that firmware, kernel and everything else on the board need.
    pub reserve: Bytes,
    /// Its cores, the fastest cluster first.
    pub clusters: Vec<Cluster, CLUSTERS_MAX>,
    /// Temperature at which it slows down, for boards whose thermal zones do not say.
    pub throttle: Celsius,
    /// Bytes that may be written to its storage in a day, so that the storage lasts.
    pub writes_per_day: Bytes,
    /// The model that is served if the configuration names none.
    pub model: Fit,
}

impl Board {
    /// Memory that is left for the daemon: all of it but the reserve.
    #[must_use]
    pub fn memory(&self) -> Bytes {
        Bytes(self.ram.0.saturating_sub(self.reserve.0))
    }

    /// Number of cores that have at least this share of the capacity of the fastest.
    #[must_use]
    pub fn cores(&self, least: f64) -> usize {
        let fast = f64::from(Capacity::FULL.0) * least;
        self.clusters
            .iter()
            .filter(|cluster| f64::from(cluster.capacity.0) >= fast)
            .map(|cluster| cluster.cores)
            .sum()
    }
}

/// Cores of a board that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Number of cores in the cluster.
    pub cores: usize,
    /// Capacity of each core.
    pub capacity: Capacity,
}

/// A model that fits a board, and how it is loaded there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Name of the model in the catalogue.
    pub name: String<CLIENT_MAX>,
    /// Most tokens of one sequence.
    pub context: usize,
    /// Format of the keys in the KV cache.
    pub k: KvFormat,
    /// Format of the values in the KV cache.
    pub v: KvFormat,
}
