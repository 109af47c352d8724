//! Boards: what is known of one before anything runs on it. A board is one file in `boards/`, and its name is the file's.

use crate::kv::KvFormat;
use crate::limits::CLIENT_MAX;
use crate::units::{Bytes, Capacity, Celsius};
use heapless::{String, Vec};

#[cfg(feature = "std")]
mod raw;
#[cfg(feature = "std")]
pub use raw::{BoardError, find};

/// Clusters of a board.
pub const CLUSTERS_MAX: usize = 4;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../boards/", $name, ".toml")))),*]
    };
}

/// The boards that are compiled in: name, and the text of the file. With feature `std`, [`find`] reads them.
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

/// One board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// of [`FILES`]
    pub name: &'static str,
    /// memory on the board
    pub ram: Bytes,
    /// what firmware, kernel and everything else on the board need of it
    pub reserve: Bytes,
    /// its cores, the fastest first
    pub clusters: Vec<Cluster, CLUSTERS_MAX>,
    /// where it begins to slow down, if a thermal zone of it does not say
    pub throttle: Celsius,
    /// what its storage bears of our writing
    pub writes_per_day: Bytes,
    /// what it is for where nobody says
    pub model: Fit,
}

impl Board {
    /// What is left for us.
    #[must_use]
    pub fn memory(&self) -> Bytes {
        Bytes(self.ram.0.saturating_sub(self.reserve.0))
    }

    /// Cores that compute at least this share of what the fastest does.
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

/// Cores that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// how many
    pub cores: usize,
    /// of each
    pub capacity: Capacity,
}

/// A model that fits a board, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// in the catalogue
    pub name: String<CLIENT_MAX>,
    /// tokens
    pub context: usize,
    /// of keys
    pub k: KvFormat,
    /// of values
    pub v: KvFormat,
}
