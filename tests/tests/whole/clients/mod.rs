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
pub(crate) mod tools;
