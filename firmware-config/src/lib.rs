//! Numbers and names of a board: FLOOR 0 of glowplug. No heap, no I/O, no clock.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod board;
pub mod image;
pub mod kv;
pub mod limits;
pub mod plan;
pub mod settings;
pub mod units;
pub mod wire;
