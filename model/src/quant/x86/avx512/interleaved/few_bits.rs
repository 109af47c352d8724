//! Formats of one and of two bits, whose words have values `4 i..4 i + 4` at bits `i` or `2 i` of their bytes.

use super::{Interleaved32, and, floats, interleaved32};
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Q1_0, Q2_0};
use crate::quant::x86::avx512::unpack::load_64;
use std::arch::x86_64::*;

// a bit is made 2 and less one, so that it is 1 or -1
interleaved32!(Q1_0, |b, part| {
    let word = load_64(&b.qs[part]);
    let mut quads = [_mm512_setzero_si512(); 8];
    quads[0] = and(_mm512_add_epi8(word, word), 2);
    for i in 1..8 {
        let shifted = _mm512_srl_epi32(word, _mm_cvtsi32_si128(i as i32 - 1));
        quads[i] = and(shifted, 2);
    }
    quads
});

interleaved32!(Q2_0, |b, part| {
    let mut quads = [_mm512_setzero_si512(); 8];
    for i in 0..8 {
        let word = load_64(&b.qs[part][i / 4]);
        let shifted = _mm512_srl_epi32(word, _mm_cvtsi32_si128(2 * (i as i32 % 4)));
        quads[i] = and(shifted, 3);
    }
    quads
});
