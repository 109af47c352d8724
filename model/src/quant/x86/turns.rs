//! Several streams of weights at once, where memory is the limit: groups of rows are read part by part by turns.
//!
//! Intel's cores fetch ahead within a page of 4 KB, and begin anew in the next one. One stream waits at the start of each page, and
//! the sixteen lines that a core may ask for itself do not make up for that; of four streams one is always under way. What
//! each reads next is asked for as well. On two cores of an Intel Xeon (Emerald Rapids) a loop like Q4_K's read 16.7 GB/s from one
//! stream, 21.7 with asking ahead and 24.8 from four, where a plain read took 28. Two cores of Zen 4 and of Zen 5 read
//! fastest from one, which asks ahead as well.

use super::panel::ask;
use std::arch::x86_64::{__cpuid, _MM_HINT_T0};
use std::sync::OnceLock;

/// Groups that are read by turns.
pub(super) const STREAMS: usize = 4;

/// Whether this processor reads several streams faster than one. In unit tests every processor takes turns.
pub(super) fn by_turns() -> bool {
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

/// How far ahead of what is multiplied memory is asked in each of some streams, in bytes. One stream asks twice as far ahead for one
/// column, and three times for more: see [`ahead`]. On two cores of Zen 5 Q4_K came at 32 GB/s without asking, 39 from 1 KB and 41 from 1.5 to 4.5 KB: the loads of a block follow
/// each other at no constant distance, which the prefetcher needs. There the 1.5B gave 30 tokens a second to each of four streams, and 23.5
/// to each of eight, from 2.3 KB; 37 and 30 from 6.9 to 14 KB. With AVX2 and AVX-VNNI two streams gained 15 %, four 5 %.
const AHEAD: usize = 2304;

/// How far ahead the block of type `B` is that is asked for at block `b` of its row, where `G` groups of `blocks` blocks are
/// multiplied by `C` columns and the next ones follow behind them.
#[inline(always)]
pub(super) fn ahead<B, const C: usize, const G: usize>(b: usize, blocks: usize) -> usize {
    let times = match (C, G) {
        (1, 1) => 2,
        (_, 1) => 3,
        _ => 1,
    };
    let some = (times * AHEAD / size_of::<B>()).max(1);
    if b + some < blocks {
        some
    } else {
        some + (G - 1) * blocks
    }
}

/// Asks for part `part` of `parts` of a block, if there is one.
#[inline(always)]
pub(super) fn ask_part<B: bytemuck::Pod>(block: Option<&B>, part: usize, parts: usize) {
    if let Some(block) = block {
        let bytes = bytemuck::bytes_of(block);
        ask::<_MM_HINT_T0>(&bytes[part * bytes.len() / parts..(part + 1) * bytes.len() / parts]);
    }
}
