//! The daemon as its clients see it.

mod health;
mod homeassistant;
mod paho;
mod sessions;
mod small;
mod speech;
mod tools;
