//! What goes over the wire, without the wire: topics, requests, replies, MQTT 5 properties. Pure, no I/O, no clock.

pub mod admin;
pub mod fault;
mod messages;
pub mod properties;
pub mod reply;
pub mod request;
pub mod session;
pub mod topics;
mod values;
