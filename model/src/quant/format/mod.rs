//! How numbers lie in memory: blocks of weights, the same blocks interleaved, quantised activations, rows of the KV cache.

pub(super) mod activations;
pub(super) mod blocks;
pub(super) mod interleaved;
pub(super) mod kinds;
pub(super) mod kv_rows;
