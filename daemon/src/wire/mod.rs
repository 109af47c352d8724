//! What goes over the wire, without the wire: topics, requests, replies, MQTT 5 properties. Pure, no I/O, no clock.

pub mod admin;
pub mod chat;
pub mod clients;
pub mod fault;
pub mod homeassistant;
pub mod properties;
pub(crate) mod session;
pub mod topics;
