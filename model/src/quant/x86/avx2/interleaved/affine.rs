//! Q4_K and Q5_K: values with a scale and a min of six bits for every 32.

use super::{
    Interleaved, and, byte_twice, every, floats, half, interleaved256, quads, scaled, two_bytes,
};
use crate::quant::Activations;
use crate::quant::format::activations::Q8kChunk;
use crate::quant::format::interleaved::{Halves, Q4K, Q5K, Word};
use crate::quant::x86::avx2::dot::{Dot, run};
use bytemuck::{Pod, cast_ref};
use std::arch::x86_64::*;

/// What Q4_K and Q5_K have in common: unsigned values with a scale and a min for every 32.
pub(in crate::quant::x86::avx2) trait Affine: Pod {
    /// How many words' products may be added in int16.
    const WORDS: usize;
    fn scales(&self) -> &[Word; 3];
    /// Word `j` of values `64 i..64 i + 32`, and of the 32 values after them, in half `at`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn values(&self, i: usize, j: usize, at: usize) -> (__m256i, __m256i);
    /// The halves `d` and `dmin`.
    fn halves(&self) -> (&Halves, &Halves);
}

macro_rules! affine {
    ($name:ident, $words:literal, |$b:ident, $i:ident, $j:ident, $at:ident| $values:expr) => {
        impl Affine for $name {
            const WORDS: usize = $words;
            #[inline(always)]
            fn scales(&self) -> &[Word; 3] {
                &self.scales
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn values(&self, $i: usize, $j: usize, $at: usize) -> (__m256i, __m256i) {
                let $b = self;
                $values
            }
            #[inline(always)]
            fn halves(&self) -> (&Halves, &Halves) {
                (&self.d, &self.dmin)
            }
        }
    };
}
affine!(Q4K, 8, |b, i, j, at| {
    let q = half(&b.qs[i][j], at);
    (and(q, 0x0f), and(_mm256_srli_epi16::<4>(q), 0x0f))
});
affine!(Q5K, 4, |b, i, j, at| {
    let (q, fifth) = (half(&b.qs[i][j], at), half(&b.qh[j], at));
    // bit 2 i, or 2 i + 1, goes to bit 4
    let first = _mm256_srl_epi16(fifth, _mm_cvtsi32_si128(2 * i as i32));
    let second = _mm256_srl_epi16(fifth, _mm_cvtsi32_si128(2 * i as i32 + 1));
    let fifth = |bits| _mm256_slli_epi16::<4>(and(bits, 1));
    (
        _mm256_or_si256(and(q, 0x0f), fifth(first)),
        _mm256_or_si256(and(_mm256_srli_epi16::<4>(q), 0x0f), fifth(second)),
    )
});

/// The scales and mins of eight groups of 32 weights, for eight rows.
pub(in crate::quant::x86::avx2) struct Eight {
    /// One byte per group in each element: groups 0..4 in the first vector, groups 4..8 in the second.
    scales: [__m256i; 2],
    /// The mins, laid out like the scales.
    mins: [__m256i; 2],
}

impl Eight {
    /// What `crate::quant::format::blocks::scales_and_mins` unpacks, for the rows of half `at`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::quant::x86::avx2) fn read(packed: &[Word; 3], at: usize) -> Self {
        let [a, b, c] = packed;
        let (a, b, c) = (half(a, at), half(b, at), half(c, at));
        let top = |v| and(_mm256_srli_epi16::<2>(v), 0x30);
        let c_high = and(_mm256_srli_epi16::<4>(c), 0x0f);
        Self {
            scales: [and(a, 0x3f), _mm256_or_si256(and(c, 0x0f), top(a))],
            mins: [and(b, 0x3f), _mm256_or_si256(c_high, top(b))],
        }
    }

    /// The scale of group `g` in both int16 of each element.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::quant::x86::avx2) fn scale(&self, g: usize) -> __m256i {
        byte_twice(self.scales[g / 4], g % 4, false)
    }

    /// The mins of groups `2 i` and `2 i + 1` as two int16 of each element.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::quant::x86::avx2) fn min_pairs(&self) -> [__m256i; 4] {
        [
            two_bytes(self.mins[0], false, false),
            two_bytes(self.mins[0], true, false),
            two_bytes(self.mins[1], false, false),
            two_bytes(self.mins[1], true, false),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn affine_part<B: Affine, D: Dot, const C: usize>(
    block: &B,
    i: usize,
    at: usize,
    x: [&Q8kChunk; C],
    sum: &mut [__m256i; C],
) {
    let groups = Eight::read(block.scales(), at);
    let (first, second) = (groups.scale(2 * i), groups.scale(2 * i + 1));
    let (mut low, mut high) = ([_mm256_setzero_si256(); C], [_mm256_setzero_si256(); C]);
    for j in 0..8 {
        // SAFETY: this function is compiled with the features that the callee needs
        let (a, b) = unsafe { block.values(i, j, at) };
        for c in 0..C {
            let q = quads(&x[c].q);
            // SAFETY: the caller vouches for the features of `D`
            unsafe {
                low[c] = D::more(low[c], a, every(q[2 * i][j]));
                high[c] = D::more(high[c], b, every(q[2 * i + 1][j]));
            }
            if (j + 1) % run::<D>(B::WORDS, 8) == 0 {
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

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn affine_end<B: Affine, D: Dot, const C: usize>(
    block: &B,
    at: usize,
    x: [&Q8kChunk; C],
    sum: [__m256i; C],
    acc: &mut [__m256; C],
) {
    let mins = Eight::read(block.scales(), at).min_pairs();
    let (d, dmin) = block.halves();
    let (d, dmin) = (floats(d, at), floats(dmin, at));
    for c in 0..C {
        let sums: &[[u8; 4]; 4] = cast_ref(&x[c].sums32);
        let mut min_sum = _mm256_setzero_si256();
        for i in 0..4 {
            // SAFETY: the caller vouches for the features of `D`
            min_sum = unsafe { D::pairs(min_sum, mins[i], every(sums[i])) };
        }
        acc[c] = scaled(acc[c], sum[c], d, x[c].scale);
        let dmin = _mm256_mul_ps(dmin, _mm256_set1_ps(x[c].scale));
        acc[c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(min_sum), dmin, acc[c]);
    }
}

interleaved256!(Q4K, affine_part, affine_end, Q4K);
interleaved256!(Q5K, affine_part, affine_end, Q5K);
