//! Products of a matrix with many columns: a tile of 32 rows and 16 or 64 columns to a cube, a block of 32 values at a time in
//! 13 KB of shared memory.
//!
//! A unit has four rows and four columns of the tile, and goes through a block in steps of four values. 64 columns are a whole
//! step of a prompt, so that a matrix is read and its blocks are opened once for it. The sums are those of [`super::matvec`].

use super::arithmetic::{Fma, multiply_add};
use super::decode::{load_block, load_input, load_scales, open, open_input};
use super::matvec::{Factors, put};
use crate::ops::cube::pack::Scales;
use cubecl::prelude::*;
use glowplug_firmware_config::limits::CHUNK_TOKENS;

/// Rows of a tile.
pub(in crate::ops::cube) const TILE_ROWS: usize = 32;
/// Rows and columns of a unit, each.
pub(in crate::ops::cube) const OWN: usize = 4;
/// Units of a cube along the rows of a tile.
pub(in crate::ops::cube) const ROW_UNITS: usize = TILE_ROWS / OWN;
/// Products of a unit.
const PRODUCTS: usize = OWN * OWN;

/// What a product of many columns is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Many {
    pub(in crate::ops::cube) of: Factors,
    /// Columns of a tile.
    pub(in crate::ops::cube) columns: usize,
}

