//! The daemon as its clients see it.

mod formats;
mod health;
mod paho;
mod sessions;
mod small;
mod speech;
mod tools;
