//! Sixteen rows interleaved: lossless, and every level computes the definition from them.

use super::*;
use crate::gguf::{GROUP, Words, interleave, unpack_row};
use crate::quant::format::interleaved::with_row;
use crate::quant::reference::scalar;

fn types() -> impl Iterator<Item = GgmlType> {
    GgmlType::ALL
        .into_iter()
        .filter(|ty| Words::of(*ty).is_some())
}

fn packed(ty: GgmlType, k: usize, w: &[u8]) -> Vec<u8> {
    let mut packed = vec![0xee; w.len()];
    interleave(ty, row_bytes(ty, k).unwrap(), w, &mut packed);
    packed
}

fn matmul(kernels: &Kernels, ty: GgmlType, w: &[u8], rows: usize, k: usize, x: &[f32]) -> Vec<f32> {
    let acts = quantized(kernels, ty, x, k);
    let mut out = vec![f32::NAN; rows * acts.cols()];
    let out_tile = &mut RowTile::new(&mut out, rows);
    multiply(
        kernels,
        (ty, Layout::Interleaved16),
        w,
        k,
        &acts,
        0,
        out_tile,
    );
    out
}

#[test]
fn there_and_back_is_what_was() {
    let mut random = Random(11);
    for ty in types() {
        for blocks in [1, 3, 8] {
            let (rows, k) = (48, blocks * ty.block_len());
            let w = weights(ty, rows, k, Fill::Random, &mut random);
            let packed = packed(ty, k, &w);
            assert_ne!(packed, w, "{ty}");
            let one = w.len() / rows;
            for (r, want) in w.chunks(one).enumerate() {
                with_row(ty, &packed, r, one, |row| assert_eq!(row, want, "{ty} {r}"));
                let group = &packed[r / GROUP * GROUP * one..][..GROUP * one];
                let mut row = vec![0; one];
                unpack_row(ty, group, r % GROUP, &mut row);
                assert_eq!(row, want, "{ty} {r}");
            }
        }
    }
}

#[test]
fn every_level_computes_the_definition_from_groups() {
    for kernels in levels() {
        let mut random = Random(12);
        for ty in types() {
            for blocks in [1, 2, 3, 5, 8, 9, 17] {
                let k = blocks * ty.block_len();
                // groups one by one, and for one length of rows four by turns with none and some behind them
                let all = if blocks == 3 {
                    [48, 64, 96]
                } else {
                    [16, 32, 48]
                };
                for rows in all {
                    let w = weights(ty, rows, k, Fill::Random, &mut random);
                    let packed = packed(ty, k, &w);
                    for cols in [1, 2, 3, 4, 5, 7, 8, 9, 16, 23] {
                        let x: Vec<f32> = (0..cols * k).map(|_| random.unit() * 3.0).collect();
                        let want = super::matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                        let got = matmul(kernels, ty, &packed, rows, k, &x);
                        let isa = kernels.isa();
                        assert_eq!(bits(&got), bits(&want), "{isa} {ty} {blocks} {rows} {cols}");
                    }
                }
            }
        }
    }
}

/// The largest sums of a group that fit int16, and those that just do not: AVX-512 scales two of the former together.
#[test]
fn sums_at_the_edge_of_int16_are_exact() {
    let (rows, k, mut random) = (32, 512, Random(15));
    // of the magnitudes of sixteen activations: what fits IQ4_XS, Q5_K, Q6_K and Q4_K, what does not, and all that there is
    let totals = [255, 256, 528, 529, 1023, 1024, 1092, 1093, 2032];
    for ty in types().filter(|ty| act_kind(*ty) == ActKind::Q8K) {
        for fill in [Fill::All(0xff), Fill::All(0), Fill::Random] {
            let w = weights(ty, rows, k, fill, &mut random);
            let packed = packed(ty, k, &w);
            for total in totals {
                let cols = 15;
                let mut x = vec![0.0; cols * k];
                for (g, group) in x.chunks_exact_mut(16).enumerate() {
                    // the last column is far from the edge
                    let mut left = if g / 32 == cols - 1 { 300 } else { total };
                    for (i, x) in group.iter_mut().enumerate() {
                        let magnitude = left.min(127);
                        left -= magnitude;
                        let negative = match g / 32 % 3 {
                            0 => false,
                            1 => true,
                            _ => (g + i) % 2 == 0,
                        };
                        *x = if negative { -magnitude } else { magnitude } as f32;
                    }
                }
                let want = super::matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                for kernels in levels() {
                    let isa = kernels.isa();
                    let got = matmul(kernels, ty, &packed, rows, k, &x);
                    assert_eq!(bits(&got), bits(&want), "{isa} {ty} {fill:?} {total}");
                    let got = super::matmul(kernels, ty, &w, rows, k, &x);
                    assert_eq!(bits(&got), bits(&want), "{isa} {ty} {fill:?} {total} rows");
                }
            }
        }
    }
}

/// Rows that are longer than what is multiplied at a time, and more columns than have sums at a time, by rows and by groups.
#[test]
fn long_rows_and_many_columns_are_multiplied_in_parts() {
    let rows = 32;
    for kernels in levels() {
        let mut random = Random(14);
        for ty in types() {
            for (k, cols) in [(2304, 23), (4352, 9), (512, 131)] {
                let w = weights(ty, rows, k, Fill::Random, &mut random);
                let packed = packed(ty, k, &w);
                let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
                let want = super::matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                let got = matmul(kernels, ty, &packed, rows, k, &x);
                assert_eq!(bits(&got), bits(&want), "{} {ty} {k}", kernels.isa());
                let got = super::matmul(kernels, ty, &w, rows, k, &x);
                assert_eq!(bits(&got), bits(&want), "{} {ty} {k}", kernels.isa());
            }
        }
    }
}

