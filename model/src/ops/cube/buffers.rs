//! The buffers that a step computes in. They are made when a model is loaded, for the largest step that there may be, so that
//! a token takes no memory of the device; and every launch sees the same lengths, so that its arguments are those of the last.

use super::kernels::attention::ROWS_AT_ONCE;
use super::kernels::best::{FOUND, GROUP};
use super::kernels::decode::INPUT_WORDS;
use super::kernels::step_words::{ANGLES, POSITIONS, ROWS, TABLES, TOKENS};
use super::pack::BLOCK;
use crate::kv::KvCache;
use crate::ops::memory::Widths;
use crate::ops::rope::RopeTable;
use burn::backend::Shape;
use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use glowplug_firmware_config::limits::{CHUNK_TOKENS, PAGE_TOKENS, STREAMS_MAX};

/// Most rows of logits that a step asks for: those of all streams with as many tokens of a prompt beside them.
pub(super) const LOGIT_ROWS: usize = 2 * STREAMS_MAX;

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// What the device is told of the step, see [`words`].
    Step,
    /// The values between layers: `[CHUNK_TOKENS, embed]`.
    Hidden,
    /// What is multiplied, as int8: `[planes][CHUNK_TOKENS][blocks]`.
    Rounded,
    /// The products q, k and v.
    Qkv,
    /// The queries, and what attention makes of them.
    Queries,
    /// The scores of every head in some rows.
    Scores,
    /// The middle of the MLP.
    Inner,
    /// The logits: `[LOGIT_ROWS, vocab]`.
    Logits,
    /// The highest logit of each group, in the order of the floats.
    Keys,
    /// The groups that are read back, with their numbers.
    Best,
}

impl Slot {
    /// Every slot, in the order of [`lengths`].
    const ALL: [Self; 10] = [
        Self::Step,
        Self::Hidden,
        Self::Rounded,
        Self::Qkv,
        Self::Queries,
        Self::Scores,
        Self::Inner,
        Self::Logits,
        Self::Keys,
        Self::Best,
    ];

    const fn dtype(self) -> DType {
        match self {
            Self::Step | Self::Rounded | Self::Keys | Self::Best => DType::U32,
            _ => DType::F32,
        }
    }
}

/// The values of four bytes that each buffer of a model has.
pub(super) fn lengths(w: &Widths) -> [(Slot, usize); 10] {
    Slot::ALL.map(|slot| {
        let values = match slot {
            Slot::Step => {
                let pages = w.positions.div_ceil(PAGE_TOKENS);
                // one place beyond the streams has the prompt that is being read
                ANGLES + 2 * CHUNK_TOKENS * w.pairs + (STREAMS_MAX + 1) * pages
            }
            Slot::Hidden => CHUNK_TOKENS * w.embed,
            Slot::Rounded => {
                let wide = |values, planes| CHUNK_TOKENS * rounded_words(values, planes);
                let others = wide(w.ff.max(w.queries), 1);
                wide(w.embed, 2).max(others)
            }
            Slot::Qkv => CHUNK_TOKENS * (w.queries + 2 * w.keys),
            Slot::Queries => CHUNK_TOKENS * w.queries,
            Slot::Scores => ROWS_AT_ONCE * w.heads * w.positions,
            Slot::Inner => CHUNK_TOKENS * w.ff,
            Slot::Logits => LOGIT_ROWS * w.vocab,
            Slot::Keys => LOGIT_ROWS * w.vocab.div_ceil(GROUP),
            Slot::Best => LOGIT_ROWS * FOUND,
        };
        (slot, values)
    })
}

/// The words of a column of `values` in some planes, which are that many columns.
pub(super) const fn rounded_words(values: usize, planes: usize) -> usize {
    values / BLOCK * INPUT_WORDS * planes
}

/// The buffers that were made.
#[derive(Default)]
pub(super) struct Buffers([Option<CubeTensor>; 10]);

impl Buffers {
    /// A tensor of `[rows, cols]` at the beginning of a buffer, which is made anew where it is too small: when a model is
    /// loaded, and in a test of a single step.
    pub(super) fn tensor(
        &mut self,
        client: &Client,
        device: &CubeDevice,
        slot: Slot,
        [rows, cols]: [usize; 2],
    ) -> CubeTensor {
        let values = rows * cols;
        let made = &mut self.0[slot as usize];
        let large = |tensor: &CubeTensor| tensor.handle.size() >= 4 * values as u64;
        if !made.as_ref().is_some_and(large) {
            *made = Some(empty(client, device, [rows, cols], slot.dtype()));
        }
        let mut handle = match made {
            Some(tensor) => tensor.handle.clone(),
            None => client.empty(4 * values),
        };
        // the runtime makes buffers in whole units, and cuts off what was not asked for
        handle.offset_end = Some(handle.size() - 4 * values as u64);
        let shape = Shape::from(vec![rows, cols]);
        CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, slot.dtype())
    }
}

/// A tensor of `[rows, cols]`, of values of four bytes, in a buffer of just that size.
pub(super) fn empty(
    client: &Client,
    device: &CubeDevice,
    [rows, cols]: [usize; 2],
    dtype: DType,
) -> CubeTensor {
    let handle = client.memory_persistent_allocation((), |()| client.empty(4 * rows * cols));
    let shape = Shape::from(vec![rows, cols]);
    CubeTensor::new_contiguous(client.clone(), device.clone(), shape, handle, dtype)
}

/// Writes words to the beginning of a tensor, before anything that is sent to the device later begins.
pub(super) fn write(tensor: &CubeTensor, words: Vec<u32>) {
    let end = tensor.handle.size_in_used() - 4 * words.len() as u64;
    let handle = tensor.handle.clone().offset_end(end);
    let bytes = cubecl::bytes::Bytes::from_elems(words);
    tensor.client.write(&handle, bytes);
}

/// Writes what the device is told of the step that [`KvCache::begin`] has set: tokens, positions, angles and page tables.
pub(super) fn words(kv: &KvCache, tokens: &[u32], rope: &RopeTable) -> Vec<u32> {
    let mut words = vec![0; ANGLES];
    words[TOKENS..][..tokens.len()].copy_from_slice(tokens);
    words[ROWS] = kv.rows() as u32;
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
