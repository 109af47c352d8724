//! Any bytes as a model file: an error or a file whose every view stays inside it.

use glowplug_model::gguf::{Gguf, Value};
use glowplug_model::network::dims::Dims;

pub(super) fn run(bytes: &[u8]) {
    let Ok(file) = Gguf::from_bytes(bytes.to_vec().into()) else {
        return;
    };
    for (key, value) in file.metadata() {
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len(), "{key}");
        }
        let _ = (file.strings(key), file.i32s(key));
    }
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len(), tensor.bytes);
    }
    let _ = Dims::from_gguf(&file);
}
