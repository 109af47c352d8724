//! Products of a matrix with few columns: a group of units to a few rows, a block of 32 values of each to a unit at a time.
//!
//! Neighbouring units load neighbouring blocks, and a block's quants are one load of 16 bytes, or two. What a unit opens of a
//! block is multiplied with all columns, and what it loads of a column with all its rows. Sums of a row are in as many units
//! as its group has. They are added by the plane, or in shared memory where planes may differ in width or cannot add.

use super::decode::{BlockWords, load_block, load_scales, open};
use crate::ops::cube::pack::{Format, Scales};
use cubecl::prelude::*;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) enum Finish {
    /// It is what the kernel writes.
    Store,
    /// It is added to what is there.
    Add,
    /// It is multiplied with SiLU of what is there: `gate / (1 + e^-gate) * product`.
    Gate,
}

/// What a product of few columns is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Few {
    /// The words of the matrix.
    pub(in crate::ops::cube) format: Format,
    /// Columns of the product.
    pub(in crate::ops::cube) columns: usize,
    /// Rows of a group.
    pub(in crate::ops::cube) rows: usize,
    /// Units of a group.
    pub(in crate::ops::cube) group_units: usize,
    /// Groups of a cube.
    pub(in crate::ops::cube) groups: usize,
    /// Whether a group is a plane, so that the plane adds its sums.
    pub(in crate::ops::cube) plane_sum: bool,
    /// What becomes of the product.
    pub(in crate::ops::cube) finish: Finish,
}

/// Puts a product in its place.
#[cube]
pub(in crate::ops::cube) fn put(
    out: &mut [f32],
    at: usize,
    product: f32,
    #[comptime] finish: Finish,
) {
    if comptime!(finish == Finish::Store) {
        out[at] = product;
    }
    if comptime!(finish == Finish::Add) {
        out[at] += product;
    }
    if comptime!(finish == Finish::Gate) {
        let gate = out[at];
        out[at] = gate / (1.0f32 + (-gate).exp()) * product;
    }
}

/// `out[c * stride + first + r] = row r . x[c]`, or what [`Finish`] makes of it. `quads` and `words` are both the matrix, `x`
/// is `[columns][32 * blocks]`. Cubes are `group_units` by `groups` units, and there is one for every `groups * rows` rows.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_few<N: Size>(
    quads: &[Vector<u32, N>],
    words: &[u32],
    x: &[Vector<f32, N>],
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
    let group_units = comptime!(few.group_units);
    let sums = comptime!(few.rows * few.columns);
    let of_sixteen = comptime!(few.format.scales == Scales::ByteOf16);
    let start = (CUBE_POS_X as usize * comptime!(few.groups) + group) * own;
    let none = Vector::<f32, N>::new(0.0f32);

    let mut acc = Array::<f32>::new(comptime!(few.rows * few.columns));
    #[unroll]
    for i in 0..sums {
        acc[i] = 0.0f32;
    }
    let mut block = lane;
    while block < blocks {
        // of each row and column the sums over the first sixteen values of a block and over the others, which are one sum
        // unless they are scaled apart; and of each column the sums of its own values, for what is the same in all of a block
        let mut low = Array::<Vector<f32, N>>::new(comptime!(few.rows * few.columns));
        let mut high = Array::<Vector<f32, N>>::new(comptime!(few.rows * few.columns));
        let mut low_x = Array::<Vector<f32, N>>::new(comptime!(few.columns));
        let mut high_x = Array::<Vector<f32, N>>::new(comptime!(few.columns));
        #[unroll]
        for i in 0..sums {
            low[i] = none;
            high[i] = none;
        }
        #[unroll]
        for c in 0..columns {
            low_x[c] = none;
            high_x[c] = none;
        }
        let mut loaded = Sequence::<BlockWords<N>>::new();
        #[unroll]
        for r in 0..own {
            // a group that reaches past the last row computes that row again
            let row = min(start + r, rows - 1usize);
            let number = row * blocks + block;
            let one = load_block(quads, words, number, rows * blocks, comptime!(few.format));
            loaded.push(one);
        }
        for i in 0..4u32 {
            let mut now_low = Array::<Vector<f32, N>>::new(comptime!(few.columns));
            let mut now_high = Array::<Vector<f32, N>>::new(comptime!(few.columns));
            #[unroll]
            for c in 0..columns {
                let at = (c * blocks + block) * 8usize + i as usize;
                let (l, h) = (x[at], x[at + 4usize]);
                low_x[c] += l;
                high_x[c] += h;
                now_low[c] = l;
                now_high[c] = h;
            }
            #[unroll]
            for r in 0..own {
                let values = open(loaded.index(r), i, comptime!(few.format));
                #[unroll]
                for c in 0..columns {
                    let at = comptime!(r * few.columns + c);
                    low[at] = fma(values.low, now_low[c], low[at]);
                    high[at] = fma(values.high, now_high[c], high[at]);
                }
            }
        }
        #[unroll]
        for r in 0..own {
            let row = min(start + r, rows - 1usize);
            let scales = load_scales(words, rows, blocks, row, block, comptime!(few.format));
            #[unroll]
            for c in 0..columns {
                let at = comptime!(r * few.columns + c);
                let offset = comptime!(few.format.offset as f32);
                if of_sixteen {
                    let l = Vector::vector_sum(low[at]) - offset * Vector::vector_sum(low_x[c]);
                    let h = Vector::vector_sum(high[at]) - offset * Vector::vector_sum(high_x[c]);
                    acc[at] += l * scales.low + h * scales.high;
                } else {
                    let sum = Vector::vector_sum(low[at] + high[at]);
                    let all = Vector::vector_sum(low_x[c] + high_x[c]);
                    acc[at] += (sum - offset * all) * scales.low + all * scales.min;
                }
            }
        }
        block += group_units;
    }
    if comptime!(few.plane_sum) {
        #[unroll]
        for i in 0..sums {
            let sum = plane_sum(acc[i]);
            let row = start + comptime!(i / few.columns);
            if lane == 0usize && row < rows {
                let at = comptime!(i % few.columns) * stride + first + row;
                put(out, at, sum, comptime!(few.finish));
            }
        }
    } else {
        let mut parts = Shared::<[f32]>::new_slice(comptime!(
            few.groups * few.group_units * few.rows * few.columns
        ));
        #[unroll]
        for i in 0..sums {
            parts[(group * sums + i) * group_units + lane] = acc[i];
        }
        sync_cube();
        let mut i = lane;
        while i < sums {
            let mut sum = 0.0f32;
            for part in 0..group_units {
                sum += parts[(group * sums + i) * group_units + part];
            }
            let row = start + i / columns;
            if row < rows {
                put(
                    out,
                    (i % columns) * stride + first + row,
                    sum,
                    comptime!(few.finish),
                );
            }
            i += group_units;
        }
    }
}
