//! The whole daemon from outside: the real binary, real brokers, clients that share no code with it.
//!
//! Needs Debian's `mosquitto`, Python's `paho-mqtt`, and the model `smol` (`cargo run --release -- pull smol`). The binary
//! is the one beside these tests: `cargo test --release --workspace` builds both.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod broker;
mod client;
mod daemon;
mod disk;
mod refused;
mod scenarios;
mod world;

mod acl;
mod embedded;
mod health;
mod idle;
mod lock;
mod models;
mod mosquitto;
mod offline;
mod paho;
mod sessions;
mod silent;
mod small;
mod stop;
