//! Formats of one and of two bits, whose words have values `4 i..4 i + 4` at bits `i` or `2 i` of their bytes.

use super::{Interleaved32, and, floats, half, interleaved32};
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Q1_0, Q2_0};
use std::arch::x86_64::*;

// a bit is made 2 and less one, so that it is 1 or -1
interleaved32!(Q1_0, |b, at, part| {
    let word = half(&b.qs[part], at);
    let mut quads = [_mm256_setzero_si256(); 8];
    quads[0] = and(_mm256_add_epi8(word, word), 2);
    for i in 1..8 {
        let shifted = _mm256_srl_epi16(word, _mm_cvtsi32_si128(i as i32 - 1));
        quads[i] = and(shifted, 2);
    }
    quads
});

interleaved32!(Q2_0, |b, at, part| {
    let mut quads = [_mm256_setzero_si256(); 8];
    for i in 0..8 {
        let word = half(&b.qs[part][i / 4], at);
        let shifted = _mm256_srl_epi16(word, _mm_cvtsi32_si128(2 * (i as i32 % 4)));
        quads[i] = and(shifted, 3);
    }
    quads
});
