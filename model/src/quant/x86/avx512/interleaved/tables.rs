//! Formats whose nibbles stand for the values of a table.

use super::{Interleaved, Interleaved32, and, floats, interleaved256, nibbles, quads, scaled};
use crate::quant::Activations;
use crate::quant::format::activations::Q8kChunk;
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Iq4Xs, Mxfp4};
use crate::quant::x86::avx512::rows::dpbusd_every;
use crate::quant::x86::avx512::unpack::{FP4, IQ4, e8m0, load_16, load_32, load_64, looked_up};
use std::arch::x86_64::*;

impl Interleaved32 for Mxfp4 {
    type Rows = blocks::Mxfp4;

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn quads(&self, _: usize) -> [__m512i; 8] {
        let mut quads = nibbles(&self.qs);
        for quad in &mut quads {
            *quad = looked_up(&FP4, *quad);
        }
        quads
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn d(&self) -> __m512 {
        e8m0(_mm512_cvtepu8_epi32(load_16(&self.e)))
    }
}

interleaved256!(Iq4Xs, iq4xs_part, iq4xs_end);

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn iq4xs_part<const C: usize>(
    block: &Iq4Xs,
    part: usize,
    x: [&Q8kChunk; C],
    sum: &mut [__m512i; C],
) {
    let scales = iq4xs_scales(block);
    for g in [2 * part, 2 * part + 1] {
        let mut dot = [_mm512_setzero_si512(); C];
        for c in 0..C {
            // the values are 128 too large
            dot[c] = _mm512_set1_epi32(i32::from(x[c].sums32[g]).wrapping_mul(-128));
        }
        for j in 0..4 {
            let (low, high) = iq4xs_words(block, g, j);
            for (words, j) in [(low, j), (high, 4 + j)] {
                for c in 0..C {
                    dot[c] = dpbusd_every::<C>(dot[c], words, &quads(&x[c].q)[g][j]);
                }
            }
        }
        for c in 0..C {
            sum[c] = _mm512_add_epi32(sum[c], _mm512_mullo_epi32(dot[c], scales[g]));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn iq4xs_end<const C: usize>(
    block: &Iq4Xs,
    x: [&Q8kChunk; C],
    sum: [__m512i; C],
    acc: &mut [__m512; C],
) {
    let d = floats(&block.d);
    for c in 0..C {
        acc[c] = scaled(acc[c], sum[c], d, x[c].scale);
    }
}

/// Values `4 j..4 j + 4` of group `g` and those sixteen further on, 128 too large.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn iq4xs_words(block: &Iq4Xs, g: usize, j: usize) -> (__m512i, __m512i) {
    let q = load_64(&block.qs[g][j]);
    (
        looked_up(&IQ4, and(q, 0x0f)),
        looked_up(&IQ4, and(_mm512_srli_epi32::<4>(q), 0x0f)),
    )
}

/// The scales of the eight groups.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn iq4xs_scales(block: &Iq4Xs) -> [__m512i; 8] {
    let low = load_64(&block.scales_l);
    let high = _mm512_cvtepu16_epi32(load_32(&block.scales_h));
    let mut scales = [_mm512_setzero_si512(); 8];
    for g in 0..8 {
        let low = _mm512_srl_epi32(low, _mm_cvtsi32_si128(4 * g as i32));
        let high = _mm512_srl_epi32(high, _mm_cvtsi32_si128(2 * g as i32));
        let low = _mm512_and_si512(low, _mm512_set1_epi32(0x0f));
        let high = _mm512_and_si512(high, _mm512_set1_epi32(3));
        let scale = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
        scales[g] = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
    }
    scales
}
