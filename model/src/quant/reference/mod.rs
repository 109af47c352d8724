//! The definition that every level computes, written for reading: the formats, the scalar level, and the float helpers.

pub(super) mod decode;
pub(super) mod delta;
pub(super) mod floats;
pub(super) mod requantize;
pub(super) mod scalar;
