//! Files of models: which one is served and why, what it was checked for, what is remembered about it, and how much
//! memory it needs.

pub(crate) mod catalogue;
pub(crate) mod device;
pub(crate) mod layout;
pub mod manifest;
pub mod opened;
pub mod packed;
pub(crate) mod plan;
pub(crate) mod record;
pub mod registry;
pub(crate) mod speed;
pub(crate) mod tuned;
