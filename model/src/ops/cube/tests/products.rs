//! Inputs as they are rounded, and what is multiplied with them.

use super::*;
use crate::ops::cube::kernels::decode::INPUT_WORDS;
use crate::ops::cube::launch::Launcher;
use crate::ops::cube::pack::{BLOCK, Format};
use crate::ops::runtime::Planes;
use crate::quant::{ActKind, act_kind};

#[test]
fn inputs_are_rounded_as_on_the_host() {
    let _alone = alone();
    let mut random = Random(10);
    for (ty, cols) in [(GgmlType::Q8_0, 67 * 32), (GgmlType::Q6_K, 9 * 256)] {
        for (n, first, normed) in [(1, 0, true), (3, 0, false), (CHUNK_TOKENS, 61, true)] {
            let mut x = random.floats(n * cols);
            // a block of nothing, one that is next to nothing, and one that rounds to the even one of two
            x[..32].fill(0.0);
            x[32..64].fill(1e-35);
            x[64..96].copy_from_slice(&[127.0, 0.5, 1.5, -2.5].repeat(8));
            let weight = random.floats(cols);
            let mut rt = runtime(1, 2);
            let (pool, kernels) = (&rt.pool, rt.kernels);
            let part = &x[first * cols..];
            if normed {
                rt.inputs.norm(kernels, pool, 1, part, Some(&weight), 1e-5);
            } else {
                rt.inputs.normed = part.to_vec();
            }
            rt.inputs
                .quantize_normed(kernels, pool, 1, cols, Planes::Two, &[ty]);
            let wanted = rt.inputs.of(ty);

            let input = columns(&x, [n, cols]);
            let weight = floats(&weight, &[cols]);
            let launcher = Launcher::of(&mut rt.launcher, &input, kernels.isa());
            let of_256 = act_kind(ty) == ActKind::Q8K;
            let norm = normed.then_some((&weight, 1e-5));
            let rounded = launcher.round(&input, first..n, norm, of_256, Planes::Two);
            let client = rounded.blocks.client.clone();
            let words = client.read_one(rounded.blocks.handle.clone()).unwrap();
            let words: &[u32] = bytemuck::cast_slice(&words);
            let blocks = cols / BLOCK;
            for plane in 0..2 {
                for column in 0..n - first {
                    for block in 0..blocks {
                        let at = ((plane * CHUNK_TOKENS + column) * blocks + block) * INPUT_WORDS;
                        let found = &words[at..][..INPUT_WORDS];
                        let bytes: Vec<i8> = (0..BLOCK)
                            .map(|i| found[i / 16 * 4 + i % 4].to_le_bytes()[i % 16 / 4])
                            .map(|byte| byte.wrapping_sub(128) as i8)
                            .collect();
                        let (column, i) = (plane * (n - first) + column, block % 8);
                        let (q, scale) = if of_256 {
                            let chunk = &wanted.q8k(column)[block / 8];
                            (chunk.q, chunk.scale)
                        } else {
                            let chunk = &wanted.q8(column)[block / 8];
                            assert_eq!(found[11], chunk.scaled_sum[i].to_bits());
                            (chunk.q, chunk.scale[i])
                        };
                        let what = format!("{ty}, {n} columns, block {block} of {column}");
                        assert_eq!(bytes, &q[32 * i..][..32], "{what}");
                        assert_eq!(found[8], scale.to_bits(), "{what}");
                        let sum = |half: usize| -> i32 {
                            let half = &bytes[16 * half..][..16];
                            half.iter().map(|q| i32::from(*q)).sum()
                        };
                        let sums = [9, 10].map(|word| f32::from_bits(found[word]) as i32);
                        assert_eq!(sums, [sum(0), sum(1)], "{what}");
                    }
                }
            }
        }
    }
}

