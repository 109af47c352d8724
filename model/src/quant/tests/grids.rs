//! The formats on grids: the grids are those of others, and no sum of the kernels is too large for its register.

use super::*;
use crate::quant::format::grids;
use crate::quant::reference::scalar;
use sha2::{Digest, Sha256};

/// Each with the largest magnitude of a weight where `d` is 1: the largest scale, and the largest value of the grid.
const ON_GRIDS: [(GgmlType, f32); 7] = [
    (IQ2_XXS, 15.5 * 0.25 * 43.0),
    (IQ2_XS, 15.5 * 0.25 * 43.0),
    (IQ3_XXS, 15.5 * 0.5 * 62.0),
    (IQ1_S, 15.0 * 1.125),
    (IQ3_S, 31.0 * 15.0),
    (IQ2_S, 15.5 * 0.25 * 43.0),
    (IQ1_M, 15.0 * 1.125),
];

/// Sets the half of a block of IQ1_M, of which a nibble is in every other byte at the end.
pub(super) fn set_iq1_m_scale(block: &mut [u8], d: half::f16) {
    for (i, byte) in block[48..].iter_mut().skip(1).step_by(2).enumerate() {
        *byte = (*byte & 15) | ((d.to_bits() >> (4 * i)) as u8) << 4;
    }
}

/// SHA-256 of a grid's values as int8, as `tests/vectors/grids/make.py` says it of gguf-py's.
#[test]
fn grids_are_those_of_gguf_py() {
    let of = |values: &mut dyn Iterator<Item = u8>| -> String {
        let hash = Sha256::digest(values.collect::<Vec<u8>>());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let eights = |rows: &[u64]| of(&mut rows.iter().flat_map(|row| row.to_le_bytes()));
    for (found, known) in [
        (
            eights(&grids::IQ2_XXS),
            "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54",
        ),
        (
            eights(&grids::IQ2_XS),
            "06e47aaca60b4dc1d9b5a3f34540437058a6b142b4d7a59d5ded769b4d1bf1de",
        ),
        (
            eights(&grids::IQ2_S),
            "e1aa1473412b0552c2174c30ef22ab4073f6a181b85a17056e8249bd2932fd88",
        ),
        (
            // ours are eight times as large
            of(&mut grids::IQ1
                .iter()
                .flat_map(|row| row.to_le_bytes().map(|byte| (byte as i8 / 8) as u8))),
            "07540ffc1aeaf6ad4d97e96b0fcc765aae39671d4ae4a27bbd0e796fde167c6a",
        ),
        (
            // ours are half as large
            of(&mut grids::IQ3_XXS
                .iter()
                .flat_map(|row| row.to_le_bytes().map(|byte| 2 * byte))),
            "46e35f5a997efdee6c99ce57854c8a0d4f0ff8ca57e5e8a60c0793ea580acf5d",
        ),
        (
            of(&mut grids::IQ3_S.iter().flat_map(|row| row.to_le_bytes())),
            "bd1af4945a1717c65610b0284e4628b9a1ba3b306fae3a06f6e5f597356e349f",
        ),
    ] {
        assert_eq!(found, known);
    }
}

/// Activations of 127 and -127 in the signs of the weights make the largest sum that a row can have, in those signs turned round
/// the smallest one. Of all bytes that a block can be filled with, some choose the largest values of the grid.
#[test]
fn the_largest_sums_fit() {
    let (rows, k) = (3, 512);
    for kernels in levels() {
        for (ty, most) in ON_GRIDS {
            let mut largest = 0f32;
            for byte in 0..=255 {
                let mut w = weights(ty, rows, k, Fill::All(byte), &mut Random(3));
                // rows that differ, and the same signs
                let row = w.len() / rows;
                let at = if ty == IQ1_M { 0 } else { 2 };
                w[row + at] ^= 1;
                let mut values = vec![0.0; k];
                scalar::TABLE.dequantize_row(ty, &w[..row], &mut values);
                largest = values.iter().fold(largest, |l, v| l.max(v.abs()));
                for sign in [1.0, -1.0] {
                    let one: Vec<f32> = values.iter().map(|v| v.signum() * sign).collect();
                    for cols in [1, 2, 4, 17] {
                        let x = one.repeat(cols);
                        let want = matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                        let got = matmul(kernels, ty, &w, rows, k, &x);
                        let isa = kernels.isa();
                        assert_eq!(bits(&got), bits(&want), "{isa} {ty} {byte:#x} {cols}");
                    }
                }
            }
            assert_eq!(largest, 65504.0 * most, "{ty}");
        }
    }
}

/// Rows that are longer than what is multiplied at a time, and more columns than have sums at a time.
#[test]
fn long_rows_and_many_columns_are_multiplied_in_parts() {
    let rows = 19;
    for kernels in levels() {
        let mut random = Random(14);
        for (ty, _) in ON_GRIDS {
            for (k, cols) in [(2304, 23), (4352, 9), (512, 131)] {
                let w = weights(ty, rows, k, Fill::Random, &mut random);
                let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
                let want = matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                let got = matmul(kernels, ty, &w, rows, k, &x);
                assert_eq!(bits(&got), bits(&want), "{} {ty} {k}", kernels.isa());
            }
        }
    }
}

/// No bit is lost where a half of the smallest exponent meets the smallest factor.
#[test]
fn the_smallest_scales_are_kept() {
    for (ty, _) in ON_GRIDS {
        for d in [half::f16::from_bits(1), half::f16::from_bits(0x8001)] {
            let mut block = vec![0; ty.block_bytes()];
            if ty == IQ1_M {
                set_iq1_m_scale(&mut block, d);
            } else {
                block[..2].copy_from_slice(&d.to_le_bytes());
            }
            let mut values = [0.0; 256];
            scalar::TABLE.dequantize_row(ty, &block, &mut values);
            let unit = d.to_f32() / 8.0;
            for value in values {
                assert!(
                    value / unit == (value / unit).trunc() && value != 0.0,
                    "{ty}"
                );
            }
            for kernels in levels() {
                let want = matmul(&scalar::TABLE, ty, &block, 1, 256, &[1.0; 256]);
                let got = matmul(kernels, ty, &block, 1, 256, &[1.0; 256]);
                assert_eq!(bits(&got), bits(&want), "{} {ty}", kernels.isa());
            }
        }
    }
}
