//! The daemon: the only crate that knows tokio and MQTT. A packet goes from MQTT to a kernel in four hops:
//! [`server`] → [`worker`] → `Engine::step` → kernel. See `ARCHITECTURE.md`.

pub mod admission;
pub mod board;
mod catalogue;
pub mod cli;
pub mod config;
pub mod cores;
mod counter;
pub mod dedup;
mod files;
pub mod governor;
pub mod hex;
pub mod intake;
pub mod limits;
pub mod manifest;
pub mod opened;
pub mod pace;
pub mod packed;
pub mod plan;
mod record;
pub mod sensors;
pub mod server;
pub mod stall;
pub mod status;
pub mod stream;
pub mod supervisor;
pub mod supply;
pub mod system;
pub mod transport;
pub mod tuned;
pub mod wire;
pub mod worker;
