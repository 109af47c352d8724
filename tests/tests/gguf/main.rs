//! The GGUF reader and the network's dimensions, from outside: good files, broken ones, hostile ones, real ones.

#![allow(clippy::unwrap_used)]
#![allow(
    clippy::semicolon_if_nothing_returned,
    reason = "the tables' closures are one expression each"
)]

mod dims;
mod hostile;
mod packed;
mod real_files;
mod rules;
mod values;
