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

/// The memory of a GPU that a model takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The weights, as the kernels read them.
    pub weights: u64,
    /// The pages of keys and values.
    pub pages: u64,
    /// What steps compute in, and the arguments of their kernels.
    pub steps: u64,
}

impl DeviceMemory {
    /// The bytes of all three together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.pages + self.steps
    }
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
