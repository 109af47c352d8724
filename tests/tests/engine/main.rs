//! The engine from outside, on tiny models: memory that cannot be exceeded, many streams, sessions.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod answers;
mod bounds;
mod drafts;
mod files;
mod numbers;
mod prompts;
mod sessions;
mod share;
mod streams;
mod stress;
mod waiting;
mod world;
