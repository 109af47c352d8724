//! Q6_K: nibbles and pairs of bits above them, with a signed scale for every sixteen.

use super::{
    Interleaved, and, byte_twice, every, floats, half, interleaved256, quads, scaled, two_bytes,
};
use crate::quant::Activations;
use crate::quant::format::activations::Q8kChunk;
use crate::quant::format::interleaved::Q6K;
use crate::quant::x86::avx2::dot::{Dot, run};
use bytemuck::cast_ref;
use std::arch::x86_64::*;

interleaved256!(Q6K, q6k_part, q6k_end);

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6k_part<D: Dot, const C: usize>(
    block: &Q6K,
    i: usize,
    at: usize,
    x: [&Q8kChunk; C],
    sum: &mut [__m256i; C],
) {
    // SAFETY: the caller vouches for the features of `D`
    unsafe {
        q6k_values::<D, C, 0>(block, i / 2, i % 2, at, &x, sum);
        q6k_values::<D, C, 1>(block, i / 2, i % 2, at, &x, sum);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6k_end<D: Dot, const C: usize>(
    block: &Q6K,
    at: usize,
    x: [&Q8kChunk; C],
    sum: [__m256i; C],
    acc: &mut [__m256; C],
) {
    // 32 times scale times sum of activations is too much
    let mut offset = [_mm256_setzero_si256(); C];
    for i in 0..4 {
        let [low, high] = signed_pairs(half(&block.scales[i], at));
        for c in 0..C {
            let sums: &[[u8; 4]; 8] = cast_ref(&x[c].sums);
            // SAFETY: the caller vouches for the features of `D`
            unsafe {
                offset[c] = D::pairs(offset[c], low, every(sums[2 * i]));
                offset[c] = D::pairs(offset[c], high, every(sums[2 * i + 1]));
            }
        }
    }
    let d = floats(&block.d, at);
    for c in 0..C {
        let sum = _mm256_sub_epi32(sum[c], _mm256_slli_epi32::<5>(offset[c]));
        acc[c] = scaled(acc[c], sum, d, x[c].scale);
    }
}

/// Multiplies sixteen of 32 values and of the 32 that lie 64 further on, because their low bits share words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn q6k_values<D: Dot, const C: usize, const SECOND: usize>(
    block: &Q6K,
    h: usize,
    part: usize,
    at: usize,
    x: &[&Q8kChunk; C],
    sum: &mut [__m256i; C],
) {
    let byte = 2 * SECOND + part;
    let (first, second) = (
        signed_twice(half(&block.scales[2 * h], at), byte),
        signed_twice(half(&block.scales[2 * h + 1], at), byte),
    );
    let (mut low, mut high) = ([_mm256_setzero_si256(); C], [_mm256_setzero_si256(); C]);
    for j in 0..4 {
        let (a, b) = q6k_words::<SECOND>(block, h, 4 * part + j, at);
        for c in 0..C {
            let q = quads(&x[c].q);
            let (x, y) = (q[4 * h + SECOND], q[4 * h + 2 + SECOND]);
            // SAFETY: the caller vouches for the features of `D`
            unsafe {
                low[c] = D::more(low[c], a, every(x[4 * part + j]));
                high[c] = D::more(high[c], b, every(y[4 * part + j]));
            }
            if (j + 1) % run::<D>(2, 4) == 0 {
                // SAFETY: the caller vouches for the features of `D`
                unsafe {
                    sum[c] = D::scaled(sum[c], low[c], first);
                    sum[c] = D::scaled(sum[c], high[c], second);
                }
                low[c] = _mm256_setzero_si256();
                high[c] = _mm256_setzero_si256();
            }
        }
    }
}

/// Word `j` of 32 of the values of half `h` of a block, the second 32 or the first, and of those that lie 64 further on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quant::x86::avx2) fn q6k_words<const SECOND: usize>(
    block: &Q6K,
    h: usize,
    j: usize,
    at: usize,
) -> (__m256i, __m256i) {
    let [p, q, bits] = &block.q[h][j];
    let (q, bits) = (half([p, q][SECOND], at), half(bits, at));
    let (above, below) = if SECOND == 0 {
        (_mm256_slli_epi16::<4>(bits), bits)
    } else {
        (_mm256_slli_epi16::<2>(bits), _mm256_srli_epi16::<2>(bits))
    };
    (
        _mm256_or_si256(and(q, 0x0f), and(above, 0x30)),
        _mm256_or_si256(and(_mm256_srli_epi16::<4>(q), 0x0f), and(below, 0x30)),
    )
}

/// Bytes 0 and 1, then 2 and 3, of each element as two int16, with their sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quant::x86::avx2) fn signed_pairs(scales: __m256i) -> [__m256i; 2] {
    [
        _mm256_srai_epi16::<8>(two_bytes(scales, false, true)),
        _mm256_srai_epi16::<8>(two_bytes(scales, true, true)),
    ]
}

/// Byte `i` of each element in both of its int16, with its sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quant::x86::avx2) fn signed_twice(scales: __m256i, i: usize) -> __m256i {
    _mm256_srai_epi16::<8>(byte_twice(scales, i, true))
}
