//! Metadata values: typed views of the map, decoded when they are asked for.

use super::reader::{ReadError, Reader};

/// Most elements of one array. The largest vocabulary in use has 262,144 tokens.
pub const MAX_ARRAY: usize = 1 << 20;
/// How deep arrays may be nested: an array of arrays is read, and anything deeper is refused.
pub const MAX_NESTING: usize = 2;

/// The value types of the GGUF specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the specification's own names")]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// All types, in the order of their ids.
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Reads the id of a type.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        let id = reader.u32()?;
        usize::try_from(id)
            .ok()
            .and_then(|id| Self::ALL.get(id).copied())
            .ok_or(ReadError::UnknownType(id))
    }

    /// Whether any bits are a value of this type, which is an integer.
    fn takes_any_bits(self) -> bool {
        use ValueType::{I8, I16, I32, I64, U8, U16, U32, U64};
        matches!(self, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
    }

    /// Fewest bytes that a value of this type takes. A string has at least its length, an array its element type and length.
    fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// One metadata value. Strings and arrays are views of the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A value of type u8, u16, u32 or u64.
    Uint(u64),
    /// A value of type i8, i16, i32 or i64.
    Int(i64),
    /// A float, which is always finite.
    F32(f32),
    /// A wide float, which is always finite.
    F64(f64),
    /// A bool, which is stored as 0 or 1.
    Bool(bool),
    /// A string of valid UTF-8.
    Str(&'a str),
    /// An array that is not decoded yet.
    Array(Array<'a>),
}

/// An array in the file, whose elements [`Array::iter`] decodes one by one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    body: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of every element.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// The number of elements, at most [`MAX_ARRAY`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the array has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order. It ends early only if the file was changed after it was opened.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (element, mut reader) = (self.element, Reader::new(self.body, 0));
        (0..self.len).map_while(move |_| read(&mut reader, element, usize::MAX, MAX_NESTING).ok())
    }
}

/// Reads one value and everything in it: strings of at most `str_cap` bytes, arrays up to `nesting` deep.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    ty: ValueType,
    str_cap: usize,
    nesting: usize,
) -> Result<Value<'a>, ReadError> {
    Ok(match ty {
        ValueType::U8 => Value::Uint(u8::from_le_bytes(reader.array()?).into()),
        ValueType::U16 => Value::Uint(u16::from_le_bytes(reader.array()?).into()),
        ValueType::U32 => Value::Uint(reader.u32()?.into()),
        ValueType::U64 => Value::Uint(reader.u64()?),
        ValueType::I8 => Value::Int(i8::from_le_bytes(reader.array()?).into()),
        ValueType::I16 => Value::Int(i16::from_le_bytes(reader.array()?).into()),
        ValueType::I32 => Value::Int(i32::from_le_bytes(reader.array()?).into()),
        ValueType::I64 => Value::Int(i64::from_le_bytes(reader.array()?)),
        ValueType::F32 => Value::F32(
            Some(f32::from_le_bytes(reader.array()?))
                .filter(|v| v.is_finite())
                .ok_or(ReadError::Invalid("is not finite"))?,
        ),
        ValueType::F64 => Value::F64(
            Some(f64::from_le_bytes(reader.array()?))
                .filter(|v| v.is_finite())
                .ok_or(ReadError::Invalid("is not finite"))?,
        ),
        ValueType::Bool => Value::Bool(match reader.array()? {
            [0] => false,
            [1] => true,
            _ => return Err(ReadError::Invalid("is a bool that is neither 0 nor 1")),
        }),
        ValueType::Str => Value::Str(reader.str(str_cap)?),
        ValueType::Array => {
            let nesting = nesting
                .checked_sub(1)
                .ok_or(ReadError::Invalid("is nested deeper than 2 arrays"))?;
            let array = open_array(reader)?;
            let mut body = Reader::new(array.body, 0);
            if array.element.takes_any_bits() {
                // the count was held against the bytes that are left
                body.take(array.len * array.element.min_bytes())?;
            } else {
                for _ in 0..array.len {
                    read(&mut body, array.element, str_cap, nesting)?;
                }
            }
            let body = reader.take(body.pos())?;
            Value::Array(Array { body, ..array })
        }
    })
}

/// Reads the head of an array, and takes all that follows for its body.
pub(super) fn open_array<'a>(reader: &mut Reader<'a>) -> Result<Array<'a>, ReadError> {
    let element = ValueType::read(reader)?;
    let len = reader.count(MAX_ARRAY, element.min_bytes())?;
    let body = reader.clone().take(reader.remaining())?;
    Ok(Array { element, len, body })
}
