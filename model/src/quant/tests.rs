//! Every type and every level against the definition, and the definition against the numbers of others.
//!
//! One file, because it is one set of helpers and the checks that every level has to pass.

mod activations;
mod delta;
mod floats;
mod formats;
mod grids;
mod interleaved;
mod pages;
mod stored;

use super::reference::scalar;
use super::*;
use crate::gguf::{GgmlType, Layout};
use crate::pool::{Pool, RowTile};
use GgmlType::*;
use glowplug_firmware_config::kv::KvFormat;

/// Numbers of a linear congruential generator: the same on every machine.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 ^ (self.0 >> 60) as u32
    }
    fn byte(&mut self) -> u8 {
        (self.bits() >> 11) as u8
    }
    /// A number that is uniform in -1..1.
    fn unit(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

/// The bytes of a block at which its halves are, or the f32 of Q8_K.
fn scales_at(ty: GgmlType) -> &'static [usize] {
    match ty {
        F32 | F16 | BF16 => &[],
        Q4_1 | Q5_1 | Q4_K | Q5_K => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        TQ1_0 => &[52],
        TQ2_0 => &[64],
        MXFP4 | NVFP4 => &[],
        _ => &[0],
    }
}

/// What the bytes of a block are filled with, apart from its floats.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fill {
    Random,
    All(u8),
}

fn weights(ty: GgmlType, rows: usize, k: usize, fill: Fill, random: &mut Random) -> Vec<u8> {
    let mut w = vec![0u8; rows * row_bytes(ty, k).unwrap()];
    for block in w.chunks_exact_mut(ty.block_bytes()) {
        match ty {
            F32 => block.copy_from_slice(&random.unit().to_le_bytes()),
            F16 => block.copy_from_slice(&half::f16::from_f32(random.unit()).to_le_bytes()),
            BF16 => block.copy_from_slice(&half::bf16::from_f32(random.unit()).to_le_bytes()),
            _ => block.fill_with(|| match fill {
                Fill::Random => random.byte(),
                Fill::All(byte) => byte,
            }),
        }
        // scales of one byte: what is finite, and not so small that sums of eight columns were of subnormal numbers
        match ty {
            MXFP4 => block[0] = [110 + block[0] % 16, 140][usize::from(fill != Fill::Random)],
            NVFP4 if fill == Fill::Random => {}
            NVFP4 => block[..4].fill(0x7e),
            _ => {}
        }
        for &at in scales_at(ty) {
            let d = if fill == Fill::Random {
                random.unit() * 0.02
            } else {
                65504.0
            };
            if ty == Q8_K {
                block[at..at + 4].copy_from_slice(&d.to_le_bytes());
            } else if ty == IQ1_M {
                grids::set_iq1_m_scale(block, half::f16::from_f32(d));
            } else {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
            }
        }
    }
    w
}

fn levels() -> Vec<&'static Kernels> {
    let levels: Vec<_> = Isa::ALL
        .into_iter()
        .filter_map(|isa| Kernels::detect(Some(isa)).ok())
        .collect();
    assert!(levels.iter().any(|l| l.isa() == Isa::Scalar));
    levels
}

/// Stores a row in a slot of a page's chunk.
fn store_kv(kernels: &Kernels, format: KvFormat, chunk: &mut [u8], slot: usize, row: &[f32]) {
    let mut row = row.to_vec();
    kernels.encode_kv(format, &mut row);
    place_kv(format, chunk, slot, &row);
}

fn quantized(kernels: &Kernels, ty: GgmlType, x: &[f32], k: usize) -> Activations {
    let mut acts = Activations::new();
    kernels.quantize(act_kind(ty), x, k, &mut acts, &Pool::new(1).unwrap(), 1);
    acts
}

/// [`Kernels::matmul`] with the product's parts one by one.
fn multiply(
    kernels: &Kernels,
    (ty, layout): (GgmlType, Layout),
    weights: &[u8],
    k: usize,
    activations: &Activations,
    first_column: usize,
    out: &mut RowTile<'_>,
) {
    let product = Product {
        ty,
        layout,
        weights,
        k,
        activations,
        first_column,
    };
    kernels.matmul(&product, out);
}

