//! The network as Burn modules: qwen2, qwen3, llama are data of one description.
pub mod dims;
