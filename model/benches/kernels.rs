//! The time of the kernels by type, level and shape, on one thread. Machines are shared, so it is the best of many rounds
//! and not the mean.
//!
//! `cargo bench -p glowplug-model --bench kernels -- Q4_K avx512vnni` runs the lines that contain every word. GB/s counts
//! the bytes of weights, and GMAC/s the multiply-adds. With 1 column the weights of a round come from a buffer that is
//! larger than any cache, because decode streams them from memory. With 64 they are the same few, as in prefill.

use glowplug_firmware_config::attention::stride;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use glowplug_model::gguf::{GgmlType, Layout};
use glowplug_model::kv::Arena;
use glowplug_model::pool::{Pool, RowTile};
use glowplug_model::quant::{
    Activations, Heads, Isa, Kernels, Paged, Product, act_kind, row_bytes,
};
use std::time::{Duration, Instant};

/// The shapes (rows, k) of the 1.5B model: attention output, feed-forward down and up.
const SHAPES: [(usize, usize); 3] = [(1536, 1536), (1536, 8960), (8960, 1536)];
/// Rows of one call.
const CHUNK: usize = 256;
const COLUMNS: [usize; 4] = [1, 4, 8, 64];
const BUFFER: usize = 512 << 20;
const TIME: Duration = Duration::from_millis(400);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let pool = Pool::new(1)?;
    // any bytes will do: halves that happen to be huge cost no more time
    let mut bytes = vec![0u8; BUFFER];
    let mut state = 1u64;
    for eight in bytes.as_chunks_mut::<8>().0 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *eight = (state ^ (state >> 29)).to_le_bytes();
    }
    for isa in Isa::ALL {
        let Ok(kernels) = Kernels::detect(Some(isa)) else {
            continue;
        };
        for ty in GgmlType::ALL {
            for (rows, k) in SHAPES {
                for cols in COLUMNS {
                    for (name, layout) in [
                        ("rows", Layout::Rows),
                        ("interleaved", Layout::Interleaved16),
                    ] {
                        let line = format!("{isa} {ty} {rows}x{k} {cols} {name}");
                        if !Layout::groups(ty, rows as u64) && layout == Layout::Interleaved16 {
                            continue;
                        }
                        if words.iter().all(|word| line.split(' ').any(|l| l == word)) {
                            let seconds =
                                matmul(kernels, (ty, layout), &bytes, (rows, k), cols, &pool);
                            let size = row_bytes(ty, k).map_or(0, |b| b * rows);
                            let giga = |n: usize| n as f64 / seconds / 1e9;
                            println!(
                                "{line:32} {:7.1} GB/s {:7.1} GMAC/s",
                                giga(size),
                                giga(rows * k * cols)
                            );
                        }
                    }
                }
            }
        }
        for cols in [1, 64] {
            for (kind, ty) in [("q8", GgmlType::Q8_0), ("q8k", GgmlType::Q4_K)] {
                let line = format!("{isa} quantize {kind} {cols}");
                if words.iter().all(|word| line.split(' ').any(|l| l == word)) {
                    let k = 8960;
                    let x = activations(k * cols);
                    let mut acts = Activations::new();
                    let seconds =
                        best(|| kernels.quantize(act_kind(ty), &x, k, &mut acts, &pool, 1));
                    println!(
                        "{line:32} {:7.2} ns a value",
                        seconds * 1e9 / x.len() as f64
                    );
                }
            }
        }
        attend(kernels, &words);
        floats(kernels, &words);
    }
    Ok(())
}

/// The seconds of the best round.
fn best(mut round: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::MAX;
    while start.elapsed() < TIME {
        let begin = Instant::now();
        round();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

/// Cubes of numbers in a mixed order. As in a model few are large, and kernels look at the sums of magnitudes.
fn activations(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 % 1013) as f32 - 506.0).powi(3))
        .collect()
}

