//! Rows of keys and values as pages hold them: the bytes that they have on the host ([`crate::quant::Paged`]), so that a session's
//! file can be read wherever the pages are.

use super::arithmetic::{Fma, divide, keep};
use super::decode::{float_to_half, half_to_float, round_to_byte, signed_byte};
use cubecl::prelude::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// Units that work on a head.
pub(in crate::ops::cube) const UNITS: u32 = 64;

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
            let off = keep(f32::cast_from(round_to_byte(value, inverse)) * scale) - value;
            sum += keep(off * off);
        }
        all += sum;
    }
    all
}

/// Stores a head in its place of a page, of which `at` is the head's first word.
#[cube]
pub(in crate::ops::cube) fn store(
    head: &mut Shared<[f32]>,
    arena: &mut [u32],
    at: usize,
    slot: usize,
    #[comptime] size: usize,
    #[comptime] format: KvFormat,
    #[comptime] exact: Fma,
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
                divide(
                    f32::cast_from(u32::cast_from(119usize + choice)),
                    127.0f32,
                    exact,
                ),
            );
            let widest = select(zero, 0.0f32, divide(size, 127.0f32, exact));
            let scale = divide(widest, part, exact);
            let inverse = select(zero, 0.0f32, divide(127.0f32, size, exact)) * part;
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
        let scale = load_scale(arena, at, slot, word / 8usize, size);
        let packed = arena[at + slot * comptime!(size / 4) + word];
        #[unroll]
        for i in 0..4usize {
            out[i] = f32::cast_from(signed_byte(packed, comptime!(i as u32))) * scale;
        }
    }
}

/// The scale of a block of a row in Q8_0.
#[cube]
pub(in crate::ops::cube) fn load_scale(
    arena: &[u32],
    at: usize,
    slot: usize,
    block: usize,
    #[comptime] size: usize,
) -> f32 {
    let half = slot * comptime!(size / 32) + block;
    let shift = u32::cast_from(half % 2usize) * 16u32;
    let scales_at = at + comptime!(PAGE_TOKENS * (size / 4));
    half_to_float(arena[scales_at + half / 2usize] >> shift)
}

/// The whole number `i` of a row in Q8_0.
#[cube]
pub(in crate::ops::cube) fn load_byte(
    arena: &[u32],
    at: usize,
    slot: usize,
    i: usize,
    #[comptime] size: usize,
) -> i32 {
    let packed = arena[at + slot * comptime!(size / 4) + i / 4usize];
    signed_byte(packed, u32::cast_from(i % 4usize))
}

/// Value `i` of a row.
#[cube]
pub(in crate::ops::cube) fn load_value(
    arena: &[u32],
    at: usize,
    slot: usize,
    i: usize,
    #[comptime] size: usize,
    #[comptime] format: KvFormat,
) -> f32 {
    if comptime!(format == KvFormat::F16) {
        let pair = arena[at + slot * comptime!(size / 2) + i / 2usize];
        half_to_float(pair >> (u32::cast_from(i % 2usize) * 16u32))
    } else {
        let scale = load_scale(arena, at, slot, i / 32usize, size);
        f32::cast_from(load_byte(arena, at, slot, i, size)) * scale
    }
}
