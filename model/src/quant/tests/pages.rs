//! Attention over pages, and what is stored in them, against f64.

use super::{Random, levels, store_kv};
use crate::quant::{Heads, Isa, Kernels, Paged};
use glowplug_firmware_config::attention::{QUERIES_MAX, stride};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// The rows of a sequence in pages of an arena. The pages are out of order, and around them are bytes that would show in a
/// result: halves that are NaN.
struct Cache {
    arena: Vec<u8>,
    pages: Vec<u16>,
    page_bytes: usize,
    offset: usize,
    format: KvFormat,
    /// The rows as they are read back.
    rows: Vec<Vec<f64>>,
}

impl Cache {
    fn new(kernels: &Kernels, format: KvFormat, len: usize, d: usize, random: &mut Random) -> Self {
        let (offset, bytes) = (64, format.head_bytes(d));
        let page_bytes = bytes + 128;
        // every second one belongs to somebody else
        let pages = [5, 1, 7, 3, 13, 9, 15, 11, 17][..len.div_ceil(PAGE_TOKENS)].to_vec();
        let mut cache = Self {
            arena: vec![0xff; 19 * page_bytes],
            pages,
            page_bytes,
            offset,
            format,
            rows: Vec::new(),
        };
        for t in 0..len {
            let row: Vec<f32> = (0..d).map(|_| random.unit() * 4.0).collect();
            let row = cache.store(kernels, t, &row);
            cache.rows.push(row);
        }
        cache
    }

    /// Stores the row of a position, and reads it back.
    fn store(&mut self, kernels: &Kernels, t: usize, row: &[f32]) -> Vec<f64> {
        let start = usize::from(self.pages[t / PAGE_TOKENS]) * self.page_bytes + self.offset;
        let chunk = &mut self.arena[start..][..self.format.head_bytes(row.len())];
        store_kv(kernels, self.format, chunk, t % PAGE_TOKENS, row);
        read(self.format, chunk, t % PAGE_TOKENS, row.len())
    }

    fn paged(&self) -> Paged<'_> {
        Paged {
            arena: &self.arena,
            pages: &self.pages,
            page_bytes: self.page_bytes,
            offset: self.offset,
            format: self.format,
        }
    }
}

/// Reads what is stored in a slot, as the layout defines it.
pub(super) fn read(format: KvFormat, chunk: &[u8], slot: usize, d: usize) -> Vec<f64> {
    let half = |at: usize| half::f16::from_le_bytes([chunk[at], chunk[at + 1]]).to_f64();
    let value = |i: usize| match format {
        KvFormat::F16 => half(2 * (slot * d + i)),
        KvFormat::Q8_0 => {
            let scale = half(32 * d + 2 * (slot * (d / 32) + i / 32));
            f64::from(chunk[slot * d + i] as i8) * scale
        }
        KvFormat::Q4_0 => {
            let scale = half(32 * d / 2 + 2 * (slot * (d / 32) + i / 32));
            let byte = chunk[slot * d / 2 + i / 32 * 16 + i % 16];
            (f64::from((byte >> (i % 32 / 16 * 4)) & 15) - 8.0) * scale
        }
    };
    (0..d).map(value).collect()
}

/// Compares attention with f64 in every format, at every head size and at lengths around those of blocks and pages.
#[test]
fn attention_is_within_its_ceiling() {
    let formats = [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0];
    let lens = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97];
    let heads = [
        (32, 2),
        (64, 3),
        (80, 2),
        (96, 1),
        (128, 6),
        (160, 1),
        (256, 2),
        (288, 1),
        (7, 2),
        (1, 1),
    ];
    for kernels in levels() {
        let mut random = Random(8);
        for (d, g) in heads {
            for k in formats.into_iter().filter(|f| f.takes(d)) {
                for v in formats.into_iter().filter(|f| f.takes(d)) {
                    for len in lens {
                        attend(kernels, (k, v), (d, g), len, &mut random);
                    }
                }
            }
        }
    }
}

