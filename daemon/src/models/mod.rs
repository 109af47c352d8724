//! Files of models: which one is served and why, what it was checked for, what of it is remembered, and what it needs of memory.

pub(crate) mod catalogue;
pub mod manifest;
pub mod opened;
pub mod packed;
pub(crate) mod plan;
pub(crate) mod record;
pub mod registry;
pub(crate) mod tuned;
