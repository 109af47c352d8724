//! Every kernel against the default bodies, on whatever device Vulkan gives, which is Mesa's lavapipe where there is no GPU.

mod submissions;

use super::buffers::Slot;
use super::device::Gpu;
use super::kernels::best::{GROUP as GROUP_OF_BEST, ROOM, WANTED};
use super::kernels::matvec::Finish;
use super::launch::Launcher;
use super::pack::{BLOCK, Format, pack};
use super::pages::CubePages;
use crate::gguf::{GROUP, GgmlType, Layout, interleave};
use crate::kv::{KvCache, KvLayout, Span};
use crate::ops::rope::RopePairing;
use crate::ops::tests::{Oracle, Random, Raw, close, on, read, runtime};
use crate::ops::{
    AttentionInput, AttentionSpec, LmHead, Matrix, MlpInput, QuantOps, Rest, reference,
};
use crate::text::BEST;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Shape, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::{PAGE_TOKENS, STEP_TOKENS};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const TYPES: [GgmlType; 10] = [
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::IQ4_NL,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
];

/// How far a product may be off, of the largest: f32 in another order.
const ORDER: f32 = 1e-5;

/// Lets one test at a time use the device, because one of them counts what is submitted.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gpu() -> Gpu {
    Gpu::open().expect("a device for Vulkan, such as Mesa's lavapipe")
}

fn floats(values: &[f32], shape: &[usize]) -> CubeTensor {
    let data = TensorData::new(values.to_vec(), shape.to_vec());
    CubeBackend::float_from_data(data, &gpu().device)
}

/// Columns in a buffer of a whole step, as those of a step are; those that are not of this step are no numbers.
fn columns(values: &[f32], shape: [usize; 2]) -> CubeTensor {
    let mut all = values.to_vec();
    all.resize(STEP_TOKENS * shape[1], f32::NAN);
    let whole = floats(&all, &[STEP_TOKENS, shape[1]]);
    let end = 4 * (all.len() - values.len()) as u64;
    let handle = whole.handle.clone().offset_end(end);
    let shape = Shape::from(shape.to_vec());
    CubeTensor::new_contiguous(whole.client, whole.device, shape, handle, whole.dtype)
}

fn matrix(raw: &Raw) -> Matrix<CubeBackend> {
    in_parts(raw, raw.rows)
}

/// A matrix in buffers of `part_rows` rows each.
fn in_parts(raw: &Raw, part_rows: usize) -> Matrix<CubeBackend> {
    let mut parts = (0..raw.rows).step_by(part_rows).map(|first| {
        let range = first..raw.rows.min(first + part_rows);
        let words = pack(raw.ty, Layout::Rows, &raw.blocks, range, raw.cols).unwrap();
        let len = words.len();
        CubeBackend::int_from_data(TensorData::new(words, [len]), &gpu().device)
    });
    Matrix {
        blocks: parts.next().unwrap(),
        rest: Rest(parts.collect()),
        part_rows,
        ty: raw.ty,
        layout: Layout::Rows,
        rows: raw.rows,
        cols: raw.cols,
    }
}

/// A row of values that is no whole number of the units' turns.
fn odd_cols(ty: GgmlType) -> usize {
    if ty.block_len() == 32 {
        9 * 32
    } else {
        3 * 256
    }
}

#[test]
fn interleaved_rows_make_the_same_words() {
    let _alone = alone();
    let mut random = Random(1);
    for ty in [GgmlType::Q4_1, GgmlType::Q4_K, GgmlType::Q6_K] {
        let raw = Raw::new(&mut random, ty, 2 * GROUP, 512);
        let mut interleaved = vec![0; raw.blocks.len()];
        let row = raw.blocks.len() / raw.rows;
        interleave(ty, row, &raw.blocks, &mut interleaved);
        let words = |layout, bytes: &[u8]| pack(ty, layout, bytes, 0..raw.rows, raw.cols).unwrap();
        assert_eq!(
            words(Layout::Rows, &raw.blocks),
            words(Layout::Interleaved16, &interleaved),
            "{ty}"
        );
    }
}

#[test]
fn embedding_rows_are_the_tables() {
    let _alone = alone();
    let mut random = Random(2);
    for ty in TYPES {
        let table = Raw::new(&mut random, ty, 9, odd_cols(ty));
        let (found, wanted) = embedded(&table, matrix(&table), &[8, 0, 3, 3, 7]);
        close(&found, &wanted, 1e-6, ty.name());
    }
}

