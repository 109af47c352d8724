//! Opening blocks on the device, and halves and bytes without a type of 16 or 8 bits: not every device has those.

use super::arithmetic::whole;
use crate::ops::cube::pack::{Format, Scales};
use cubecl::prelude::*;

/// What the integers of a block are multiplied with: `w = d scale (u - offset) + m min`, where the first sixteen values have `low`
/// for `scale` and the others `high`. The scales are whole numbers, and so is `min` of a format whose blocks have 256 values.
/// The offset is that of the format.
#[derive(CubeType)]
pub(in crate::ops::cube) struct BlockScales {
    pub(in crate::ops::cube) d: f32,
    pub(in crate::ops::cube) low: f32,
    pub(in crate::ops::cube) high: f32,
    pub(in crate::ops::cube) m: f32,
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
    clamp(whole(value * inverse), -127i32, 127i32)
}

/// The signed byte `index` of a word.
#[cube]
pub(in crate::ops::cube) fn signed_byte(word: u32, index: u32) -> i32 {
    i32::cast_from(((word >> (8u32 * index)) & 255u32) ^ 128u32) - 128i32
}

/// The words of a block's quants, as they are loaded: those of the first sixteen values and of the others.
#[derive(CubeType)]
pub(in crate::ops::cube) struct BlockWords<N: Size> {
    low: Vector<u32, N>,
    high: Vector<u32, N>,
    /// What is above four bits.
    more_low: Vector<u32, N>,
    more_high: Vector<u32, N>,
}

/// Eight values of a block: `4 i..4 i + 4`, and `16 + 4 i..16 + 4 i + 4`.
#[derive(CubeType)]
pub(in crate::ops::cube) struct Eight<N: Size> {
    pub(in crate::ops::cube) low: Vector<f32, N>,
    pub(in crate::ops::cube) high: Vector<f32, N>,
}

/// Loads the words of block `number` of a matrix of `all` blocks. `quads` and `words` are both the matrix.
#[cube]
pub(in crate::ops::cube) fn load_block<N: Size>(
    quads: &[Vector<u32, N>],
    words: &[u32],
    number: usize,
    all: usize,
    #[comptime] format: Format,
) -> BlockWords<N> {
    let none = Vector::<u32, N>::new(0u32);
    let mut more_low = none;
    let mut more_high = none;
    if comptime!(format.bits == 5) {
        let bits = words[all * 4usize + number];
        let shifts = element_numbers::<N>();
        more_low = Vector::new(bits) >> shifts;
        more_high = Vector::new(bits >> 16u32) >> shifts;
    }
    if comptime!(format.bits == 6) {
        let shifts = element_numbers::<N>() << Vector::new(1u32);
        more_low = Vector::new(words[all * 4usize + 2usize * number]) >> shifts;
        more_high = Vector::new(words[all * 4usize + 2usize * number + 1usize]) >> shifts;
    }
    if comptime!(format.bits == 8) {
        BlockWords::<N> {
            low: quads[2usize * number],
            high: quads[2usize * number + 1usize],
            more_low,
            more_high,
        }
    } else {
        let low = quads[number];
        BlockWords::<N> {
            low,
            high: low >> Vector::new(4u32),
            more_low,
            more_high,
        }
    }
}

/// The numbers of a vector's values.
#[cube]
fn element_numbers<N: Size>() -> Vector<u32, N> {
    let mut numbers = Vector::<u32, N>::new(0u32);
    numbers.insert(1usize, 1u32);
    numbers.insert(2usize, 2u32);
    numbers.insert(3usize, 3u32);
    numbers
}

