//! The columns of a layer input in int8: blocks of 32 with a scale and a sum each, normed before if the step norms.
//!
//! A unit has four values, and eight units a block. A K-quant's input has blocks of 32 here too, where the host has one scale
//! for 256 values, because a kernel goes through a row in blocks of 32. That is the finer of the two. A second plane holds what
//! the first left over, as on the host.

use super::decode::round_to_byte;
use cubecl::prelude::*;

/// How many planes of int8 a column has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops::cube) enum Planes {
    /// The values as they are rounded.
    One = 1,
    /// The rounded values, and what they left over.
    Two = 2,
}

/// Units that work on a column.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// Writes `quants`, `[planes][columns][k / 4]`, and `scales`, `[planes][columns][k / 32][2]`: the scale of each block and the
/// sum of its integers. `x` is `[columns][k]`. There is a cube of [`UNITS`] for each column.
#[cube(launch)]
pub(in crate::ops::cube) fn quantize(
    x: &[f32],
    norm: &[f32],
    quants: &mut [i32],
    scales: &mut [f32],
    blocks: u32,
    columns: u32,
    eps: f32,
    #[comptime] planes: u32,
    #[comptime] normed: bool,
) {
    let (blocks, columns) = (blocks as usize, columns as usize);
    let column = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let k = blocks * 32usize;
    let from = column * k;
    let units = comptime!(UNITS as usize);
    let mut inverse_root = 1.0f32;
    if normed {
        let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
        let mut sum = 0.0f32;
        let mut i = unit;
        while i < k {
            let value = x[from + i];
            sum = fma(value, value, sum);
            i += units;
        }
        sums[unit] = sum;
        sync_cube();
        let mut all = 0.0f32;
        for i in 0..units {
            all += sums[i];
        }
        inverse_root = 1.0f32 / (all / f32::cast_from(u32::cast_from(k)) + eps).sqrt();
    }
    let mut largest = Shared::<[u32]>::new_slice(comptime!(UNITS as usize));
    let mut counts = Shared::<[i32]>::new_slice(comptime!(UNITS as usize));
    let mut values = Array::<f32>::new(4usize);
    let word = unit % 8usize;
    let own = unit / 8usize * 8usize;
    let mut base = 0usize;
    while base < blocks {
        let block = base + unit / 8usize;
        let there = block < blocks;
        let first = min(block, blocks - 1usize) * 32usize + 4usize * word;
        #[unroll]
        for i in 0..4usize {
            let value = x[from + first + i];
            if normed {
                values[i] = value * inverse_root * norm[first + i];
            } else {
                values[i] = value;
            }
        }
        #[unroll]
        for plane in 0..planes {
            // the bits of non-negative floats are ordered like the floats, with infinity and then NaN on top
            let mut size = 0u32;
            #[unroll]
            for i in 0..4usize {
                size = max(size, u32::reinterpret(values[i]) & 0x7fff_ffffu32);
            }
            largest[unit] = size;
            sync_cube();
            for i in 0..8usize {
                size = max(size, largest[own + i]);
            }
            let size = f32::from_bits(size);
            let zero = size < 1e-30f32;
            let scale = select(zero, 0.0f32, size / 127.0f32);
            let inverse = select(zero, 0.0f32, 127.0f32 / size);
            let mut count = 0i32;
            let mut packed = 0u32;
            #[unroll]
            for i in 0..4usize {
                let quant = round_to_byte(values[i], inverse);
                count += quant;
                packed |= (u32::reinterpret(quant) & 255u32) << comptime!(8 * i as u32);
                values[i] -= f32::cast_from(quant) * scale;
            }
            counts[unit] = count;
            sync_cube();
            let number = (plane as usize * columns + column) * blocks + block;
            if there {
                quants[number * 8usize + word] = i32::reinterpret(packed);
                if word == 0usize {
                    let mut sum = 0i32;
                    for i in 0..8usize {
                        sum += counts[own + i];
                    }
                    scales[number * 2usize] = scale;
                    scales[number * 2usize + 1usize] = f32::cast_from(sum);
                }
            }
        }
        base += comptime!(UNITS as usize / 8);
    }
}

/// `gate[i] = silu(gate[i]) * up[i]`.
#[cube(launch)]
pub(in crate::ops::cube) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    if ABSOLUTE_POS < gate.len() {
        let value = gate[ABSOLUTE_POS];
        gate[ABSOLUTE_POS] = value / (1.0f32 + (-value).exp()) * up[ABSOLUTE_POS];
    }
}
