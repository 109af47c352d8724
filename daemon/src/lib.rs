//! The daemon: the only crate that knows tokio and MQTT.
//!
//! Its rooms, in the order in which a request passes through them:
//!
//! - [`cli`]: one file for each command; `serve` runs the daemon. Only this room reads the environment.
//! - [`bridge`]: other protocols, spoken by clients of a running daemon in processes of their own.
//! - [`config`]: the configuration, checked and filled in.
//! - [`mqtt`]: publications to and from a broker, which may be the embedded one.
//! - `server`: the select loop. It carries events to the state machines and does what they decide.
//! - [`wire`]: bytes to values and back: topics, bodies, properties, frames, error codes.
//! - [`tools`]: tools of the daemon's own: their definitions, the calls in flight, the catalogues of a house.
//! - `pool`: when the daemon takes requests that are for any of a fleet, and which of them it has taken.
//! - `requests`: who gets in, who waits, and the frames of each answer.
//! - `speech`: an answer as it is spoken: without marks of Markdown, in sentences.
//! - `inference`: the thread that owns the engine, and what it is told.
//! - [`models`]: which model is served, what its file is checked for, and what it needs of memory.
//! - `machine`: what the kernel says about this machine, how hard it may work, and what systemd is told.
//! - `files`, [`hex`]: whole files, and bytes as digits.
//!
//! The public rooms are what the tests in other crates use. See `ARCHITECTURE.md`.

#![forbid(unsafe_code)]
// what the crate exports is decided here; inside a private room `pub` is shorter than `pub(crate)`
#![allow(unreachable_pub)]

pub mod bridge;
pub mod cli;
pub mod config;
mod files;
pub mod hex;
mod inference;
mod machine;
pub mod models;
pub mod mqtt;
mod pool;
mod requests;
mod server;
mod speech;
pub mod tools;
pub mod wire;
