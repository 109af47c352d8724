//! A packed file: the same network bit for bit, and nobody's if it is damaged.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{EngineConfig, Evaluator, KvFormats};
use glowplug_model::gguf::{GROUP, GgmlType, Gguf, Layout, pack, unpack_row};
use glowplug_model::network::dims::{Arch, Dims};
use glowplug_model::quant::to_q4_0;
use glowplug_tests::{Tiny, Types};
use std::io::Cursor;

fn packed(gguf: &Gguf) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    pack::write(gguf, "a test", None, &mut out).unwrap();
    out.into_inner()
}

fn packed_requantized(gguf: &Gguf) -> Result<Vec<u8>, pack::PackError> {
    let mut out = Cursor::new(Vec::new());
    pack::write(gguf, "a test", Some(to_q4_0), &mut out)?;
    Ok(out.into_inner())
}

fn open(bytes: &[u8]) -> Gguf {
    Gguf::from_bytes(bytes.to_vec().into()).unwrap()
}

/// As in a Q4_K_M file, and one of every other type that can be in groups.
fn mixed(arch: Arch) -> Tiny {
    Tiny {
        tied_head: false,
        types: Types {
            token_embd: GgmlType::Q4_K,
            output: GgmlType::Q6_K,
            attn_q: GgmlType::Q4_K,
            attn_k: GgmlType::Q8_0,
            attn_v: GgmlType::Q6_K,
            attn_output: GgmlType::Q4_1,
            ffn_gate: GgmlType::Q5_0,
            ffn_up: GgmlType::Q4_0,
            ffn_down: GgmlType::Q5_K,
        },
        ..Tiny::new(arch)
    }
}

fn logits(gguf: &Gguf) -> Vec<u32> {
    let config = EngineConfig {
        prefill_threads: 2,
        decode_threads: 2,
        ..EngineConfig::new(128, 1, KvFormats::both(KvFormat::F16))
    };
    let tokens: Vec<u32> = (0..100).map(|i| i * 7 % 250).collect();
    let mut bits = Vec::new();
    let mut keep = |_: usize, row: &[f32]| bits.extend(row.iter().map(|v| v.to_bits()));
    let mut evaluator = Evaluator::load(gguf, &config).unwrap();
    evaluator.logits(&tokens, &mut keep).unwrap();
    evaluator.logits(&tokens[..1], &mut keep).unwrap();
    bits
}

#[test]
fn it_computes_the_same() {
    for arch in Arch::ALL {
        let rows = open(&mixed(arch).bytes());
        let groups = open(&packed(&rows));
        let interleaved = groups
            .tensors()
            .iter()
            .filter(|t| t.layout == Layout::Interleaved16);
        assert!(interleaved.count() > 10);
        assert_eq!(logits(&rows), logits(&groups), "{arch:?}");
    }
}

#[test]
fn it_holds_what_the_model_held() {
    let rows = open(&mixed(Arch::Qwen2).bytes());
    let groups = open(&packed(&rows));
    groups.touch(2).unwrap();
    assert_eq!(pack::source(&groups), Some("a test"));
    assert_eq!(pack::source(&rows), None);
    for (key, value) in rows.metadata() {
        let (_, same) = groups.metadata().find(|(k, _)| *k == key).unwrap();
        assert_eq!(value, same, "{key}");
    }
    assert_eq!(rows.tensors().len(), groups.tensors().len());
    for (a, b) in rows.tensors().iter().zip(groups.tensors()) {
        assert_eq!((&a.name, &a.dims, a.ty), (&b.name, &b.dims, b.ty));
        assert_eq!(b.offset % 64, 0);
        let (a, b_data) = (rows.data(a), groups.data(b));
        if b.layout == Layout::Rows {
            assert_eq!(a, b_data);
            continue;
        }
        let row = a.len() / b.rows() as usize;
        for (r, want) in a.chunks(row).enumerate() {
            let mut got = vec![0; row];
            match b_data[r / GROUP * GROUP * row..].get(..GROUP * row) {
                Some(group) => unpack_row(b.ty, group, r % GROUP, &mut got),
                None => got.copy_from_slice(&b_data[r * row..][..row]),
            }
            assert_eq!(got, want, "{} {r}", b.name);
        }
    }
    let again = pack::write(&groups, "", None, &mut Cursor::new(Vec::new()));
    assert!(matches!(again, Err(pack::PackError::Packed)));
}

/// Of so few tokens every logit is made exactly: what is requantized is only how they are found.
#[test]
fn a_requantized_head_is_one_tensor_more_and_computes_the_same() {
    for tied_head in [false, true] {
        let tiny = Tiny {
            tied_head,
            types: Types {
                token_embd: GgmlType::Q6_K,
                ..mixed(Arch::Qwen2).types
            },
            ..mixed(Arch::Qwen2)
        };
        let rows = open(&tiny.bytes());
        let requantized = open(&packed_requantized(&rows).unwrap());
        requantized.touch(2).unwrap();
        let more = requantized.tensor(pack::REQUANTIZED_HEAD).unwrap();
        assert_eq!(more.ty, GgmlType::Q4_0);
        assert_eq!(requantized.tensors().len(), rows.tensors().len() + 1);
        let dims = Dims::from_gguf(&requantized).unwrap();
        assert!(dims.requantized_head);
        assert_eq!(logits(&rows), logits(&requantized), "{tied_head}");
    }
}

#[test]
fn a_head_that_has_no_more_bits_is_refused() {
    let mut tiny = mixed(Arch::Qwen2);
    tiny.types.output = GgmlType::Q4_K;
    let error = packed_requantized(&open(&tiny.bytes())).unwrap_err();
    assert!(matches!(error, pack::PackError::Head { .. }));
    assert!(
        error.to_string().contains("`output.weight` is Q4_K"),
        "{error}"
    );
}

/// The alignment's padding holds nothing, so nothing is lost with it.
#[test]
fn damage_anywhere_is_found() {
    let bytes = packed(&open(&Tiny::smallest(Arch::Qwen2).bytes()));
    let whole = open(&bytes);
    let head_end = whole.header().len();
    let mut padding = Vec::new();
    let mut end = head_end;
    for tensor in whole.tensors() {
        padding.push(end..tensor.offset);
        end = tensor.offset + tensor.bytes;
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        if !padding.iter().any(|range| range.contains(&at)) {
            let found = Gguf::from_bytes(damaged.into()).and_then(|gguf| gguf.touch(2));
            assert!(found.is_err(), "byte {at}");
        }
    }
    for len in (0..bytes.len()).step_by(7) {
        let found = Gguf::from_bytes(bytes[..len].to_vec().into());
        assert!(found.is_err(), "{len} bytes");
    }
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let file = |magic: &[u8; 4], ty: u32, rows: u64| {
        let mut w = glowplug_tests::GgufWriter::default();
        w.tensors.push(glowplug_tests::Tensor {
            name: "t".to_owned(),
            dims: vec![32, rows],
            ty,
            offset: None,
            data: vec![0; 18 * rows as usize],
        });
        let mut bytes = w.build();
        bytes[..4].copy_from_slice(magic);
        Gguf::from_bytes(bytes.into()).unwrap_err().to_string()
    };
    let flag = 1 << 16;
    assert!(file(b"GGUF", 2 | flag, 16).contains("65538"));
    assert!(file(b"GPAK", 2 | flag, 24).contains("24 rows of Q4_0 cannot be in groups of sixteen"));
    assert!(file(b"GPAK", 3 << 16, 16).contains("type id 131072"));
    assert!(file(b"GPAK", 2 | flag, 16).contains("`glowplug.pack.source` is missing"));
}
