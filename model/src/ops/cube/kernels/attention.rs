//! Causal attention over the pages: a query head of a row to a cube, 64 positions at a time, in the order of the host's level.
//!
//! Scores go to the memory of the device, because the host's softmax knows the highest before it weighs the first: a cube
//! writes them, and reads back what it wrote itself. For scores each unit has a position, for the sum of values it has
//! values of the head. Keys and values are read again for each query head of a group, from the cache of the device.

use super::arithmetic::{Fma, divide, exp, fold, keep, multiply_add, whole};
use super::heads::Heads;
use super::step_words::{POSITIONS, ROWS, TABLES};
use super::stored::{UNITS, hadamard, head_words, load_byte, load_four, load_scale, load_value};
use crate::quant::Isa;
use cubecl::prelude::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::{PAGE_TOKENS, STREAMS_MAX};

/// The largest head: each unit has four of its values.
pub(in crate::ops::cube) const HEAD_MAX: usize = 4 * UNITS as usize;
/// Rows of a step that are computed side by side, each with scores of its own.
pub(in crate::ops::cube) const ROWS_AT_ONCE: usize = STREAMS_MAX;

/// The score of no position: no infinity, which WGSL has no number for. Its weight is zero beside any score.
const LOWEST: f32 = -1e38;
/// A score this far below the highest has no weight on the host.
const NO_WEIGHT: f32 = -60.0;
/// Running sums of the weights.
const SUMS: usize = 16;
/// Positions whose weights are rounded together, where they are.
const ROUNDED: usize = 2 * UNITS as usize;
/// The largest whole number of a query, and of a weight.
const QUERY_MAX: f32 = 32_512.0;
const WEIGHT_MAX: f32 = 65_535.0;

/// How a level of the host multiplies queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) enum Dots {
    /// In sixteen running sums, folded in halves; a head of more than 128 values in parts of as many.
    Halves,
    /// In sixteen, of which neighbours of four are added first.
    Fours,
    /// In eight, likewise, but in the order that they lie.
    Eight,
    /// In four running sums, of which neighbours are added first.
    Four,
    /// As whole numbers of 16 bits and the bytes that are stored.
    Whole,
}

/// What attention is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Attention {
    /// The heads and their pages.
    pub(in crate::ops::cube) h: Heads,
    /// How scores are summed.
    pub(in crate::ops::cube) dots: Dots,
    /// Whether weights become whole numbers of 16 bits.
    pub(in crate::ops::cube) whole_values: bool,
}

impl Attention {
    /// As the attention of a level of the host.
    pub(in crate::ops::cube) fn new(h: Heads, isa: Isa) -> Self {
        let common = matches!(h.size, 64 | 96 | 128);
        let rounds = isa == Isa::Avx512Vnni && common;
        let dots = match isa {
            Isa::Avx512Vnni if rounds && h.keys == KvFormat::Q8_0 => Dots::Whole,
            Isa::Avx512Vnni if common => Dots::Fours,
            Isa::Avx2 | Isa::AvxVnni if common => Dots::Eight,
            Isa::Neon | Isa::Dotprod | Isa::I8mm => Dots::Four,
            _ => Dots::Halves,
        };
        Self {
            h,
            dots,
            whole_values: rounds && h.values == KvFormat::Q8_0,
        }
    }

    /// Vectors of four running sums, of which each has every so manieth word of a head.
    const fn vectors(&self) -> usize {
        match self.dots {
            Dots::Halves | Dots::Fours => 4,
            Dots::Eight => 2,
            Dots::Four | Dots::Whole => 1,
        }
    }

    /// Words of a head whose sums are folded together.
    const fn part_words(&self) -> usize {
        match self.dots {
            Dots::Halves if self.h.size > 128 => 32,
            _ => self.h.size / 4,
        }
    }
}

