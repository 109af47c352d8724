//! Products where a processor computes: a row to a unit, which needs no other, so that there is no shared memory and no barrier.
//!
//! Such a device has no use for the loads of neighbours, and compiles a kernel with barriers for seconds. The sums are those
//! of [`super::matvec`].

use super::arithmetic::multiply_add;
use super::decode::{InputBlock, load_block, load_input, load_scales, open, open_input};
use super::matvec::{Few, put};
use crate::ops::cube::pack::Scales;
use cubecl::prelude::*;
use glowplug_firmware_config::limits::STEP_TOKENS;

/// Units of a cube, which have as many rows.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// As [`super::matvec::multiply_few`]. There is a cube along x for every [`UNITS`] rows, and one along y for every `few.columns`
/// columns.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_alone<N: Size>(
    quads: &[Vector<u32, N>],
    words: &[u32],
    x: &[Vector<u32, N>],
    out: &mut [f32],
    rows: u32,
    blocks: u32,
    stride: u32,
    first: u32,
    #[comptime] few: Few,
) {
    let (rows, blocks) = (rows as usize, blocks as usize);
    let (stride, first) = (stride as usize, first as usize);
    let row = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS_X as usize;
    let column0 = CUBE_POS_Y as usize * comptime!(few.columns);
    let inputs = comptime!(few.columns * few.of.planes);
    let format = comptime!(few.of.format);
    if row < rows {
        let mut acc = Array::<f32>::new(comptime!(few.columns * few.of.planes));
        // of 256 values, of which a block of the device is a part
        let mut wholes = Array::<i32>::new(comptime!(few.columns * few.of.planes));
        let mut mins = Array::<f32>::new(comptime!(few.columns * few.of.planes));
        #[unroll]
        for c in 0..inputs {
            acc[c] = 0.0f32;
            wholes[c] = 0i32;
            mins[c] = 0.0f32;
        }
        for block in 0..blocks {
            let one = load_block(quads, words, row * blocks + block, rows * blocks, format);
            let of = load_scales(words, rows, blocks, row, block, format);
            let mut columns = Sequence::<InputBlock<N>>::new();
            let mut low = Array::<f32>::new(comptime!(few.columns * few.of.planes));
            let mut high = Array::<f32>::new(comptime!(few.columns * few.of.planes));
            #[unroll]
            for c in 0..inputs {
                let column = column0 + comptime!(c / few.columns * STEP_TOKENS + c % few.columns);
                columns.push(load_input(x, column * blocks + block));
                low[c] = 0.0f32;
                high[c] = 0.0f32;
            }
            for i in 0..4u32 {
                let values = open(&one, i, format);
                #[unroll]
                for c in 0..inputs {
                    let column = open_input(columns.index(c), i);
                    low[c] += values.low.dot(column.low);
                    high[c] += values.high.dot(column.high);
                }
            }
            #[unroll]
            for c in 0..inputs {
                let column = columns.index(c);
                let offset = comptime!(few.of.format.offset as f32);
                let mut whole = of.low * (low[c] - offset * column.low_sum)
                    + of.high * (high[c] - offset * column.high_sum);
                let mut min = of.min;
                let mut last = true.runtime();
                if comptime!(few.of.format.of_256()) {
                    let exact = wholes[c] + i32::cast_from(whole);
                    whole = f32::cast_from(exact);
                    min = mins[c] + min * (column.low_sum + column.high_sum);
                    last = block % 8usize == 7usize;
                    wholes[c] = select(last, 0i32, exact);
                    mins[c] = select(last, 0.0f32, min);
                }
                if last {
                    let scale = of.d * column.scale;
                    acc[c] = multiply_add(whole, scale, acc[c], comptime!(few.of.exact));
                    if comptime!(few.of.format.scales == Scales::HalfMin) {
                        let sum = column.scaled_sum;
                        acc[c] = multiply_add(min, sum, acc[c], comptime!(few.of.exact));
                    }
                    if comptime!(few.of.format.scales == Scales::ByteMin) {
                        let scale = of.m * column.scale;
                        acc[c] = multiply_add(min, scale, acc[c], comptime!(few.of.exact));
                    }
                }
            }
        }
        #[unroll]
        for c in 0..comptime!(few.columns) {
            let mut product = acc[c];
            if comptime!(few.of.planes == 2) {
                product += acc[comptime!(c + few.columns)];
            }
            put(
                out,
                (column0 + c) * stride + first + row,
                product,
                comptime!(few.of),
            );
        }
    }
}
