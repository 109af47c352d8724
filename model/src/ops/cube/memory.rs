//! Buffers in the memory of the device.

use burn::backend::Shape;
use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;

/// A tensor of `[rows, cols]`, of values of four bytes, that a kernel or a write is to fill.
pub(super) fn empty(
    client: &Client,
    device: &CubeDevice,
    [rows, cols]: [usize; 2],
    dtype: DType,
) -> CubeTensor {
    let handle = client.empty(4 * rows * cols);
    let shape = Shape::from(vec![rows, cols]);
    CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, dtype)
}

/// Writes words to the beginning of a tensor, before anything that is sent to the device later begins.
pub(super) fn write(tensor: &CubeTensor, words: &[u32]) {
    let end = tensor.handle.size_in_used() - 4 * words.len() as u64;
    let handle = tensor.handle.clone().offset_end(end);
    let bytes = cubecl::bytes::Bytes::from_elems(words.to_vec());
    tensor.client.write(&handle, bytes);
}
