//! Products of a matrix with few columns: a group of units to a few rows, a block of 32 values of each to a unit at a time.
//!
//! Neighbouring units load neighbouring blocks, and a block's quants are one load of 16 bytes, or two. What a unit opens of a
//! block is multiplied with all columns, and what it loads of a column with all its rows.
//!
//! The values of both are whole numbers, and their products' sums stay below 2^24. So f32 holds them exactly, in whatever order
//! they are added, at a multiplication and an addition for each. An integer dot product would do with fewer, but CubeCL
//! writes none in WGSL, only sixteen operations instead for four values. What is not whole is added in the order of the
//! row, as on the host: a unit adds up what as many units have found as there are in a group. So the sums are the host's to
//! the last bit, and do not depend on what is computed beside them.

use super::arithmetic::{Fma, divide, exp, multiply_add};
use super::decode::{
    BlockWords, InputBlock, load_block, load_input, load_scales, open, open_input,
};
use crate::ops::cube::pack::{Format, Scales};
use cubecl::prelude::*;
use glowplug_firmware_config::limits::CHUNK_TOKENS;

/// Units of a group, which have as many blocks at a time.
pub(in crate::ops::cube) const GROUP_UNITS: usize = 16;
/// Groups of a cube.
pub(in crate::ops::cube) const GROUPS: usize = 4;

/// Units of a cube whose units have a row each.
pub(in crate::ops::cube) const ALONE_UNITS: u32 = 64;

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

/// What every product is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Factors {
    /// The words of the matrix.
    pub(in crate::ops::cube) format: Format,
    /// Planes of the activations.
    pub(in crate::ops::cube) planes: usize,
    /// What becomes of the product.
    pub(in crate::ops::cube) finish: Finish,
    /// How the device rounds a product and a sum together.
    pub(in crate::ops::cube) exact: Fma,
    /// How the host's level does in SiLU.
    pub(in crate::ops::cube) host: Fma,
}

/// What a product of few columns is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Few {
    pub(in crate::ops::cube) of: Factors,
    /// Columns of the product.
    pub(in crate::ops::cube) columns: usize,
    /// Rows of a group.
    pub(in crate::ops::cube) rows: usize,
}

impl Few {
    /// Products of a group's rows and of the columns in all planes.
    const fn sums(&self) -> usize {
        self.rows * self.columns * self.of.planes
    }
}

/// Puts a product in its place.
#[cube]
pub(in crate::ops::cube) fn put(out: &mut [f32], at: usize, product: f32, #[comptime] of: Factors) {
    if comptime!(of.finish == Finish::Store) {
        out[at] = product;
    }
    if comptime!(of.finish == Finish::Add) {
        out[at] += product;
    }
    if comptime!(of.finish == Finish::Gate) {
        let gate = out[at];
        let silu = divide(
            gate,
            1.0f32 + exp(-gate, comptime!(of.host)),
            comptime!(of.exact),
        );
        out[at] = silu * product;
    }
}

