//! Formats of one and of two bits, whose words have values `4 i..4 i + 4` at bits `i` or `2 i` of their bytes.

use super::{Interleaved32, floats, interleaved32, signed, vector};
use crate::quant::arm::intrinsics::*;
use crate::quant::arm::unpack::{and, shift};
use crate::quant::format::interleaved::{Q1_0, Q2_0};

// a bit is made 2 and less one, so that it is 1 or -1
interleaved32!(Q1_0, 2, 1, |b, at, part of 4| {
    let word = vector(&b.qs[part], at);
    let mut values = [[vdupq_n_u8(0); 4]; 2];
    for i in 0..8 {
        values[i / 4][i % 4] = and(shift(word, i as i32 - 1), 2);
    }
    values
});

interleaved32!(Q2_0, 3, 1, |b, at, part of 2| {
    let mut values = [[vdupq_n_u8(0); 4]; 2];
    for i in 0..8 {
        let word = vector(&b.qs[part][i / 4], at);
        values[i / 4][i % 4] = and(shift(word, 2 * (i as i32 % 4)), 3);
    }
    values
});
