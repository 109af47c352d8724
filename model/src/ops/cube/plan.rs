//! What a model takes of a device's memory, counted before the device is opened.

use super::buffers;
use super::pack::device_bytes;
use super::pages::layer_bytes;
use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::KvLayout;
use crate::ops::memory::Widths;
use crate::ops::no_gpu::NoGpu;
use glowplug_firmware_config::plan::device::DeviceBytes;
use std::collections::BTreeSet;

/// The largest unit that devices hand buffers out in, as limits of Vulkan have it (`minStorageBufferOffsetAlignment`).
const UNIT: usize = 256;
/// Bytes of the buffer that CubeCL 0.11.3 takes for arguments that differ from those of other launches: its smallest bucket.
const ARGUMENTS: u64 = 32 * 1024;
/// Launches of one kind: the embedding, the two that look for the best logits, the one that asks how the device rounds, and those that
/// round inputs: normed ones, what attention gives, and the middle of the MLP.
const LAUNCHES: usize = 7;

/// The tensors of a file that go to the device as blocks. A requantised head stays in the file.
pub(super) fn matrices(gguf: &Gguf) -> impl Iterator<Item = &TensorInfo> {
    let all = gguf.tensors().iter();
    all.filter(|info| info.dims.len() >= 2 && info.name != REQUANTIZED_HEAD)
}

/// The bytes of a matrix on a device.
///
/// # Errors
/// [`NoGpu::Type`] if there are no kernels for it.
pub(super) fn matrix_bytes(info: &TensorInfo) -> Result<usize, NoGpu> {
    let (rows, cols) = (info.rows() as usize, info.dims[0] as usize);
    device_bytes(info.ty, rows, cols).ok_or_else(|| NoGpu::Type {
        name: info.name.clone(),
        ty: info.ty.name(),
    })
}

/// Counts what [`DeviceBytes`] says, as [`crate::ops::processor::Processor::device_memory`] does.
pub(in crate::ops) fn memory(
    gguf: &Gguf,
    layout: &KvLayout,
    pages: usize,
    widths: &Widths,
) -> Result<DeviceBytes, NoGpu> {
    let whole = |bytes: usize| bytes.next_multiple_of(UNIT) as u64;
    // what a layer's matrix is for, with its type: launches for the same have the same arguments
    let mut kinds = BTreeSet::new();
    let mut weights = 0;
    for info in matrices(gguf) {
        weights += whole(matrix_bytes(info)?);
        let role = info.name.splitn(3, '.').last();
        kinds.insert((role, info.ty.name()));
    }
    // two norms, the biases and the norms of heads, which a layer has whether the file does or not
    let layer = [
        widths.embed,
        widths.embed,
        widths.queries + 2 * widths.keys,
        layout.head_dim(),
        layout.head_dim(),
    ];
    let layer: u64 = layer.iter().map(|values| whole(4 * values)).sum();
    weights += layout.layers() as u64 * layer + whole(4 * widths.embed);
    // heads of layers are alike, but for the formats of their keys
    let formats: BTreeSet<usize> = layer_bytes(layout).collect();
    let launches = LAUNCHES + kinds.len() + 2 * formats.len();
    let buffers = buffers::lengths(widths).map(|(_, values)| whole(4 * values));
    Ok(DeviceBytes {
        weights,
        kv_pages: layer_bytes(layout).map(|bytes| whole(pages * bytes)).sum(),
        steps: buffers.iter().sum(),
        driver: launches as u64 * ARGUMENTS,
    })
}