/// Compares products of one plane, which are added to what is there.
fn added(raw: &Raw, w: &Matrix<CubeBackend>, n: usize, alone: bool) {
    let (rows, cols) = (raw.rows, raw.cols);
    let mut random = Random(n as u64);
    let mut rt = runtime(1, 2);
    let (x, a) = (random.floats(n * rows), random.floats(n * cols));
    let (x_, a_) = (columns(&x, [n, rows]), columns(&a, [n, cols]));
    Launcher::of(&mut rt.launcher, &x_, rt.kernels.isa()).alone = alone;
    let found = CubeBackend::project_add(x_, a_, plain(w.clone()), 1e-6, &mut rt);
    let (x, a) = (on::<Flex>(&x, &[n, rows]), on::<Flex>(&a, &[n, cols]));
    let wanted = Flex::project_add(x, a, plain(raw.on()), 1e-6, &mut rt);
    same(found, wanted, &format!("{}, {n} columns", raw.ty));
}

/// Compares logits, which are products of two planes: all groups of so small a vocabulary are the best.
fn logits(raw: &Raw, w: &Matrix<CubeBackend>, n: usize, alone: bool) {
    // the last rows of a step, as those of a prompt
    let (first, cols) = ((CHUNK_TOKENS - n).min(3), raw.cols);
    let mut random = Random(n as u64);
    let mut rt = runtime(1, 2);
    let (a, norm) = (random.floats((first + n) * cols), random.floats(cols));
    let head = LmHead::<CubeBackend> {
        norm: floats(&norm, &[cols]),
        exact: w.clone(),
        scan: w.clone(),
        requantized: false,
    };
    let shape = [first + n, cols];
    let rows = first..first + n;
    let a_ = columns(&a, shape);
    Launcher::of(&mut rt.launcher, &a_, rt.kernels.isa()).alone = alone;
    let found = CubeBackend::head(a_, rows.clone(), head, 1e-5, &mut rt);
    let head = LmHead::<Flex> {
        norm: on::<Flex>(&norm, &[cols]),
        exact: raw.on(),
        scan: raw.on(),
        requantized: false,
    };
    let wanted = Flex::head(on::<Flex>(&a, &shape), rows, head, 1e-5, &mut rt);
    same(found, wanted, &format!("{}, {n} columns", raw.ty));
}

#[test]
fn products_match_at_every_number_of_columns() {
    let _alone = alone();
    let mut random = Random(3);
    for ty in TYPES {
        let raw = Raw::new(&mut random, ty, 37, odd_cols(ty));
        let w = matrix(&raw);
        // every number of columns for two formats, and for the others each kind of product once, because the driver takes its
        // time to compile one
        let all = matches!(ty, GgmlType::Q4_1 | GgmlType::Q6_K);
        for n in (1..=9).chain([16, 17, 63, CHUNK_TOKENS]) {
            // by units alone, and together as on a GPU
            if all {
                added(&raw, &w, n, true);
                logits(&raw, &w, n, true);
            }
            if all || n == 1 || ty == GgmlType::Q4_K && n == 7 {
                added(&raw, &w, n, false);
            }
            if all || n == CHUNK_TOKENS {
                logits(&raw, &w, n, false);
            }
        }
    }
}

#[test]
fn a_matrix_may_be_larger_than_a_buffer() {
    let _alone = alone();
    let mut random = Random(8);
    for ty in [GgmlType::Q5_1, GgmlType::Q6_K] {
        let cols = odd_cols(ty);
        let raw = Raw::new(&mut random, ty, 101, cols);
        let format = Format::of(ty).unwrap();
        let row = 4 * format.words(1, cols / BLOCK) as u64;
        let part_rows = format.part_rows(cols / BLOCK, 40 * row);
        assert_eq!(part_rows, 32);
        let w = in_parts(&raw, part_rows);
        assert_eq!(w.rest.0.len(), 3);
        added(&raw, &w, 1, true);
        logits(&raw, &w, 20, true);
        added(&raw, &w, 20, false);
        embedded(&raw, w, &[100, 0, 31, 32, 64, 95, 96]);
    }
}

