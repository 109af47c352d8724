//! Formats whose nibbles stand for the values of a table.

use super::{
    Interleaved, Interleaved32, and, every, floats, half, interleaved256, nibbles, quads, scaled,
};
use crate::quant::Activations;
use crate::quant::format::activations::Q8kChunk;
use crate::quant::format::blocks::{self, IQ4_NL_VALUES};
use crate::quant::format::interleaved::{Halves, Iq4Xs, Mxfp4};
use crate::quant::x86::avx2::dot::{Dot, run};
use crate::quant::x86::avx2::unpack::{FP4, e8m0, load_16, looked_up, signs};
use bytemuck::cast_ref;
use std::arch::x86_64::*;

impl Interleaved32 for Mxfp4 {
    type Rows = blocks::Mxfp4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quads(&self, _: usize, at: usize) -> [__m256i; 8] {
        let mut quads = nibbles(&self.qs, at);
        for quad in &mut quads {
            *quad = looked_up(&FP4, *quad);
        }
        quads
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn d(&self, at: usize) -> __m256 {
        let bytes = i64::from_le_bytes(cast_ref::<_, [[u8; 8]; 2]>(&self.e)[at]);
        e8m0(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes)))
    }
}

interleaved256!(Iq4Xs, iq4xs_part, iq4xs_end);

/// Word `j` of the first sixteen values of group `g`, and of the other sixteen, in half `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quant::x86::avx2) fn iq4xs_values(
    block: &Iq4Xs,
    g: usize,
    j: usize,
    at: usize,
) -> (__m256i, __m256i) {
    let q = half(&block.qs[g][j], at);
    (
        looked_up(&IQ4_NL_VALUES, and(q, 0x0f)),
        looked_up(&IQ4_NL_VALUES, and(_mm256_srli_epi16::<4>(q), 0x0f)),
    )
}

/// What `crate::quant::format::blocks::iq4xs_scales` unpacks, for the rows of half `at`: a scale in both int16 of each element.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quant::x86::avx2) fn iq4xs_scales(block: &Iq4Xs, at: usize) -> [__m256i; 8] {
    let low = half(&block.scales_l, at);
    let high = load_16(&cast_ref::<Halves, [[u8; 16]; 2]>(&block.scales_h)[at]);
    let high = _mm256_cvtepu16_epi32(high);
    let twice = _mm256_broadcastsi128_si256(_mm_set_epi32(
        0x0d0c_0d0c,
        0x0908_0908,
        0x0504_0504,
        0x0100_0100,
    ));
    let mut scales = [_mm256_setzero_si256(); 8];
    for g in 0..8 {
        let low = _mm256_srl_epi32(low, _mm_cvtsi32_si128(4 * g as i32));
        let high = _mm256_srl_epi32(high, _mm_cvtsi32_si128(2 * g as i32));
        let low = _mm256_and_si256(low, _mm256_set1_epi32(0x0f));
        let high = _mm256_and_si256(high, _mm256_set1_epi32(3));
        let scale = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
        let scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
        scales[g] = _mm256_shuffle_epi8(scale, twice);
    }
    scales
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4xs_part<D: Dot, const C: usize>(
    block: &Iq4Xs,
    part: usize,
    at: usize,
    x: [&Q8kChunk; C],
    sum: &mut [__m256i; C],
) {
    let scales = iq4xs_scales(block, at);
    for g in [2 * part, 2 * part + 1] {
        let mut some = [_mm256_setzero_si256(); C];
        for j in 0..4 {
            let (low, high) = iq4xs_values(block, g, j, at);
            for c in 0..C {
                let q = quads(&x[c].q)[g];
                for (i, w) in [(j, low), (4 + j, high)] {
                    let (w, x) = signs(true, w, every(q[i]));
                    // SAFETY: the caller vouches for the features of `D`
                    some[c] = unsafe { D::more(some[c], w, x) };
                    if run::<D>(1, 8) == 1 || i == 7 {
                        // SAFETY: the caller vouches for the features of `D`
                        sum[c] = unsafe { D::scaled(sum[c], some[c], scales[g]) };
                        some[c] = _mm256_setzero_si256();
                    }
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4xs_end<D: Dot, const C: usize>(
    block: &Iq4Xs,
    at: usize,
    x: [&Q8kChunk; C],
    sum: [__m256i; C],
    acc: &mut [__m256; C],
) {
    let d = floats(&block.d, at);
    for c in 0..C {
        acc[c] = scaled(acc[c], sum[c], d, x[c].scale);
    }
}
