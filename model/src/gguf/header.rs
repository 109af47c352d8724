//! The header of a GGUF file: metadata and tensor entries, parsed and validated in one walk.
//!
//! The format is that of ggml's GGUF specification (`docs/gguf.md`), versions 2 and 3, little endian. The limits are ours,
//! because ggml's own (2^30 and more) would let a file of a few bytes ask for gigabytes.

use super::reader::Reader;
use super::value::{self, MAX_NESTING, Value, ValueType};
use super::{GgmlType, GgufError, Layout};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::ops::Range;

/// The magic number of a packed file, in place of `GGUF`.
pub(super) const PACKED_MAGIC: [u8; 4] = *b"GPAK";
/// What a packed file adds to the type id of a tensor in [`Layout::Interleaved16`].
pub(super) const INTERLEAVED16: u32 = 1 << 16;
/// Most tensors that a file may have.
pub const MAX_TENSORS: usize = 4096;
/// Most metadata keys that a file may have.
pub const MAX_KEYS: usize = 1024;
/// Most bytes of the name of a metadata key.
pub const MAX_KEY: usize = 256;
/// Most bytes of a tensor's name; the limit is ggml's own.
pub const MAX_TENSOR_NAME: usize = 64;
/// Most bytes of a string value.
pub const MAX_STRING: usize = 1 << 20;
/// Most bytes of a chat template.
pub const MAX_TEMPLATE: usize = 64 << 10;
/// Most bytes of a token of the vocabulary.
pub const MAX_TOKEN: usize = 1 << 10;
/// The alignments that a file may ask for, which are powers of two in this range. The distance between the starts of two
/// tensors is a multiple of the alignment.
pub const ALIGNMENT: std::ops::RangeInclusive<u64> = 8..=4096;
/// The alignment of a file that names none (GGUF specification).
const DEFAULT_ALIGNMENT: u64 = 32;
/// Fewest bytes of a metadata entry: length, one byte of name, type, one byte of value.
const MIN_KEY_ENTRY: usize = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor entry: length, one byte of name, count, one dimension, type, offset.
const MIN_TENSOR_ENTRY: usize = 8 + 1 + 4 + 8 + 4 + 8;

/// A metadata key, and where in the file its value lies.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) ty: ValueType,
    pub(super) at: Range<usize>,
}

/// What the header says, in file order, with indices by name.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    /// Whether the file is packed: see [`super::pack`].
    pub(super) packed: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) keys: HashMap<String, usize>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) names: HashMap<String, usize>,
}

/// One tensor's entry in the header of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name in GGUF, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// One to four dimensions, innermost first: `dims[0]` is the number of values in a row.
    pub dims: Vec<u64>,
    /// The storage type of the values.
    pub ty: GgmlType,
    /// The order of the bytes.
    pub layout: Layout,
    /// The byte of the file at which the data begins.
    pub offset: usize,
    /// The length of the data in bytes.
    pub bytes: usize,
}

impl TensorInfo {
    /// How many rows of `dims[0]` values there are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }
}

/// Parses and validates everything before the data, and checks that all of the data is there.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    let mut reader = Reader::new(bytes, 0);
    let magic = reader.array().map_err(|e| e.at("the magic number"))?;
    let packed = magic == PACKED_MAGIC;
    if !packed && magic != *b"GGUF" {
        return Err(GgufError::Magic(magic));
    }
    let version = reader.u32().map_err(|e| e.at("the version"))?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let n_tensors = reader
        .count(MAX_TENSORS, MIN_TENSOR_ENTRY)
        .map_err(|e| e.at("the list of tensors"))?;
    let n_keys = reader
        .count(MAX_KEYS, MIN_KEY_ENTRY)
        .map_err(|e| e.at("the list of metadata keys"))?;

    let mut header = Header {
        version,
        packed,
        entries: Vec::new(),
        keys: HashMap::new(),
        tensors: Vec::new(),
        names: HashMap::new(),
    };
    for i in 0..n_keys {
        let entry = read_entry(&mut reader, i)?;
        match header.keys.entry(entry.key.clone()) {
            Slot::Vacant(slot) => slot.insert(i),
            Slot::Occupied(_) => {
                return Err(GgufError::Duplicate {
                    what: format!("metadata key `{}`", entry.key),
                });
            }
        };
        header.entries.push(entry);
    }
    let alignment = alignment(bytes, &header)?;
    let mut next = 0;
    for i in 0..n_tensors {
        let before = header.tensors.last();
        let tensor = read_tensor(&mut reader, i, packed, alignment, &mut next, before)?;
        match header.names.entry(tensor.name.clone()) {
            Slot::Vacant(slot) => slot.insert(i),
            Slot::Occupied(_) => {
                return Err(GgufError::Duplicate {
                    what: format!("tensor `{}`", tensor.name),
                });
            }
        };
        header.tensors.push(tensor);
    }
    place(&mut header.tensors, reader.pos(), alignment, bytes.len())?;
    Ok(header)
}

