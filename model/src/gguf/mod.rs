//! The bounded GGUF reader.

mod types;
pub use types::GgmlType;

use bytes::Bytes;
use std::path::Path;

/// SKELETON: the reader's owner replaces the bodies, names stay.
#[derive(Debug)]
pub struct Gguf;

/// Why a file is not a model we read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// placeholder
    #[error("missing metadata key `{key}`")]
    Missing {
        /// the key
        key: String,
    },
}

/// One tensor's entry. `dims` in GGUF order: `dims[0]` is the row length (columns).
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// GGUF tensor name, `blk.0.attn_q.weight`
    pub name: String,
    /// 1..=4 dimensions, innermost first
    pub dims: Vec<u64>,
    /// storage type
    pub ty: GgmlType,
    /// absolute byte offset in the file
    pub offset: usize,
    /// length in bytes
    pub bytes: usize,
}

impl Gguf {
    /// Maps and validates a file.
    pub fn open(_path: &Path) -> Result<Self, GgufError> { todo!() }
    /// Validates bytes already in memory (tests, fuzzing).
    pub fn from_bytes(_bytes: Bytes) -> Result<Self, GgufError> { todo!() }
    /// `Err(Missing)` or `Err(WrongType)`; any unsigned or non-negative signed integer that fits is taken.
    pub fn u32(&self, _key: &str) -> Result<u32, GgufError> { todo!() }
    /// As [`Self::u32`].
    pub fn f32(&self, _key: &str) -> Result<f32, GgufError> { todo!() }
    /// As [`Self::u32`].
    pub fn bool(&self, _key: &str) -> Result<bool, GgufError> { todo!() }
    /// As [`Self::u32`].
    pub fn str(&self, _key: &str) -> Result<&str, GgufError> { todo!() }
    /// `tokenizer.ggml.tokens` and the like, decoded lazily from the map.
    pub fn strings(&self, _key: &str) -> Result<Vec<&str>, GgufError> { todo!() }
    /// integer arrays (any integer element type that fits i32)
    pub fn i32s(&self, _key: &str) -> Result<Vec<i32>, GgufError> { todo!() }
    /// float arrays
    pub fn f32s(&self, _key: &str) -> Result<Vec<f32>, GgufError> { todo!() }
    /// Is the key there at all?
    pub fn has(&self, _key: &str) -> bool { todo!() }
    /// all tensors in file order
    pub fn tensors(&self) -> &[TensorInfo] { todo!() }
    /// by name
    pub fn tensor(&self, _name: &str) -> Option<&TensorInfo> { todo!() }
    /// the tensor's bytes, a view of the map, never a copy
    pub fn data(&self, _tensor: &TensorInfo) -> Bytes { todo!() }
    /// length of the whole file
    pub fn file_bytes(&self) -> u64 { todo!() }
}