fn matmul(kernels: &Kernels, ty: GgmlType, w: &[u8], rows: usize, k: usize, x: &[f32]) -> Vec<f32> {
    let acts = quantized(kernels, ty, x, k);
    let mut out = vec![f32::NAN; rows * acts.cols()];
    multiply(
        kernels,
        (ty, Layout::Rows),
        w,
        k,
        &acts,
        0,
        &mut RowTile::new(&mut out, rows),
    );
    out
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn sizes_of_rows() {
    assert_eq!(row_bytes(Q4_K, 512), Some(288));
    assert_eq!(row_bytes(Q4_K, 128), None);
    assert_eq!(row_bytes(Q8_0, 96), Some(102));
    assert_eq!(row_bytes(F16, 7), Some(14));
    assert_eq!(row_bytes(F32, usize::MAX), None);
}

#[test]
fn levels_have_names() {
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
    }
    assert_eq!("sse".parse::<Isa>(), Err(UnknownIsa("sse".into())));
    let other = if cfg!(target_arch = "x86_64") {
        Isa::Neon
    } else {
        Isa::Avx2
    };
    assert_eq!(
        Kernels::detect(Some(other)).err(),
        Some(UnsupportedIsa(other))
    );
    assert_eq!(
        UnsupportedIsa(other).to_string(),
        format!("instruction set `{other}` is not available on this machine")
    );
}

#[test]
fn dequantised_as_others_do() {
    let text = include_str!("testdata/dequantize.txt");
    let hex = |s: &str| -> Vec<u8> {
        (0..s.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap())
            .collect()
    };
    let mut seen = 0;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let [name, block, values] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let ty = GgmlType::ALL
            .into_iter()
            .find(|t| t.name() == name)
            .unwrap();
        let want: Vec<f32> = hex(values)
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let mut got = vec![0.0; ty.block_len()];
        scalar::TABLE.dequantize_row(ty, &hex(block), &mut got);
        assert_eq!(got, want, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 11);
    // Q8_K and the floats, by hand
    let mut q8k = vec![0u8; 292];
    q8k[..4].copy_from_slice(&0.5f32.to_le_bytes());
    q8k[4..8].copy_from_slice(&[127, 128, 255, 1]);
    let mut got = [0.0; 256];
    scalar::TABLE.dequantize_row(Q8_K, &q8k, &mut got);
    assert_eq!(got[..5], [63.5, -64.0, -0.5, 0.5, 0.0]);
    let mut got = [0.0; 3];
    scalar::TABLE.dequantize_row(F16, &[0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00], &mut got);
    assert_eq!(got, [1.0, -2.0, 5.960_464_5e-8]);
    scalar::TABLE.dequantize_row(BF16, &[0x80, 0x3f, 0x00, 0xc0, 0x01, 0x00], &mut got);
    assert_eq!(got, [1.0, -2.0, 9.183_55e-41]);
    scalar::TABLE.dequantize_row(F32, &[0, 0, 128, 63, 0, 0, 0, 192, 1, 0, 0, 0], &mut got);
    assert_eq!(got, [1.0, -2.0, 1e-45]);
}

/// Compares the definition with the plain sum of products of the dequantised numbers in f64.
#[test]
fn dots_are_those_of_the_dequantised_values() {
    let mut random = Random(1);
    for ty in GgmlType::ALL {
        let (rows, cols) = (3, 2);
        let k = if ty.block_len() == 1 {
            100
        } else {
            3 * ty.block_len()
        };
        let w = weights(ty, rows, k, Fill::Random, &mut random);
        let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
        let acts = quantized(&scalar::TABLE, ty, &x, k);
        let got = matmul(&scalar::TABLE, ty, &w, rows, k, &x);
        for c in 0..cols {
            let x: Vec<f32> = match act_kind(ty) {
                ActKind::F32 => acts.f32(c).to_vec(),
                ActKind::Q8 => (0..k)
                    .map(|i| {
                        acts.q8(c)[i / 256].q[i % 256] as f32
                            * acts.q8(c)[i / 256].scale[i % 256 / 32]
                    })
                    .collect(),
                ActKind::Q8K => (0..k)
                    .map(|i| acts.q8k(c)[i / 256].q[i % 256] as f32 * acts.q8k(c)[i / 256].scale)
                    .collect(),
            };
            for r in 0..rows {
                let mut row = vec![0.0; k];
                scalar::TABLE.dequantize_row(
                    ty,
                    &w[r * w.len() / rows..][..w.len() / rows],
                    &mut row,
                );
                let products = || {
                    row.iter()
                        .zip(&x)
                        .map(|(a, b)| f64::from(*a) * f64::from(*b))
                };
                let (want, size) = (
                    products().sum::<f64>(),
                    products().map(f64::abs).sum::<f64>(),
                );
                assert!(
                    (f64::from(got[c * rows + r]) - want).abs() <= 1e-6 * size,
                    "{ty}: {} {want}",
                    got[c * rows + r]
                );
            }
        }
    }
}

