//! The engine from outside, on tiny models: the bounds of memory, many streams, sessions, drafts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod bounds;
mod drafts;
mod files;
mod prompts;
mod sessions;
mod share;
mod streams;
mod stress;
mod waiting;
mod world;
