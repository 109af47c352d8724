//! The daemon as its clients see it.

mod formats;
mod health;
mod homeassistant;
mod own_tools;
mod paho;
mod sessions;
mod small;
mod speech;
mod tools;
