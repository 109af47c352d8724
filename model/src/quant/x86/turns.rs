//! Several streams of weights at once, where memory is the limit: groups of rows are read part by part by turns.
//!
//! Intel's cores fetch ahead within a page of 4 KB, and begin anew in the next one. One stream waits at the start of each page, and
//! the sixteen lines that a core may ask for itself do not make up for that; of four streams one is always under way. What
//! each reads next is asked for as well, a little of all in each turn. On two cores of an Intel Xeon (Emerald Rapids) a loop like
//! Q4_K's read 16.7 GB/s from one stream, 21.7 with asking ahead and 24.8 from four, where a plain read took 28. Two cores of Zen 4
//! and of Zen 5 read fastest from one, which asks ahead as well.

use super::panel::ask;
use crate::gguf::GROUP;
use bytemuck::Pod;
use std::arch::x86_64::{__cpuid, _MM_HINT_T0};
use std::sync::OnceLock;

/// Groups that are read by turns.
pub(super) const STREAMS: usize = 4;

/// How many of `groups` each stream has: none where this processor reads one stream as fast as several. What is left over has no turns.
pub(super) fn of_each(groups: usize) -> usize {
    if by_turns() { groups / STREAMS } else { 0 }
}

/// Whether this processor reads several streams faster than one. In unit tests every processor takes turns.
fn by_turns() -> bool {
    static INTEL: OnceLock<bool> = OnceLock::new();
    cfg!(test)
        || *INTEL.get_or_init(|| {
            let leaf = __cpuid(0);
            [leaf.ebx, leaf.edx, leaf.ecx]
                .map(u32::to_le_bytes)
                .concat()
                == b"GenuineIntel"
        })
}

/// How far ahead of what is multiplied memory is asked in each of some streams, in bytes. Further is slower there (Granite Rapids, one
/// thread, the 1.5B: 16.4 tokens/s from 2.3 KB, 16.0 from 4.6 and 15.3 from 6.9). One stream asks twice as far ahead for one column, and
/// three times for more: see [`Streams::ask`]. On two cores of Zen 5 Q4_K came at 32 GB/s without asking, 39 from 1 KB and 41 from 1.5 to
/// 4.5 KB: the loads of a block follow each other at no constant distance, which the prefetcher needs. There the 1.5B gave 30 tokens a
/// second to each of four streams, and 23.5 to each of eight, from 2.3 KB; 37 and 30 from 6.9 to 14 KB. With AVX2 and AVX-VNNI two
/// streams gained 15 %, four 5 %.
const AHEAD: usize = 2304;

/// Groups of sixteen interleaved rows that are multiplied by turns. The one that is multiplied after each of them lies behind it in
/// memory.
#[derive(Clone, Copy)]
pub(super) struct Streams<'a, B, const G: usize> {
    /// The blocks of the first group, and everything behind them.
    blocks: &'a [B],
    /// How many groups the next one is behind the one before.
    apart: usize,
    /// How many blocks that are.
    stride: usize,
}

impl<'a, B: Pod, const G: usize> Streams<'a, B, G> {
    /// The groups, of `own` blocks each, that begin with these blocks, each `apart` groups behind the one before.
    pub(super) const fn new(blocks: &'a [B], own: usize, apart: usize) -> Self {
        Self {
            blocks,
            apart,
            stride: apart * own,
        }
    }

    /// Group `g` by itself.
    pub(super) fn only(&self, g: usize) -> Streams<'a, B, 1> {
        Streams::new(&self.blocks[g * self.stride..], 0, 0)
    }

    /// How many rows group `g` is behind the first one.
    pub(super) const fn row(&self, g: usize) -> usize {
        GROUP * g * self.apart
    }

    /// Block `b` of group `g`.
    #[inline(always)]
    pub(super) fn block(&self, g: usize, b: usize) -> &'a B {
        &self.blocks[g * self.stride + b]
    }

    /// Asks for what comes [`AHEAD`] of block `b`, in turn `turn` of `turns` that a block of all groups takes, where it is multiplied by
    /// `C` columns. Of blocks that are larger than a few lines each turn asks for a little in all groups: what is asked for in one
    /// go in one place occupies all the lines that a core may ask for, and everything else waits.
    #[inline(always)]
    pub(super) fn ask<const C: usize>(&self, b: usize, turn: usize, turns: usize) {
        let times = match (C, G) {
            (1, 1) => 2,
            (_, 1) => 3,
            _ => 1,
        };
        let b = b + (times * AHEAD / size_of::<B>()).max(1);
        if turns == G {
            ask_part(self.blocks.get(turn * self.stride + b), 0, 1);
        } else {
            for g in 0..G {
                ask_part(self.blocks.get(g * self.stride + b), turn, turns);
            }
        }
    }
}

/// Asks for part `part` of `parts` of a block, if there is one.
#[inline(always)]
fn ask_part<B: Pod>(block: Option<&B>, part: usize, parts: usize) {
    if let Some(block) = block {
        let bytes = bytemuck::bytes_of(block);
        ask::<_MM_HINT_T0>(&bytes[part * bytes.len() / parts..(part + 1) * bytes.len() / parts]);
    }
}
