//! The packed file: a GGUF whose matrices are interleaved in groups of sixteen rows, under a magic number of its own.
//!
//! The header is GGUF's, version 3, read by the same reader under the same limits. It differs in four things. The magic
//! number is another one, so that nobody takes the data for what it is not. `INTERLEAVED16` is added to a tensor's type
//! where its rows are interleaved. Tensors start at whole cache lines. And there are two more keys: the source, and the
//! CRC-32 of the header and of every tensor. On request the LM head is there a second time, in four bits
//! ([`REQUANTIZED_HEAD`]).

use super::header::{INTERLEAVED16, PACKED_MAGIC};
pub use super::layout::REQUANTIZED_HEAD;
use super::{
    Array, GROUP, GgmlType, Gguf, GgufError, Layout, MAX_KEYS, TensorInfo, Value, ValueType,
    interleave, touch,
};
use bytes::Bytes;
use std::io::{self, Seek, SeekFrom, Write};

/// The alignment of tensors, in bytes: a cache line, which is also a vector of 512 bits.
const ALIGNMENT: u32 = 64;
/// The key that says what the file was made of.
const SOURCE: &str = "glowplug.pack.source";
/// The key of the checksums: of the header without these, and of every tensor in file order.
const SUMS: &str = "glowplug.pack.crc32";
/// How many bytes are packed at once, or one group of rows where that is more.
const PIECE: usize = 1 << 20;

/// The type of the requantised head: 4.5 bits a weight in blocks of 32, which suits nearly any width.
const REQUANTIZED_TYPE: GgmlType = GgmlType::Q4_0;
/// Requantises rows of a type to as many rows of Q4_0, whose bytes go to the second slice.
pub type Requantize = fn(GgmlType, &[u8], &mut [u8]);

/// Why a file was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The file is packed already, so there is nothing to do.
    #[error("the file is packed already")]
    Packed,
    /// The file has so many keys that there is no room for those of a packed file.
    #[error("the file has {0} metadata keys, at most {max} leave room for those of a packed file", max = MAX_KEYS - 3)]
    Keys(usize),
    /// The LM head would not get smaller in four bits.
    #[error(
        "`{tensor}` is {ty} with rows of {columns}: only what has more than 4.5 bits a weight, in rows of whole blocks of 32, \
         is worth a requantised head"
    )]
    Head {
        /// The name of the head's tensor.
        tensor: String,
        /// The type of the head.
        ty: GgmlType,
        /// How many values a row of the head has.
        columns: u64,
    },
    /// The file cannot be written.
    #[error("the packed file cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// A tensor of the packed file, and how it is made.
struct Packed<'a> {
    name: &'a str,
    ty: GgmlType,
    layout: Layout,
    bytes: usize,
    /// The tensor that it is made of.
    of: &'a TensorInfo,
    /// How its values are made, if not by copying.
    requantize: Option<Requantize>,
}

impl<'a> Packed<'a> {
    fn copied(of: &'a TensorInfo) -> Self {
        Self {
            name: &of.name,
            ty: of.ty,
            layout: layout(of, &of.name, of.ty),
            bytes: of.bytes,
            of,
            requantize: None,
        }
    }
}

/// Writes `gguf` as a packed file, with a requantised head if `requantize` is given. `source` says what the file was made
/// of, and the function [`source`] reads it back. The same bytes come out every time.
///
/// # Errors
/// [`PackError`], and `out` then holds an unfinished file.
pub fn write(
    gguf: &Gguf,
    source: &str,
    requantize: Option<Requantize>,
    out: &mut (impl Write + Seek),
) -> Result<(), PackError> {
    if sums(gguf).is_some() {
        return Err(PackError::Packed);
    }
    let tensors = tensors(gguf, requantize)?;
    let (head, sums_at) = head(gguf, source, &tensors)?;
    out.write_all(&head)?;
    let mut at = head.len();
    let mut sums = vec![head_sum(&head, sums_at, tensors.len())];
    let (mut piece, mut requantized) = (Vec::new(), Vec::new());
    for tensor in &tensors {
        at += pad(out, at)?;
        let mut sum = crc32fast::Hasher::new();
        let data = gguf.data(tensor.of);
        let rows = tensor.of.rows().max(1) as usize;
        // bytes of a row, of the file that is read and of the one that is written
        let (from, to) = (data.len() / rows, tensor.bytes / rows);
        let group = (GROUP * from).max(1);
        for rows in data.chunks(group * (PIECE / group).max(1)) {
            let mut rows = rows;
            if let Some(requantize) = tensor.requantize {
                resize(&mut requantized, rows.len() / from * to)?;
                requantize(tensor.of.ty, rows, &mut requantized);
                rows = &requantized;
            }
            if tensor.layout == Layout::Interleaved16 {
                resize(&mut piece, rows.len())?;
                interleave(tensor.ty, to, rows, &mut piece);
                rows = &piece;
            }
            sum.update(rows);
            out.write_all(rows)?;
        }
        at += tensor.bytes;
        sums.push(sum.finalize());
    }
    out.seek(SeekFrom::Start(sums_at as u64))?;
    for sum in sums {
        out.write_all(&sum.to_le_bytes())?;
    }
    Ok(())
}

