//! The levels of x86-64: AVX2 and AVX-512 VNNI.
#![allow(
    unsafe_code,
    reason = "vector instructions, and calls into functions compiled for them"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "a block number indexes every row and every column"
)]

pub(super) mod avx2;
pub(super) mod avx512;
mod group_scales;
mod panel;
mod turns;
