//! Numbers and names of a board: the lowest crate of glowplug, without heap, I/O or clock.
//!
//! The rooms, in the order in which data flows through them:
//!
//! - [`units`]: sizes, temperatures and capacities as they are written in files.
//! - [`limits`]: ceilings that size fixed-capacity types and refuse what is too large.
//! - [`kv`]: formats of the KV cache, and the bytes of a page of it.
//! - [`attention`]: how many positions look at the KV cache at once, and what a thread needs for them.
//! - [`board`]: what is known of a board before anything runs on it, one file each in `boards/`.
//! - [`settings`]: the keys of the configuration file in types of a fixed size.
//! - [`image`]: these settings as a signed image for a flash partition.
//! - [`plan`]: the memory plan, which says where every byte goes before a model is loaded.
//! - [`wire`]: requests and replies of the MQTT contract for a microcontroller that asks a daemon.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod attention;
pub mod board;
pub mod image;
pub mod kv;
pub mod limits;
pub mod plan;
pub mod settings;
pub mod units;
pub mod wire;