/// More columns than any level unpacks for at once, and parts of them that begin and end anywhere.
#[test]
fn parts_of_many_columns_are_those_of_the_whole() {
    let (rows, cols) = (32, 150);
    for kernels in levels() {
        let mut random = Random(14);
        for ty in types() {
            let k = 3 * ty.block_len();
            let w = weights(ty, rows, k, Fill::Random, &mut random);
            let packed = packed(ty, k, &w);
            let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
            let want = super::matmul(&scalar::TABLE, ty, &w, rows, k, &x);
            let acts = quantized(kernels, ty, &x, k);
            let parts = [
                (0, 150),
                (1, 149),
                (3, 70),
                (15, 2),
                (63, 66),
                (64, 64),
                (149, 1),
            ];
            for (first, n) in parts {
                let mut out = vec![f32::NAN; rows * n];
                let format = (ty, Layout::Interleaved16);
                let tile = &mut RowTile::new(&mut out, rows);
                multiply(kernels, format, &packed, k, &acts, first, tile);
                let isa = kernels.isa();
                let want = &want[first * rows..][..n * rows];
                assert_eq!(bits(&out), bits(want), "{isa} {ty} {first} {n}");
            }
        }
    }
}

#[test]
fn columns_do_not_touch_each_other_in_groups() {
    let rows = 32;
    for kernels in levels() {
        let mut random = Random(13);
        for ty in types() {
            let k = 9 * ty.block_len();
            let w = weights(ty, rows, k, Fill::Random, &mut random);
            let packed = packed(ty, k, &w);
            for cols in [1, 2, 3, 4, 7, 10, 15, 16, 17, 31] {
                let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
                let what = format!("{} {ty}, {cols} columns", kernels.isa());
                columns_are_apart(&what, &x, k, |x| matmul(kernels, ty, &packed, rows, k, x));
            }
        }
    }
}

#[test]
fn extremes_do_not_saturate_in_groups() {
    for kernels in levels() {
        for ty in types() {
            for fill in [0x00, 0x0f, 0x7f, 0x80, 0x81, 0xf0, 0xff].map(Fill::All) {
                let (rows, k) = (16, 3 * ty.block_len());
                let w = weights(ty, rows, k, fill, &mut Random(3));
                let packed = packed(ty, k, &w);
                for cols in [1, 4, 8] {
                    for sign in [|_| 1.0, |_| -1.0, |i| if i % 2 == 0 { 1.0 } else { -1.0 }]
                        as [fn(usize) -> f32; 3]
                    {
                        let x: Vec<f32> = (0..cols * k).map(sign).collect();
                        let want = super::matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                        let got = matmul(kernels, ty, &packed, rows, k, &x);
                        let isa = kernels.isa();
                        assert_eq!(bits(&got), bits(&want), "{isa} {ty} {fill:?} {cols}");
                    }
                }
            }
        }
    }
}

#[test]
fn parts_of_groups_are_refused() {
    let (rows, k) = (16, 256);
    let w = vec![0; 2 * rows * row_bytes(Q4_K, k).unwrap()];
    for (ty, bytes) in [(Q4_K, 144 * 15 + 1), (Q2_K, 84 * 16), (Q4_K, 143)] {
        let refused = std::panic::catch_unwind(|| {
            let row = row_bytes(ty, k).unwrap();
            interleave(ty, row, &w[..bytes], &mut vec![0; bytes]);
        });
        assert!(refused.is_err(), "{ty} {bytes}");
    }
    let kernels = levels()[0];
    let acts = quantized(kernels, Q4_K, &[1.0; 256], k);
    let refused = std::panic::catch_unwind(|| {
        let mut out = [0.0; 17];
        let out = &mut RowTile::new(&mut out, 17);
        multiply(kernels, (Q4_K, Layout::Interleaved16), &w, k, &acts, 0, out);
    });
    assert!(refused.is_err());
}

/// A vocabulary has any number of rows: what is left of the groups stays rows, at the end of the matrix.
#[test]
fn rows_that_make_no_group_follow_the_groups() {
    for kernels in levels() {
        let mut random = Random(15);
        for ty in types() {
            let (rows, k, cols) = (37, 3 * ty.block_len(), 3);
            let w = weights(ty, rows, k, Fill::Random, &mut random);
            let packed = packed(ty, k, &w);
            let one = w.len() / rows;
            assert_eq!(packed[32 * one..], w[32 * one..], "{ty}");
            for (r, want) in w.chunks(one).enumerate() {
                with_row(ty, &packed, r, one, |row| assert_eq!(row, want, "{ty} {r}"));
            }
            let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
            let want = super::matmul(&scalar::TABLE, ty, &w, rows, k, &x);
            let acts = quantized(kernels, ty, &x, k);
            for (first, n) in [(0, 37), (0, 16), (16, 21), (32, 5)] {
                let mut out = vec![f32::NAN; n * cols];
                let format = (ty, Layout::Interleaved16);
                let tile = &mut RowTile::new(&mut out, n);
                multiply(kernels, format, &packed[first * one..], k, &acts, 0, tile);
                let columns = want
                    .chunks(rows)
                    .flat_map(|column| &column[first..first + n]);
                let want: Vec<f32> = columns.copied().collect();
                assert_eq!(
                    bits(&out),
                    bits(&want),
                    "{} {ty} {first} {n}",
                    kernels.isa()
                );
            }
        }
    }
}
