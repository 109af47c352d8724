//! Products of a matrix with few columns: a group of units to a few rows, eight values of a row to a unit at a time.
//!
//! Neighbouring units load neighbouring words. A unit keeps its values of a few rows in registers and takes the columns one
//! after the other, so that each is loaded once for all rows. Sums of a row are in as many units as its group has. They are
//! added by the plane, or in shared memory where planes may differ in width or cannot add.

use super::decode::{load_pair, load_scales};
use crate::ops::cube::pack::{Format, Scales};
use cubecl::prelude::*;

/// What a product of few columns is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Few {
    /// The words of the matrix.
    pub(in crate::ops::cube) format: Format,
    /// Columns of the product.
    pub(in crate::ops::cube) columns: usize,
    /// Planes of int8 of each column, which are summed.
    pub(in crate::ops::cube) planes: usize,
    /// Rows of a group.
    pub(in crate::ops::cube) rows: usize,
    /// Units of a group.
    pub(in crate::ops::cube) lanes: usize,
    /// Groups of a cube.
    pub(in crate::ops::cube) groups: usize,
    /// Whether a group is a plane, so that the plane adds its sums.
    pub(in crate::ops::cube) plane_sum: bool,
    /// Whether `add` is added to the product.
    pub(in crate::ops::cube) add: bool,
}

/// `out[c * stride + first + r] = row r . x[c]`, plus the same place of `add` where it is asked for. `x` and `x_scales` are
/// those of [`super::quantize`]. Cubes are `lanes` by `groups` units, and there is one for every `groups * rows` rows.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_few(
    w: &[u32],
    x: &[i32],
    x_scales: &[f32],
    add: &[f32],
    out: &mut [f32],
    rows: u32,
    blocks: u32,
    stride: u32,
    first: u32,
    #[comptime] few: Few,
) {
    let (rows, blocks) = (rows as usize, blocks as usize);
    let (stride, first) = (stride as usize, first as usize);
    let lane = UNIT_POS_X as usize;
    let group = UNIT_POS_Y as usize;
    let own = comptime!(few.rows);
    let columns = comptime!(few.columns);
    let lanes = comptime!(few.lanes);
    let sums = comptime!(few.rows * few.columns);
    let start = (CUBE_POS_X as usize * comptime!(few.groups) + group) * own;

    let mut acc = Array::<f32>::new(comptime!(few.rows * few.columns));
    #[unroll]
    for i in 0..sums {
        acc[i] = 0.0f32;
    }
    let mut task = lane;
    while task < 4usize * blocks {
        let (block, word) = (task / 4usize, task % 4usize);
        let mut q = Array::<i32>::new(comptime!(2 * few.rows));
        let mut d = Array::<f32>::new(comptime!(3 * few.rows));
        #[unroll]
        for r in 0..own {
            // a group that reaches past the last row computes that row again
            let row = min(start + r, rows - 1usize);
            let pair = load_pair(w, rows, blocks, row, block, word, comptime!(few.format));
            q[comptime!(2 * r)] = pair.low;
            q[comptime!(2 * r + 1)] = pair.high;
            let scales = load_scales(w, rows, blocks, row, block, comptime!(few.format));
            d[comptime!(3 * r)] = scales.low;
            d[comptime!(3 * r + 1)] = scales.high;
            d[comptime!(3 * r + 2)] = scales.min;
        }
        #[unroll]
        for c in 0..columns {
            #[unroll]
            for plane in 0..comptime!(few.planes) {
                let number = comptime!(plane * few.columns + c) * blocks + block;
                let low_x = x[number * 8usize + word];
                let high_x = x[number * 8usize + word + 4usize];
                let scale = x_scales[number * 2usize];
                // the block's minimum is counted once
                let sum = select(word == 0usize, x_scales[number * 2usize + 1usize], 0.0f32);
                #[unroll]
                for r in 0..own {
                    let at = comptime!(r * few.columns + c);
                    let low = dp4a(q[comptime!(2 * r)], low_x, 0i32);
                    if comptime!(few.format.scales == Scales::Sixteens) {
                        let high = dp4a(q[comptime!(2 * r + 1)], high_x, 0i32);
                        let both = f32::cast_from(low) * d[comptime!(3 * r)]
                            + f32::cast_from(high) * d[comptime!(3 * r + 1)];
                        acc[at] = fma(both, scale, acc[at]);
                    } else {
                        let both = dp4a(q[comptime!(2 * r + 1)], high_x, low);
                        acc[at] = fma(f32::cast_from(both), d[comptime!(3 * r)] * scale, acc[at]);
                    }
                    if comptime!(
                        few.format.scales == Scales::HalfMin
                            || few.format.scales == Scales::ByteMin
                    ) {
                        acc[at] = fma(d[comptime!(3 * r + 2)], scale * sum, acc[at]);
                    }
                }
            }
        }
        task += lanes;
    }
    if comptime!(few.plane_sum) {
        #[unroll]
        for i in 0..sums {
            let sum = plane_sum(acc[i]);
            let row = start + comptime!(i / few.columns);
            if lane == 0usize && row < rows {
                let at = comptime!(i % few.columns) * stride + first + row;
                if comptime!(few.add) {
                    out[at] = sum + add[at];
                } else {
                    out[at] = sum;
                }
            }
        }
    } else {
        let mut parts =
            Shared::<[f32]>::new_slice(comptime!(few.groups * few.lanes * few.rows * few.columns));
        #[unroll]
        for i in 0..sums {
            parts[(group * sums + i) * lanes + lane] = acc[i];
        }
        sync_cube();
        let mut i = lane;
        while i < sums {
            let mut sum = 0.0f32;
            for part in 0..lanes {
                sum += parts[(group * sums + i) * lanes + part];
            }
            let row = start + i / columns;
            if row < rows {
                let at = (i % columns) * stride + first + row;
                if comptime!(few.add) {
                    out[at] = sum + add[at];
                } else {
                    out[at] = sum;
                }
            }
            i += lanes;
        }
    }
}
