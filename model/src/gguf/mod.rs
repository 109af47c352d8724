//! The bounded GGUF reader: a file is mapped, its head is validated in one walk, and everything else is a view of the map.
//!
//! A model file is hostile until proven otherwise: every length is held against a limit of ours and against the bytes
//! that are left before anything is allocated, every product and sum is checked, and what a rule forbids is refused with
//! the name of the key or tensor and the limit. The limits are constants of this module.

mod error;
mod header;
mod layout;
mod map;
pub mod pack;
mod reader;
mod types;
mod value;
mod vocabulary;

pub use error::GgufError;
pub use header::{
    ALIGNMENT, MAX_KEY, MAX_KEYS, MAX_STRING, MAX_TEMPLATE, MAX_TENSOR_NAME, MAX_TENSORS, MAX_TOKEN,
};
pub use layout::{GROUP, Layout, Words, interleave, unpack_row};
pub use map::{Watch, guard, open as open_file};
pub use types::GgmlType;
pub use value::{Array, MAX_ARRAY, MAX_NESTING, Value, ValueType};

use bytes::Bytes;
use header::{Entry, Header};
use reader::Reader;
use std::fs::File;
use std::path::Path;

/// A validated file. Cheap to keep: names and offsets are copied, strings, arrays and tensors stay in the map.
pub struct Gguf {
    bytes: Bytes,
    header: Header,
}

/// One tensor's entry. `dims` in GGUF order: `dims[0]` is the row length (columns).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// GGUF tensor name, `blk.0.attn_q.weight`
    pub name: String,
    /// 1..=4 dimensions, innermost first
    pub dims: Vec<u64>,
    /// storage type
    pub ty: GgmlType,
    /// order of the bytes
    pub layout: Layout,
    /// absolute byte offset in the file
    pub offset: usize,
    /// length in bytes
    pub bytes: usize,
}

impl TensorInfo {
    /// Rows of `dims[0]` values.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

impl Gguf {
    /// Maps and validates a file. It must not be changed in place while this lives: replace it by rename.
    ///
    /// # Errors
    /// The file cannot be read, or breaks a rule.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::from_file(&map::open(path)?)
    }