/// The central test: every level gives the bits of the scalar one, at odd lengths too.
#[test]
fn every_level_computes_the_definition() {
    for kernels in levels() {
        // `cross/build.sh` reads this
        println!("level {}", kernels.isa());
        let mut random = Random(2);
        for ty in GgmlType::ALL {
            for blocks in [1, 2, 3, 5, 7, 9, 17] {
                let k = blocks * ty.block_len();
                for rows in [1, 3, 5, 16, 17, 33] {
                    let w = weights(ty, rows, k, Fill::Random, &mut random);
                    for cols in [1, 2, 3, 5, 8, 9, 16, 17, 23, 33] {
                        let x: Vec<f32> = (0..cols * k).map(|_| random.unit() * 3.0).collect();
                        let want = matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                        let got = matmul(kernels, ty, &w, rows, k, &x);
                        assert_eq!(
                            bits(&got),
                            bits(&want),
                            "{} {ty} {blocks} {rows} {cols}",
                            kernels.isa()
                        );
                    }
                }
            }
        }
    }
}

/// Bytes that make the largest and the smallest values, with activations of 127 and -127 throughout. There an int16 would
/// saturate, and -128 has no positive counterpart.
#[test]
fn extremes_do_not_saturate() {
    for kernels in levels() {
        for ty in GgmlType::ALL.into_iter().filter(|t| t.block_len() > 1) {
            for fill in [0x00, 0x0f, 0x7f, 0x80, 0x81, 0xf0, 0xff].map(Fill::All) {
                let (rows, k) = (5, 3 * ty.block_len());
                let w = weights(ty, rows, k, fill, &mut Random(3));
                for cols in [1, 2, 4, 16] {
                    for sign in [|_| 1.0, |_| -1.0, |i| if i % 2 == 0 { 1.0 } else { -1.0 }]
                        as [fn(usize) -> f32; 3]
                    {
                        let x: Vec<f32> = (0..cols * k).map(sign).collect();
                        let want = matmul(&scalar::TABLE, ty, &w, rows, k, &x);
                        assert!(want.iter().all(|v| v.is_finite()), "{ty} {fill:?}");
                        let got = matmul(kernels, ty, &w, rows, k, &x);
                        assert_eq!(
                            bits(&got),
                            bits(&want),
                            "{} {ty} {fill:?} {cols}",
                            kernels.isa()
                        );
                    }
                }
            }
        }
    }
}

