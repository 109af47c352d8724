//! Rounding a layer input to int8, as [`crate::quant::Activations`] does on the host, with the norm before it where it has one.
//!
//! A cube has 64 blocks of 32 values of a column, one to a unit. The norm's sum is computed by every cube of a column, because
//! nothing waits for another cube within a kernel.

use super::arithmetic::{Fma, divide, fold, keep_all, multiply_add, root};
use super::decode::INPUT_WORDS;
use cubecl::prelude::*;
use glowplug_firmware_config::limits::CHUNK_TOKENS;

/// Units of a cube, which have as many blocks.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// Running sums of the norm.
const SUMS: usize = 16;

/// What rounding is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Rounding {
    /// Whether 256 values share a scale, and not 32.
    pub(in crate::ops::cube) of_256: bool,
    /// How often the rest is rounded too, with the first time.
    pub(in crate::ops::cube) planes: usize,
    /// Whether the values are normed before.
    pub(in crate::ops::cube) normed: bool,
    /// How the device rounds a product and a sum together.
    pub(in crate::ops::cube) exact: Fma,
    /// How the host's level does in a norm.
    pub(in crate::ops::cube) host: Fma,
}

/// Writes the blocks of some columns, [`INPUT_WORDS`] words each: `[planes][CHUNK_TOKENS][blocks]`. `quads` and `x` are both the
/// columns, of `32 * blocks` values. There are as many cubes along x as columns times those that a column needs, and along y
/// one more than the columns before the first one, of which the last one works.
#[cube(launch)]
pub(in crate::ops::cube) fn quantize<N: Size>(
    quads: &[Vector<f32, N>],
    x: &[f32],
    weight: &[Vector<f32, N>],
    out: &mut [Vector<u32, N>],
    blocks: u32,
    eps: f32,
    #[comptime] how: Rounding,
) {
    let blocks = blocks as usize;
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    // a row has a block at least
    let cubes = 1usize + (blocks - 1usize) / units;
    let column = CUBE_POS_X as usize / cubes;
    let block = CUBE_POS_X as usize % cubes * units + unit;
    let works = CUBE_POS_Y + 1u32 == CUBE_COUNT_Y && block < blocks;
    let start = (CUBE_POS_Y as usize + column) * blocks * 8usize;

    let mut inverse_rms = 1.0f32.runtime();
    if comptime!(how.normed) {
        let mut sums = Shared::<[f32]>::new_slice(SUMS);
        if unit < SUMS {
            let mut sum = 0.0f32;
            let mut i = unit;
            while i < 32usize * blocks {
                let value = x[4usize * start + i];
                sum = multiply_add(value, value, sum, comptime!(how.host));
                i += SUMS;
            }
            sums[unit] = sum;
        }
        sync_cube();
        let mean = divide(
            fold(&sums),
            f32::cast_from(32u32 * blocks as u32),
            comptime!(how.exact),
        );
        let rms = root(mean + eps, comptime!(how.exact));
        inverse_rms = divide(1.0f32, rms, comptime!(how.exact));
    }
    let mut values = Shared::<[Vector<f32, N>]>::new_slice(comptime!(8 * UNITS as usize));
    let mut largest = Shared::<[u32]>::new_slice(comptime!(UNITS as usize));
    if works {
        for i in 0..8usize {
            let mut four = quads[start + 8usize * block + i];
            if comptime!(how.normed) {
                four = four * Vector::new(inverse_rms) * weight[8usize * block + i];
            }
            values[i * units + unit] = four;
        }
    }
    for plane in 0..comptime!(how.planes) {
        let mut size = 0u32;
        if works {
            let mut sizes = Vector::<u32, N>::new(0u32);
            for i in 0..8usize {
                let bits = Vector::<u32, N>::reinterpret(values[i * units + unit]);
                sizes = max(sizes, bits & Vector::new(0x7fff_ffffu32));
            }
            #[unroll]
            for i in 0..4usize {
                size = max(size, sizes.extract(i));
            }
        }
        if comptime!(how.of_256) {
            largest[unit] = size;
            sync_cube();
            size = 0u32;
            for i in 0..8usize {
                size = max(size, largest[unit / 8usize * 8usize + i]);
            }
            sync_cube();
        }
        if works {
            let size = f32::from_bits(size);
            // below this the inverse would overflow; such a block is zero beside any other
            let none = size < 1e-30f32;
            let scale = select(none, 0.0f32, divide(size, 127.0f32, comptime!(how.exact)));
            let inverse = select(none, 0.0f32, divide(127.0f32, size, comptime!(how.exact)));
            let at =
                ((plane * CHUNK_TOKENS + column) * blocks + block) * comptime!(INPUT_WORDS / 4);
            let mut numbers = Vector::<f32, N>::new(0.0f32);
            let mut all = 0i32;
            #[unroll]
            for half in 0..2usize {
                let mut bytes = Vector::<u32, N>::new(0u32);
                let mut sum = Vector::<i32, N>::new(0i32);
                for i in 0..4usize {
                    let own = (comptime!(4 * half) + i) * units + unit;
                    let four = values[own];
                    let scaled = keep_all(four * Vector::new(inverse));
                    let bits = Vector::<i32, N>::reinterpret(scaled + Vector::new(12_582_912.0f32));
                    let rounded = clamp(
                        bits - Vector::new(0x4b40_0000i32),
                        Vector::new(-127i32),
                        Vector::new(127i32),
                    );
                    sum += rounded;
                    let stored = Vector::<u32, N>::cast_from(rounded + Vector::new(128i32));
                    bytes |= stored << Vector::new(8u32 * i as u32);
                    let whole = Vector::<f32, N>::cast_from(rounded);
                    values[own] = four - keep_all(whole * Vector::new(scale));
                }
                out[at + half] = bytes;
                let sum = Vector::vector_sum(sum);
                numbers.insert(comptime!(1 + half), f32::cast_from(sum));
                all += sum;
            }
            numbers.insert(0usize, scale);
            numbers.insert(3usize, scale * f32::cast_from(all));
            out[at + 2usize] = Vector::reinterpret(numbers);
        }
    }
}