/// The seconds of a whole matrix in calls of [`CHUNK`] rows.
fn matmul(
    kernels: &Kernels,
    (ty, layout): (GgmlType, Layout),
    bytes: &[u8],
    (rows, k): (usize, usize),
    cols: usize,
    pool: &Pool,
) -> f64 {
    let x = activations(k * cols);
    let mut acts = Activations::new();
    kernels.quantize(act_kind(ty), &x, k, &mut acts, pool, 1);
    let mut out = vec![0.0; rows * cols];
    let Some(row) = row_bytes(ty, k) else {
        return f64::NAN;
    };
    let mut at = 0;
    best(|| {
        if cols > 8 || at + rows * row > bytes.len() {
            at = 0;
        }
        for (w, out) in bytes[at..at + rows * row]
            .chunks(CHUNK * row)
            .zip(out.chunks_mut(CHUNK * cols))
        {
            let product = Product {
                ty,
                layout,
                weights: w,
                k,
                activations: &acts,
                first_column: 0,
            };
            let rows = out.len() / cols;
            kernels.matmul(&product, &mut RowTile::new(out, rows));
        }
        at += rows * row;
    })
}

/// Times attention of 6 query heads over 4,096 positions, as in the 1.5B model, at one position as in decode and at five as in
/// prefill; the time is that of one. A round finds nothing of the round before in
/// a cache, because 28 layers of 2 heads lie between the chunks of the pages.
fn attend(kernels: &Kernels, words: &[String]) {
    let (g, d, len, heads, most) = (6, 128, 4096, 56, 5);
    let isa = kernels.isa();
    let q: Vec<f32> = (0..most * g * d).map(|i| (i % 17) as f32 * 0.01).collect();
    // neighbours of a sequence are seldom neighbours in the arena
    let pages: Vec<u16> = (0..len / PAGE_TOKENS)
        .map(|i| (i * 37 % (len / PAGE_TOKENS)) as u16)
        .collect();
    let (mut scores, mut out) = (vec![0.0; most * g * stride(len)], vec![0.0; q.len()]);
    let formats = [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0];
    for (format, positions) in formats.into_iter().flat_map(|f| [(f, 1), (f, most)]) {
        let line = format!("{isa} attend {} {positions}", format.name());
        if words.iter().all(|word| line.split(' ').any(|l| l == word)) {
            let chunk = format.head_bytes(d);
            let Ok(arena) = Arena::new(pages.len(), 2 * heads * chunk) else {
                continue;
            };
            let paged = |offset| Paged {
                arena: arena.bytes(),
                pages: &pages,
                page_bytes: 2 * heads * chunk,
                offset,
                format,
            };
            let mut head = 0;
            let s = best(|| {
                let (k, v) = (paged(head * chunk), paged((heads + head) * chunk));
                let values = positions * g * d;
                let looking = Heads {
                    q: &q[..values],
                    k,
                    v,
                    d,
                    group: g,
                    len: len + 1 - positions,
                    scale: 0.08,
                };
                kernels.attend(&looking, &mut scores, &mut out[..values]);
                head = (head + 1) % heads;
            }) / positions as f64;
            println!(
                "{line:32} {:7.1} GB/s {:7.1} GMAC/s {:7.3} ms",
                (2 * pages.len() * chunk) as f64 / s / 1e9,
                (2 * g * d * len) as f64 / s / 1e9,
                s * 1e3
            );
        }
    }
}

/// Times the other float helpers.
fn floats(kernels: &Kernels, words: &[String]) {
    let isa = kernels.isa();
    let line = format!("{isa} silu_mul");
    if words.iter().all(|word| line.split(' ').any(|l| l == word)) {
        let (mut gate, up) = (vec![0.5; 8960], vec![0.9; 8960]);
        let s = best(|| kernels.silu_mul(&mut gate, &up));
        println!("{line:32} {:7.2} ns a value", s * 1e9 / 8960.0);
    }
    let line = format!("{isa} rms_norm");
    if words.iter().all(|word| line.split(' ').any(|l| l == word)) {
        let (x, w, mut y) = (vec![0.5; 1536], vec![0.9; 1536], vec![0.0; 1536]);
        let s = best(|| kernels.rms_norm(&x, &w, 1e-6, &mut y));
        println!("{line:32} {:7.2} ns a value", s * 1e9 / 1536.0);
    }
}
