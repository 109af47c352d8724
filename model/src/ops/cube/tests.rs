//! Every kernel against the host's step, bit for bit, on whatever device Vulkan gives, which is Mesa's lavapipe where there is no
//! GPU.

mod attention;
mod products;
mod submissions;

use super::device::Gpu;
use super::kernels::best::{GROUP as GROUP_OF_BEST, ROOM, WANTED};
use super::pack::pack;
use super::pages::CubePages;
use crate::gguf::{GROUP, GgmlType, Layout, interleave};
use crate::kv::{KvCache, KvLayout, Span};
use crate::ops::rope::RopePairing;
use crate::ops::runtime::Runtime;
use crate::ops::tests::{Random, Raw, on, plain, read, runtime};
use crate::ops::{
    AttentionInput, AttentionSpec, Flex, FlexTensor, HeadNorm, LmHead, Matrix, MlpInput, Norm,
    QuantOps, Rest,
};
use crate::quant::{Isa, Kernels};
use crate::text::BEST;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Shape, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::{CHUNK_TOKENS, PAGE_TOKENS};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    all.resize(CHUNK_TOKENS * shape[1], f32::NAN);
    let whole = floats(&all, &[CHUNK_TOKENS, shape[1]]);
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
        embedded(&table, matrix(&table), &[8, 0, 3, 3, 7]);
    }
}

/// Compares the rows of tokens with those of the host.
fn embedded(raw: &Raw, table: Matrix<CubeBackend>, tokens: &[u32]) {
    let layout = KvLayout::new(1, 1, 32, [KvFormat::F16].into(), KvFormat::F16).unwrap();
    let mut rt = runtime(8, 2);
    let mut kv = device_cache(&layout, 1);
    kv.table(0).push(0).unwrap();
    kv.begin(&[Span {
        table: 0,
        position: 0,
        tokens: tokens.len(),
        guesses: 0,
    }]);
    let like = floats(&[0.0], &[1]);
    let found = CubeBackend::embed(&like, table, tokens, 1.0, &kv, &mut rt);
    let wanted = Flex::embed(
        &on::<Flex>(&[0.0], &[1]),
        raw.on(),
        tokens,
        1.0,
        &kv,
        &mut rt,
    );
    same(found, wanted, raw.ty.name());
}

/// The levels of the host that this machine has.
fn levels() -> Vec<Isa> {
    let all = Isa::ALL.into_iter().rev();
    all.filter(|isa| Kernels::detect(Some(*isa)).is_ok())
        .collect()
}

/// A runtime at a level of the host.
fn at_level(positions: usize, rope_dims: usize, isa: Isa) -> Runtime {
    Runtime {
        kernels: Kernels::detect(Some(isa)).unwrap(),
        ..runtime(positions, rope_dims)
    }
}

/// Whether the device gives the bits of the host.
#[track_caller]
fn same(found: CubeTensor, wanted: FlexTensor, what: &str) {
    let (found, wanted) = (read::<CubeBackend>(found), read::<Flex>(wanted));
    assert_eq!(found.len(), wanted.len(), "{what}");
    assert!(
        wanted.iter().any(|v| *v != 0.0),
        "{what}: all zeros show nothing"
    );
    let differ = |(a, b): &(&f32, &f32)| a.to_bits() != b.to_bits();
    let pairs = || found.iter().zip(&wanted);
    let first = pairs().enumerate().find(|(_, pair)| differ(pair));
    let count = pairs().filter(differ).count();
    assert_eq!(
        count,
        0,
        "{what}: of {}, the first is {first:?}",
        found.len()
    );
}

/// Pages of a cache.
const PAGES: usize = 6;

fn device_cache(layout: &KvLayout, places: usize) -> KvCache {
    let pages = CubePages::new(gpu().driver, &gpu().device, PAGES, layout);
    KvCache::on_device(layout.clone(), Box::new(pages), places)
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
