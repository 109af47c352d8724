//! What a step tells the device, in one upload: tokens, positions, angles and page tables.

use super::kernels::step_words::{ANGLES, POSITIONS, TABLES, TOKENS};
use super::memory;
use crate::kv::KvCache;
use crate::ops::rope::RopeTable;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use glowplug_firmware_config::limits::{PAGE_TOKENS, STEP_TOKENS, STREAMS_MAX};

/// The last step that was sent to the device.
#[derive(Default)]
pub(in crate::ops) struct Uploaded {
    /// The buffer, which every step overwrites.
    buffer: Option<CubeTensor>,
    /// The number of the step in it, by [`KvCache::step`].
    step: u64,
}

impl Uploaded {
    /// Sends what [`KvCache::begin`] has set and the `tokens`, unless that was done. The first op of a step knows the tokens.
    pub(super) fn step(
        &mut self,
        like: &CubeTensor,
        kv: &KvCache,
        tokens: &[u32],
        rope: &RopeTable,
    ) -> CubeTensor {
        let buffer = self.buffer.get_or_insert_with(|| {
            let shape = [1, words_max(rope)];
            memory::empty(&like.client, &like.device, shape, DType::U32)
        });
        if self.step != kv.step() {
            memory::write(buffer, &words(kv, tokens, rope));
            self.step = kv.step();
        }
        buffer.clone()
    }
}

/// Words that a step of any kind takes at most. One place beyond the streams has the prompt that is being read.
fn words_max(rope: &RopeTable) -> usize {
    let pages = rope.positions().div_ceil(PAGE_TOKENS);
    ANGLES + 2 * STEP_TOKENS * rope.cos(0).len() + (STREAMS_MAX + 1) * pages
}

/// Writes the words of the step that [`KvCache::begin`] has set.
fn words(kv: &KvCache, tokens: &[u32], rope: &RopeTable) -> Vec<u32> {
    let mut words = vec![0; ANGLES];
    words[TOKENS..][..tokens.len()].copy_from_slice(tokens);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    for row in 0..kv.rows() {
        let position = kv.position(row);
        words[POSITIONS + row] = position as u32;
        words.extend(bits(rope.cos(position)));
        words.extend(bits(rope.sin(position)));
    }
    for row in 0..kv.rows() {
        // the rows of a sequence lie together, and share its table
        if row > 0 && kv.table_of(row) == kv.table_of(row - 1) {
            words[TABLES + row] = words[TABLES + row - 1];
        } else {
            words[TABLES + row] = words.len() as u32;
            let pages = kv.pages_of(row).iter().map(|page| u32::from(*page));
            words.extend(pages);
        }
    }
    words
}
