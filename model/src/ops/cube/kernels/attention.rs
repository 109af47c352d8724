//! Causal attention over the pages, with a running softmax: a query head of a row to a cube, 64 positions at a time.
//!
//! For the scores each unit has a position, and for the sum of values each has four values of the head, so that both read
//! whole words. Keys and values are read again for each query head of a group, from the cache of the device.

use super::heads::{Heads, UNITS, hadamard, head_words, load_four};
use super::step_words::{POSITIONS, TABLES};
use cubecl::prelude::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// The largest head: each unit has four of its values.
pub(in crate::ops::cube) const HEAD_MAX: usize = 4 * UNITS as usize;

/// The score of no position: no infinity, which WGSL has no number for. Its weight is zero beside any score.
const LOWEST: f32 = -1e38;

/// Puts the result in the place of `q`, which is `[rows][heads * size]`. `arena` has this layer's part of every page.
#[cube(launch)]
pub(in crate::ops::cube) fn attend(
    q: &mut [f32],
    step: &[u32],
    arena: &[u32],
    scale: f32,
    #[comptime] h: Heads,
) {
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    let (number, row) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let size = comptime!(h.size);
    let own = number / comptime!(h.heads / h.kv_heads);
    let from = (row * comptime!(h.heads) + number) * size;
    let len = step[comptime!(POSITIONS) + row] as usize + 1usize;
    let table = step[comptime!(TABLES) + row] as usize;
    let k_at = own * comptime!(head_words(h.keys, h.size));
    let v_at = comptime!(h.key_words()) + own * comptime!(head_words(h.values, h.size));

    let mut query = Shared::<[f32]>::new_slice(comptime!(h.size));
    let mut i = unit;
    while i < size {
        query[i] = q[from + i] * scale;
        i += units;
    }
    sync_cube();
    if comptime!(h.keys != KvFormat::F16) {
        hadamard(&mut query, size);
    }

    // a slice of the positions for each set of units that has the whole head
    let words = comptime!(h.size / 4);
    let slices = comptime!(UNITS as usize / (h.size / 4));
    let (slice, word) = (unit / words, unit % words);
    let mut weights = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    let mut sum = Array::<f32>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        sum[i] = 0.0f32;
    }
    let mut four = Array::<f32>::new(4usize);
    let mut largest = LOWEST.runtime();
    let mut total = 0.0f32;
    let mut first = 0usize;
    while first < len {
        let position = first + unit;
        let mut score = LOWEST.runtime();
        if position < len {
            let page = step[table + position / comptime!(PAGE_TOKENS)] as usize
                * comptime!(h.page_words());
            let slot = position % comptime!(PAGE_TOKENS);
            score = 0.0f32;
            for word in 0..words {
                load_four(
                    arena,
                    page + k_at,
                    slot,
                    word,
                    &mut four,
                    size,
                    comptime!(h.keys),
                );
                #[unroll]
                for i in 0..4usize {
                    score = fma(four[i], query[4usize * word + i], score);
                }
            }
        }
        weights[unit] = score;
        sync_cube();
        let mut now = largest;
        for i in 0..units {
            now = max(now, weights[i]);
        }
        sync_cube();
        let weight = (score - now).exp();
        weights[unit] = weight;
        let before = (largest - now).exp();
        largest = now;
        sync_cube();
        total *= before;
        for i in 0..units {
            total += weights[i];
        }
        #[unroll]
        for i in 0..4usize {
            sum[i] *= before;
        }
        if slice < slices {
            let mut t = slice;
            while t < units && first + t < len {
                let position = first + t;
                let page = step[table + position / comptime!(PAGE_TOKENS)] as usize
                    * comptime!(h.page_words());
                let slot = position % comptime!(PAGE_TOKENS);
                load_four(
                    arena,
                    page + v_at,
                    slot,
                    word,
                    &mut four,
                    size,
                    comptime!(h.values),
                );
                #[unroll]
                for i in 0..4usize {
                    sum[i] = fma(four[i], weights[t], sum[i]);
                }
                t += slices;
            }
        }
        sync_cube();
        first += units;
    }

    let mut parts = Shared::<[f32]>::new_slice(comptime!(4 * UNITS as usize));
    #[unroll]
    for i in 0..4usize {
        parts[4usize * unit + i] = sum[i];
    }
    sync_cube();
    let mut i = unit;
    while i < size {
        let mut value = 0.0f32;
        #[unroll]
        for slice in 0..slices {
            value += parts[slice * size + i];
        }
        query[i] = value / total;
        i += units;
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
}
