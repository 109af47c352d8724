//! The definition that every level computes, written for reading.

pub(super) mod floats;
pub(super) mod requantize;
pub(crate) mod scalar;
