//! Attention of the query heads of one KV head: sixteen positions at a time. Keys and values of F16 and Q4_0 are widened
//! to f32 once for all queries; those of Q8_0 go to [`q8`].

mod pages;
mod q8;

use super::unpack::{load_16, load_32};
use crate::quant::format::blocks::Half;
use crate::quant::format::kv_rows::PagedRows;
use crate::quant::kernels::Heads;
use crate::quant::reference::floats;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use pages::{Ahead, BLOCK, load, load_one, store_first};
use std::arch::x86_64::*;

/// See [`crate::quant::Kernels::attend`]. The head sizes of the models we know are unrolled.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn attend(heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
    match heads.d {
        64 => attend_sized::<4, 2>(heads, scores, out),
        96 => attend_sized::<6, 3>(heads, scores, out),
        128 => attend_sized::<8, 4>(heads, scores, out),
        _ => floats::attend::<true>(heads, scores, out),
    }
}

/// Attention for heads of `16 * N = 32 * B` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn attend_sized<const N: usize, const B: usize>(
    heads: &Heads<'_>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    const { assert!(N == 2 * B) };
    match heads.k.format {
        KvFormat::Q8_0 => q8::score::<B>(heads, scores),
        KvFormat::F16 | KvFormat::Q4_0 => score::<N>(heads, scores),
    }
    floats::softmax_rows::<true>(heads, scores);
    match heads.v.format {
        KvFormat::Q8_0 => q8::weigh::<B>(heads, scores, out),
        KvFormat::F16 | KvFormat::Q4_0 => weigh::<N>(heads, scores, out),
    }
}

/// Computes `scores[query][position] = q . k * scale` for heads of `16 * N` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn score<const N: usize>(heads: &Heads<'_>, scores: &mut [f32]) {
    let (longest, stride) = (heads.longest(), heads.stride());
    let mut wide = [[_mm512_setzero_ps(); N]; BLOCK];
    for first in (0..longest).step_by(BLOCK) {
        widen(&mut wide, heads.k.rows(first, heads.d), longest - first);
        let blind = heads.blind(first);
        let pairs = (heads.queries() - blind).div_ceil(2);
        let ahead = Ahead::new(heads, heads.k, first + PAGE_TOKENS, pairs);
        let queries = heads.q[blind * 16 * N..].chunks(32 * N);
        let scores = scores[blind * stride..].chunks_mut(2 * stride);
        for (pair, (q, scores)) in queries.zip(scores).enumerate() {
            ahead.ask(pair);
            let dots = match q.split_at(16 * N) {
                (q, []) => [dots(&wide, [q])[0]; 2],
                (a, b) => dots(&wide, [a, b]),
            };
            let scores = scores.chunks_exact_mut(stride).zip(dots);
            for (i, (scores, dots)) in (blind + 2 * pair..).zip(scores) {
                let dots = _mm512_mul_ps(dots, _mm512_set1_ps(heads.scale));
                store_first(&mut scores[first..][..heads.sees(i, first, BLOCK)], dots);
            }
        }
    }
}

/// Computes `out[query] = sum of weights[query][position] * v` for heads of `16 * N` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn weigh<const N: usize>(heads: &Heads<'_>, weights: &[f32], out: &mut [f32]) {
    let (longest, stride) = (heads.longest(), heads.stride());
    let mut wide = [[_mm512_setzero_ps(); N]; BLOCK];
    out.fill(0.0);
    for first in (0..longest).step_by(BLOCK) {
        widen(&mut wide, heads.v.rows(first, heads.d), longest - first);
        let ahead = Ahead::new(heads, heads.v, first + PAGE_TOKENS, heads.queries());
        let queries = out.chunks_exact_mut(16 * N);
        let queries = queries.zip(weights.chunks_exact(stride)).enumerate();
        for (i, (out, weights)) in queries.skip(heads.blind(first)) {
            ahead.ask(i);
            let weights = &weights[first..][..heads.sees(i, first, BLOCK)];
            let mut sums = load::<N>(out);
            for (p, wide) in weights.iter().zip(&wide) {
                let p = _mm512_set1_ps(*p);
                for (sum, wide) in sums.iter_mut().zip(wide) {
                    *sum = _mm512_fmadd_ps(p, *wide, *sum);
                }
            }
            for (out, sum) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                // SAFETY: the array has the 64 bytes that are stored
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
            }
        }
    }
}

