//! From the products q, k and v to heads: bias, norm, rotation, and the keys' and values' way into their pages.
//!
//! Pages have the bytes that they have on the host ([`crate::quant::Paged`]), so that a session's file can be read wherever
//! the pages are.

use super::decode::{float_to_half, half_to_float, round_to_byte, signed_byte};
use super::step_words::{ANGLES, POSITIONS, ROWS, TABLES};
use crate::ops::AttentionSpec;
use crate::ops::rope::RopePairing;
use cubecl::prelude::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// Units that work on a head.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// What the heads of a layer are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Heads {
    /// How many query heads there are.
    pub(in crate::ops::cube) heads: usize,
    /// How many key/value heads there are.
    pub(in crate::ops::cube) kv_heads: usize,
    /// Values of a head.
    pub(in crate::ops::cube) size: usize,
    /// Pairs of values that are rotated.
    pub(in crate::ops::cube) pairs: usize,
    /// Whether q and k heads are normed.
    pub(in crate::ops::cube) normed: bool,
    /// Whether a pair is a value and the one half the rotated values further, not its neighbour.
    pub(in crate::ops::cube) apart: bool,
    /// The format of the layer's keys.
    pub(in crate::ops::cube) keys: KvFormat,
    /// The format of the values.
    pub(in crate::ops::cube) values: KvFormat,
}

impl Heads {
    pub(in crate::ops::cube) fn new(
        spec: &AttentionSpec,
        pairs: usize,
        keys: KvFormat,
        values: KvFormat,
    ) -> Self {
        Self {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            size: spec.head_dim,
            pairs,
            normed: spec.qk_norm,
            apart: spec.pairing == RopePairing::Neox,
            keys,
            values,
        }
    }

    /// Words of a layer's keys in a page; its values are behind them.
    pub(in crate::ops::cube) const fn key_words(&self) -> usize {
        self.kv_heads * head_words(self.keys, self.size)
    }

    /// Words of a layer in a page.
    pub(in crate::ops::cube) const fn page_words(&self) -> usize {
        self.key_words() + self.kv_heads * head_words(self.values, self.size)
    }

    /// Whether the scales of two rows may share a word, so that one cube must store all rows.
    pub(in crate::ops::cube) fn rows_share_words(&self) -> bool {
        let shares = |format| format != KvFormat::F16 && (self.size / KvFormat::BLOCK) % 2 == 1;
        shares(self.keys) || shares(self.values)
    }
}

/// Words of a head's keys or values in a page.
pub(in crate::ops::cube) const fn head_words(format: KvFormat, size: usize) -> usize {
    format.head_bytes(size) / 4
}

/// Multiplies the head by the Hadamard matrix, as [`crate::quant::hadamard_transform`] does. The head is written and the cube
/// is synchronised before and after.
#[cube]
pub(in crate::ops::cube) fn hadamard(head: &mut Shared<[f32]>, #[comptime] size: usize) {
    let part = comptime!(1usize << size.trailing_zeros());
    let unit = UNIT_POS_X as usize;
    #[unroll]
    for step in 0..comptime!(part.trailing_zeros()) {
        let half = comptime!(1usize << step);
        let mut pair = unit;
        while pair < comptime!(size / 2) {
            let low = pair / half * comptime!(2 * half) + pair % half;
            let (a, b) = (head[low], head[low + half]);
            head[low] = a + b;
            head[low + half] = a - b;
            pair += comptime!(UNITS as usize);
        }
        sync_cube();
    }
    let scale = comptime!(1.0 / (part as f32).sqrt());
    let mut i = unit;
    while i < size {
        head[i] *= scale;
        i += comptime!(UNITS as usize);
    }
    sync_cube();
}

/// The sum of the squared errors that a scale and its inverse make of a block.
#[cube]
fn lost(head: &mut Shared<[f32]>, block: usize, scale: f32, inverse: f32) -> f32 {
    let mut all = 0.0f32;
    for lane in 0..8usize {
        let mut sum = 0.0f32;
        for i in 0..4usize {
            let value = head[block * 32usize + 8usize * i + lane];
            let off = f32::cast_from(round_to_byte(value, inverse)) * scale - value;
            sum += off * off;
        }
        all += sum;
    }
    all
}

