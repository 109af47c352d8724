//! Rows about what is written, and what of it is there afterwards.

pub(crate) mod disks;
pub(crate) mod files;
pub(crate) mod power;
