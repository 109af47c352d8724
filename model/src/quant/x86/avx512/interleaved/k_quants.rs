//! Formats of 256 weights with scales of a few bits for every 16 or 32 of them.

use super::{Interleaved, and, floats, interleaved256, or_and, quads, scaled};
use crate::quant::Activations;
use crate::quant::format::activations::Q8kChunk;
use crate::quant::format::interleaved::{Halves, Q4K, Q5K, Q6K, Word};
use crate::quant::x86::avx512::rows::{dpbusd_every, dpwssd_every};
use crate::quant::x86::avx512::unpack::load_64;
use bytemuck::cast_ref;
use std::arch::x86_64::*;

/// The scales and mins of eight groups of 32 weights, for sixteen rows.
pub(in super::super) struct Eight {
    /// One byte per group in each lane: groups 0..4 in the first vector, groups 4..8 in the second.
    scales: [__m512i; 2],
    /// The mins, laid out like the scales.
    mins: [__m512i; 2],
}

impl Eight {
    /// What `crate::quant::format::blocks::scales_and_mins` unpacks, for sixteen rows at once.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn read(packed: &[Word; 3]) -> Self {
        let [a, b, c] = [
            load_64(&packed[0]),
            load_64(&packed[1]),
            load_64(&packed[2]),
        ];
        let top = |v| _mm512_srli_epi32::<2>(v);
        let c_high = _mm512_srli_epi32::<4>(c);
        Self {
            scales: [and(a, 0x3f), or_and(and(c, 0x0f), top(a), 0x30)],
            mins: [and(b, 0x3f), or_and(and(c_high, 0x0f), top(b), 0x30)],
        }
    }

    /// The scale of group `g` in each lane.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn scale(&self, g: usize) -> __m512i {
        let count = _mm_cvtsi32_si128(8 * (g % 4) as i32);
        // an index that is not constant would have them stored and loaded again
        let four = if g < 4 {
            self.scales[0]
        } else {
            self.scales[1]
        };
        _mm512_and_si512(_mm512_srl_epi32(four, count), _mm512_set1_epi32(0xff))
    }

    /// The scales, two int16 of neighbouring groups in each lane.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn scale_pairs(&self) -> [__m512i; 4] {
        Self::pairs(self.scales)
    }

    /// The mins, two int16 of neighbouring groups in each lane.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    pub(in super::super) fn min_pairs(&self) -> [__m512i; 4] {
        Self::pairs(self.mins)
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn pairs(bytes: [__m512i; 2]) -> [__m512i; 4] {
        // bytes 0 and 1, or 2 and 3, of each lane as int16
        let low = _mm512_broadcast_i32x4(_mm_set_epi32(
            0x800d_800c_u32 as i32,
            0x8009_8008_u32 as i32,
            0x8005_8004_u32 as i32,
            0x8001_8000_u32 as i32,
        ));
        let high = _mm512_or_si512(low, _mm512_set1_epi16(2));
        [
            _mm512_shuffle_epi8(bytes[0], low),
            _mm512_shuffle_epi8(bytes[0], high),
            _mm512_shuffle_epi8(bytes[1], low),
            _mm512_shuffle_epi8(bytes[1], high),
        ]
    }
}

/// `acc - sum * (d * scale)`, in the order of the definition.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn less(acc: __m512, sum: __m512i, d: __m512, scale: f32) -> __m512 {
    _mm512_fnmadd_ps(
        _mm512_cvtepi32_ps(sum),
        _mm512_mul_ps(d, _mm512_set1_ps(scale)),
        acc,
    )
}

/// Adds the scaled sum to `acc`, less the mins: the end of a product of Q4_K and of Q5_K.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn less_mins<const C: usize>(
    scales: &[Word; 3],
    [d, dmin]: [&Halves; 2],
    x: [&Q8kChunk; C],
    sum: [__m512i; C],
    acc: &mut [__m512; C],
) {
    let groups = Eight::read(scales);
    let (mins, d, dmin) = (groups.min_pairs(), floats(d), floats(dmin));
    for c in 0..C {
        let pairs: &[[u8; 4]; 4] = cast_ref(&x[c].sums32);
        let mut less_sum = _mm512_setzero_si512();
        for i in 0..4 {
            less_sum = dpwssd_every(less_sum, mins[i], &pairs[i]);
        }
        acc[c] = scaled(acc[c], sum[c], d, x[c].scale);
        acc[c] = less(acc[c], less_sum, dmin, x[c].scale);
    }
}