/// As [`super::matvec::multiply_few`], for as many columns as a tile has. Cubes are [`ROW_UNITS`] by `columns / OWN` units, and
/// there is one for each tile.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_many<N: Size>(
    quads: &[Vector<u32, N>],
    words: &[u32],
    x: &[Vector<u32, N>],
    out: &mut [f32],
    rows: u32,
    blocks: u32,
    stride: u32,
    first: u32,
    #[comptime] many: Many,
) {
    let (rows, blocks) = (rows as usize, blocks as usize);
    let (stride, first) = (stride as usize, first as usize);
    let (ux, uy) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let unit = uy * comptime!(ROW_UNITS) + ux;
    let row0 = CUBE_POS_X as usize * comptime!(TILE_ROWS);
    let tile_rows = comptime!(TILE_ROWS);
    let wide = comptime!(many.columns);
    let offset = Vector::new(comptime!(many.of.format.offset as f32));
    let format = comptime!(many.of.format);
    // a composed sum is long, and in a loop it is there once
    let short = comptime!(many.of.exact == Fma::Once);

    // four values to a vector, and the vectors of a place in the block side by side
    let mut ws = Shared::<[Vector<f32, N>]>::new_slice(comptime!(8 * TILE_ROWS));
    let mut xs = Shared::<[Vector<f32, N>]>::new_slice(comptime!(8 * many.columns));
    // of each row the scale, and what is added to its values with its factor
    let mut row_scales = Shared::<[f32]>::new_slice(comptime!(TILE_ROWS));
    let mut row_mins = Shared::<[f32]>::new_slice(comptime!(TILE_ROWS));
    let mut row_min_scales = Shared::<[f32]>::new_slice(comptime!(TILE_ROWS));
    // of each column the scale, the sum of its whole numbers, and the one times the other
    let mut scales = Shared::<[f32]>::new_slice(comptime!(many.columns));
    let mut column_sums = Shared::<[f32]>::new_slice(comptime!(many.columns));
    let mut scaled_sums = Shared::<[f32]>::new_slice(comptime!(many.columns));
    let mut acc = Array::<f32>::new(comptime!(PRODUCTS * many.of.planes));
    // the whole numbers of 256 values, of which a block of the device is a part
    let mut wholes = Array::<i32>::new(comptime!(PRODUCTS * many.of.planes));
    let mut mins = Array::<f32>::new(comptime!(PRODUCTS * many.of.planes));
    #[unroll]
    for i in 0..comptime!(PRODUCTS * many.of.planes) {
        acc[i] = 0.0f32;
        wholes[i] = 0i32;
        mins[i] = 0.0f32;
    }

    for block in 0..blocks {
        #[unroll]
        for turn in 0..comptime!(4 * TILE_ROWS * OWN / (ROW_UNITS * many.columns)) {
            let task = turn * comptime!(ROW_UNITS * many.columns / OWN) + unit;
            let (i, r) = (task % 4usize, task / 4usize);
            // past the last row that row is loaded, and its products are not used
            let row = min(row0 + r, rows - 1usize);
            let number = row * blocks + block;
            let one = load_block(quads, words, number, rows * blocks, format);
            let values = open(&one, i as u32, format);
            let of = load_scales(words, rows, blocks, row, block, format);
            ws[i * tile_rows + r] = (values.low - offset) * Vector::new(of.low);
            ws[(i + 4usize) * tile_rows + r] = (values.high - offset) * Vector::new(of.high);
            if i == 0usize {
                row_scales[r] = of.d;
                row_mins[r] = of.min;
                row_min_scales[r] = of.m;
            }
        }
        #[unroll]
        for plane in 0..comptime!(many.of.planes) {
            #[unroll]
            for turn in 0..comptime!(4 * OWN / ROW_UNITS) {
                let task = turn * comptime!(ROW_UNITS * many.columns / OWN) + unit;
                let (i, c) = (task % 4usize, task / 4usize);
                let one = load_input(x, (comptime!(plane * CHUNK_TOKENS) + c) * blocks + block);
                let values = open_input(&one, i as u32);
                xs[i * wide + c] = values.low;
                xs[(i + 4usize) * wide + c] = values.high;
                if i == 0usize {
                    scales[c] = one.scale;
                    column_sums[c] = one.low_sum + one.high_sum;
                    scaled_sums[c] = one.scaled_sum;
                }
            }
            sync_cube();
            let mut found = Array::<f32>::new(PRODUCTS);
            #[unroll]
            for at in 0..PRODUCTS {
                found[at] = 0.0f32;
            }
            for i in 0..8usize {
                let mut w = Array::<Vector<f32, N>>::new(comptime!(OWN));
                #[unroll]
                for k in 0..OWN {
                    w[k] = ws[i * tile_rows + comptime!(k * ROW_UNITS) + ux];
                }
                #[unroll]
                for j in 0..OWN {
                    let column = xs[i * wide + comptime!(j * many.columns / OWN) + uy];
                    #[unroll]
                    for k in 0..OWN {
                        found[comptime!(k * OWN + j)] += w[k].dot(column);
                    }
                }
            }
            let last = !comptime!(many.of.format.of_256()).runtime() || block % 8usize == 7usize;
            #[unroll(short)]
            for product in 0..PRODUCTS {
                let at = comptime!(plane * PRODUCTS) + product;
                let row = product / OWN * comptime!(ROW_UNITS) + ux;
                let column = product % OWN * comptime!(many.columns / OWN) + uy;
                let mut whole = found[product];
                let mut min = row_mins[row];
                if comptime!(many.of.format.of_256()) {
                    let exact = wholes[at] + i32::cast_from(whole);
                    whole = f32::cast_from(exact);
                    min = mins[at] + min * column_sums[column];
                    wholes[at] = select(last, 0i32, exact);
                    mins[at] = select(last, 0.0f32, min);
                }
                if last {
                    let scale = row_scales[row] * scales[column];
                    acc[at] = multiply_add(whole, scale, acc[at], comptime!(many.of.exact));
                    if comptime!(many.of.format.scales == Scales::HalfMin) {
                        let sum = scaled_sums[column];
                        acc[at] = multiply_add(min, sum, acc[at], comptime!(many.of.exact));
                    }
                    if comptime!(many.of.format.scales == Scales::ByteMin) {
                        let scale = row_min_scales[row] * scales[column];
                        acc[at] = multiply_add(min, scale, acc[at], comptime!(many.of.exact));
                    }
                }
            }
            sync_cube();
        }
    }
    #[unroll(short)]
    for product in 0..PRODUCTS {
        let row = row0 + product / OWN * comptime!(ROW_UNITS) + ux;
        let column = product % OWN * comptime!(many.columns / OWN) + uy;
        if row < rows {
            let mut sum = acc[product];
            if comptime!(many.of.planes == 2) {
                sum += acc[product + PRODUCTS];
            }
            put(out, column * stride + first + row, sum, comptime!(many.of));
        }
    }
}
