//! Bridges: other protocols, spoken by a client of a running daemon. A bridge is a process of its own that knows the daemon
//! only by its topics. There is no engine in it and no model.
//!
//! - `connection`: one client of the daemon, with as many requests at a time as it may have. `flights` is what it knows of them.
//! - `doors`: connections of the other protocol are let in, and how many there may be.
//! - [`openai`]: HTTP as OpenAI's clients speak it.
//! - [`wyoming`]: the protocol of Home Assistant's voice services.

mod connection;
mod doors;
mod flights;
pub mod openai;
pub mod wyoming;

pub use connection::Place;

use std::net::SocketAddr;

/// Why a bridge ended.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error("cannot listen on {address}: {why}")]
    Listen {
        address: SocketAddr,
        why: std::io::Error,
    },
    /// The broker does not let this client in, so another try would not help.
    #[error("{0}")]
    Refused(String),
}