fn attend(
    kernels: &Kernels,
    (k, v): (KvFormat, KvFormat),
    (d, g): (usize, usize),
    len: usize,
    random: &mut Random,
) {
    let k = Cache::new(kernels, k, len, d, random);
    let v = Cache::new(kernels, v, len, d, random);
    let by_int8 = kernels.isa() == Isa::Avx512Vnni && matches!(d, 64 | 96 | 128);
    let ceiling = match (k.format, v.format) {
        // a 65,000th of the largest query, and of the largest weight
        (KvFormat::Q8_0, _) if by_int8 => 2e-3,
        (_, KvFormat::Q8_0) if by_int8 => 2e-4,
        _ => 2e-5,
    };
    // large scores: some positions weigh nothing
    let q: Vec<f32> = (0..g * d).map(|_| random.unit() * 3.0).collect();
    let out = attended(kernels, (&k, &v), &q, (d, g, len));
    for (q, out) in q.chunks_exact(d).zip(out.chunks_exact(d)) {
        let dot = |k: &Vec<f64>| -> f64 { q.iter().zip(k).map(|(q, k)| f64::from(*q) * k).sum() };
        let scores: Vec<f64> = k.rows.iter().map(|k| dot(k) * 0.25).collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (i, got) in out.iter().enumerate() {
            let weighed = weights.iter().zip(&v.rows).map(|(w, v)| w * v[i]);
            let want = weighed.sum::<f64>() / sum;
            assert!(
                (f64::from(*got) - want).abs() <= ceiling,
                "{} keys {:?} values {:?} heads of {d} len {len}: {got} {want}",
                kernels.isa(),
                k.format,
                v.format
            );
        }
    }
}

/// What the queries get over the first `len` rows, and one more with each position.
fn attended(
    kernels: &Kernels,
    (k, v): (&Cache, &Cache),
    q: &[f32],
    (d, group, len): (usize, usize, usize),
) -> Vec<f32> {
    let queries = q.len() / d;
    let room = queries * stride(len + queries / group - 1);
    let (mut scores, mut out) = (vec![f32::NAN; room + 3], vec![f32::NAN; q.len()]);
    let looking = Heads {
        q,
        k: k.paged(),
        v: v.paged(),
        d,
        group,
        len,
        scale: 0.25,
    };
    kernels.attend(&looking, &mut scores, &mut out);
    assert!(
        scores[room..].iter().all(|s| s.is_nan()),
        "wrote past the scores"
    );
    out
}