/// Widens the first sixteen of `n` rows to f32, with the last one repeated where there are fewer.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen<const N: usize>(wide: &mut [[__m512; N]; BLOCK], rows: PagedRows<'_>, n: usize) {
    for (i, wide) in wide.iter_mut().enumerate() {
        let (quants, scales) = rows.row(i.min(n - 1));
        let blocks = wide.as_chunks_mut::<2>().0.iter_mut().zip(scales);
        match rows.format {
            KvFormat::F16 => {
                for (wide, halves) in wide.iter_mut().zip(quants.as_chunks().0) {
                    *wide = _mm512_cvtph_ps(load_32(halves));
                }
            }
            KvFormat::Q8_0 => {
                for ((wide, scale), quants) in blocks.zip(quants.as_chunks::<32>().0) {
                    let scale = broadcast(*scale);
                    for (wide, quants) in wide.iter_mut().zip(quants.as_chunks().0) {
                        let quants = _mm512_cvtepi8_epi32(load_16(quants));
                        *wide = _mm512_mul_ps(_mm512_cvtepi32_ps(quants), scale);
                    }
                }
            }
            KvFormat::Q4_0 => {
                let nibbles = _mm512_setr_ps(
                    -8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.,
                );
                for ((wide, scale), quants) in blocks.zip(quants.as_chunks().0) {
                    // the value of every nibble; a look-up sees the lowest four bits
                    let values = _mm512_mul_ps(nibbles, broadcast(*scale));
                    let quants = _mm512_cvtepu8_epi32(load_16(quants));
                    wide[0] = _mm512_permutexvar_ps(quants, values);
                    wide[1] = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(quants), values);
                }
            }
        }
    }
}

/// The value of a half in every lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn broadcast(half: Half) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi16(half.bits() as i16))
}

/// For each of `Q` queries a vector: element `p` is the dot product of the query and row `p`. A row that is loaded serves all
/// of the queries.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dots<const N: usize, const Q: usize>(
    rows: &[[__m512; N]; BLOCK],
    queries: [&[f32]; Q],
) -> [__m512; Q] {
    let queries = queries.map(|q| q.as_chunks::<16>().0);
    let mut folded = [[_mm512_setzero_ps(); 4]; Q];
    for (four, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
        let mut sums = [[_mm512_setzero_ps(); 4]; Q];
        for j in 0..N {
            for (sums, q) in sums.iter_mut().zip(&queries) {
                let q = load_one(&q[j]);
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = _mm512_fmadd_ps(row[j], q, *sum);
                }
            }
        }
        for (folded, v) in folded.iter_mut().zip(sums) {
            // in each lane of 128 bits a part of the four sums
            let ab = _mm512_add_ps(
                _mm512_unpacklo_ps(v[0], v[1]),
                _mm512_unpackhi_ps(v[0], v[1]),
            );
            let cd = _mm512_add_ps(
                _mm512_unpacklo_ps(v[2], v[3]),
                _mm512_unpackhi_ps(v[2], v[3]),
            );
            folded[four] = _mm512_add_ps(
                _mm512_shuffle_ps::<0x44>(ab, cd),
                _mm512_shuffle_ps::<0xee>(ab, cd),
            );
        }
    }
    let mut dots = [_mm512_setzero_ps(); Q];
    for (dots, [a, b, c, d]) in dots.iter_mut().zip(folded) {
        *dots = fold(fold(a, b), fold(c, d));
    }
    dots
}

/// Elements (of 128 bits) 0 + 1 and 2 + 3 of `a`, then of `b`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<0x88>(a, b),
        _mm512_shuffle_f32x4::<0xdd>(a, b),
    )
}
