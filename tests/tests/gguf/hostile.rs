//! A good file, broken in every place at once by brute force: whatever comes of it is an error or a file, never a panic,
//! and every view of such a file stays inside it.

use glowplug_model::gguf::{Gguf, Value};
use glowplug_model::network::dims::{Arch, Dims};
use glowplug_tests::{SplitMix, Tiny};

/// Opens bytes and touches everything that can be asked of them. Was it a network?
fn survives(bytes: Vec<u8>) -> bool {
    let Ok(file) = Gguf::from_bytes(bytes.into()) else {
        return false;
    };
    for (key, value) in file.metadata() {
        let same = match value {
            Value::Array(array) => array.iter().count() == array.len(),
            Value::Uint(n) => u32::try_from(n).is_ok() == file.u32(key).is_ok(),
            Value::Int(_) => file.f32(key).is_err(),
            Value::F32(_) | Value::F64(_) => file.str(key).is_err(),
            Value::Bool(b) => file.bool(key).is_ok_and(|v| v == b),
            Value::Str(s) => file.str(key).is_ok_and(|v| v == s),
        };
        assert!(same, "{key}: {value:?}");
        let _ = (file.strings(key), file.i32s(key));
    }
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len(), tensor.bytes);
    }
    Dims::from_gguf(&file).is_ok()
}

/// Every part: bias, key length, partial rope; norms of q and k; a table of frequencies and an untied head.
fn files() -> [(Vec<u8>, Vec<u8>); 3] {
    [
        Tiny {
            rope_dims: Some(8),
            head_dim: 32,
            ..Tiny::smallest(Arch::Qwen2)
        },
        Tiny::smallest(Arch::Qwen3),
        Tiny {
            rope_freqs: true,
            tied_head: false,
            ..Tiny::smallest(Arch::Llama)
        },
    ]
    .map(|tiny| (tiny.writer().head(), tiny.bytes()))
}

#[test]
fn cut_anywhere() {
    for (_, bytes) in files() {
        assert!(survives(bytes.clone()));
        for len in 0..bytes.len() {
            assert!(
                Gguf::from_bytes(bytes[..len].to_vec().into()).is_err(),
                "cut to {len}"
            );
        }
    }
}

#[test]
fn every_bit_of_the_head_flipped() {
    for (head, bytes) in files() {
        let mut taken = 0;
        for bit in 0..head.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            taken += usize::from(survives(bytes));
        }
        // letters of tokens may be others, but most of a head is structure
        assert!(
            taken < head.len() * 6,
            "{taken} of {} bits did not matter",
            head.len() * 8
        );
    }
}

#[test]
fn bytes_of_the_head_replaced_at_random() {
    // values that lengths, counts and types like least
    const BAD: [u64; 8] = [0, 1, 9, 0x7f, 0xff, u32::MAX as u64, 1 << 63, u64::MAX];
    let mut rng = SplitMix::new(1, "bytes of the head");
    for (head, bytes) in files() {
        for _ in 0..4000 {
            let mut bytes = bytes.clone();
            for _ in 0..=rng.below(4) {
                let width = 1 << rng.below(4);
                let at = rng.below(head.len() - width);
                let value = if rng.below(2) == 0 {
                    rng.next_u64()
                } else {
                    BAD[rng.below(BAD.len())]
                };
                bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            survives(bytes);
        }
    }
}

#[test]
fn pieces_of_the_head_moved_doubled_and_dropped() {
    let mut rng = SplitMix::new(2, "pieces of the head");
    for (head, bytes) in files() {
        for _ in 0..4000 {
            let mut bytes = bytes.clone();
            let mut cuts = [0; 3].map(|_: usize| rng.below(head.len()));
            cuts.sort_unstable();
            let [a, b, c] = cuts;
            match rng.below(3) {
                0 => bytes[a..c].rotate_left(b - a),
                1 => drop(bytes.drain(a..b)),
                _ => drop(bytes.splice(b..b, bytes[a..b].to_vec())),
            }
            survives(bytes);
        }
    }
}
