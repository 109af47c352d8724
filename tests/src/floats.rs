//! The oracle of a real file: the same network with every matrix in plain floats.

use crate::{GgufWriter, Kv};
use glowplug_model::gguf::{GgmlType, Gguf, Value};
use glowplug_model::quant::Kernels;

/// The network of a file with all its matrices in F32, and without its tokenizer. From floats the host computes products of
/// floats, so nothing but the cache is rounded to fewer bits.
///
/// # Panics
/// If the file has no level of kernels, or a matrix that they cannot open.
pub fn in_floats(gguf: &Gguf) -> Vec<u8> {
    let Ok(kernels) = Kernels::detect(None) else {
        panic!("no kernels on this machine");
    };
    let mut writer = GgufWriter::default();
    for (key, value) in gguf.metadata() {
        let value = match value {
            Value::Uint(value) => u32::try_from(value).ok().map(Kv::U32),
            Value::F32(value) => Some(Kv::F32(value)),
            Value::Bool(value) => Some(Kv::Bool(value)),
            Value::Str(value) => Some(Kv::Str(value.to_owned())),
            _ => None,
        };
        if let Some(value) = value {
            writer.set(key, value);
        }
    }
    // the vocabulary is as long as these are
    if let Ok(tokens) = gguf.strings("tokenizer.ggml.tokens") {
        let tokens = tokens.into_iter().map(str::to_owned).collect();
        writer.set("tokenizer.ggml.tokens", Kv::Strs(tokens));
    }
    // the rows are opened right into the file, because all of them a second time would be half a gigabyte
    let mut start = 0;
    for info in gguf.tensors() {
        writer.add(&info.name, &info.dims, GgmlType::F32.id(), Vec::new());
        let values: u64 = info.dims.iter().product();
        writer.tensor(&info.name).offset = Some(start);
        start += (4 * values).next_multiple_of(writer.alignment as u64);
    }
    let mut file = writer.head();
    let data = file.len().next_multiple_of(writer.alignment);
    file.reserve_exact(data + start as usize - file.len());
    file.resize(data, 0);
    for info in gguf.tensors() {
        file.resize(file.len().next_multiple_of(writer.alignment), 0);
        let (bytes, mut row) = (gguf.data(info), vec![0.0; info.dims[0] as usize]);
        for number in 0..info.rows() as usize {
            kernels.open_row(info.ty, info.layout, &bytes, number, &mut row);
            file.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    file
}
