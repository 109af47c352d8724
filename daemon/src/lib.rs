//! The daemon: the only crate that knows tokio and MQTT. A packet goes from MQTT to a kernel in four hops:
//! [`server`] → [`self::inference`] → `Engine::step` → kernel. See `ARCHITECTURE.md`.

pub mod cli;
pub mod config;
mod files;
pub mod hex;
pub mod inference;
pub mod machine;
pub mod models;
pub mod mqtt;
pub mod requests;
pub mod server;
pub mod wire;
