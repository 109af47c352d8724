//! The daemon as a process: its models, its disk, its memory, its start and its end.

pub(crate) mod admin;
mod disk;
mod grids;
mod idle;
mod lock;
mod models;
mod offline;
mod secrets;
mod stop;
