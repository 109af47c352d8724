//! Bytes of a GGUF file to tokens: FLOOR 1 of glowplug.
//!
//! Floors, from the ground: [`gguf`], [`pool`] and [`files`] · [`quant`], [`kv`], [`text`] · [`ops`] · [`network`] · [`engine`].
//! Imports run downward only. No async runtime, no network, no wall clock in here.

#![warn(missing_docs)]

pub mod engine;
pub mod files;
pub mod gguf;
pub mod kv;
pub mod network;
pub mod ops;
pub mod pool;
pub mod quant;
pub mod text;
