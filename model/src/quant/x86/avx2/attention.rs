//! Attention of the query heads of one KV head: eight positions at a time, widened to f32 once for all queries.

use super::unpack::load_16;
use crate::quant::format::blocks::Half;
use crate::quant::format::kv_rows::PagedRows;
use crate::quant::kernels::Heads;
use crate::quant::reference::floats;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::arch::x86_64::*;

/// Positions at a time: as many as a vector has elements. They are of one page.
const BLOCK: usize = 8;
const _: () = assert!(PAGE_TOKENS.is_multiple_of(BLOCK));
/// Vectors of a sum that are kept in registers at a time.
const PART: usize = 4;

/// See [`crate::quant::Kernels::attend`]. The head sizes of the models we know are unrolled.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn attend(heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
    match heads.d {
        64 => attend_sized::<8>(heads, scores, out),
        96 => attend_sized::<12>(heads, scores, out),
        128 => attend_sized::<16>(heads, scores, out),
        _ => floats::attend::<true>(heads, scores, out),
    }
}

/// Attention for heads of `8 * N` values.
#[target_feature(enable = "avx2,fma,f16c")]
fn attend_sized<const N: usize>(heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
    score::<N>(heads, scores);
    floats::softmax_rows::<true>(heads, scores);
    weigh::<N>(heads, scores, out);
}

/// Computes `scores[query][position] = q . k * scale` for heads of `8 * N` values.
#[target_feature(enable = "avx2,fma,f16c")]
fn score<const N: usize>(heads: &Heads<'_>, scores: &mut [f32]) {
    let (longest, stride) = (heads.longest(), heads.stride());
    let mut wide = [[_mm256_setzero_ps(); N]; BLOCK];
    for first in (0..longest).step_by(BLOCK) {
        widen(&mut wide, heads.k.rows(first, heads.d), longest - first);
        let blind = heads.blind(first);
        let queries = heads.q[blind * 8 * N..].chunks(16 * N);
        let scores = scores[blind * stride..].chunks_mut(2 * stride);
        for (pair, (q, scores)) in queries.zip(scores).enumerate() {
            let dots = match q.split_at(8 * N) {
                (q, []) => [dots(&wide, [q])[0]; 2],
                (a, b) => dots(&wide, [a, b]),
            };
            let scores = scores.chunks_exact_mut(stride).zip(dots);
            for (i, (scores, dots)) in (blind + 2 * pair..).zip(scores) {
                let mut elements = [0.0; BLOCK];
                store(
                    &mut elements,
                    _mm256_mul_ps(dots, _mm256_set1_ps(heads.scale)),
                );
                let n = heads.sees(i, first, BLOCK);
                scores[first..first + n].copy_from_slice(&elements[..n]);
            }
        }
    }
}

/// Computes `out[query] = sum of weights[query][position] * v` for heads of `8 * N` values.
#[target_feature(enable = "avx2,fma,f16c")]
fn weigh<const N: usize>(heads: &Heads<'_>, weights: &[f32], out: &mut [f32]) {
    const { assert!(N.is_multiple_of(PART)) };
    let (longest, stride) = (heads.longest(), heads.stride());
    let mut wide = [[_mm256_setzero_ps(); N]; BLOCK];
    out.fill(0.0);
    for first in (0..longest).step_by(BLOCK) {
        widen(&mut wide, heads.v.rows(first, heads.d), longest - first);
        // two queries at a time where both look at the whole block
        let at_once = if first + BLOCK <= heads.len { 2 } else { 1 };
        let blind = heads.blind(first);
        let out = out[blind * 8 * N..].chunks_mut(at_once * 8 * N);
        let weights = weights[blind * stride..].chunks(at_once * stride);
        for (i, (out, weights)) in out.zip(weights).enumerate() {
            let weights = &weights[first..];
            if out.len() > 8 * N {
                add::<N, 2>(
                    out,
                    [weights, &weights[stride..]].map(|w| &w[..BLOCK]),
                    &wide,
                );
            } else {
                let n = heads.sees(blind + at_once * i, first, BLOCK);
                add::<N, 1>(out, [&weights[..n]], &wide);
            }
        }
    }
}