interleaved256!(Q4K, q4k_part, q4k_end);
interleaved256!(Q5K, q5k_part, q5k_end);
interleaved256!(Q6K, q6k_part, q6k_end);

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q4k_part<const C: usize>(block: &Q4K, i: usize, x: [&Q8kChunk; C], sum: &mut [__m512i; C]) {
    let groups = Eight::read(&block.scales);
    // 64 values: low nibbles are the first 32. The high ones stay where they are, 16 times too large
    let (mut low, mut high) = ([_mm512_setzero_si512(); C], [_mm512_setzero_si512(); C]);
    for j in 0..8 {
        let q = load_64(&block.qs[i][j]);
        let (a, b) = (and(q, 0x0f), and(q, 0xf0));
        for c in 0..C {
            let q = quads(&x[c].q);
            low[c] = dpbusd_every::<C>(low[c], a, &q[2 * i][j]);
            high[c] = dpbusd_every::<C>(high[c], b, &q[2 * i + 1][j]);
        }
    }
    let (a, b) = (groups.scale(2 * i), groups.scale(2 * i + 1));
    for c in 0..C {
        let high = _mm512_srai_epi32::<4>(high[c]);
        let low = _mm512_add_epi32(sum[c], _mm512_mullo_epi32(low[c], a));
        sum[c] = _mm512_add_epi32(low, _mm512_mullo_epi32(high, b));
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q4k_end<const C: usize>(
    block: &Q4K,
    x: [&Q8kChunk; C],
    sum: [__m512i; C],
    acc: &mut [__m512; C],
) {
    less_mins(&block.scales, [&block.d, &block.dmin], x, sum, acc);
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q5k_part<const C: usize>(block: &Q5K, i: usize, x: [&Q8kChunk; C], sum: &mut [__m512i; C]) {
    let groups = Eight::read(&block.scales);
    let (mut low, mut high) = ([_mm512_setzero_si512(); C], [_mm512_setzero_si512(); C]);
    for j in 0..8 {
        let (a, b) = q5k_words(block, i, j);
        for c in 0..C {
            let q = quads(&x[c].q);
            low[c] = dpbusd_every::<C>(low[c], a, &q[2 * i][j]);
            high[c] = dpbusd_every::<C>(high[c], b, &q[2 * i + 1][j]);
        }
    }
    let (a, b) = (groups.scale(2 * i), groups.scale(2 * i + 1));
    for c in 0..C {
        let low = _mm512_add_epi32(sum[c], _mm512_mullo_epi32(low[c], a));
        sum[c] = _mm512_add_epi32(low, _mm512_mullo_epi32(high[c], b));
    }
}

/// Values `4 j..4 j + 4` of group `2 i` and of the next one.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn q5k_words(block: &Q5K, i: usize, j: usize) -> (__m512i, __m512i) {
    let (q, fifth) = (load_64(&block.qs[i][j]), load_64(&block.qh[j]));
    // bit 2 i, or 2 i + 1, goes to bit 4
    let bit = |i: usize| {
        let bit = _mm512_srl_epi32(fifth, _mm_cvtsi32_si128(i as i32));
        _mm512_slli_epi32::<4>(and(bit, 1))
    };
    (
        or_and(bit(2 * i), q, 0x0f),
        or_and(bit(2 * i + 1), _mm512_srli_epi32::<4>(q), 0x0f),
    )
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q5k_end<const C: usize>(
    block: &Q5K,
    x: [&Q8kChunk; C],
    sum: [__m512i; C],
    acc: &mut [__m512; C],
) {
    less_mins(&block.scales, [&block.d, &block.dmin], x, sum, acc);
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q6k_part<const C: usize>(block: &Q6K, i: usize, x: [&Q8kChunk; C], sum: &mut [__m512i; C]) {
    q6k_values::<C, 0>(block, i / 2, i % 2, x, sum);
    q6k_values::<C, 1>(block, i / 2, i % 2, x, sum);
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q6k_end<const C: usize>(
    block: &Q6K,
    x: [&Q8kChunk; C],
    sum: [__m512i; C],
    acc: &mut [__m512; C],
) {
    // 32 times scale times sum of activations is too much
    let mut offset = [_mm512_setzero_si512(); C];
    for i in 0..4 {
        let scales = load_64(&block.scales[i]);
        let [low, high] = signed_pairs(scales);
        for c in 0..C {
            let pairs: &[[u8; 4]; 8] = cast_ref(&x[c].sums);
            offset[c] = dpwssd_every(offset[c], low, &pairs[2 * i]);
            offset[c] = dpwssd_every(offset[c], high, &pairs[2 * i + 1]);
        }
    }
    let d = floats(&block.d);
    for c in 0..C {
        let sum = _mm512_sub_epi32(sum[c], _mm512_slli_epi32::<5>(offset[c]));
        acc[c] = scaled(acc[c], sum, d, x[c].scale);
    }
}

/// Four signed bytes of each lane as two times two int16.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn signed_pairs(scales: __m512i) -> [__m512i; 2] {
    // bytes 0 and 1, then 2 and 3, of each lane, in the upper halves of int16: with their sign, 256 times too large
    let low = _mm512_broadcast_i32x4(_mm_set_epi32(
        0x0d80_0c80,
        0x0980_0880,
        0x0580_0480,
        0x0180_0080,
    ));
    let high = _mm512_add_epi8(low, _mm512_set1_epi16(0x0200));
    [
        _mm512_srai_epi16::<8>(_mm512_shuffle_epi8(scales, low)),
        _mm512_srai_epi16::<8>(_mm512_shuffle_epi8(scales, high)),
    ]
}

/// Values `4 j..4 j + 4` of 32 in a half of the block, the first or the second 32, and those that lie 64 further on: their low bits
/// share words.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in super::super) fn q6k_words<const SECOND: usize>(
    block: &Q6K,
    half: usize,
    j: usize,
) -> (__m512i, __m512i) {
    let [first, second, bits] = &block.q[half][j];
    let (q, bits) = (load_64([first, second][SECOND]), load_64(bits));
    let (above, below) = if SECOND == 0 {
        (_mm512_slli_epi32::<4>(bits), bits)
    } else {
        (_mm512_slli_epi32::<2>(bits), _mm512_srli_epi32::<2>(bits))
    };
    (
        or_and(and(q, 0x0f), above, 0x30),
        or_and(and(_mm512_srli_epi32::<4>(q), 0x0f), below, 0x30),
    )
}

/// Multiplies sixteen of 32 values and of the 32 that lie 64 further on, because their low bits share words. More at once
/// would need more sums than there are registers.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn q6k_values<const C: usize, const SECOND: usize>(
    block: &Q6K,
    half: usize,
    part: usize,
    x: [&Q8kChunk; C],
    sum: &mut [__m512i; C],
) {
    let (mut low, mut high) = ([_mm512_setzero_si512(); C], [_mm512_setzero_si512(); C]);
    for j in 0..4 {
        let j = 4 * part + j;
        let (a, b) = q6k_words::<SECOND>(block, half, j);
        for c in 0..C {
            let q = quads(&x[c].q);
            low[c] = dpbusd_every::<C>(low[c], a, &q[4 * half + SECOND][j]);
            high[c] = dpbusd_every::<C>(high[c], b, &q[4 * half + 2 + SECOND][j]);
        }
    }
    // scale 8 half + 2 i + part: byte 2 (i % 2) + part of word 2 half + i / 2
    let left = _mm_cvtsi32_si128(24 - 8 * (2 * SECOND as i32 + part as i32));
    let scale =
        |i: usize| _mm512_srai_epi32::<24>(_mm512_sll_epi32(load_64(&block.scales[i]), left));
    let (a, b) = (scale(2 * half), scale(2 * half + 1));
    for c in 0..C {
        let low = _mm512_add_epi32(sum[c], _mm512_mullo_epi32(low[c], a));
        sum[c] = _mm512_add_epi32(low, _mm512_mullo_epi32(high[c], b));
    }
}