/// Puts the result in the place of `q`, which is `[rows][heads * size]`. `arena` has this layer's part of every page, and
/// `scores` has room for `positions` of each head in [`ROWS_AT_ONCE`] rows. There are as many cubes along y as rows, or as that.
#[cube(launch)]
pub(in crate::ops::cube) fn attend(
    q: &mut [f32],
    step: &[u32],
    arena: &[u32],
    scores: &mut [f32],
    scale: f32,
    positions: u32,
    #[comptime] a: Attention,
) {
    let h = comptime!(a.h);
    let (exact, host) = comptime!((a.h.exact, a.h.host));
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    let number = CUBE_POS_X as usize;
    let size = comptime!(h.size);
    let own = number / comptime!(h.heads / h.kv_heads);
    let k_at = own * comptime!(head_words(h.keys, h.size));
    let v_at = comptime!(h.key_words()) + own * comptime!(head_words(h.values, h.size));
    let mine = (CUBE_POS_Y as usize * comptime!(h.heads) + number) * positions as usize;
    let mut query = Shared::<[f32]>::new_slice(comptime!(h.size));
    let mut queries =
        Shared::<[i32]>::new_slice(comptime!(if a.dots == Dots::Whole { h.size } else { 1 }));
    let mut weights = Shared::<[f32]>::new_slice(ROUNDED);
    let rounded = comptime!(if a.whole_values {
        ROUNDED * (h.size / 32)
    } else {
        1
    });
    let mut products = Shared::<[f32]>::new_slice(rounded);
    let mut numbers = Shared::<[i32]>::new_slice(rounded);
    let mut largest = Shared::<[f32]>::new_slice(comptime!(h.size.div_ceil(32)));

    let mut row = CUBE_POS_Y as usize;
    let rows = step[ROWS] as usize;
    while row < rows {
        let from = (row * comptime!(h.heads) + number) * size;
        let len = step[comptime!(POSITIONS) + row] as usize + 1usize;
        let table = step[comptime!(TABLES) + row] as usize;
        sync_cube();
        let mut i = unit;
        while i < size {
            query[i] = q[from + i];
            i += units;
        }
        sync_cube();
        if comptime!(h.keys != KvFormat::F16) {
            hadamard(&mut query, size);
        }
        let mut factor = scale;
        if comptime!(a.dots == Dots::Whole) {
            let mut most = 0.0f32;
            for i in 0..size {
                most = max(most, query[i].abs());
            }
            let inverse = whole_inverse(most, QUERY_MAX, exact);
            let mut i = unit;
            while i < size {
                queries[i] = whole(query[i] * inverse);
                i += units;
            }
            factor = divide(most, QUERY_MAX, exact) * scale;
            sync_cube();
        }

        let mut highest = LOWEST.runtime();
        let mut t = unit;
        while t < len {
            let page =
                step[table + t / comptime!(PAGE_TOKENS)] as usize * comptime!(h.page_words());
            let slot = t % comptime!(PAGE_TOKENS);
            let mut score = 0.0f32;
            if comptime!(a.dots == Dots::Whole) {
                for block in 0..comptime!(h.size / 32) {
                    let mut sum = 0i32;
                    for i in 0..32usize {
                        let at = 32usize * block + i;
                        sum += load_byte(arena, page + k_at, slot, at, size) * queries[at];
                    }
                    let of = load_scale(arena, page + k_at, slot, block, size);
                    score = multiply_add(f32::cast_from(sum), of, score, host);
                }
                score *= factor;
            } else {
                for part in 0..comptime!((h.size / 4).div_ceil(a.part_words())) {
                    let sum = dot(arena, page + k_at, slot, &query, part, a);
                    score += keep(sum * factor);
                }
            }
            scores[mine + t] = score;
            highest = max(highest, score);
            t += units;
        }
        weights[unit] = highest;
        sync_cube();
        for i in 0..units {
            highest = max(highest, weights[i]);
        }
        sync_cube();

        let mut sum = 0.0f32;
        let mut first = 0usize;
        while first < len {
            let t = first + unit;
            let mut weight = 0.0f32;
            if t < len {
                let below = scores[mine + t] - highest;
                weight = select(below < NO_WEIGHT, 0.0f32, exp(below, host));
                scores[mine + t] = weight;
            }
            weights[unit] = weight;
            sync_cube();
            if unit < SUMS {
                for i in 0..comptime!(UNITS as usize / SUMS) {
                    sum += weights[i * SUMS + unit];
                }
            }
            sync_cube();
            first += units;
        }
        if unit < SUMS {
            weights[unit] = sum;
        }
        sync_cube();
        let inverse = divide(1.0f32, fold(&weights), exact);
        sync_cube();

        // the values of the head that are this unit's
        let each = comptime!(h.size.div_ceil(UNITS as usize));
        let mut out = Array::<f32>::new(comptime!(h.size.div_ceil(UNITS as usize)));
        #[unroll]
        for i in 0..each {
            out[i] = 0.0f32;
        }
        let at_once = comptime!(if a.whole_values {
            ROUNDED
        } else {
            UNITS as usize
        });
        let mut first = 0usize;
        while first < len {
            let found = min(len - first, at_once);
            let mut i = unit;
            while i < found {
                // what this unit wrote before
                weights[i] = scores[mine + first + i] * inverse;
                i += units;
            }
            sync_cube();
            if comptime!(a.whole_values) {
                let blocks = comptime!(h.size / 32);
                let mut task = unit;
                while task < found * blocks {
                    let (i, block) = (task / blocks, task % blocks);
                    let t = first + i;
                    let page = step[table + t / comptime!(PAGE_TOKENS)] as usize
                        * comptime!(h.page_words());
                    let of =
                        load_scale(arena, page + v_at, t % comptime!(PAGE_TOKENS), block, size);
                    products[block * ROUNDED + i] = weights[i] * of;
                    task += units;
                }
                sync_cube();
                if unit < blocks {
                    let mut most = 0.0f32;
                    for i in 0..found {
                        most = max(most, products[unit * ROUNDED + i]);
                    }
                    largest[unit] = most;
                }
                sync_cube();
                let mut task = unit;
                while task < found * blocks {
                    let (i, block) = (task / blocks, task % blocks);
                    let inverse = whole_inverse(largest[block], WEIGHT_MAX, exact);
                    numbers[block * ROUNDED + i] = whole(products[block * ROUNDED + i] * inverse);
                    task += units;
                }
                sync_cube();
            }
            #[unroll]
            for k in 0..each {
                let i = unit + comptime!(k * UNITS as usize);
                if i < size {
                    let mut value = out[k];
                    let block = i / 32usize;
                    let mut whole_sum = 0i32;
                    for w in 0..found {
                        let t = first + w;
                        let page = step[table + t / comptime!(PAGE_TOKENS)] as usize
                            * comptime!(h.page_words());
                        let slot = t % comptime!(PAGE_TOKENS);
                        if comptime!(a.whole_values) {
                            whole_sum += numbers[block * ROUNDED + w]
                                * load_byte(arena, page + v_at, slot, i, size);
                        } else {
                            let v =
                                load_value(arena, page + v_at, slot, i, size, comptime!(h.values));
                            value = multiply_add(weights[w], v, value, host);
                        }
                    }
                    if comptime!(a.whole_values) {
                        let of = divide(largest[block], WEIGHT_MAX, exact);
                        value = multiply_add(f32::cast_from(whole_sum), of, value, host);
                    }
                    out[k] = value;
                }
            }
            sync_cube();
            first += at_once;
        }

        #[unroll]
        for k in 0..each {
            let i = unit + comptime!(k * UNITS as usize);
            if i < size {
                query[i] = out[k];
            }
        }
        sync_cube();
        if comptime!(h.values != KvFormat::F16) {
            hadamard(&mut query, size);
        }
        let mut i = unit;
        while i < size {
            q[from + i] = query[i];
            i += units;
        }
        row += CUBE_COUNT_Y as usize;
    }
}

