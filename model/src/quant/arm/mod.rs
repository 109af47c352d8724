//! The levels of aarch64: NEON, NEON with dot products, and with products of matrices. The first two share everything but
//! what they multiply with, [`smull`] or [`sdot`]; [`i8mm`] multiplies one column as the second does.
#![allow(
    unsafe_code,
    reason = "vector instructions, and calls into functions compiled for them"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "a block number indexes every row and every column"
)]

mod attention;
pub(super) mod dotprod;
mod grids;
pub(super) mod i8mm;
mod interleaved;
mod intrinsics;
pub(super) mod neon;
mod rows;
mod sdot;
mod smull;
mod tiles;
mod unpack;