/// Opens the eight values `i` of a block, with `i` below four. The offset of the format is still in them.
#[cube]
pub(in crate::ops::cube) fn open<N: Size>(
    block: &BlockWords<N>,
    i: u32,
    #[comptime] format: Format,
) -> Eight<N> {
    let byte = Vector::new(8u32 * i);
    let mask = Vector::new(comptime!(if format.bits == 8 { 255u32 } else { 15u32 }));
    let mut low = (block.low >> byte) & mask;
    let mut high = (block.high >> byte) & mask;
    if comptime!(format.bits == 5 || format.bits == 6) {
        let part = Vector::new(comptime!(if format.bits == 5 { 4u32 } else { 8u32 }) * i);
        let mask = Vector::new(comptime!(if format.bits == 5 { 1u32 } else { 3u32 }));
        let four = Vector::new(4u32);
        low += ((block.more_low >> part) & mask) << four;
        high += ((block.more_high >> part) & mask) << four;
    }
    Eight::<N> {
        low: Vector::cast_from(low),
        high: Vector::cast_from(high),
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
    let start = rows * blocks * comptime!(format.quant_words() + format.high_words());
    let shift = u32::cast_from(block % 2usize) * 16u32;
    match comptime!(format.scales) {
        Scales::Half => {
            let words = blocks / 2usize + blocks % 2usize;
            BlockScales {
                d: half_to_float(w[start + row * words + block / 2usize] >> shift),
                low: 1.0f32,
                high: 1.0f32,
                m: 0.0f32,
                min: 0.0f32,
            }
        }
        Scales::HalfMin => {
            let word = w[start + row * blocks + block];
            BlockScales {
                d: half_to_float(word),
                low: 1.0f32,
                high: 1.0f32,
                m: 1.0f32,
                min: half_to_float(word >> 16u32),
            }
        }
        Scales::ByteMin => {
            let at = start + row * (blocks / 2usize + blocks / 8usize);
            let pair = w[at + block / 2usize] >> shift;
            let word = w[at + blocks / 2usize + block / 8usize];
            let scale = f32::cast_from(pair & 255u32);
            BlockScales {
                d: half_to_float(word),
                low: scale,
                high: scale,
                m: -half_to_float(word >> 16u32),
                min: f32::cast_from((pair >> 8u32) & 255u32),
            }
        }
        Scales::ByteOf16 => {
            let at = start + row * (blocks / 2usize + blocks / 8usize);
            let pair = w[at + block / 2usize] >> shift;
            BlockScales {
                d: half_to_float(w[at + blocks / 2usize + block / 8usize]),
                low: f32::cast_from(signed_byte(pair, 0u32)),
                high: f32::cast_from(signed_byte(pair, 1u32)),
                m: 0.0f32,
                min: 0.0f32,
            }
        }
    }
}

/// Words of a block of activations: eight of bytes, four of what belongs to them.
pub(in crate::ops::cube) const INPUT_WORDS: usize = 12;

/// A block of 32 rounded activations. Its bytes are 128 more than the whole numbers, and lie as those of a weight of eight bits.
#[derive(CubeType)]
pub(in crate::ops::cube) struct InputBlock<N: Size> {
    low: Vector<u32, N>,
    high: Vector<u32, N>,
    /// What the whole numbers are multiplied with.
    pub(in crate::ops::cube) scale: f32,
    /// The sums of the first sixteen of them, and of the others.
    pub(in crate::ops::cube) low_sum: f32,
    pub(in crate::ops::cube) high_sum: f32,
    /// The scale times the sum of all.
    pub(in crate::ops::cube) scaled_sum: f32,
}

/// Loads block `number` of the rounded activations.
#[cube]
pub(in crate::ops::cube) fn load_input<N: Size>(
    x: &[Vector<u32, N>],
    number: usize,
) -> InputBlock<N> {
    let numbers = Vector::<f32, N>::reinterpret(x[3usize * number + 2usize]);
    InputBlock::<N> {
        low: x[3usize * number],
        high: x[3usize * number + 1usize],
        scale: numbers.extract(0usize),
        low_sum: numbers.extract(1usize),
        high_sum: numbers.extract(2usize),
        scaled_sum: numbers.extract(3usize),
    }
}

/// The eight whole numbers `i` of a block of activations, as [`open`] gives those of a weight.
#[cube]
pub(in crate::ops::cube) fn open_input<N: Size>(block: &InputBlock<N>, i: u32) -> Eight<N> {
    let (byte, mask) = (Vector::new(8u32 * i), Vector::new(255u32));
    let middle = Vector::new(128.0f32);
    Eight::<N> {
        low: Vector::cast_from((block.low >> byte) & mask) - middle,
        high: Vector::cast_from((block.high >> byte) & mask) - middle,
    }
}
