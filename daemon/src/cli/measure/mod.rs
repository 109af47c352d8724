//! Commands that run the engine without MQTT, to measure it.

pub(super) mod bench;
pub(super) mod eval;
pub(super) mod generate;
mod held;
pub(super) mod probe;
pub(super) mod score;
pub(super) mod tune;