/// Stores a head in its place of a page, of which `at` is the head's first word.
#[cube]
fn store(
    head: &mut Shared<[f32]>,
    arena: &mut [u32],
    at: usize,
    slot: usize,
    #[comptime] size: usize,
    #[comptime] format: KvFormat,
) {
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    if comptime!(format == KvFormat::F16) {
        let words = comptime!(size / 2);
        let mut word = unit;
        while word < words {
            let low = float_to_half(head[2usize * word]);
            let high = float_to_half(head[2usize * word + 1usize]);
            arena[at + slot * words + word] = low | (high << 16u32);
            word += units;
        }
    } else {
        let blocks = comptime!(size / 32);
        hadamard(head, size);
        // for each block the scale that puts its largest value at 127, then those that put it at 120 to 126
        let mut scales = Shared::<[f32]>::new_slice(comptime!(8 * (size / 32)));
        let mut inverses = Shared::<[f32]>::new_slice(comptime!(8 * (size / 32)));
        let mut losses = Shared::<[f32]>::new_slice(comptime!(8 * (size / 32)));
        let mut task = unit;
        while task < comptime!(8 * (size / 32)) {
            let (block, choice) = (task / 8usize, task % 8usize);
            let mut largest = 0u32;
            for i in 0..32usize {
                largest = max(
                    largest,
                    u32::reinterpret(head[block * 32usize + i]) & 0x7fff_ffffu32,
                );
            }
            let size = f32::from_bits(largest);
            let zero = size < 1e-30f32;
            let part = select(
                choice == 0usize,
                1.0f32,
                f32::cast_from(u32::cast_from(119usize + choice)) / 127.0f32,
            );
            let scale = select(zero, 0.0f32, size / 127.0f32) / part;
            let inverse = select(zero, 0.0f32, 127.0f32 / size) * part;
            scales[task] = scale;
            inverses[task] = inverse;
            losses[task] = lost(head, block, scale, inverse);
            task += units;
        }
        sync_cube();
        let mut block = unit;
        while block < blocks {
            let mut best = block * 8usize;
            for choice in 1..8usize {
                if losses[block * 8usize + choice] < losses[best] {
                    best = block * 8usize + choice;
                }
            }
            // the choice is where the first one was, for all to see after the next barrier
            let (scale, inverse) = (scales[best], inverses[best]);
            scales[block * 8usize] = scale;
            inverses[block * 8usize] = inverse;
            block += units;
        }
        sync_cube();
        let words = comptime!(size / 4);
        let mut word = unit;
        while word < words {
            let inverse = inverses[word / 8usize * 8usize];
            let mut packed = 0u32;
            #[unroll]
            for byte in 0..4usize {
                let quant = round_to_byte(head[4usize * word + byte], inverse);
                packed |= (u32::reinterpret(quant) & 255u32) << comptime!(8 * byte as u32);
            }
            arena[at + slot * words + word] = packed;
            word += units;
        }
        let scales_at = at + comptime!(PAGE_TOKENS * (size / 4));
        if comptime!((size / 32).is_multiple_of(2)) {
            let mut pair = unit;
            while pair < comptime!(size / 64) {
                let low = float_to_half(scales[16usize * pair]);
                let high = float_to_half(scales[16usize * pair + 8usize]);
                arena[scales_at + slot * comptime!(size / 64) + pair] = low | (high << 16u32);
                pair += units;
            }
        } else if unit == 0usize {
            for block in 0..blocks {
                let half = slot * blocks + block;
                let shift = u32::cast_from(half % 2usize) * 16u32;
                let word = arena[scales_at + half / 2usize] & !(0xffffu32 << shift);
                arena[scales_at + half / 2usize] =
                    word | (float_to_half(scales[8usize * block]) << shift);
            }
        }
    }
}

