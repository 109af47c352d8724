//! Products of a matrix with many columns: a tile of 32 rows and 64 columns to a cube, two blocks of 32 values at a time in
//! 13 KB of shared memory.
//!
//! A unit has four rows and four columns of the tile. 64 columns are a whole step of a prompt, so that a matrix is read and
//! its blocks are opened once for it.

use super::decode::{load_pair, load_scales};
use crate::ops::cube::pack::{Format, Scales};
use cubecl::prelude::*;

/// Rows of a tile.
pub(in crate::ops::cube) const TILE_ROWS: usize = 32;
/// Columns of a tile.
pub(in crate::ops::cube) const TILE_COLUMNS: usize = 64;
/// Blocks that are in shared memory at a time.
const DEPTH: usize = 2;
/// Units of a cube along the rows and along the columns of a tile.
pub(in crate::ops::cube) const UNITS: (usize, usize) = (8, 16);
/// Rows and columns of a unit, each.
const OWN: usize = 4;

/// What a product of many columns is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Many {
    /// The words of the matrix.
    pub(in crate::ops::cube) format: Format,
    /// Planes of int8 of each column, which are summed.
    pub(in crate::ops::cube) planes: usize,
    /// Whether `add` is added to the product.
    pub(in crate::ops::cube) add: bool,
}

