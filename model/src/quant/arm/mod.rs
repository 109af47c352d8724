//! aarch64: NEON and its dot products.
#![allow(
    clippy::needless_range_loop,
    reason = "a block number indexes every row and every column"
)]

pub(super) mod attention;
pub(super) mod dotprod;
pub(super) mod interleaved;
pub(super) mod intrinsics;
pub(super) mod rows;
pub(super) mod tiles;
pub(super) mod unpack;