/// The rows of tokens by the kernel, and by the definition.
fn embedded(raw: &Raw, table: Matrix<CubeBackend>, tokens: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let layout = KvLayout::new(1, 1, 32, [KvFormat::F16].into(), KvFormat::F16).unwrap();
    let mut rt = runtime(8, 2);
    let mut kv = device_cache(&layout, 1);
    kv.table(0).push(0).unwrap();
    kv.begin(&[Span {
        table: 0,
        position: 0,
        tokens: tokens.len(),
    }]);
    let like = floats(&[0.0], &[1]);
    let found = CubeBackend::embed(&like, table, tokens, &kv, &mut rt);
    let like = on::<Oracle>(&[0.0], &[1]);
    let wanted = reference::embed::<Oracle>(&like, raw.on(), tokens, &rt);
    (read::<CubeBackend>(found), read::<Oracle>(wanted))
}

fn device_cache(layout: &KvLayout, places: usize) -> KvCache {
    let pages = CubePages::new(gpu().driver, &gpu().device, 4, layout);
    KvCache::on_device(layout.clone(), Box::new(pages), places)
}

#[test]
fn products_match_at_every_number_of_columns() {
    let _alone = alone();
    let mut random = Random(3);
    for ty in TYPES {
        let cols = odd_cols(ty);
        let raw = Raw::new(&mut random, ty, 37, cols);
        let w = matrix(&raw);
        // every number of columns for two formats, and for the others one of each kind of product
        let all = matches!(ty, GgmlType::Q4_1 | GgmlType::Q6_K);
        let few = [1, 3, 7, STEP_TOKENS];
        for n in (1..=9)
            .chain([16, 17, 63, STEP_TOKENS])
            .filter(|n| all || few.contains(n))
        {
            let rt = runtime(1, 2);
            let x = random.floats(n * cols);
            let oracle = reference::linear::<Oracle>(on::<Oracle>(&x, &[n, cols]), raw.on(), &rt);
            let wanted = read::<Oracle>(oracle);
            let x = columns(&x, [n, cols]);
            // with planes that add, and in shared memory
            let mut made = None;
            let launcher = Launcher::of(&mut made, &x);
            for plane in [None, planes()] {
                launcher.plane = plane;
                let out = launcher.tensor(Slot::Qkv, [n, raw.rows]);
                launcher.multiply(&w, &x, Finish::Store, (&out, raw.rows, 0));
                let what = format!("{ty}, {n} columns, planes {plane:?}");
                close(&read::<CubeBackend>(out), &wanted, ORDER, &what);
            }
        }
    }
}

/// The units of a plane, if all planes of the device have as many. CubeCL 0.11.3 does not use planes where a processor computes,
/// though lavapipe can add what theirs have, so that this is the only way to run those kernels without a GPU.
fn planes() -> Option<usize> {
    let hardware = gpu().device.client().properties().hardware.clone();
    let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
    (least == most).then_some(most as usize)
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
        for n in [1, 4, 5, 20] {
            let rt = runtime(1, 2);
            let x = random.floats(n * cols);
            let oracle = reference::linear::<Oracle>(on::<Oracle>(&x, &[n, cols]), raw.on(), &rt);
            let mut made = None;
            let x = columns(&x, [n, cols]);
            let launcher = Launcher::of(&mut made, &x);
            let out = launcher.tensor(Slot::Qkv, [n, raw.rows]);
            launcher.multiply(&w, &x, Finish::Store, (&out, raw.rows, 0));
            let what = format!("{ty}, {n} columns");
            close(
                &read::<CubeBackend>(out),
                &read::<Oracle>(oracle),
                ORDER,
                &what,
            );
        }
        let (found, wanted) = embedded(&raw, w, &[100, 0, 31, 32, 64, 95, 96]);
        close(&found, &wanted, 1e-6, ty.name());
    }
}