/// Makes heads of `qkv`, which is `[rows][q, k, v]`: q goes to `q_out`, `[rows][heads * size]`, keys and values go to their
/// pages, of which `arena` has this layer's part. A cube of [`UNITS`] has a head of a row, or a head of all rows where rows share words.
#[cube(launch)]
pub(in crate::ops::cube) fn finish(
    qkv: &[f32],
    bias: &[f32],
    q_norm: &[f32],
    k_norm: &[f32],
    step: &[u32],
    q_out: &mut [f32],
    arena: &mut [u32],
    eps: f32,
    #[comptime] h: Heads,
) {
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    let number = CUBE_POS_X as usize;
    let size = comptime!(h.size);
    let width = comptime!((h.heads + 2 * h.kv_heads) * h.size);
    let is_query = number < comptime!(h.heads);
    let is_value = number >= comptime!(h.heads + h.kv_heads);
    let normed_here = comptime!(h.normed).runtime() && !is_value;
    let mut head = Shared::<[f32]>::new_slice(comptime!(h.size));
    let mut row = CUBE_POS_Y as usize;
    let rows = step[comptime!(ROWS)] as usize;
    while row < rows {
        sync_cube();
        let mut i = unit;
        while i < size {
            head[i] = qkv[row * width + number * size + i] + bias[number * size + i];
            i += units;
        }
        sync_cube();
        if normed_here {
            let mut sum = 0.0f32;
            for i in 0..size {
                sum = fma(head[i], head[i], sum);
            }
            let inverse = 1.0f32 / (sum / comptime!(h.size as f32) + eps).sqrt();
            sync_cube();
            let mut i = unit;
            while i < size {
                let weight = select(is_query, q_norm[i], k_norm[i]);
                head[i] = head[i] * inverse * weight;
                i += units;
            }
            sync_cube();
        }
        if !is_value {
            let angles = comptime!(ANGLES) + row * comptime!(2 * h.pairs);
            let mut pair = unit;
            while pair < comptime!(h.pairs) {
                let cos = f32::from_bits(step[angles + pair]);
                let sin = f32::from_bits(step[angles + comptime!(h.pairs) + pair]);
                let mut low = 2usize * pair;
                let mut high = low + 1usize;
                if comptime!(h.apart) {
                    low = pair;
                    high = pair + comptime!(h.pairs);
                }
                let (a, b) = (head[low], head[high]);
                head[low] = a * cos - b * sin;
                head[high] = b * cos + a * sin;
                pair += units;
            }
            sync_cube();
        }
        if is_query {
            let mut i = unit;
            while i < size {
                q_out[row * comptime!(h.heads * h.size) + number * size + i] = head[i];
                i += units;
            }
        } else {
            let position = step[comptime!(POSITIONS) + row] as usize;
            let table = step[comptime!(TABLES) + row] as usize;
            let page = step[table + position / comptime!(PAGE_TOKENS)] as usize
                * comptime!(h.page_words());
            let slot = position % comptime!(PAGE_TOKENS);
            if is_value {
                let own = number - comptime!(h.heads + h.kv_heads);
                let values = page + comptime!(h.key_words());
                let at = values + own * comptime!(head_words(h.values, h.size));
                store(&mut head, arena, at, slot, size, comptime!(h.values));
            } else {
                let own = number - comptime!(h.heads);
                let at = page + own * comptime!(head_words(h.keys, h.size));
                store(&mut head, arena, at, slot, size, comptime!(h.keys));
            }
        }
        row += CUBE_COUNT_Y as usize;
    }
}

/// Four neighbouring values of a row, those from `4 word` on.
#[cube]
pub(in crate::ops::cube) fn load_four(
    arena: &[u32],
    at: usize,
    slot: usize,
    word: usize,
    out: &mut Array<f32>,
    #[comptime] size: usize,
    #[comptime] format: KvFormat,
) {
    if comptime!(format == KvFormat::F16) {
        #[unroll]
        for i in 0..2usize {
            let pair = arena[at + slot * comptime!(size / 2) + 2usize * word + i];
            out[2usize * i] = half_to_float(pair);
            out[2usize * i + 1usize] = half_to_float(pair >> 16u32);
        }
    } else {
        let half = slot * comptime!(size / 32) + word / 8usize;
        let shift = u32::cast_from(half % 2usize) * 16u32;
        let scales_at = at + comptime!(PAGE_TOKENS * (size / 4));
        let scale = half_to_float(arena[scales_at + half / 2usize] >> shift);
        let packed = arena[at + slot * comptime!(size / 4) + word];
        #[unroll]
        for i in 0..4usize {
            out[i] = f32::cast_from(signed_byte(packed, comptime!(i as u32))) * scale;
        }
    }
}
