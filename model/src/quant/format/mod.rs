//! How numbers lie in memory: blocks of weights, the grids of some, the same blocks interleaved, quantised activations, rows of the KV cache.

pub(super) mod activations;
pub(super) mod blocks;
pub(super) mod grids;
pub(super) mod interleaved;
pub(super) mod kinds;
pub(super) mod kv_rows;