/// Adds to each of `Q` results the rows, each multiplied by its weight. A row that is loaded serves all of the results.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add<const N: usize, const Q: usize>(
    out: &mut [f32],
    weights: [&[f32]; Q],
    wide: &[[__m256; N]; BLOCK],
) {
    let out = out.as_chunks_mut::<8>().0;
    for part in (0..N).step_by(PART) {
        let mut sums = [[_mm256_setzero_ps(); PART]; Q];
        for (q, sums) in sums.iter_mut().enumerate() {
            for (sum, out) in sums.iter_mut().zip(&out[q * N + part..]) {
                *sum = load(out);
            }
        }
        for (r, wide) in wide.iter().enumerate().take(weights[0].len()) {
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = _mm256_set1_ps(weights[r]);
                for (sum, wide) in sums.iter_mut().zip(&wide[part..]) {
                    *sum = _mm256_fmadd_ps(weight, *wide, *sum);
                }
            }
        }
        for (q, sums) in sums.iter().enumerate() {
            for (sum, out) in sums.iter().zip(&mut out[q * N + part..]) {
                store(out, *sum);
            }
        }
    }
}

/// Widens the first eight of `n` rows to f32, with the last one repeated where there are fewer.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen<const N: usize>(wide: &mut [[__m256; N]; BLOCK], rows: PagedRows<'_>, n: usize) {
    for (i, wide) in wide.iter_mut().enumerate() {
        let (quants, scales) = rows.row(i.min(n - 1));
        let blocks = wide.as_chunks_mut::<4>().0.iter_mut().zip(scales);
        match rows.format {
            KvFormat::F16 => {
                for (wide, halves) in wide.iter_mut().zip(quants.as_chunks::<16>().0) {
                    *wide = _mm256_cvtph_ps(load_16(halves));
                }
            }
            KvFormat::Q8_0 => {
                for ((wide, scale), quants) in blocks.zip(quants.as_chunks::<32>().0) {
                    for (wide, quants) in
                        wide.as_chunks_mut().0.iter_mut().zip(quants.as_chunks().0)
                    {
                        *wide = sixteen(load_16(quants), *scale);
                    }
                }
            }
            KvFormat::Q4_0 => {
                let (mask, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
                for ((wide, scale), quants) in blocks.zip(quants.as_chunks::<16>().0) {
                    let quants = load_16(quants);
                    let nibbles = [quants, _mm_srli_epi16::<4>(quants)];
                    for (wide, nibbles) in wide.as_chunks_mut().0.iter_mut().zip(nibbles) {
                        let values = _mm_sub_epi8(_mm_and_si128(nibbles, mask), eight);
                        *wide = sixteen(values, *scale);
                    }
                }
            }
        }
    }
}

/// Multiplies sixteen signed bytes by their scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sixteen(bytes: __m128i, scale: Half) -> [__m256; 2] {
    let scale = _mm256_cvtph_ps(_mm_set1_epi16(scale.bits() as i16));
    let eight = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    [
        _mm256_mul_ps(eight(bytes), scale),
        _mm256_mul_ps(eight(_mm_srli_si128::<8>(bytes)), scale),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(a: &[f32; 8]) -> __m256 {
    // SAFETY: the array has the 32 bytes that are loaded
    unsafe { _mm256_loadu_ps(a.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(a: &mut [f32; 8], v: __m256) {
    // SAFETY: the array has the 32 bytes that are stored
    unsafe { _mm256_storeu_ps(a.as_mut_ptr(), v) };
}

/// For each of `Q` queries a vector: element `p` is the dot product of the query and row `p`. A row that is loaded serves all
/// of the queries.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const N: usize, const Q: usize>(
    rows: &[[__m256; N]; BLOCK],
    queries: [&[f32]; Q],
) -> [__m256; Q] {
    let queries = queries.map(|q| q.as_chunks::<8>().0);
    let mut halves = [[_mm256_setzero_ps(); 2]; Q];
    for (half, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
        let mut sums = [[_mm256_setzero_ps(); 4]; Q];
        for j in 0..N {
            for (sums, q) in sums.iter_mut().zip(&queries) {
                let q = load(&q[j]);
                for (sum, row) in sums.iter_mut().zip(rows) {
                    *sum = _mm256_fmadd_ps(row[j], q, *sum);
                }
            }
        }
        for (halves, v) in halves.iter_mut().zip(sums) {
            // in each lane of 128 bits a part of the four sums
            halves[half] = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
        }
    }
    let mut dots = [_mm256_setzero_ps(); Q];
    for (dots, [low, high]) in dots.iter_mut().zip(halves) {
        *dots = _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(low, high),
            _mm256_permute2f128_ps::<0x31>(low, high),
        );
    }
    dots
}