/// Positions that look together get what each gets alone, bit for bit, whatever a row is that only the last of them sees.
#[test]
fn positions_together_get_what_they_get_alone() {
    let formats = [
        (KvFormat::F16, KvFormat::F16),
        (KvFormat::F16, KvFormat::Q8_0),
        (KvFormat::Q8_0, KvFormat::Q8_0),
        (KvFormat::Q8_0, KvFormat::Q4_0),
    ];
    let mut random = Random(31);
    for kernels in levels() {
        for (d, g) in [
            (64, 3),
            (80, 5),
            (96, 1),
            (128, 6),
            (128, 7),
            (256, 2),
            (288, 1),
        ] {
            for (k, v) in formats {
                if !k.takes(d) || !v.takes(d) {
                    continue;
                }
                for (len, positions) in [
                    (1, 1),
                    (1, 32 / g),
                    (2, 3),
                    (14, 2),
                    (16, 32 / g),
                    (31, 4),
                    (97, 3),
                    (124, 32 / g),
                    (128, 2),
                    (245, 32 / g),
                ] {
                    let longest = len + positions - 1;
                    let mut caches =
                        [k, v].map(|format| Cache::new(kernels, format, longest, d, &mut random));
                    let q: Vec<f32> = (0..positions * g * d)
                        .map(|_| random.unit() * 3.0)
                        .collect();
                    for bad in [None, Some(f32::NAN), Some(f32::INFINITY)] {
                        if let Some(bad) = bad {
                            caches.iter_mut().for_each(|cache| {
                                cache.store(kernels, longest - 1, &vec![bad; d]);
                            });
                        }
                        let [k, v] = &caches;
                        let together = attended(kernels, (k, v), &q, (d, g, len));
                        for (p, together) in together.chunks_exact(g * d).enumerate() {
                            let q = &q[p * g * d..][..g * d];
                            let alone = attended(kernels, (k, v), q, (d, g, len + p));
                            let what = format!(
                                "{} {:?} {:?} heads of {d}, {g} at {p} of {positions} from {len}, {bad:?}",
                                kernels.isa(),
                                k.format,
                                v.format
                            );
                            if bad.is_some() && p == positions - 1 {
                                assert!(together.iter().all(|x| x.is_nan()), "{what}");
                            } else {
                                assert!(together.iter().all(|x| x.is_finite()), "{what}");
                                assert!(super::bits(together) == super::bits(&alone), "{what}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A group of more heads than a level takes at once gets what each of its heads gets alone.
#[test]
fn a_large_group_gets_what_its_heads_get_alone() {
    let mut random = Random(32);
    let (d, g, len) = (64, QUERIES_MAX + 9, 150);
    for kernels in levels() {
        let [k, v] = [0, 1].map(|_| Cache::new(kernels, KvFormat::Q8_0, len, d, &mut random));
        let q: Vec<f32> = (0..g * d).map(|_| random.unit() * 3.0).collect();
        let together = attended(kernels, (&k, &v), &q, (d, g, len));
        for (q, together) in q.chunks_exact(d).zip(together.chunks_exact(d)) {
            let alone = attended(kernels, (&k, &v), q, (d, 1, len));
            assert!(
                super::bits(together) == super::bits(&alone),
                "{}",
                kernels.isa()
            );
        }
    }
}

#[test]
fn wrong_sizes_of_pages_are_refused() {
    const F16: KvFormat = KvFormat::F16;
    const Q8_0: KvFormat = KvFormat::Q8_0;
    let kernels = levels()[0];
    // 33 rows of 32, their chunks in the middle of two pages out of three
    let good = (Q8_0, [2u16, 0], 3 * 2048, 960, 32, 33, 48, 32);
    let attend = |(format, pages, arena, offset, d, len, scores, out)| {
        let (arena, pages): (usize, [u16; 2]) = (arena, pages);
        let (arena, k) = (vec![0u8; arena], vec![0u8; 2048]);
        let v = Paged {
            arena: &arena,
            pages: &pages,
            page_bytes: 2048,
            offset,
            format,
        };
        let k = Paged {
            arena: &k,
            pages: &[0; 2],
            offset: 0,
            ..v
        };
        let (mut scores, mut out) = (vec![0.0; scores], vec![0.0; out]);
        for (k, v) in [(k, v), (v, k)] {
            let looking = Heads {
                q: &[0.0; 32],
                k,
                v,
                d,
                group: 32usize.checked_div(d).unwrap_or(1),
                len,
                scale: 1.0,
            };
            kernels.attend(&looking, &mut scores, &mut out);
        }
    };
    attend(good);
    let cases = [
        (
            "no such page",
            (Q8_0, [3, 0], 3 * 2048, 960, 32, 33, 48, 32),
        ),
        (
            "a byte short",
            (Q8_0, [2, 0], 3 * 2048 - 1, 960, 32, 33, 48, 32),
        ),
        (
            "past the page",
            (Q8_0, [2, 0], 3 * 2048, 961, 32, 33, 48, 32),
        ),
        (
            "overflow",
            (Q8_0, [2, 0], 3 * 2048, usize::MAX, 32, 33, 48, 32),
        ),
        (
            "too few pages",
            (Q8_0, [2, 0], 3 * 2048, 960, 32, 65, 80, 32),
        ),
        ("half a block", (Q8_0, [2, 0], 3 * 2048, 0, 16, 33, 96, 32)),
        ("no rows", (Q8_0, [2, 0], 3 * 2048, 960, 32, 0, 48, 32)),
        ("no values", (F16, [2, 0], 3 * 2048, 960, 0, 33, 48, 32)),
        (
            "scores too short",
            (Q8_0, [2, 0], 3 * 2048, 960, 32, 33, 47, 32),
        ),
        ("other head", (F16, [2, 0], 3 * 2048, 0, 31, 33, 99, 32)),
        (
            "out too short",
            (Q8_0, [2, 0], 3 * 2048, 960, 32, 33, 48, 31),
        ),
    ];
    for (what, case) in cases {
        assert!(std::panic::catch_unwind(|| attend(case)).is_err(), "{what}");
    }
    // queries of one value over pages of zeros: how many, how many of one position, and over how many rows at least
    let group = |(queries, group, len): (usize, usize, usize)| {
        let rows = Paged {
            arena: &[0; 128],
            pages: &[0, 1],
            page_bytes: 64,
            offset: 0,
            format: F16,
        };
        let looking = Heads {
            q: &vec![0.0; queries],
            k: rows,
            v: rows,
            d: 1,
            group,
            len,
            scale: 1.0,
        };
        kernels.attend(&looking, &mut vec![0.0; 4096], &mut vec![0.0; queries]);
    };
    group((32, 1, 33));
    group((33, 33, 64));
    let cases = [
        ("no queries", (0, 1, 33)),
        ("no group", (4, 0, 33)),
        ("half a position", (3, 2, 33)),
        ("too many queries", (33, 1, 32)),
        ("rows of the last position", (32, 1, 34)),
        ("more positions than there are", (2, 1, usize::MAX)),
    ];
    for (what, case) in cases {
        assert!(std::panic::catch_unwind(|| group(case)).is_err(), "{what}");
    }
    let store = |(format, chunk, slot, d)| {
        let (mut chunk, row): (_, Vec<f32>) = (vec![0; chunk], vec![0.0; d]);
        store_kv(kernels, format, &mut chunk, slot, &row);
    };
    store((Q8_0, 1088, 31, 32));
    let cases = [
        ("no such slot", (Q8_0, 1088, 32, 32)),
        ("a byte short", (Q8_0, 1087, 0, 32)),
        ("a byte more", (Q8_0, 1089, 0, 32)),
        ("other format", (F16, 1088, 0, 32)),
        ("half a block", (Q8_0, 544, 0, 16)),
    ];
    for (what, case) in cases {
        assert!(std::panic::catch_unwind(|| store(case)).is_err(), "{what}");
    }
}
