//! Ten thousand random blocks of a format, dequantised as gguf-py does it: see `tests/vectors/formats/make.py`.

use super::*;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Bytes of SplitMix64 (Steele, Lea and Flood 2014), whose seed is the id of a type.
fn random_blocks(ty: GgmlType) -> Vec<u8> {
    let words = (BLOCKS * ty.block_bytes()).div_ceil(8);
    let word = |i: u64| {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let z = u64::from(ty.id()).wrapping_add(step.wrapping_mul(i));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes: Vec<u8> = (1..=words as u64)
        .flat_map(|i| word(i).to_le_bytes())
        .collect();
    bytes.truncate(BLOCKS * ty.block_bytes());
    bytes
}

const BLOCKS: usize = 10_000;

/// Every byte is random, so that scales are of all kinds: infinite and subnormal halves, and all codes of one byte. All that is
/// not a number counts as one, because its sign differs between processors.
#[test]
fn ten_thousand_blocks_are_dequantised_as_gguf_py_does_it() {
    let known = include_str!("../testdata/formats.txt");
    let mut seen = 0;
    for line in known.lines().filter(|line| !line.starts_with('#')) {
        let (name, want) = line.split_once(' ').unwrap();
        let ty = GgmlType::ALL
            .into_iter()
            .find(|ty| ty.name() == name)
            .unwrap();
        let mut values = vec![0.0; BLOCKS * ty.block_len()];
        scalar::TABLE.dequantize_row(ty, &random_blocks(ty), &mut values);
        let mut hash = Sha256::new();
        for value in values {
            let value = if value.is_nan() { f32::NAN } else { value };
            hash.update(value.to_bits().to_le_bytes());
        }
        let got = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        assert_eq!(got, want, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}