    /// [`Self::open`] of a file that is open already: what the caller checked of it is what is mapped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_file(file: &File) -> Result<Self, GgufError> {
        Self::from_bytes(map::map(file)?)
    }

    /// Validates bytes already in memory (tests, fuzzing).
    ///
    /// # Errors
    /// The bytes break a rule.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, GgufError> {
        let header = header::parse(&bytes)?;
        let file = Self { bytes, header };
        vocabulary::check(&file)?;
        pack::check(&file)?;
        Ok(file)
    }

    /// The specification's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Is the key there at all?
    pub fn has(&self, key: &str) -> bool {
        self.header.keys.contains_key(key)
    }

    /// All keys with their values, in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.header
            .entries
            .iter()
            .filter_map(|entry| Some((entry.key.as_str(), self.decode(entry).ok()?)))
    }

    /// An integer: any unsigned or non-negative signed type is taken if the value fits.
    ///
    /// # Errors
    /// [`GgufError::Missing`], [`GgufError::WrongType`], or the value does not fit.
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        let value = match self.value(key)? {
            (_, Value::Uint(value)) => u32::try_from(value).ok(),
            (_, Value::Int(value)) => u32::try_from(value).ok(),
            (ty, _) => return Err(GgufError::wrong_type(key, "an integer", ty)),
        };
        value.ok_or_else(|| does_not_fit(key, "u32"))
    }

    /// A float of either width, as f32.
    ///
    /// # Errors
    /// As [`Self::u32`].
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        let (ty, value) = self.value(key)?;
        float(value).map_or_else(
            || Err(GgufError::wrong_type(key, "a float", ty)),
            |value| finite(value).ok_or_else(|| does_not_fit(key, "f32")),
        )
    }

    /// A bool.
    ///
    /// # Errors
    /// [`GgufError::Missing`] or [`GgufError::WrongType`].
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.value(key)? {
            (_, Value::Bool(value)) => Ok(value),
            (ty, _) => Err(GgufError::wrong_type(key, "a bool", ty)),
        }
    }

    /// A string, at most [`MAX_STRING`] bytes, a chat template at most [`MAX_TEMPLATE`].
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        match self.value(key)? {
            (_, Value::Str(value)) => Ok(value),
            (ty, _) => Err(GgufError::wrong_type(key, "a string", ty)),
        }
    }

    /// An array, not decoded: for its length, or its first elements.
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn array(&self, key: &str) -> Result<Array<'_>, GgufError> {
        match self.value(key)? {
            (_, Value::Array(value)) => Ok(value),
            (ty, _) => Err(GgufError::wrong_type(key, "an array", ty)),
        }
    }

    /// `tokenizer.ggml.tokens` and the like: views of the map, at most [`MAX_ARRAY`].
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        self.elements(key, "an array of strings", |value| match value {
            Value::Str(value) => Some(value),
            _ => None,
        })
    }

    /// An array of integers of any type that all fit i32.
    ///
    /// # Errors
    /// As [`Self::u32`].
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, GgufError> {
        self.elements(
            key,
            "an array of integers that fit i32",
            |value| match value {
                Value::Uint(value) => i32::try_from(value).ok(),
                Value::Int(value) => i32::try_from(value).ok(),
                _ => None,
            },
        )
    }

    /// An array of floats of either width.
    ///
    /// # Errors
    /// As [`Self::u32`].
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        self.elements(key, "an array of floats that fit f32", |value| {
            finite(float(value)?)
        })
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header
            .names
            .get(name)
            .map(|&i| &self.header.tensors[i])
    }

    /// The tensor's bytes, a view of the map, never a copy.
    ///
    /// # Panics
    /// The entry is not one of this file's and reaches past its end.
    pub fn data(&self, tensor: &TensorInfo) -> Bytes {
        self.bytes
            .slice(tensor.offset..tensor.offset + tensor.bytes)
    }

    /// Length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Reads every page of the map, so that what the file needs of memory is resident from now on; a packed file is held
    /// against its checksums on the way.
    ///
    /// # Errors
    /// A tensor of a packed file is damaged.
    pub fn touch(&self) -> Result<(), GgufError> {
        if self.header.packed {
            return pack::verify(self);
        }
        std::hint::black_box(self.bytes.iter().step_by(4096).fold(0, |sum, b| sum ^ b));
        Ok(())
    }

    /// Tells whether all of the file is still there, for a process that called [`guard`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(&self.bytes)
    }

    /// All before the tensors' data: metadata and the table of tensors.
    pub fn header(&self) -> &[u8] {
        let first = self.tensors().iter().map(|t| t.offset).min();
        &self.bytes[..first.unwrap_or(self.bytes.len())]
    }

    fn value(&self, key: &str) -> Result<(ValueType, Value<'_>), GgufError> {
        let entry = self.header.keys.get(key).map(|&i| &self.header.entries[i]);
        let entry = entry.ok_or_else(|| GgufError::Missing {
            key: key.to_owned(),
        })?;
        Ok((entry.ty, self.decode(entry)?))
    }

    /// Decodes a value that was walked once already; an error means that the file was changed since.
    fn decode(&self, entry: &Entry) -> Result<Value<'_>, GgufError> {
        let mut reader = Reader::new(&self.bytes[..entry.at.end], entry.at.start);
        match entry.ty {
            ValueType::Array => value::open_array(&mut reader).map(Value::Array),
            ty => value::read(&mut reader, ty, MAX_STRING, 0),
        }
        .map_err(|e| e.at(format_args!("metadata key `{}`", entry.key)))
    }

    fn elements<'a, T>(
        &'a self,
        key: &str,
        want: &str,
        take: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Vec<T>, GgufError> {
        let array = self.array(key)?;
        let values: Option<Vec<T>> = array.iter().map(take).collect();
        values
            .filter(|values| values.len() == array.len())
            .ok_or_else(|| {
                GgufError::wrong_type(key, want, format_args!("array of {}", array.element()))
            })
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gguf")
            .field("version", &self.header.version)
            .field("keys", &self.header.entries.len())
            .field("tensors", &self.header.tensors.len())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

fn float(value: Value<'_>) -> Option<f64> {
    match value {
        Value::F32(value) => Some(value.into()),
        Value::F64(value) => Some(value),
        _ => None,
    }
}

/// An f64 may be finite and still beyond f32.
fn finite(value: f64) -> Option<f32> {
    Some(value as f32).filter(|value| value.is_finite())
}

fn does_not_fit(key: &str, ty: &str) -> GgufError {
    GgufError::invalid(
        format_args!("metadata key `{key}`"),
        format_args!("does not fit {ty}"),
    )
}
