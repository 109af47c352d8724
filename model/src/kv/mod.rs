//! KV cache: fixed capacity, `Err` when full.
