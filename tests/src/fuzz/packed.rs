//! Any bytes as a packed file: an error or a file whose checksums can be asked. And whatever is a model file at all packs into
//! a file that is read again, holds against its checksums and has the same tensors.

use glowplug_model::gguf::{Gguf, pack};
use glowplug_model::quant::to_q4_0;
use std::io::Cursor;

/// What a hostile header may make of a small file: more is as slow as it is pointless.
const PACKED_MAX: usize = 1 << 20;

pub(super) fn run(bytes: &[u8]) {
    let Ok(file) = Gguf::from_bytes(bytes.to_vec().into()) else {
        return;
    };
    let _ = (pack::source(&file), file.touch(2));
    if file.tensors().iter().map(|t| t.bytes).sum::<usize>() > PACKED_MAX {
        return;
    }
    for requantize in [None, Some(to_q4_0 as pack::Requantize)] {
        let mut out = Cursor::new(Vec::new());
        if pack::write(&file, "fuzz", requantize, &mut out).is_err() {
            continue;
        }
        let packed = Gguf::from_bytes(out.into_inner().into()).expect("we wrote it");
        packed
            .touch(2)
            .expect("its checksums are those of its bytes");
        assert_eq!(pack::source(&packed), Some("fuzz"));
        for tensor in file.tensors() {
            let same = packed.tensor(&tensor.name).expect("every tensor is packed");
            assert_eq!((same.ty, same.bytes), (tensor.ty, tensor.bytes));
        }
    }
}
