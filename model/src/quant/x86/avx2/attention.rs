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
        let queries = heads.q.chunks_exact(8 * N);
        let queries = queries.zip(scores.chunks_exact_mut(stride)).enumerate();
        for (i, (q, scores)) in queries.skip(heads.blind(first)) {
            let dots = _mm256_mul_ps(dots(&wide, q), _mm256_set1_ps(heads.scale));
            let mut elements = [0.0; BLOCK];
            store(&mut elements, dots);
            let n = heads.sees(i, first, BLOCK);
            scores[first..first + n].copy_from_slice(&elements[..n]);
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
        let queries = out.chunks_exact_mut(8 * N);
        let queries = queries.zip(weights.chunks_exact(stride)).enumerate();
        for (i, (out, weights)) in queries.skip(heads.blind(first)) {
            let weights = &weights[first..][..heads.sees(i, first, BLOCK)];
            for (part, out) in out.as_chunks_mut::<{ 8 * PART }>().0.iter_mut().enumerate() {
                let out = out.as_chunks_mut::<8>().0;
                let mut sums = [_mm256_setzero_ps(); PART];
                for (sum, out) in sums.iter_mut().zip(&*out) {
                    *sum = load(out);
                }
                for (weight, wide) in weights.iter().zip(&wide) {
                    let weight = _mm256_set1_ps(*weight);
                    for (sum, wide) in sums.iter_mut().zip(&wide[PART * part..]) {
                        *sum = _mm256_fmadd_ps(weight, *wide, *sum);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    store(out, sum);
                }
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

/// Lane `p`: the dot product of `q` and row `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<const N: usize>(rows: &[[__m256; N]; BLOCK], q: &[f32]) -> __m256 {
    let mut v = [_mm256_setzero_ps(); BLOCK];
    for (j, q) in q.as_chunks::<8>().0.iter().enumerate().take(N) {
        let q = load(q);
        for i in 0..BLOCK {
            v[i] = _mm256_fmadd_ps(rows[i][j], q, v[i]);
        }
    }
    // in each lane of 128 bits a part of four sums
    let four = |a, b, c, d| _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let (low, high) = (four(v[0], v[1], v[2], v[3]), four(v[4], v[5], v[6], v[7]));
    _mm256_add_ps(
        _mm256_permute2f128_ps::<0x20>(low, high),
        _mm256_permute2f128_ps::<0x31>(low, high),
    )
}
