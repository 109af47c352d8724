//! Rows of the embedding table.

use super::arithmetic::{keep, keep_all};
use super::decode::{load_block, load_scales, open};
use super::step_words::TOKENS;
use crate::ops::cube::pack::Format;
use cubecl::prelude::*;

/// Units that work on a token.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// Writes the rows of the step's tokens, `[tokens][32 * blocks]`, as far as they are among the `rows` rows of this table, which
/// begin with `first`. `quads` and `words` are both the table. There is a cube of [`UNITS`] for each token.
#[cube(launch)]
pub(in crate::ops::cube) fn look_up<N: Size>(
    quads: &[Vector<u32, N>],
    words: &[u32],
    step: &[u32],
    out: &mut [Vector<f32, N>],
    rows: u32,
    first: u32,
    blocks: u32,
    #[comptime] format: Format,
) {
    let (rows, first, blocks) = (rows as usize, first as usize, blocks as usize);
    let number = CUBE_POS_X as usize;
    let token = step[comptime!(TOKENS) + number] as usize;
    let offset = Vector::<f32, N>::new(comptime!(format.offset as f32));
    if token >= first && token < first + rows {
        let row = token - first;
        // eight values to a unit at a time
        let mut task = UNIT_POS_X as usize;
        while task < 4usize * blocks {
            let (block, i) = (task / 4usize, task % 4usize);
            let at = row * blocks + block;
            let block_words = load_block(quads, words, at, rows * blocks, format);
            let values = open(&block_words, i as u32, format);
            let scales = load_scales(words, rows, blocks, row, block, format);
            let mut low = (values.low - offset) * Vector::new(scales.d * scales.low);
            let mut high = (values.high - offset) * Vector::new(scales.d * scales.high);
            if comptime!(format.has_min()) {
                let min = Vector::new(keep(scales.m * scales.min));
                low = keep_all(low) + min;
                high = keep_all(high) + min;
            }
            let to = (number * blocks + block) * 8usize + i;
            out[to] = low;
            out[to + 4usize] = high;
            task += comptime!(UNITS as usize);
        }
    }
}
