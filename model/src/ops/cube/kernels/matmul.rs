//! Products of a matrix with many columns: a tile of 32 rows and 16 or 64 columns to a cube, a block of 32 values at a time in
//! 12 KB of shared memory.
//!
//! A unit has four rows and four columns of the tile, and goes through a block in steps of four values. 64 columns are a whole
//! step of a prompt, so that a matrix is read and its blocks are opened once for it.

use super::decode::{load_block, load_scales, open};
use super::matvec::{Finish, put};
use crate::ops::cube::pack::Format;
use cubecl::prelude::*;

/// Rows of a tile.
pub(in crate::ops::cube) const TILE_ROWS: usize = 32;
/// Rows and columns of a unit, each.
pub(in crate::ops::cube) const OWN: usize = 4;
/// Units of a cube along the rows of a tile.
pub(in crate::ops::cube) const ROW_UNITS: usize = TILE_ROWS / OWN;

/// What a product of many columns is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Many {
    /// The words of the matrix.
    pub(in crate::ops::cube) format: Format,
    /// Columns of a tile.
    pub(in crate::ops::cube) columns: usize,
    /// What becomes of the product.
    pub(in crate::ops::cube) finish: Finish,
}

/// As [`super::matvec::multiply_few`], for as many columns as a tile has. Cubes are [`ROW_UNITS`] by `columns / OWN` units, and
/// there is one for each tile.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_many<N: Size>(
    quads: &[Vector<u32, N>],
    words: &[u32],
    x: &[Vector<f32, N>],
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
    let offset = Vector::new(comptime!(many.format.offset as f32));

    // four values to a vector, and the vectors of a place in the block side by side
    let mut ws = Shared::<[Vector<f32, N>]>::new_slice(comptime!(8 * TILE_ROWS));
    let mut xs = Shared::<[Vector<f32, N>]>::new_slice(comptime!(8 * many.columns));
    let mut acc = Array::<f32>::new(comptime!(OWN * OWN));
    #[unroll]
    for i in 0..comptime!(OWN * OWN) {
        acc[i] = 0.0f32;
    }

    for block in 0..blocks {
        #[unroll]
        for turn in 0..comptime!(4 * TILE_ROWS * OWN / (ROW_UNITS * many.columns)) {
            let task = turn * comptime!(ROW_UNITS * many.columns / OWN) + unit;
            let (i, r) = (task % 4usize, task / 4usize);
            // past the last row that row is loaded, and its products are not used
            let row = min(row0 + r, rows - 1usize);
            let number = row * blocks + block;
            let one = load_block(quads, words, number, rows * blocks, comptime!(many.format));
            let values = open(&one, i as u32, comptime!(many.format));
            let scales = load_scales(words, rows, blocks, row, block, comptime!(many.format));
            let min = Vector::new(scales.min);
            ws[i * tile_rows + r] = (values.low - offset) * Vector::new(scales.low) + min;
            ws[(i + 4usize) * tile_rows + r] =
                (values.high - offset) * Vector::new(scales.high) + min;
        }
        #[unroll]
        for turn in 0..comptime!(8 * OWN / ROW_UNITS) {
            let task = turn * comptime!(ROW_UNITS * many.columns / OWN) + unit;
            let (i, c) = (task % 8usize, task / 8usize);
            xs[i * wide + c] = x[(c * blocks + block) * 8usize + i];
        }
        sync_cube();
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
                    let at = comptime!(k * OWN + j);
                    acc[at] += w[k].dot(column);
                }
            }
        }
        sync_cube();
    }
    #[unroll]
    for k in 0..OWN {
        #[unroll]
        for j in 0..OWN {
            let row = row0 + comptime!(k * ROW_UNITS) + ux;
            let column = comptime!(j * many.columns / OWN) + uy;
            if row < rows {
                let at = column * stride + first + row;
                put(out, at, acc[comptime!(k * OWN + j)], comptime!(many.finish));
            }
        }
    }
}