/// Computing any part of the rows and columns gives the same as that part of the whole.
#[test]
fn tiling_changes_nothing() {
    let (rows, cols) = (37, 41);
    let pool = Pool::new(2).unwrap();
    for kernels in levels() {
        let mut random = Random(4);
        for ty in GgmlType::ALL {
            let k = 3 * ty.block_len().max(8);
            let w = weights(ty, rows, k, Fill::Random, &mut random);
            let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
            let whole = matmul(kernels, ty, &w, rows, k, &x);
            let mut acts = Activations::new();
            kernels.quantize(act_kind(ty), &x, k, &mut acts, &pool, 2);
            let bytes = row_bytes(ty, k).unwrap();
            for (col0, n) in [
                (0, 41),
                (0, 1),
                (40, 1),
                (1, 40),
                (15, 2),
                (7, 20),
                (16, 16),
                (17, 24),
                (31, 10),
                (5, 0),
            ] {
                for chunk in [1, 5, 16, 37] {
                    let mut out = vec![f32::NAN; rows * n];
                    if n > 0 {
                        pool.run_rows(2, &mut out, rows, (chunk, 1), &|r, tile| {
                            multiply(
                                kernels,
                                (ty, Layout::Rows),
                                &w[r.start * bytes..],
                                k,
                                &acts,
                                col0,
                                tile,
                            );
                        });
                    }
                    assert_eq!(
                        bits(&out),
                        bits(&whole[col0 * rows..][..n * rows]),
                        "{} {ty} {col0} {n} {chunk}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

/// NaN in one column reaches no other column, because columns belong to different clients.
fn columns_are_apart(what: &str, x: &[f32], k: usize, matmul: impl Fn(&[f32]) -> Vec<f32>) {
    let whole = matmul(x);
    let rows = whole.len() / (x.len() / k);
    for odd in 0..x.len() / k {
        let mut x = x.to_vec();
        x[odd * k..][..k].fill(f32::NAN);
        let mut found = matmul(&x);
        let column = &mut found[odd * rows..][..rows];
        assert!(column.iter().all(|v| v.is_nan()), "{what}");
        column.copy_from_slice(&whole[odd * rows..][..rows]);
        assert_eq!(bits(&found), bits(&whole), "{what}, column {odd}");
    }
}

#[test]
fn columns_do_not_touch_each_other() {
    let rows = 37;
    for kernels in levels() {
        let mut random = Random(9);
        for ty in GgmlType::ALL {
            let k = 3 * ty.block_len().max(8);
            let w = weights(ty, rows, k, Fill::Random, &mut random);
            for cols in [1, 2, 3, 4, 7, 10, 15, 16, 17, 31] {
                let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
                let what = format!("{} {ty}, {cols} columns", kernels.isa());
                columns_are_apart(&what, &x, k, |x| matmul(kernels, ty, &w, rows, k, x));
            }
        }
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let kernels = levels()[0];
    let acts = quantized(kernels, Q4_K, &[1.0; 512], 256);
    let matmul = |ty, bytes: usize, k, col0, n: usize| {
        let mut out = vec![0.0; n];
        multiply(
            kernels,
            (ty, Layout::Rows),
            &vec![0; bytes],
            k,
            &acts,
            col0,
            &mut RowTile::new(&mut out, 2),
        );
    };
    matmul(Q4_K, 288, 256, 0, 4);
    type Case<'a> = (
        &'a str,
        Box<dyn Fn() + std::panic::UnwindSafe + std::panic::RefUnwindSafe + 'a>,
    );
    let cases: [Case<'_>; 10] = [
        ("a byte short", Box::new(|| matmul(Q4_K, 287, 256, 0, 4))),
        ("other kind", Box::new(|| matmul(Q4_0, 288, 256, 0, 4))),
        ("other k", Box::new(|| matmul(Q4_K, 576, 512, 0, 4))),
        (
            "a column too many",
            Box::new(|| matmul(Q4_K, 288, 256, 1, 4)),
        ),
        (
            "overflow",
            Box::new(|| matmul(Q4_K, 288, 256, usize::MAX, 4)),
        ),
        (
            "half a block",
            Box::new(|| drop(quantized(kernels, Q4_K, &[1.0; 300], 300))),
        ),
        (
            "half a column",
            Box::new(|| drop(quantized(kernels, Q8_0, &[1.0; 96], 64))),
        ),
        (
            "row too short",
            Box::new(|| kernels.dequantize_row(Q8_0, &[0; 33], &mut [0.0; 32])),
        ),
        (
            "silu",
            Box::new(|| kernels.silu_mul(&mut [0.0; 3], &[0.0; 2])),
        ),
        (
            "norm",
            Box::new(|| kernels.rms_norm(&[0.0; 3], &[0.0; 3], 0.0, &mut [0.0; 2])),
        ),
    ];
    for (what, case) in cases {
        assert!(std::panic::catch_unwind(case).is_err(), "{what}");
    }
}