/// `out[c * stride + first + r] = row r . x[c]`, or what [`Finish`] makes of it. `quads` and `words` are both the matrix, `x` is
/// what [`super::quantize`] makes of columns of `32 * blocks` values. Cubes are [`GROUP_UNITS`] times [`GROUPS`] units, and
/// there is one for every `GROUPS * few.rows` rows.
#[cube(launch)]
pub(in crate::ops::cube) fn multiply_few<N: Size>(
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
    let unit = UNIT_POS_X as usize;
    let own = comptime!(few.rows);
    let inputs = comptime!(few.columns * few.of.planes);
    let sums = comptime!(few.sums());
    let format = comptime!(few.of.format);
    let start = (CUBE_POS_X as usize * GROUPS + unit / GROUP_UNITS) * own;

    // for each unit and product what it found of a block: a whole number and its factor, and the same for the minimum
    let mut wholes = Shared::<[f32]>::new_slice(comptime!(GROUPS * GROUP_UNITS * few.sums()));
    let mut scales = Shared::<[f32]>::new_slice(comptime!(GROUPS * GROUP_UNITS * few.sums()));
    let of_mins = comptime!(if few.of.format.has_min() {
        GROUPS * GROUP_UNITS * few.sums()
    } else {
        1
    });
    let mut mins = Shared::<[f32]>::new_slice(of_mins);
    let mut min_scales = Shared::<[f32]>::new_slice(of_mins);

    // the first units add up a row and a column each
    let products = comptime!(few.rows * few.columns);
    let (adds_group, adds) = (unit / products, unit % products);
    let mut acc = Array::<f32>::new(comptime!(few.of.planes));
    #[unroll]
    for plane in 0..comptime!(few.of.planes) {
        acc[plane] = 0.0f32;
    }
    let mut from = 0usize;
    while from < blocks {
        let block = from + unit % GROUP_UNITS;
        if block < blocks {
            let mut low = Array::<f32>::new(comptime!(few.sums()));
            let mut high = Array::<f32>::new(comptime!(few.sums()));
            #[unroll]
            for i in 0..sums {
                low[i] = 0.0f32;
                high[i] = 0.0f32;
            }
            let mut loaded = Sequence::<BlockWords<N>>::new();
            #[unroll]
            for r in 0..own {
                // a group that reaches past the last row computes that row again
                let row = min(start + r, rows - 1usize);
                let number = row * blocks + block;
                loaded.push(load_block(quads, words, number, rows * blocks, format));
            }
            let mut columns = Sequence::<InputBlock<N>>::new();
            #[unroll]
            for c in 0..inputs {
                let column = comptime!(c / few.columns * CHUNK_TOKENS + c % few.columns);
                columns.push(load_input(x, column * blocks + block));
            }
            for i in 0..4u32 {
                let mut x_low =
                    Array::<Vector<f32, N>>::new(comptime!(few.columns * few.of.planes));
                let mut x_high =
                    Array::<Vector<f32, N>>::new(comptime!(few.columns * few.of.planes));
                #[unroll]
                for c in 0..inputs {
                    let values = open_input(columns.index(c), i);
                    x_low[c] = values.low;
                    x_high[c] = values.high;
                }
                #[unroll]
                for r in 0..own {
                    let values = open(loaded.index(r), i, format);
                    #[unroll]
                    for c in 0..inputs {
                        let at = comptime!(r * few.columns * few.of.planes + c);
                        low[at] += values.low.dot(x_low[c]);
                        high[at] += values.high.dot(x_high[c]);
                    }
                }
            }
            #[unroll]
            for r in 0..own {
                let row = min(start + r, rows - 1usize);
                let of = load_scales(words, rows, blocks, row, block, format);
                #[unroll]
                for c in 0..inputs {
                    let at = comptime!(r * few.columns * few.of.planes + c);
                    let column = columns.index(c);
                    let offset = comptime!(few.of.format.offset as f32);
                    let to = unit * sums + at;
                    wholes[to] = of.low * (low[at] - offset * column.low_sum)
                        + of.high * (high[at] - offset * column.high_sum);
                    scales[to] = of.d * column.scale;
                    if comptime!(few.of.format.scales == Scales::HalfMin) {
                        mins[to] = of.min;
                        min_scales[to] = column.scaled_sum;
                    }
                    if comptime!(few.of.format.scales == Scales::ByteMin) {
                        mins[to] = of.min * (column.low_sum + column.high_sum);
                        min_scales[to] = of.m * column.scale;
                    }
                }
            }
        }
        sync_cube();
        if adds_group < GROUPS {
            let found = min(blocks - from, GROUP_UNITS);
            #[unroll]
            for plane in 0..comptime!(few.of.planes) {
                let column = adds % comptime!(few.columns) + comptime!(plane * few.columns);
                let sum = adds / comptime!(few.columns) * inputs + column;
                let mut sum_so_far = acc[plane];
                let mut i = 0usize;
                while i < found {
                    let at = (adds_group * GROUP_UNITS + i) * sums + sum;
                    let mut whole = wholes[at];
                    if comptime!(few.of.format.of_256()) {
                        // of 256 values the sum may be above 2^24
                        let mut exact = 0i32;
                        for k in 0..8usize {
                            exact += i32::cast_from(wholes[at + k * sums]);
                        }
                        whole = f32::cast_from(exact);
                    }
                    sum_so_far =
                        multiply_add(whole, scales[at], sum_so_far, comptime!(few.of.exact));
                    if comptime!(few.of.format.has_min()) {
                        let mut min = mins[at];
                        if comptime!(few.of.format.of_256()) {
                            for k in 1..8usize {
                                min += mins[at + k * sums];
                            }
                        }
                        sum_so_far =
                            multiply_add(min, min_scales[at], sum_so_far, comptime!(few.of.exact));
                    }
                    i += comptime!(if few.of.format.of_256() {
                        8usize
                    } else {
                        1usize
                    });
                }
                acc[plane] = sum_so_far;
            }
        }
        sync_cube();
        from += GROUP_UNITS;
    }
    let row = (CUBE_POS_X as usize * GROUPS + adds_group) * own + adds / comptime!(few.columns);
    if adds_group < GROUPS && row < rows {
        let mut product = acc[0usize];
        if comptime!(few.of.planes == 2) {
            product += acc[1usize];
        }
        let at = adds % comptime!(few.columns) * stride + first + row;
        put(out, at, product, comptime!(few.of));
    }
}

/// As [`multiply_few`], where a processor computes: a row to a unit, which needs no other, so that there is no shared memory and
/// no barrier. Such a device has no use for the loads of neighbours, and compiles a kernel with barriers for seconds. There is a
/// cube along x for every [`ALONE_UNITS`] rows, and one along y for every `few.columns` columns.
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
    let row = CUBE_POS_X as usize * comptime!(ALONE_UNITS as usize) + UNIT_POS_X as usize;
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
                let column = column0 + comptime!(c / few.columns * CHUNK_TOKENS + c % few.columns);
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
