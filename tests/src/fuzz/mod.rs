//! Whatever reads bytes, held to what must be true of any bytes. `tests/fuzz/run.sh` lets libFuzzer look for inputs that break it, and
//! test `fuzz` runs every target on its seeds and on what becomes of them.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what is unwrapped here is what the targets assert"
)]

mod config;
mod gguf;
mod house;
mod image;
mod packed;
mod reply;
mod request;
pub mod seeds;
mod session;
mod text;
mod topics;
mod wyoming;

/// What a target does with bytes. It panics where something is not as it must be.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 14] = [
    ("calls", text::calls::run),
    ("config", config::run),
    ("gguf", gguf::run),
    ("house", house::run),
    ("image", image::run),
    ("packed", packed::run),
    ("reply", reply::run),
    ("request", request::run),
    ("schema", text::schema::run),
    ("session", session::run),
    ("template", text::template::run),
    ("text", text::vocabulary::run),
    ("topics", topics::run),
    ("wyoming", wyoming::run),
];
