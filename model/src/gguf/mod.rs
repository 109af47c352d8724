//! The bounded GGUF reader: a file is mapped, its header is validated in one walk, and everything else is a view of the
//! map.
//!
//! A model file is hostile until proven otherwise. Before anything is allocated, every length is checked against a limit of
//! ours and against the bytes that are left; every product and sum is checked; and what a rule forbids is refused with the
//! name of the key or tensor and the limit. The limits are constants of this module.

mod error;
mod header;
mod large;
mod layout;
mod map;
pub mod pack;
mod reader;
mod touch;
mod types;
mod value;
mod vocabulary;

pub use error::GgufError;
pub use header::{
    ALIGNMENT, MAX_KEY, MAX_KEYS, MAX_STRING, MAX_TEMPLATE, MAX_TENSOR_NAME, MAX_TENSORS,
    MAX_TOKEN, TensorInfo,
};
pub use large::Large;
pub use layout::{GROUP, Layout, Words, interleave, unpack_row};
pub use map::{Watch, guard, open as open_file};
pub use types::GgmlType;
pub use value::{Array, MAX_ARRAY, MAX_NESTING, Value, ValueType};

use bytes::Bytes;
use header::{Entry, Header};
use reader::Reader;
use std::fs::File;
use std::path::Path;

/// A validated file. It is cheap to keep: names and offsets are copied, while strings, arrays and tensors stay in the map.
pub struct Gguf {
    bytes: Bytes,
    header: Header,
}

impl Gguf {
    /// Maps and validates a file. The file must not be changed in place while this lives; replace it by renaming.
    ///
    /// # Errors
    /// The file cannot be read, or breaks a rule.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::from_file(&map::open(path)?)
    }

    /// Does what [`Self::open`] does for a file that is open already, so that the file the caller checked is the one that is
    /// mapped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_file(file: &File) -> Result<Self, GgufError> {
        Self::from_bytes(map::map(file)?)
    }

    /// Validates bytes that are already in memory, for tests and fuzzing.
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

    /// The version of the GGUF specification that the file follows, 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Whether the file has this key, whatever its type.
    pub fn has(&self, key: &str) -> bool {
        self.header.keys.contains_key(key)
    }

    /// The names of all keys, in file order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.entries.iter().map(|entry| entry.key.as_str())
    }

    /// All keys with their values, in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.header
            .entries
            .iter()
            .filter_map(|entry| Some((entry.key.as_str(), self.decode(entry).ok()?)))
    }

    /// The integer of a key. Any unsigned or signed type is taken if the value fits.
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

    /// The float of a key, of either width, as f32.
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

    /// The bool of a key.
    ///
    /// # Errors
    /// [`GgufError::Missing`] or [`GgufError::WrongType`].
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.value(key)? {
            (_, Value::Bool(value)) => Ok(value),
            (ty, _) => Err(GgufError::wrong_type(key, "a bool", ty)),
        }
    }

    /// The string of a key. It has at most [`MAX_STRING`] bytes, and a chat template at most [`MAX_TEMPLATE`].
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        match self.value(key)? {
            (_, Value::Str(value)) => Ok(value),
            (ty, _) => Err(GgufError::wrong_type(key, "a string", ty)),
        }
    }

    /// The array of a key, not decoded: for its length, or its first elements.
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn array(&self, key: &str) -> Result<Array<'_>, GgufError> {
        match self.value(key)? {
            (_, Value::Array(value)) => Ok(value),
            (ty, _) => Err(GgufError::wrong_type(key, "an array", ty)),
        }
    }

    /// The strings of an array such as `tokenizer.ggml.tokens`, as views of the map; at most [`MAX_ARRAY`] of them.
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        self.elements(key, "an array of strings", |value| match value {
            Value::Str(value) => Some(value),
            _ => None,
        })
    }

    /// The integers of an array of any integer type, all of which must fit i32.
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

    /// The floats of an array of f32, all of which are finite.
    ///
    /// # Errors
    /// As [`Self::bool`].
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        self.elements(key, "an array of f32", |value| match value {
            Value::F32(value) => Some(value),
            _ => None,
        })
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// The tensor of this name, if the file has it.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.header
            .names
            .get(name)
            .map(|&i| &self.header.tensors[i])
    }

    /// The tensor's bytes, as a view of the map and never a copy.
    ///
    /// # Panics
    /// If the entry is not one of this file's and reaches past its end.
    pub fn data(&self, tensor: &TensorInfo) -> Bytes {
        self.bytes
            .slice(tensor.offset..tensor.offset + tensor.bytes)
    }

    /// The length of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Reads every page of the map on up to `threads` threads, so that all of the file is resident in memory from now on. A
    /// packed file is checked against its checksums on the way.
    ///
    /// # Errors
    /// A tensor of a packed file is damaged.
    pub fn touch(&self, threads: usize) -> Result<(), GgufError> {
        if self.header.packed {
            return pack::verify(self, threads);
        }
        let pieces: Vec<&[u8]> = self.bytes.chunks(touch::PIECE).collect();
        touch::each(&pieces, threads, &|piece| {
            std::hint::black_box(piece.iter().step_by(4096).fold(0, |sum, b| sum ^ b))
        });
        Ok(())
    }

    /// Gives a watch that tells whether all of the file is still there, for a process that called [`guard`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::new(&self.bytes)
    }

    /// The bytes before the tensors' data: metadata and the table of tensors.
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

    /// Decodes a value that was walked once before; an error means that the file was changed since.
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
        let mut values = Vec::with_capacity(array.len());
        values.extend(array.iter().map_while(take));
        if values.len() == array.len() {
            return Ok(values);
        }
        let got = format_args!("array of {}", array.element());
        Err(GgufError::wrong_type(key, want, got))
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

/// The value as f32, unless it is beyond what f32 can hold.
fn finite(value: f64) -> Option<f32> {
    Some(value as f32).filter(|value| value.is_finite())
}

fn does_not_fit(key: &str, ty: &str) -> GgufError {
    GgufError::invalid(
        format_args!("metadata key `{key}`"),
        format_args!("does not fit {ty}"),
    )
}