#[test]
fn projections_mlp_and_head_match() {
    let _alone = alone();
    let mut random = Random(4);
    for ty in [GgmlType::Q8_0, GgmlType::Q4_K] {
        for (n, rows) in [(1, 33), (2, 7), (9, 65)] {
            let cols = 512;
            let (w, up) = (
                Raw::new(&mut random, ty, rows, cols),
                Raw::new(&mut random, ty, rows, cols),
            );
            let (x, a) = (random.floats(n * rows), random.floats(n * cols));
            let norm = random.floats(cols);
            let mut rt = runtime(1, 2);
            let what = format!("{ty} {n}x{rows}");
            let a_on = || on::<Oracle>(&a, &[n, cols]);
            let norm_on = || on::<Oracle>(&norm, &[cols]);

            let (x_, a_) = (columns(&x, [n, rows]), columns(&a, [n, cols]));
            let found = CubeBackend::project_add(x_, a_, matrix(&w), &mut rt);
            let wanted = Oracle::float_add(
                on::<Oracle>(&x, &[n, rows]),
                reference::linear::<Oracle>(a_on(), w.on(), &rt),
            );
            close(
                &read::<CubeBackend>(found),
                &read::<Oracle>(wanted),
                ORDER,
                &what,
            );

            let mlp = MlpInput::<CubeBackend> {
                norm: floats(&norm, &[cols]),
                gate: matrix(&w),
                up: matrix(&up),
            };
            let found = CubeBackend::mlp_input(&columns(&a, [n, cols]), mlp, 1e-5, &mut rt);
            let mlp = MlpInput::<Oracle> {
                norm: norm_on(),
                gate: w.on(),
                up: up.on(),
            };
            let wanted = reference::mlp_input::<Oracle>(&a_on(), mlp, 1e-5, &rt);
            close(
                &read::<CubeBackend>(found),
                &read::<Oracle>(wanted),
                2.0 * ORDER,
                &what,
            );

            let head = LmHead::<CubeBackend> {
                norm: floats(&norm, &[cols]),
                exact: matrix(&w),
                scan: matrix(&w),
                requantized: false,
            };
            // the last rows of a step, as those of a prompt
            let found = CubeBackend::head(columns(&a, [n, cols]), n / 2..n, head, 1e-5, &mut rt);
            let last = reference::part::<Oracle>(a_on(), 0, n / 2, n);
            let normed = reference::rms_norm::<Oracle>(last, norm_on(), 1e-5);
            let wanted = reference::linear::<Oracle>(normed, w.on(), &rt);
            close(
                &read::<CubeBackend>(found),
                &read::<Oracle>(wanted),
                ORDER,
                &what,
            );
        }
    }
}

#[test]
fn attention_matches_over_steps_of_two_sequences() {
    let _alone = alone();
    // where pages are read: what another thread sends may be behind that
    let compared = (gpu().driver.0).run(Duration::from_secs(600), attention_is_compared);
    compared.expect("the comparison panicked");
}

fn attention_is_compared() {
    let mut random = Random(5);
    let cases = [
        // heads, kv heads, head size, q/k norm, rotated values, pairing
        (4, 2, 16, false, 16, RopePairing::Neox),
        (6, 1, 24, true, 16, RopePairing::Neox),
        (3, 3, 8, false, 8, RopePairing::Norm),
        (10, 2, 32, true, 24, RopePairing::Norm),
        (4, 2, 64, false, 64, RopePairing::Neox),
        (2, 1, 96, false, 96, RopePairing::Norm),
        (3, 1, 128, true, 128, RopePairing::Neox),
        (2, 1, 256, false, 256, RopePairing::Neox),
    ];
    let ty = GgmlType::Q8_0;
    for (heads, kv_heads, head_dim, qk_norm, rope_dims, pairing) in cases {
        let embed = 256;
        let spec = AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            eps: 1e-6,
            qk_norm,
            pairing,
        };
        let (q, k) = (heads * head_dim, kv_heads * head_dim);
        let weights = [q, k, k].map(|rows| Raw::new(&mut random, ty, rows, embed));
        let (norm, bias) = (random.floats(embed), random.floats(q + 2 * k));
        let (q_norm, k_norm) = (random.floats(head_dim), random.floats(head_dim));
        let what = format!("{spec:?}");
        let input = || AttentionInput::<CubeBackend> {
            norm: floats(&norm, &[embed]),
            q: matrix(&weights[0]),
            k: matrix(&weights[1]),
            v: matrix(&weights[2]),
            bias: floats(&bias, &[bias.len()]),
            q_norm: floats(&q_norm, &[head_dim]),
            k_norm: floats(&k_norm, &[head_dim]),
        };
        let oracle_input = || AttentionInput::<Oracle> {
            norm: on::<Oracle>(&norm, &[embed]),
            q: weights[0].on(),
            k: weights[1].on(),
            v: weights[2].on(),
            bias: on::<Oracle>(&bias, &[bias.len()]),
            q_norm: on::<Oracle>(&q_norm, &[head_dim]),
            k_norm: on::<Oracle>(&k_norm, &[head_dim]),
        };
        let mut rt = runtime(101, rope_dims);
        let format = if KvFormat::Q8_0.takes(head_dim) {
            KvFormat::Q8_0
        } else {
            KvFormat::F16
        };
        let keys = vec![KvFormat::F16, format].into();
        let layout = KvLayout::new(2, kv_heads, head_dim, keys, format).unwrap();
        let mut kv = device_cache(&layout, 2);
        let mut oracle_kv = KvCache::new(layout.clone(), 4, 2).unwrap();
        for kv in [&mut kv, &mut oracle_kv] {
            // neither in order nor together
            kv.table(0).extend([3, 0, 1]);
            kv.table(1).extend([2]);
            (0..4).for_each(|page| kv.clear(page));
        }
        // table, position, tokens
        let steps: [&[(usize, usize, usize)]; 5] = [
            &[(0, 0, 30)],
            &[(1, 0, 5), (0, 30, 1)],
            &[(0, 31, 3), (1, 5, 1)],
            &[(0, 34, 60)],
            &[(1, 6, 1), (0, 94, 1)],
        ];
        for spans in steps {
            let spans: Vec<Span> = spans
                .iter()
                .map(|&(table, position, tokens)| Span {
                    table,
                    position,
                    tokens,
                })
                .collect();
            kv.begin(&spans);
            oracle_kv.begin(&spans);
            let n = kv.rows();
            let x = random.floats(n * embed);
            for layer in 0..2 {
                let x_ = columns(&x, [n, embed]);
                let found =
                    CubeBackend::attention_input(&x_, input(), spec, layer, &mut kv, &mut rt);
                let x_ = on::<Oracle>(&x, &[n, embed]);
                let wanted = reference::attention_input::<Oracle>(
                    &x_,
                    oracle_input(),
                    spec,
                    layer,
                    &mut oracle_kv,
                    &rt,
                );
                close(
                    &read::<CubeBackend>(found.clone()),
                    &read::<Oracle>(wanted.clone()),
                    ORDER,
                    &what,
                );
                let found = CubeBackend::attention(found, spec, layer, &mut kv, &mut rt);
                let wanted = reference::attention::<Oracle>(&wanted, spec, layer, &oracle_kv);
                close(
                    &read::<CubeBackend>(found),
                    &read::<Oracle>(wanted),
                    5e-3,
                    &what,
                );
            }
        }
        // the pages are those that the host writes, but for what was rounded the other way
        for page in 0..4 {
            let (found, wanted) = (
                kv.arena().page(page).unwrap().into_owned(),
                oracle_kv.arena().page(page).unwrap().into_owned(),
            );
            let differ = found
                .iter()
                .zip(wanted.iter())
                .filter(|(a, b)| a != b)
                .count();
            assert!(
                differ * 20 < found.len(),
                "{what}: {differ} of {} bytes",
                found.len()
            );
        }
    }
}

