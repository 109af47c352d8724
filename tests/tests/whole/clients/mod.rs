//! The daemon as its clients see it.

mod formats;
mod health;
mod homeassistant;
mod own_tools;
mod paho;
mod recipes;
mod sessions;
mod small;
mod speech;
mod thin_edge;
pub(crate) mod tools;
