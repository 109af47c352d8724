//! Unpacking four of sixteen interleaved rows. Two words of a row are brought together before they are unpacked, so that
//! it is done once for both nibbles.

use super::opened::{Of32, Of256, Opened, Two, of_rows, of_rows_s32};
use super::product::Source;
use crate::gguf::GROUP;
use crate::quant::arm::interleaved::{
    byte, floats, iq4xs_scales, scales_and_mins, signed_byte, vector,
};
use crate::quant::arm::intrinsics::*;
use crate::quant::arm::unpack::{ROWS, and, high, high_under, looked_up, low, low_under, shift};
use crate::quant::format::blocks::{FP4_VALUES, IQ4_NL_VALUES, e8m0};
use crate::quant::format::interleaved::{
    Iq4Xs, Mxfp4, Q1_0, Q2_0, Q4_0, Q4_1, Q4K, Q5_0, Q5K, Q6K, Q8_0, Word,
};
use crate::quant::kernels::Product;
use bytemuck::Pod;

/// Sixteen interleaved blocks of one format.
pub(super) trait Group: Pod {
    type Opened: Opened;
    /// Unpacks values `256 chunk..` of vector `at`: rows `4 at..4 at + 4`.
    fn open(group: &[Self], at: usize, chunk: usize, to: &mut Self::Opened);
}

/// The groups of a product.
pub(super) struct Groups<'a, B> {
    w: &'a [B],
    /// Blocks of a row.
    blocks: usize,
}

impl<'a, B: Group> Groups<'a, B> {
    pub(super) fn new(product: &Product<'a>, rows: usize) -> Self {
        Self {
            w: product.blocks(rows),
            blocks: product.row_blocks(),
        }
    }
}

impl<B: Group> Source for Groups<'_, B> {
    type Opened = B::Opened;

    #[inline(always)]
    fn open(&self, row: usize, chunk: usize, to: &mut B::Opened) {
        let group = &self.w[row / GROUP * self.blocks..][..self.blocks];
        B::open(group, row % GROUP / ROWS, chunk, to);
    }
}

/// Words `2 j` and `2 j + 1` of four rows: eight values, or nibbles, of two rows in each vector.
#[inline(always)]
fn zipped(first: &Word, second: &Word, at: usize) -> Two<uint8x16_t> {
    zip(vector(first, at), vector(second, at))
}

/// Words of four rows, two rows in each vector.
#[inline(always)]
fn zip(first: uint8x16_t, second: uint8x16_t) -> Two<uint8x16_t> {
    let (a, b) = (vreinterpretq_u32_u8(first), vreinterpretq_u32_u8(second));
    [
        vreinterpretq_u8_u32(vzip1q_u32(a, b)),
        vreinterpretq_u8_u32(vzip2q_u32(a, b)),
    ]
}

/// The bytes as numbers, less `offset`.
#[inline(always)]
fn less(v: uint8x16_t, offset: u8) -> int8x16_t {
    vreinterpretq_s8_u8(vsubq_u8(v, vdupq_n_u8(offset)))
}

/// A format with 32 weights in a block.
macro_rules! group32 {
    ($name:ident, $has_min:literal, |$b:ident, $at:ident, $values:ident| $fill:expr $(, $m:ident)?) => {
        impl Group for $name {
            type Opened = Of32<$has_min>;
            #[inline(always)]
            fn open(group: &[Self], $at: usize, chunk: usize, to: &mut Self::Opened) {
                let blocks = &group[8 * chunk..];
                to.blocks = blocks.len().min(8);
                for (i, $b) in blocks.iter().take(8).enumerate() {
                    let $values = &mut to.values[i];
                    $fill;
                    to.d[i] = of_rows(floats(&$b.d, $at));
                    $(to.m[i] = of_rows(floats(&$b.$m, $at));)?
                }
            }
        }
    };
}
group32!(Q4_0, false, |b, at, values| nibbles(&b.qs, at, 8, values));
group32!(Q4_1, true, |b, at, values| nibbles(&b.qs, at, 0, values), m);
group32!(Q5_0, false, |b, at, values| five_bits(
    &b.qs, &b.qh, at, values
));
group32!(Q8_0, false, |b, at, values| for e in 0..4 {
    values[e] = zipped(&b.qs[2 * e], &b.qs[2 * e + 1], at).map(vreinterpretq_s8_u8);
});

impl Group for Mxfp4 {
    type Opened = Of32<false>;

