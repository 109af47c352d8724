//! The machine that the daemon runs on: which board, which cores, how much memory, how hot, how much energy it takes, and what
//! systemd is told.

pub mod board;
pub mod cores;
pub mod energy;
pub mod governor;
pub mod kernel_files;
pub mod memory_limit;
pub mod sensors;
pub mod systemd;
