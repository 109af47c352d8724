//! The groups of logits that a sampler may need: those with the highest maxima, so that a row need not be read back whole.
//!
//! A cube searches the bits of the floor that enough maxima reach, one after the other, and then puts the groups above it in
//! the order of the vocabulary. Every group that the floor itself keeps is taken, as long as there is room.

use cubecl::prelude::*;

/// Logits of a group.
pub(in crate::ops::cube) const GROUP: usize = 16;
/// Groups that are looked for.
pub(in crate::ops::cube) const WANTED: usize = 128;
/// Groups that there is room for, where several are as high as the last one.
pub(in crate::ops::cube) const ROOM: usize = 192;
/// Where the number of groups that were found is, behind their own numbers.
pub(in crate::ops::cube) const COUNT: usize = ROOM;
/// Where the logits of the groups begin.
pub(in crate::ops::cube) const LOGITS: usize = COUNT + 1;
/// Words that are read back for a row: one buffer, because each that is read is a submission more.
pub(in crate::ops::cube) const FOUND: usize = LOGITS + ROOM * GROUP;
/// Units that work on a row, or on as many groups.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// A number in the order of the floats. One that is none is above all others, so that it is seen.
#[cube]
fn key(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let size = bits & 0x7fff_ffffu32;
    let ordered = select(
        (bits & 0x8000_0000u32) != 0u32,
        !bits,
        bits | 0x8000_0000u32,
    );
    select(size > 0x7f80_0000u32, 0xffff_ffffu32, ordered)
}

/// Writes the key of the highest logit of each group: `[rows][groups]`. A unit has a group of a row.
#[cube(launch)]
pub(in crate::ops::cube) fn maxima(logits: &[f32], keys: &mut [u32], vocab: u32, groups: u32) {
    let (vocab, groups) = (vocab as usize, groups as usize);
    let row = CUBE_POS_Y as usize;
    let group = CUBE_POS_X as usize * comptime!(UNITS as usize) + UNIT_POS_X as usize;
    if group < groups {
        let mut highest = 0u32;
        for i in 0..GROUP {
            let at = group * GROUP + i;
            if at < vocab {
                highest = max(highest, key(logits[row * vocab + at]));
            }
        }
        keys[row * groups + group] = highest;
    }
}

/// Writes for each row the numbers of the groups that were found, in ascending order, then how many there are, then their logits:
/// `[rows][FOUND]`, the logits by their bits. A cube of [`UNITS`] has a row.
#[cube(launch)]
pub(in crate::ops::cube) fn gather(
    logits: &[u32],
    keys: &[u32],
    found: &mut [u32],
    vocab: u32,
    groups: u32,
) {
    let (vocab, groups) = (vocab as usize, groups as usize);
    let units = comptime!(UNITS as usize);
    let (row, unit) = (CUBE_POS_X as usize, UNIT_POS_X as usize);
    // each unit has neighbouring groups, so that what it finds is in order
    let each = groups / units + 1usize;
    let first = unit * each;
    let end = min(first + each, groups);
    let mut counts = Shared::<[u32]>::new_slice(comptime!(UNITS as usize));
    let mut floor = 0u32;
    for step in 0..32u32 {
        let tried = floor | (0x8000_0000u32 >> step);
        let mut count = 0u32;
        for group in first..end {
            if keys[row * groups + group] >= tried {
                count += 1u32;
            }
        }
        counts[unit] = count;
        sync_cube();
        let mut all = 0u32;
        for i in 0..units {
            all += counts[i];
        }
        sync_cube();
        if all >= comptime!(WANTED as u32) {
            floor = tried;
        }
    }
    let mut count = 0u32;
    for group in first..end {
        if keys[row * groups + group] >= floor {
            count += 1u32;
        }
    }
    counts[unit] = count;
    sync_cube();
    let mut place = 0u32;
    let mut all = 0u32;
    for i in 0..units {
        if i < unit {
            place += counts[i];
        }
        all += counts[i];
    }
    let room = comptime!(ROOM as u32);
    for group in first..end {
        if keys[row * groups + group] >= floor && place < room {
            let at = row * comptime!(FOUND) + place as usize;
            found[at] = u32::cast_from(group);
            let at = row * comptime!(FOUND) + comptime!(LOGITS) + place as usize * GROUP;
            for i in 0..GROUP {
                let from = min(group * GROUP + i, vocab - 1usize);
                found[at + i] = logits[row * vocab + from];
            }
            place += 1u32;
        }
    }
    if unit == 0usize {
        found[row * comptime!(FOUND) + comptime!(COUNT)] = min(all, room);
    }
}
