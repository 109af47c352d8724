//! What steps take and send: the numbers that a device is prepared with, and those that are counted of it.

use burn::tensor::{Int, Tensor};

/// The blocks of a matrix.
pub struct Blocks {
    /// Those of all rows, or of the first [`Self::part_rows`].
    pub first: Tensor<1, Int>,
    /// Those of the other rows, where a GPU has no buffer for all.
    pub rest: Vec<Tensor<1, Int>>,
    /// How many rows each tensor has but the last one.
    pub part_rows: usize,
}

/// How wide a model's steps are: what the buffers of a step are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Widths {
    /// Values of a position between layers.
    pub embed: usize,
    /// Heads that look at the cache.
    pub heads: usize,
    /// Query values of a position.
    pub queries: usize,
    /// Key values of a position, which are as many as its values.
    pub keys: usize,
    /// Values of the middle of the MLP.
    pub ff: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions of a sequence at most.
    pub positions: usize,
    /// Pairs of values of a head that are rotated.
    pub pairs: usize,
}

/// How a device and the host have their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuKind {
    /// It has memory of its own.
    Discrete,
    /// It takes the host's memory.
    Shared,
    /// It is no GPU, but a processor that computes like one.
    Software,
}

/// What is known of a GPU once it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFacts {
    /// The name that the driver gives it.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// How it has its memory.
    pub kind: GpuKind,
    /// Its address on the PCI bus as Linux writes it; empty where it is on none.
    pub pci: String,
}

/// What was sent to a device and back since a model was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Kernels that were launched.
    pub launches: u64,
    /// Steps that the device was told of.
    pub uploads: u64,
    /// Times that something was read back: each is a wait for the device.
    pub reads: u64,
    /// Bytes that were read back.
    pub read_bytes: u64,
}