#[test]
fn the_best_logits_are_all_read() {
    let _alone = alone();
    const { assert!(WANTED >= BEST) };
    let mut random = Random(7);
    for (n, vocab) in [(1, 49_152), (3, 151_936), (2, 100), (1, 5000 + 7)] {
        let mut values = random.floats(n * vocab);
        // many that are alike, and one that is no number
        values[..n * vocab / 3].fill(-0.5);
        values[n * vocab - 1] = f32::NAN;
        let mut rt = runtime(1, 2);
        let best = CubeBackend::read_logits(floats(&values, &[n, vocab]), true, &mut rt).unwrap();
        assert!(best[n * vocab - 1].is_nan());
        for (row, best) in values.chunks_exact(vocab).zip(best.chunks_exact(vocab)) {
            let mut order: Vec<usize> = (0..vocab).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            for &at in order.iter().take(BEST) {
                let same = row[at].to_bits() == best[at].to_bits();
                assert!(
                    same || row[at].is_nan() && best[at].is_nan(),
                    "{n}x{vocab}: {at}"
                );
            }
            let read = best.iter().filter(|logit| **logit != f32::NEG_INFINITY);
            assert!(read.count() <= ROOM * GROUP_OF_BEST);
        }
    }
}

#[test]
fn pages_are_read_written_and_copied_in_part() {
    let _alone = alone();
    let layout = KvLayout::new(2, 2, 32, [KvFormat::Q8_0; 2].into(), KvFormat::Q8_0).unwrap();
    let mut kv = device_cache(&layout, 1);
    let mut host = KvCache::new(layout.clone(), 4, 1).unwrap();
    let mut random = Random(6);
    for page in 0..4 {
        let bytes: Vec<u8> = (0..layout.page_bytes())
            .map(|_| random.next() as u8)
            .collect();
        kv.arena().write_page(page, &bytes);
        host.arena().write_page(page, &bytes);
    }
    for kv in [&mut kv, &mut host] {
        kv.clear(1);
        kv.copy_rows(0, 1, 5);
        kv.keep_rows(2, PAGE_TOKENS - 1);
    }
    for page in 0..4 {
        assert_eq!(
            kv.arena().page(page),
            host.arena().page(page),
            "page {page}"
        );
    }
}
