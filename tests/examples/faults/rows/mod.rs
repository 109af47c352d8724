//! The rows of the table, by what is hit.

pub(crate) mod brokers;
pub(crate) mod clients;
pub(crate) mod gpu;
pub(crate) mod image;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod models;
pub(crate) mod signals;
pub(crate) mod storage;
pub(crate) mod text;
