//! The whole daemon from outside: the real binary, real brokers, clients that share no code with it.
//!
//! Needs Mosquitto, Paho, the clients of OpenAI and Wyoming, and the model `smol`: `tests/run.sh` brings them. The binary
//! is the one beside these tests: `cargo test --release --workspace` builds both.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bridges;
mod brokers;
mod clients;
mod process;
mod tls;
