//! The levels of aarch64: NEON, and NEON with dot products. They share everything but what they multiply with, [`smull`]
//! or [`sdot`].
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
mod interleaved;
mod intrinsics;
pub(super) mod neon;
mod rows;
mod sdot;
mod smull;
mod tiles;
mod unpack;
