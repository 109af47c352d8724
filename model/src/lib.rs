//! Bytes of a GGUF file to tokens. There is no async runtime, no network and no wall clock in here.
//!
//! The rooms, in the order in which data flows:
//!
//! * [`gguf`] reads a model file: its header, its tensors as slices of the map, and packing to interleaved rows.
//! * [`text`] is all about text: tokenizer, chat template, sampling, stop strings.
//! * [`engine`] serves requests: sessions, scheduling, drafts, and the steps that compute their tokens.
//! * [`network`] is the transformer, layer by layer, over the weights of one file.
//! * [`ops`] are the fused steps of a layer as a Burn extension, each with its definition.
//! * [`kv`] holds keys and values in pages of one locked arena.
//! * [`quant`] are the quantised formats and the int8 kernels over them, one level per instruction set.
//! * [`pool`] runs a step's work on threads, [`mod@read`] reads memory for comparison, [`files`] opens and writes files safely, and [`seal`] encrypts them.
//!
//! Imports go down only: `engine`, `network`, `ops`, then `quant`, `kv` and `text`, then `gguf`, `pool`, `seal` and `files`.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod engine;
mod exp;
pub mod files;
pub mod gguf;
pub mod kv;
pub mod network;
pub mod ops;
pub mod pool;
pub mod quant;
pub mod read;
pub mod seal;
pub mod text;
