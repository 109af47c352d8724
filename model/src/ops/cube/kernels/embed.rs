//! Rows of the embedding table.

use super::decode::{load_pair, load_scales, signed_byte};
use super::step_words::TOKENS;
use crate::ops::cube::pack::Format;
use cubecl::prelude::*;

/// Units that work on a token.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// Writes the rows of the step's tokens, `[tokens][32 * blocks]`. There is a cube of [`UNITS`] for each token.
#[cube(launch)]
pub(in crate::ops::cube) fn look_up(
    w: &[u32],
    step: &[u32],
    out: &mut [f32],
    rows: u32,
    blocks: u32,
    #[comptime] format: Format,
) {
    let (rows, blocks) = (rows as usize, blocks as usize);
    let number = CUBE_POS_X as usize;
    let row = step[comptime!(TOKENS) + number] as usize;
    // a pair of words to a unit at a time
    let mut task = UNIT_POS_X as usize;
    while task < 4usize * blocks {
        let (block, i) = (task / 4usize, task % 4usize);
        let pair = load_pair(w, rows, blocks, row, block, i, format);
        let scales = load_scales(w, rows, blocks, row, block, format);
        let at = (number * blocks + block) * 32usize + 4usize * i;
        #[unroll]
        for byte in 0..4usize {
            let low = signed_byte(u32::reinterpret(pair.low), comptime!(byte as u32));
            let high = signed_byte(u32::reinterpret(pair.high), comptime!(byte as u32));
            out[at + byte] = f32::cast_from(low) * scales.low + scales.min;
            out[at + byte + 16usize] = f32::cast_from(high) * scales.high + scales.min;
        }
        task += comptime!(UNITS as usize);
    }
}