    #[inline(always)]
    fn open(group: &[Self], at: usize, chunk: usize, to: &mut Self::Opened) {
        let blocks = &group[8 * chunk..];
        to.blocks = blocks.len().min(8);
        for (i, b) in blocks.iter().take(8).enumerate() {
            for e in 0..2 {
                let q = zipped(&b.qs[2 * e], &b.qs[2 * e + 1], at);
                for two in 0..2 {
                    let [first, second] = looked_up(&FP4_VALUES, [low(q[two]), high(q[two])]);
                    to.values[i][e][two] = first;
                    to.values[i][e + 2][two] = second;
                }
            }
            let four: &[[u8; 4]; 4] = bytemuck::cast_ref(&b.e);
            to.d[i] = of_rows(load_f32(&each(four[at], e8m0)));
        }
    }
}

/// A format of few bits, whose blocks have some parts of 32 weights and values `8 e..8 e + 8` in one word.
macro_rules! few_bits {
    ($name:ident, $parts:literal, |$b:ident, $part:ident, $e:ident| $word:expr, $mask:literal, $shift:expr) => {
        impl Group for $name {
            type Opened = Of32<false>;
            #[inline(always)]
            fn open(group: &[Self], at: usize, chunk: usize, to: &mut Self::Opened) {
                let blocks = &group[8 / $parts * chunk..];
                to.blocks = ($parts * blocks.len()).min(8);
                for i in 0..to.blocks {
                    let ($b, $part) = (&blocks[i / $parts], i % $parts);
                    for $e in 0..4 {
                        let word = vector($word, at);
                        let quad = |i: i32| and(shift(word, $shift(i)), $mask);
                        let quads = zip(quad(2 * $e as i32), quad(2 * $e as i32 + 1));
                        for two in 0..2 {
                            to.values[i][$e][two] = less(quads[two], 1);
                        }
                    }
                    to.d[i] = of_rows(floats(&$b.d, at));
                }
            }
        }
    };
}
few_bits!(Q1_0, 4, |b, part, _e| &b.qs[part], 2, |i: i32| i - 1);
few_bits!(Q2_0, 2, |b, part, e| &b.qs[part][e / 2], 3, |i: i32| 2
    * (i % 4));

#[inline(always)]
fn nibbles(qs: &[Word; 4], at: usize, offset: u8, values: &mut [Two<int8x16_t>; 4]) {
    for e in 0..2 {
        let q = zipped(&qs[2 * e], &qs[2 * e + 1], at);
        for two in 0..2 {
            values[e][two] = less(low(q[two]), offset);
            values[e + 2][two] = less(high(q[two]), offset);
        }
    }
}

/// Nibbles with bit `j` of `qh` as bit 4 of value `j`, less 16: a nibble under the bits 0000 or 1111.
#[inline(always)]
fn five_bits(qs: &[Word; 4], qh: &Word, at: usize, values: &mut [Two<int8x16_t>; 4]) {
    let bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let qh = vector(qh, at);
    for e in 0..2 {
        let q = zipped(&qs[2 * e], &qs[2 * e + 1], at);
        for two in 0..2 {
            // byte e of the two rows' bits, eight times each
            let clear = |e: usize| {
                let bytes = vqtbl1q_u8(qh, load_u8(&EIGHTS[two][e]));
                vceqzq_u8(vandq_u8(bytes, bits))
            };
            values[e][two] = vreinterpretq_s8_u8(vsliq_n_u8::<4>(q[two], clear(e)));
            values[e + 2][two] = vreinterpretq_s8_u8(vsriq_n_u8::<4>(clear(e + 2), q[two]));
        }
    }
}

/// Indices that put byte `e` of rows `2 two` and `2 two + 1` in eight bytes each: `EIGHTS[two][e]`.
const EIGHTS: [[[u8; 16]; 4]; 2] = {
    let mut eights = [[[0; 16]; 4]; 2];
    let mut i = 0;
    while i < 128 {
        let (two, e, j) = (i / 64, i / 16 % 4, i % 16);
        eights[two][e][j] = (4 * (2 * two + j / 8) + e) as u8;
        i += 1;
    }
    eights
};

/// What Q4_K and Q5_K have in common: unsigned values with a scale and a min for every 32.
trait Affine: Pod {
    /// Words `2 j` and `2 j + 1` of values `64 I..64 I + 32`, and of the 32 values after them.
    fn eight<const I: usize>(&self, j: usize, at: usize) -> [Two<uint8x16_t>; 2];
}

impl Affine for Q4K {
    #[inline(always)]
    fn eight<const I: usize>(&self, j: usize, at: usize) -> [Two<uint8x16_t>; 2] {
        let [a, b] = zipped(&self.qs[I][2 * j], &self.qs[I][2 * j + 1], at);
        [[low(a), low(b)], [high(a), high(b)]]
    }
}

