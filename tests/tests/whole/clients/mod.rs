//! The daemon as its clients see it.

mod health;
mod own_tools;
mod paho;
mod sessions;
mod small;
mod speech;
mod tools;