/// Gives a buffer this length. Where there is no memory for it, the model is served as it is.
fn resize(buffer: &mut Vec<u8>, bytes: usize) -> io::Result<()> {
    buffer.try_reserve_exact(bytes.saturating_sub(buffer.len()))?;
    buffer.resize(bytes, 0);
    Ok(())
}

/// The checksum of the header, without the checksums in it.
fn head_sum(head: &[u8], sums_at: usize, tensors: usize) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head[..sums_at]);
    sum.update(&head[sums_at + 4 * (tensors + 1)..]);
    sum.finalize()
}

/// Interleaved wherever the kernels can multiply by interleaved rows.
fn layout(of: &TensorInfo, name: &str, ty: GgmlType) -> Layout {
    if of.dims.len() > 1 && Layout::takes(name, ty, of.rows()) {
        Layout::Interleaved16
    } else {
        Layout::Rows
    }
}

/// The tensors of the packed file, in its order.
fn tensors(gguf: &Gguf, requantize: Option<Requantize>) -> Result<Vec<Packed<'_>>, PackError> {
    let mut tensors: Vec<_> = gguf.tensors().iter().map(Packed::copied).collect();
    // a tied head is the embedding
    let head = ["output.weight", "token_embd.weight"]
        .iter()
        .find_map(|name| tensors.iter().position(|t| t.name == *name));
    if let (Some(requantize), Some(head)) = (requantize, head) {
        let requantized = requantized(tensors[head].of, requantize)?;
        tensors.push(requantized);
    }
    Ok(tensors)
}

fn requantized(head: &TensorInfo, requantize: Requantize) -> Result<Packed<'_>, PackError> {
    let columns = head.dims[0];
    let bits = |ty: GgmlType| 8.0 * ty.block_bytes() as f64 / ty.block_len() as f64;
    if bits(head.ty) <= bits(REQUANTIZED_TYPE)
        || !columns.is_multiple_of(REQUANTIZED_TYPE.block_len() as u64)
    {
        return Err(PackError::Head {
            tensor: head.name.clone(),
            ty: head.ty,
            columns,
        });
    }
    // this cannot overflow, because the head itself has more bytes
    let blocks = columns / REQUANTIZED_TYPE.block_len() as u64 * head.rows();
    Ok(Packed {
        name: REQUANTIZED_HEAD,
        ty: REQUANTIZED_TYPE,
        layout: layout(head, REQUANTIZED_HEAD, REQUANTIZED_TYPE),
        bytes: blocks as usize * REQUANTIZED_TYPE.block_bytes(),
        of: head,
        requantize: Some(requantize),
    })
}

