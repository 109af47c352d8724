//! How numbers lie in memory: blocks of weights, sixteen rows interleaved, quantised activations, rows of the KV cache.

pub(super) mod activations;
pub(super) mod blocks;
pub(super) mod interleaved;
pub(super) mod kv_rows;