/// Reads one key and walks its value.
fn read_entry(reader: &mut Reader<'_>, i: usize) -> Result<Entry, GgufError> {
    let key = name(reader, MAX_KEY, || format!("the name of metadata key {i}"))?;
    let what = || format!("metadata key `{key}`");
    let ty = ValueType::read(reader).map_err(|e| e.at(what()))?;
    let str_cap = match key {
        "tokenizer.ggml.tokens" => MAX_TOKEN,
        // two tokens and the space between them
        "tokenizer.ggml.merges" => 2 * MAX_TOKEN + 1,
        _ if key.starts_with("tokenizer.chat_template") => MAX_TEMPLATE,
        _ => MAX_STRING,
    };
    let start = reader.pos();
    value::read(reader, ty, str_cap, MAX_NESTING).map_err(|e| e.at(what()))?;
    Ok(Entry {
        key: key.to_owned(),
        ty,
        at: start..reader.pos(),
    })
}

/// A name is printable ASCII, so that it can stand in a message and a log line as it is.
fn name<'a>(
    reader: &mut Reader<'a>,
    cap: usize,
    what: impl Fn() -> String,
) -> Result<&'a str, GgufError> {
    let name = reader.str(cap).map_err(|e| e.at(what()))?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(GgufError::invalid(
            what(),
            "is empty or has characters that are not printable ASCII",
        ));
    }
    Ok(name)
}

fn alignment(bytes: &[u8], header: &Header) -> Result<u64, GgufError> {
    let Some(&i) = header.keys.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let Entry { key, ty, at } = &header.entries[i];
    if *ty != ValueType::U32 {
        return Err(GgufError::wrong_type(key, "u32", ty));
    }
    match value::read(&mut Reader::new(bytes, at.start), *ty, 0, 0) {
        Ok(Value::Uint(n)) if n.is_power_of_two() && ALIGNMENT.contains(&n) => Ok(n),
        _ => Err(GgufError::invalid(
            format_args!("metadata key `{key}`"),
            "is not a power of two from 8 to 4096",
        )),
    }
}