/// The bytes before the data, with zeros for the checksums, and where those begin.
fn head(gguf: &Gguf, source: &str, tensors: &[Packed<'_>]) -> Result<(Vec<u8>, usize), PackError> {
    let keep: Vec<_> = gguf
        .header
        .entries
        .iter()
        .filter(|entry| !["general.alignment", SOURCE, SUMS].contains(&entry.key.as_str()))
        .collect();
    if keep.len() > MAX_KEYS - 3 {
        return Err(PackError::Keys(keep.len()));
    }
    let mut head = Vec::new();
    // nearly all of it is the vocabulary
    let entries = keep.iter().map(|entry| entry.key.len() + entry.at.len());
    head.try_reserve_exact(entries.sum())
        .map_err(io::Error::from)?;
    head.extend(PACKED_MAGIC);
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((keep.len() as u64 + 3).to_le_bytes());
    for entry in keep {
        key(&mut head, &entry.key, entry.ty as u32);
        head.extend(&gguf.bytes[entry.at.clone()]);
    }
    // value types: 4 u32, 8 string, 9 array
    key(&mut head, "general.alignment", 4);
    head.extend(ALIGNMENT.to_le_bytes());
    key(&mut head, SOURCE, 8);
    string(&mut head, source);
    key(&mut head, SUMS, 9);
    head.extend(4u32.to_le_bytes());
    head.extend((tensors.len() as u64 + 1).to_le_bytes());
    let sums_at = head.len();
    head.resize(sums_at + 4 * (tensors.len() + 1), 0);
    let mut offset = 0usize;
    for tensor in tensors {
        string(&mut head, tensor.name);
        head.extend((tensor.of.dims.len() as u32).to_le_bytes());
        for dim in &tensor.of.dims {
            head.extend(dim.to_le_bytes());
        }
        let flag = match tensor.layout {
            Layout::Interleaved16 => INTERLEAVED16,
            Layout::Rows => 0,
        };
        head.extend((tensor.ty.id() | flag).to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset = (offset + tensor.bytes).next_multiple_of(ALIGNMENT as usize);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok((head, sums_at))
}

fn key(head: &mut Vec<u8>, key: &str, ty: u32) {
    string(head, key);
    head.extend(ty.to_le_bytes());
}

fn string(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

/// Writes zeros up to the next cache line, and returns how many.
fn pad(out: &mut impl Write, at: usize) -> io::Result<usize> {
    let zeros = at.next_multiple_of(ALIGNMENT as usize) - at;
    out.write_all(&[0; ALIGNMENT as usize][..zeros])?;
    Ok(zeros)
}

/// What [`write()`] was told of the file's source, or `None` if the file is not packed.
#[must_use]
pub fn source(gguf: &Gguf) -> Option<&str> {
    sums(gguf).and_then(|_| gguf.str(SOURCE).ok())
}

fn sums(gguf: &Gguf) -> Option<Array<'_>> {
    gguf.header.packed.then(|| gguf.array(SUMS).ok())?
}

/// Checks that a packed file has its own keys.
pub(super) fn check(gguf: &Gguf) -> Result<(), GgufError> {
    if !gguf.header.packed {
        return Ok(());
    }
    gguf.str(SOURCE)?;
    let (sums, want) = (gguf.array(SUMS)?, gguf.tensors().len() + 1);
    if sums.len() == want && sums.element() == ValueType::U32 {
        return Ok(());
    }
    Err(GgufError::invalid(
        format_args!("metadata key `{SUMS}`"),
        format_args!("is not an array of {want} u32"),
    ))
}

/// Checks a packed file against its checksums, on up to `threads` threads. Any other file has none, and passes.
pub(super) fn verify(gguf: &Gguf, threads: usize) -> Result<(), GgufError> {
    let (Some(sums), Some(&entry)) = (sums(gguf), gguf.header.keys.get(SUMS)) else {
        return Ok(());
    };
    let n = gguf.tensors().len();
    let sums_at = gguf.header.entries[entry].at.end - 4 * (n + 1);
    let head = head_sum(gguf.header(), sums_at, n);
    let data: Vec<Bytes> = gguf.tensors().iter().map(|t| gguf.data(t)).collect();
    // the largest matrix is a sixth of a model, so tensors are cut and their sums put together again
    let cut: Vec<Vec<&[u8]>> = data
        .iter()
        .map(|data| data.chunks(touch::PIECE).collect())
        .collect();
    let mut sums_of_pieces = touch::each(&cut.concat(), threads, &|piece| {
        let mut sum = crc32fast::Hasher::new();
        sum.update(piece);
        sum
    })
    .into_iter();
    let of_tensors = cut.iter().map(|pieces| {
        let mut sum = crc32fast::Hasher::new();
        for piece in sums_of_pieces.by_ref().take(pieces.len()) {
            sum.combine(&piece);
        }
        sum.finalize()
    });
    let names = gguf
        .tensors()
        .iter()
        .map(|t| format!("tensor `{}`", t.name));
    let found = std::iter::once(head).chain(of_tensors);
    let names = std::iter::once("the head".to_owned()).chain(names);
    for ((sum, found), what) in sums.iter().zip(found).zip(names) {
        if sum != Value::Uint(found.into()) {
            return Err(GgufError::invalid(
                what,
                "does not match its checksum: the packed file is damaged",
            ));
        }
    }
    Ok(())
}