/// What a value is multiplied with to become a whole number of at most `most`.
#[cube]
fn whole_inverse(largest: f32, most: f32, #[comptime] exact: Fma) -> f32 {
    // below this the inverse would overflow; such values are nothing beside any other
    select(largest < 1e-30f32, 0.0f32, divide(most, largest, exact))
}

/// The product of a part of a query and of a key, in running sums.
#[cube]
fn dot(
    arena: &[u32],
    at: usize,
    slot: usize,
    query: &Shared<[f32]>,
    part: usize,
    #[comptime] a: Attention,
) -> f32 {
    let vectors = comptime!(a.vectors());
    let before = part * comptime!(a.part_words());
    let words = min(comptime!(a.h.size / 4) - before, comptime!(a.part_words()));
    let mut sums = Array::<f32>::new(SUMS);
    #[unroll]
    for i in 0..SUMS {
        sums[i] = 0.0f32;
    }
    let mut four = Array::<f32>::new(4usize);
    // a loop that is not unrolled, because composed sums are long
    for vector in 0..vectors {
        let mut word = vector;
        while word < words {
            let of = before + word;
            load_four(
                arena,
                at,
                slot,
                of,
                &mut four,
                comptime!(a.h.size),
                comptime!(a.h.keys),
            );
            #[unroll(comptime!(a.h.host == Fma::Once))]
            for i in 0..4usize {
                let to = 4usize * vector + i;
                sums[to] = multiply_add(
                    four[i],
                    query[4usize * of + i],
                    sums[to],
                    comptime!(a.h.host),
                );
            }
            word += vectors;
        }
    }
    match comptime!(a.dots) {
        Dots::Halves => {
            #[unroll]
            for i in 0..4usize {
                four[i] = (sums[i] + sums[comptime!(i + 8)])
                    + (sums[comptime!(i + 4)] + sums[comptime!(i + 12)]);
            }
            (four[0usize] + four[2usize]) + (four[1usize] + four[3usize])
        }
        Dots::Fours => {
            #[unroll]
            for i in 0..4usize {
                four[i] = (sums[comptime!(4 * i)] + sums[comptime!(4 * i + 2)])
                    + (sums[comptime!(4 * i + 1)] + sums[comptime!(4 * i + 3)]);
            }
            (four[0usize] + four[1usize]) + (four[2usize] + four[3usize])
        }
        _ => {
            #[unroll]
            for i in 0..2usize {
                four[i] = (sums[comptime!(4 * i)] + sums[comptime!(4 * i + 1)])
                    + (sums[comptime!(4 * i + 2)] + sums[comptime!(4 * i + 3)]);
            }
            // of four sums there is no second half: zero is added, which changes nothing
            four[0usize] + four[1usize]
        }
    }
}
