//! The daemon: the only crate that knows tokio and MQTT. A packet goes from MQTT to a kernel in four hops:
//! [`server`] → [`worker`] → `Engine::step` → kernel. See `ARCHITECTURE.md`.

pub mod cli;
pub mod config;
pub mod server;
pub mod transport;
pub mod wire;