/// Reads one tensor entry. `next` is where its data has to start, because tensors lie without gaps or overlaps; `before` is the
/// tensor that it follows.
fn read_tensor(
    reader: &mut Reader<'_>,
    i: usize,
    packed: bool,
    alignment: u64,
    next: &mut u64,
    before: Option<&TensorInfo>,
) -> Result<TensorInfo, GgufError> {
    let name = name(reader, MAX_TENSOR_NAME, || {
        format!("the name of tensor {i}")
    })?;
    let what = format!("tensor `{name}`");
    let n_dims = reader.u32().map_err(|e| e.at(&what))?;
    if !(1..=4).contains(&n_dims) {
        let why = format_args!("has {n_dims} dimensions, the limits are 1 and 4");
        return Err(GgufError::invalid(what, why));
    }
    let mut dims = Vec::with_capacity(4);
    for _ in 0..n_dims {
        dims.push(reader.u64().map_err(|e| e.at(&what))?);
    }
    if dims.contains(&0) {
        return Err(GgufError::invalid(what, "has a dimension of 0"));
    }
    let id = reader.u32().map_err(|e| e.at(&what))?;
    let layout = if packed && id & INTERLEAVED16 != 0 {
        Layout::Interleaved16
    } else {
        Layout::Rows
    };
    let id = match layout {
        Layout::Rows => id,
        Layout::Interleaved16 => id ^ INTERLEAVED16,
    };
    let ty = GgmlType::from_id(id).map_err(|ty| GgufError::UnsupportedType {
        tensor: name.to_owned(),
        ty,
    })?;
    let offset = reader.u64().map_err(|e| e.at(&what))?;
    if dims[0] % ty.block_len() as u64 != 0 {
        let (row, block) = (dims[0], ty.block_len());
        let why = format_args!("has rows of {row} values, {ty} needs a multiple of {block}");
        return Err(GgufError::invalid(what, why));
    }
    if let Some(before) = before
        && wide_end(before, alignment).is_some_and(|[_, padded]| padded == offset)
    {
        return Err(wide_groups(before));
    }
    if offset != *next {
        let why = format_args!("starts at byte {offset} of the data, expected {next}");
        return Err(GgufError::invalid(what, why));
    }
    let size = || {
        let values = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        let bytes = (values / ty.block_len() as u64).checked_mul(ty.block_bytes() as u64)?;
        let padded = offset
            .checked_add(bytes)?
            .checked_next_multiple_of(alignment)?;
        let (offset, bytes) = (usize::try_from(offset).ok()?, usize::try_from(bytes).ok()?);
        Some((offset, bytes, padded))
    };
    let Some((offset, bytes, padded)) = size() else {
        let why = format_args!("is too large with the dimensions {dims:?}");
        return Err(GgufError::invalid(what, why));
    };
    *next = padded;
    let tensor = TensorInfo {
        name: name.to_owned(),
        dims,
        ty,
        layout,
        offset,
        bytes,
    };
    if layout == Layout::Interleaved16 && !Layout::takes(&tensor.name, ty, tensor.rows()) {
        let why = format_args!(
            "of {} rows of {ty} cannot be in groups of sixteen",
            tensor.rows()
        );
        return Err(GgufError::invalid(what, why));
    }
    Ok(tensor)
}

/// Turns offsets in the data into offsets in the file, and checks that all of the data is there. A file without tensors has
/// no data.
fn place(
    tensors: &mut [TensorInfo],
    head: usize,
    alignment: u64,
    file: usize,
) -> Result<(), GgufError> {
    let start = usize::try_from(alignment)
        .ok()
        .and_then(|alignment| head.checked_next_multiple_of(alignment));
    for tensor in tensors {
        let offset = start.and_then(|start| start.checked_add(tensor.offset));
        match offset.and_then(|offset| Some((offset, offset.checked_add(tensor.bytes)?))) {
            Some((offset, end)) if end <= file => tensor.offset = offset,
            // the last one, which the file ends with
            _ if start
                .and_then(|start| file.checked_sub(start))
                .zip(wide_end(tensor, alignment))
                .is_some_and(|(data, wide)| wide.contains(&(data as u64))) =>
            {
                return Err(wide_groups(tensor));
            }
            _ => {
                return Err(GgufError::Truncated {
                    what: format!("tensor `{}`", tensor.name),
                });
            }
        }
    }
    Ok(())
}

/// Where a tensor of Q2_0 would end in the data, and the tensor after it begin, if its groups had 128 values and 34 bytes: so
/// they are in PrismML's first files, which have the same type id. `None` if that cannot be, or would make no difference.
fn wide_end(tensor: &TensorInfo, alignment: u64) -> Option<[u64; 2]> {
    let wide = tensor.ty == GgmlType::Q2_0 && tensor.dims[0].is_multiple_of(128);
    let groups = wide.then(|| tensor.dims.iter().product::<u64>() / 128)?;
    // fewer bytes than those of groups of 64, which were added before
    let end = tensor.offset as u64 + 34 * groups;
    let padded = end.next_multiple_of(alignment);
    // the sum fits 64 bits, and need not fit a pointer of 32
    let narrow = tensor.offset as u64 + tensor.bytes as u64;
    (padded != narrow.next_multiple_of(alignment)).then_some([end, padded])
}

fn wide_groups(tensor: &TensorInfo) -> GgufError {
    GgufError::invalid(
        format_args!("tensor `{}`", tensor.name),
        "is in Q2_0 with groups of 128 values, as PrismML's first files are; only ggml's groups of 64 are supported",
    )
}