impl Affine for Q5K {
    #[inline(always)]
    fn eight<const I: usize>(&self, j: usize, at: usize) -> [Two<uint8x16_t>; 2] {
        let q = zipped(&self.qs[I][2 * j], &self.qs[I][2 * j + 1], at);
        let fifth = zipped(&self.qh[2 * j], &self.qh[2 * j + 1], at);
        let from = 2 * I as i32;
        [
            [
                low_under(q[0], fifth[0], from, 31),
                low_under(q[1], fifth[1], from, 31),
            ],
            [
                high_under(q[0], fifth[0], from + 1, 31),
                high_under(q[1], fifth[1], from + 1, 31),
            ],
        ]
    }
}

/// Unpacks values `64 I..64 I + 64`.
#[inline(always)]
fn affine_64<B: Affine, const I: usize>(block: &B, at: usize, values: &mut [Two<int8x16_t>; 32]) {
    for j in 0..4 {
        let [first, second] = block.eight::<I>(j, at);
        values[8 * I + j] = first.map(vreinterpretq_s8_u8);
        values[8 * I + 4 + j] = second.map(vreinterpretq_s8_u8);
    }
}

macro_rules! affine {
    ($($name:ident),*) => {$(
        impl Group for $name {
            type Opened = Of256<32, true>;
            #[inline(always)]
            fn open(group: &[Self], at: usize, chunk: usize, to: &mut Self::Opened) {
                let block = &group[chunk];
                affine_64::<Self, 0>(block, at, &mut to.values);
                affine_64::<Self, 1>(block, at, &mut to.values);
                affine_64::<Self, 2>(block, at, &mut to.values);
                affine_64::<Self, 3>(block, at, &mut to.values);
                let groups = scales_and_mins(&block.scales, at);
                for g in 0..8 {
                    to.scales[g] = of_rows_s32(byte(groups[g / 4], g % 4));
                }
                let mins = (vreinterpretq_u32_u8(groups[2]), vreinterpretq_u32_u8(groups[3]));
                to.mins[0] = [
                    vreinterpretq_s8_u8(vreinterpretq_u8_u32(vzip1q_u32(mins.0, mins.1))),
                    vreinterpretq_s8_u8(vreinterpretq_u8_u32(vzip2q_u32(mins.0, mins.1))),
                ];
                to.d = of_rows(floats(&block.d, at));
                to.dmin = of_rows(floats(&block.dmin, at));
            }
        }
    )*};
}
affine!(Q4K, Q5K);

impl Group for Q6K {
    type Opened = Of256<16, false>;

    #[inline(always)]
    fn open(group: &[Self], at: usize, chunk: usize, to: &mut Self::Opened) {
        let block = &group[chunk];
        // of each 32 values of a half the first 16 are words 0..4, and the others words 4..8
        for (half, words) in block.q.iter().enumerate() {
            for j in 0..4 {
                let [first, second] = [&words[2 * j], &words[2 * j + 1]];
                let p = zipped(&first[0], &second[0], at);
                let q = zipped(&first[1], &second[1], at);
                let bits = zipped(&first[2], &second[2], at);
                for two in 0..2 {
                    let (p, q, bits) = (p[two], q[two], bits[two]);
                    let values = &mut to.values[16 * half..][..16];
                    values[j][two] = less(low_under(p, bits, 0, 63), 32);
                    values[4 + j][two] = less(low_under(q, bits, 2, 63), 32);
                    values[8 + j][two] = less(high_under(p, bits, 4, 63), 32);
                    values[12 + j][two] = less(high_under(q, bits, 6, 63), 32);
                }
            }
        }
        for g in 0..16 {
            let scales = vector(&block.scales[g / 4], at);
            to.scales[g] = of_rows_s32(signed_byte(scales, g % 4));
        }
        to.d = of_rows(floats(&block.d, at));
    }
}

impl Group for Iq4Xs {
    type Opened = Of256<32, false>;

    #[inline(always)]
    fn open(group: &[Self], at: usize, chunk: usize, to: &mut Self::Opened) {
        let block = &group[chunk];
        for (g, words) in block.qs.iter().enumerate() {
            for e in 0..2 {
                let q = zipped(&words[2 * e], &words[2 * e + 1], at);
                for two in 0..2 {
                    let [first, second] = looked_up(&IQ4_NL_VALUES, [low(q[two]), high(q[two])]);
                    to.values[4 * g + e][two] = first;
                    to.values[4 * g + 2 + e][two] = second;
                }
            }
        }
        let scales = iq4xs_scales(block, at);
        for g in 0..8 {
            to.scales[g] = of_rows_s32(signed_byte(scales[g / 4], g % 4));
        }
        to.d = of_rows(floats(&block.d, at));
    }
}