/// As [`super::matvec::multiply_few`], for any number of columns. Cubes are [`UNITS`], and there is one for each tile.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_many(
    w: &[u32],
    x: &[i32],
    x_scales: &[f32],
    add: &[f32],
    out: &mut [f32],
    rows: u32,
    blocks: u32,
    columns: u32,
    stride: u32,
    first: u32,
    #[comptime] many: Many,
) {
    let (rows, blocks, columns) = (rows as usize, blocks as usize, columns as usize);
    let (stride, first) = (stride as usize, first as usize);
    let (ux, uy) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let unit = uy * comptime!(UNITS.0) + ux;
    let row0 = CUBE_POS_X as usize * comptime!(TILE_ROWS);
    let column0 = CUBE_POS_Y as usize * comptime!(TILE_COLUMNS);
    let tile_rows = comptime!(TILE_ROWS);
    let wide = comptime!(TILE_COLUMNS * many.planes);

    let mut ws = Shared::<[i32]>::new_slice(comptime!(DEPTH * 8 * TILE_ROWS));
    let mut ds = Shared::<[f32]>::new_slice(comptime!(DEPTH * 3 * TILE_ROWS));
    let mut xs = Shared::<[i32]>::new_slice(comptime!(DEPTH * 8 * TILE_COLUMNS * many.planes));
    let mut ss = Shared::<[f32]>::new_slice(comptime!(DEPTH * 2 * TILE_COLUMNS * many.planes));
    let mut acc = Array::<f32>::new(comptime!(OWN * OWN));
    #[unroll]
    for i in 0..comptime!(OWN * OWN) {
        acc[i] = 0.0f32;
    }

    let mut base = 0usize;
    while base < blocks {
        #[unroll]
        for turn in 0..comptime!(4 * DEPTH * TILE_ROWS / (UNITS.0 * UNITS.1)) {
            let task = turn * comptime!(UNITS.0 * UNITS.1) + unit;
            let (i, depth) = (task % 4usize, task / 4usize % DEPTH);
            let r = task / comptime!(4 * DEPTH);
            // past the last row or block the last one is loaded, and its products are not used or have a scale of zero
            let row = min(row0 + r, rows - 1usize);
            let block = min(base + depth, blocks - 1usize);
            let pair = load_pair(w, rows, blocks, row, block, i, comptime!(many.format));
            ws[(depth * 8usize + i) * tile_rows + r] = pair.low;
            ws[(depth * 8usize + i + 4usize) * tile_rows + r] = pair.high;
            if i == 0usize {
                let scales = load_scales(w, rows, blocks, row, block, comptime!(many.format));
                ds[depth * 3usize * tile_rows + r] = scales.low;
                ds[(depth * 3usize + 1usize) * tile_rows + r] = scales.high;
                ds[(depth * 3usize + 2usize) * tile_rows + r] = scales.min;
            }
        }
        #[unroll]
        for turn in 0..comptime!(DEPTH * TILE_COLUMNS * many.planes / (UNITS.0 * UNITS.1)) {
            let task = turn * comptime!(UNITS.0 * UNITS.1) + unit;
            let (depth, c) = (task / wide, task % wide);
            let plane = c / comptime!(TILE_COLUMNS);
            let column = column0 + c % comptime!(TILE_COLUMNS);
            let block = base + depth;
            let there = column < columns && block < blocks;
            let number = (plane * columns + min(column, columns - 1usize)) * blocks
                + min(block, blocks - 1usize);
            for i in 0..8usize {
                xs[(depth * 8usize + i) * wide + c] = x[number * 8usize + i];
            }
            ss[depth * 2usize * wide + c] = select(there, x_scales[number * 2usize], 0.0f32);
            ss[(depth * 2usize + 1usize) * wide + c] = x_scales[number * 2usize + 1usize];
        }
        sync_cube();
        for depth in 0..DEPTH {
            for plane in 0..comptime!(many.planes) {
                let c = plane * comptime!(TILE_COLUMNS) + uy;
                let mut low = Array::<i32>::new(comptime!(OWN * OWN));
                let mut high = Array::<i32>::new(comptime!(OWN * OWN));
                #[unroll]
                for at in 0..comptime!(OWN * OWN) {
                    low[at] = 0i32;
                    high[at] = 0i32;
                }
                for i in 0..4usize {
                    let (w_at, x_at) = (
                        (depth * 8usize + i) * tile_rows + ux,
                        (depth * 8usize + i) * wide + c,
                    );
                    #[unroll]
                    for j in 0..OWN {
                        let low_x = xs[x_at + comptime!(j * UNITS.1)];
                        let high_x = xs[x_at + 4usize * wide + comptime!(j * UNITS.1)];
                        #[unroll]
                        for k in 0..OWN {
                            let at = comptime!(k * OWN + j);
                            let w_row = w_at + comptime!(k * UNITS.0);
                            low[at] = dp4a(ws[w_row], low_x, low[at]);
                            high[at] = dp4a(ws[w_row + comptime!(4 * TILE_ROWS)], high_x, high[at]);
                        }
                    }
                }
                #[unroll]
                for j in 0..OWN {
                    let s_at = depth * 2usize * wide + c + comptime!(j * UNITS.1);
                    let (scale, sum) = (ss[s_at], ss[s_at + wide]);
                    #[unroll]
                    for k in 0..OWN {
                        let at = comptime!(k * OWN + j);
                        let d_at = depth * comptime!(3 * TILE_ROWS) + comptime!(k * UNITS.0) + ux;
                        if comptime!(many.format.scales == Scales::Sixteens) {
                            let both = f32::cast_from(low[at]) * ds[d_at]
                                + f32::cast_from(high[at]) * ds[d_at + tile_rows];
                            acc[at] = fma(both, scale, acc[at]);
                        } else {
                            let both = f32::cast_from(low[at] + high[at]);
                            acc[at] = fma(both, ds[d_at] * scale, acc[at]);
                        }
                        if comptime!(
                            many.format.scales == Scales::HalfMin
                                || many.format.scales == Scales::ByteMin
                        ) {
                            acc[at] =
                                fma(ds[d_at + comptime!(2 * TILE_ROWS)], scale * sum, acc[at]);
                        }
                    }
                }
            }
        }
        sync_cube();
        base += DEPTH;
    }
    #[unroll]
    for k in 0..OWN {
        #[unroll]
        for j in 0..OWN {
            let row = row0 + comptime!(k * UNITS.0) + ux;
            let column = column0 + comptime!(j * UNITS.1) + uy;
            if row < rows && column < columns {
                let at = column * stride + first + row;
                if comptime!(many.add) {
                    out[at] = acc[comptime!(k * OWN + j)] + add[at];
                } else {
                    out[at] = acc[comptime!(k * OWN + j)];
                }
            }
        }
    }
}