/// The largest whole numbers that there are, in a row as long as those of the largest models.
#[test]
fn sums_of_the_largest_numbers_are_exact() {
    let _alone = alone();
    for ty in [GgmlType::Q8_0, GgmlType::Q5_K, GgmlType::Q6_K] {
        let mut raw = Raw::new(&mut Random(11), ty, 5, 4096);
        let halves: &[usize] = match ty {
            GgmlType::Q6_K => &[208],
            GgmlType::Q5_K => &[0, 2],
            _ => &[0],
        };
        for block in raw.blocks.chunks_exact_mut(ty.block_bytes()) {
            // -128 for a byte, and the largest of a scale and a quant
            block.fill(if ty == GgmlType::Q8_0 { 128 } else { 255 });
            if ty == GgmlType::Q6_K {
                block[..192].fill(0);
                block[192..208].fill(128);
            }
            for at in halves {
                block[*at..at + 2].copy_from_slice(&[0x55, 0x15]);
            }
        }
        for (n, alone) in [(1, true), (1, false), (5, false)] {
            let a = vec![3.0; n * raw.cols];
            let x = vec![0.0; n * raw.rows];
            let mut rt = runtime(1, 2);
            let (x_, a_) = (columns(&x, [n, raw.rows]), columns(&a, [n, raw.cols]));
            Launcher::of(&mut rt.launcher, &x_, rt.kernels.isa()).alone = alone;
            let found = CubeBackend::project_add(x_, a_, plain(matrix(&raw)), 1e-6, &mut rt);
            let (x, a) = (
                on::<Flex>(&x, &[n, raw.rows]),
                on::<Flex>(&a, &[n, raw.cols]),
            );
            let wanted = Flex::project_add(x, a, plain(raw.on()), 1e-6, &mut rt);
            same(found, wanted, &format!("{ty}, {n} columns"));
        }
    }
}

#[test]
fn the_middle_of_the_mlp_matches() {
    let _alone = alone();
    let mut random = Random(4);
    let pairs = [
        (GgmlType::Q4_K, GgmlType::Q4_K),
        // which want the input rounded otherwise
        (GgmlType::Q6_K, GgmlType::Q4_0),
    ];
    for isa in levels() {
        for (gate, up) in pairs {
            for (n, rows) in [(1, 33), (9, 65)] {
                // all levels but the last compute as the first does
                let first = isa == levels()[0];
                if !first && (n > 1 || gate == up || isa != Isa::Scalar) {
                    continue;
                }
                let cols = 512;
                let gate = Raw::new(&mut random, gate, rows, cols);
                let up = Raw::new(&mut random, up, rows, cols);
                // as large as those that overflow without a bound
                let a: Vec<f32> = random.floats(n * cols).iter().map(|v| v * 300.0).collect();
                let norm: Vec<f32> = random.floats(cols).iter().map(|v| v * 40.0).collect();
                let mut rt = at_level(1, 2, isa);
                let mlp = MlpInput::<CubeBackend> {
                    norm: Norm::Rms(floats(&norm, &[cols])),
                    gate: matrix(&gate),
                    up: matrix(&up),
                };
                let found = CubeBackend::mlp_input(&columns(&a, [n, cols]), mlp, 1e-5, &mut rt);
                let mlp = MlpInput::<Flex> {
                    norm: Norm::Rms(on::<Flex>(&norm, &[cols])),
                    gate: gate.on(),
                    up: up.on(),
                };
                let wanted = Flex::mlp_input(&on::<Flex>(&a, &[n, cols]), mlp, 1e-5, &mut rt);
                same(
                    found,
                    wanted,
                    &format!("{isa}, {} and {}, {n} columns", gate.ty, up.ty),
                );
            }
        }
    }
}
