//! Opening blocks on the device, and halves and bytes without a type of 16 or 8 bits: not every device has those.

use crate::ops::cube::pack::{Format, Scales};
use cubecl::prelude::*;

/// What the integers of a block are multiplied with: `w = d q + min`, where the first sixteen values have `low` for `d` and
/// the others `high`.
#[derive(CubeType)]
pub(in crate::ops::cube) struct BlockScales {
    pub(in crate::ops::cube) low: f32,
    pub(in crate::ops::cube) high: f32,
    pub(in crate::ops::cube) min: f32,
}

/// The half whose bits are the lower sixteen of `bits`.
#[cube]
pub(in crate::ops::cube) fn half_to_float(bits: u32) -> f32 {
    let exponent = (bits >> 10u32) & 31u32;
    let fraction = bits & 0x3ffu32;
    // counted, because a device may flush a float that is as small as this half would be
    let small = f32::cast_from(fraction) * 5.960_464_5e-8f32;
    let normal = f32::from_bits(((bits & 0x7fffu32) << 13u32) + 0x3800_0000u32);
    let special = f32::from_bits(0x7f80_0000u32 | (fraction << 13u32));
    let value = select(
        exponent == 0u32,
        small,
        select(exponent == 31u32, special, normal),
    );
    select((bits & 0x8000u32) != 0u32, -value, value)
}

/// The bits of the half that is nearest to a value, of two as near the even one.
#[cube]
pub(in crate::ops::cube) fn float_to_half(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let size = bits & 0x7fff_ffffu32;
    // 1.5 * 2^23 leaves no fraction bits, so that the addition rounds
    let counted = f32::from_bits(size) * 16_777_216.0f32 + 12_582_912.0f32;
    let small = u32::reinterpret(counted) - 0x4b40_0000u32;
    let rounded = (size + 0xfffu32 + ((size >> 13u32) & 1u32) - 0x3800_0000u32) >> 13u32;
    let large = select(size >= 0x4780_0000u32, 0x7c00u32, rounded);
    let finite = select(size < 0x3880_0000u32, small, large);
    select(size > 0x7f80_0000u32, 0x7e00u32, finite) | ((bits >> 16u32) & 0x8000u32)
}

/// Rounds `value * inverse` to the nearest integer, ties to even, and clamps it to -127..=127.
#[cube]
pub(in crate::ops::cube) fn round_to_byte(value: f32, inverse: f32) -> i32 {
    let rounded = i32::reinterpret(value * inverse + 12_582_912.0f32) - 0x4b40_0000i32;
    clamp(rounded, -127i32, 127i32)
}

/// The signed byte `index` of a word.
#[cube]
pub(in crate::ops::cube) fn signed_byte(word: u32, index: u32) -> i32 {
    i32::cast_from(((word >> (8u32 * index)) & 255u32) ^ 128u32) - 128i32
}

/// Eight values of a block as two words of signed bytes.
#[derive(CubeType)]
pub(in crate::ops::cube) struct WordPair {
    /// Values `4 i..4 i + 4`.
    pub(in crate::ops::cube) low: i32,
    /// Values `16 + 4 i..16 + 4 i + 4`.
    pub(in crate::ops::cube) high: i32,
}

/// Loads the words `i` of the lower and of the upper half of a block, with `i` below four.
#[cube]
pub(in crate::ops::cube) fn load_pair(
    w: &[u32],
    rows: usize,
    blocks: usize,
    row: usize,
    block: usize,
    i: usize,
    #[comptime] format: Format,
) -> WordPair {
    let number = row * blocks + block;
    let words = comptime!(format.quant_words());
    let word = w[number * words + i];
    let mut low = word;
    let mut high = word >> 4u32;
    if comptime!(format.bits == 8) {
        high = w[number * words + i + 4usize];
    } else {
        low &= 0x0f0f_0f0fu32;
        high &= 0x0f0f_0f0fu32;
        let more = rows * blocks * 4usize + number * comptime!(format.high_words());
        let shift = u32::cast_from(i);
        if comptime!(format.bits == 5) {
            let bits = w[more] >> shift;
            low |= (bits & 0x0101_0101u32) << 4u32;
            high |= ((bits >> 4u32) & 0x0101_0101u32) << 4u32;
        }
        if comptime!(format.bits == 6) {
            low |= ((w[more] >> (2u32 * shift)) & 0x0303_0303u32) << 4u32;
            high |= ((w[more + 1usize] >> (2u32 * shift)) & 0x0303_0303u32) << 4u32;
        }
        if comptime!(format.offset != 0) {
            // no byte borrows from the next one, because each is at least 128 before
            let offset = comptime!(format.offset * 0x0101_0101);
            low = ((low | 0x8080_8080u32) - offset) ^ 0x8080_8080u32;
            high = ((high | 0x8080_8080u32) - offset) ^ 0x8080_8080u32;
        }
    }
    WordPair {
        low: i32::reinterpret(low),
        high: i32::reinterpret(high),
    }
}

/// Loads what the values of a block are multiplied with.
#[cube]
pub(in crate::ops::cube) fn load_scales(
    w: &[u32],
    rows: usize,
    blocks: usize,
    row: usize,
    block: usize,
    #[comptime] format: Format,
) -> BlockScales {
    let before = comptime!(format.quant_words() + format.high_words());
    let start = rows * blocks * before;
    let shift = u32::cast_from(block % 2usize) * 16u32;
    match comptime!(format.scales) {
        Scales::Half => {
            let words = blocks / 2usize + blocks % 2usize;
            let d = half_to_float(w[start + row * words + block / 2usize] >> shift);
            BlockScales {
                low: d,
                high: d,
                min: 0.0f32,
            }
        }
        Scales::HalfMin => {
            let word = w[start + row * blocks + block];
            let d = half_to_float(word);
            BlockScales {
                low: d,
                high: d,
                min: half_to_float(word >> 16u32),
            }
        }
        Scales::ByteMin => {
            let at = start + row * (blocks / 2usize + blocks / 8usize);
            let pair = w[at + block / 2usize] >> shift;
            let word = w[at + blocks / 2usize + block / 8usize];
            let d = half_to_float(word) * f32::cast_from(pair & 255u32);
            let min = half_to_float(word >> 16u32) * f32::cast_from((pair >> 8u32) & 255u32);
            BlockScales {
                low: d,
                high: d,
                min: -min,
            }
        }
        Scales::Sixteens => {
            let at = start + row * (blocks / 2usize + blocks / 8usize);
            let pair = w[at + block / 2usize] >> shift;
            let d = half_to_float(w[at + blocks / 2usize + block / 8usize]);
            BlockScales {
                low: d * f32::cast_from(signed_byte(pair, 0u32)),
                high: d * f32::cast_from(signed_byte(pair, 1u32)),
                min: 0.0f32,
            }
        }
    }
}
