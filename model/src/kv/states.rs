//! What sequences keep besides pages: the recurrent states of delta layers, which have one size however long a text is. Each
//! sequence that has started has a slot of one arena, which is made at start and never grows.

use super::arena::{Arena, NoMemory, NotLocked};
use super::prefix::{Owner, Owners};
use super::slots::{Slots, StateSlot};
use crate::quant::TAPS;
use glowplug_firmware_config::limits::DRAFT_MAX;
use std::ops::Range;

/// What a sequence keeps of each delta layer, in values of f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// Delta layers; 0 in a network that has none.
    pub layers: usize,
    /// Values of the last columns of one layer's convolution input.
    pub conv: usize,
    /// Values of the matrices of all value heads of one layer.
    pub delta: usize,
    /// Values of a token that go into the matrices of one layer.
    pub width: usize,
    /// Values of the last token's hidden state, from which a layer that drafts goes on; 0 where there is none.
    pub hidden: usize,
}

impl StateLayout {
    /// How many bytes a slot has: those of all layers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // a size that no machine has is refused when the arena is made
        (self.conv.saturating_add(self.delta))
            .saturating_mul(self.layers)
            .saturating_add(self.hidden)
            .saturating_mul(size_of::<f32>())
    }

    /// Values of a token that go into one layer's convolution.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.conv / (TAPS - 1)
    }

    /// How many bytes are kept of the most guesses that a step may have, so that those which come true can be taken into a state.
    #[must_use]
    pub fn journal_bytes(&self) -> usize {
        (self.channels().saturating_add(self.width))
            .saturating_mul(self.layers)
            .saturating_add(self.hidden)
            .saturating_mul(DRAFT_MAX * size_of::<f32>())
    }

    /// Where the values of a layer are in its slot: its convolution's, and its matrices'.
    fn values(&self, layer: usize) -> (Range<usize>, Range<usize>) {
        assert!(
            layer < self.layers,
            "delta layer {layer} of {}",
            self.layers
        );
        let start = layer * (self.conv + self.delta);
        let delta = start + self.conv;
        (start..delta, delta..delta + self.delta)
    }
}

/// The slots of all sequences and of all snapshots, in f32: `[layers][conv, delta]`, and the hidden state.
pub struct States {
    layout: StateLayout,
    /// None where no layer has a state.
    arena: Option<Arena>,
    slots: Slots,
}

impl States {
    /// Makes no slots, for a network without states.
    #[must_use]
    pub(super) fn none() -> Self {
        Self {
            layout: StateLayout::default(),
            arena: None,
            slots: Slots::new(0),
        }
    }

    /// Maps all slots and touches them. Without layers that have a state, there are no slots.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses or the size overflows.
    pub(super) fn new(layout: StateLayout, slots: usize) -> Result<Self, NoMemory> {
        let bytes = layout.bytes();
        if bytes == 0 {
            return Ok(Self::none());
        }
        let numbers = StateSlot::try_from(slots).map_err(|_| NoMemory { bytes: usize::MAX })?;
        Ok(Self {
            layout,
            arena: Some(Arena::new(slots, bytes)?),
            slots: Slots::new(numbers),
        })
    }

    /// What lies where in a slot.
    #[must_use]
    pub fn layout(&self) -> &StateLayout {
        &self.layout
    }

    /// Whether the network has states at all.
    #[must_use]
    pub(super) fn are_needed(&self) -> bool {
        self.arena.is_some()
    }

    /// How many slots hold snapshots, and how many hold nothing.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.slots.counts()
    }

    /// Keeps the slots from being swapped out.
    ///
    /// # Errors
    /// [`NotLocked`]: the system's limit of locked memory is too low.
    pub(super) fn lock(&self) -> Result<(), NotLocked> {
        self.arena.as_ref().map_or(Ok(()), Arena::lock)
    }

    /// Whether a sequence can start: it needs no slot, or there is one that is free or holds a snapshot.
    #[must_use]
    pub fn is_room(&self) -> bool {
        self.arena.is_none() || self.slots.is_room()
    }

    /// The owners' snapshots from which a text may go on, and how many of its tokens each of them is behind, the longest first.
    /// The last token is behind none of them, because it must be computed for its logits.
    #[must_use]
    pub fn find(&self, owners: impl Into<Owners>, tokens: &[u32]) -> Vec<(StateSlot, usize)> {
        self.slots.find(owners.into(), tokens)
    }

    /// The longest snapshot that a text of an owner begins with, or is, and how many tokens it is behind.
    #[must_use]
    pub fn longest(&self, owner: Owner, tokens: &[u32]) -> Option<(StateSlot, usize)> {
        self.slots.longest(owner, tokens)
    }

    /// Takes a slot for a sequence: a free one, else that of the snapshot that was used longest ago. It has the state of the
    /// snapshot `from`, or zeros. Where `from` has the only slot that no sequence has, the sequence takes that one. Gives none if
    /// sequences have all slots.
    ///
    /// # Panics
    /// If there is no slot `from`.
    pub fn take(&mut self, from: Option<StateSlot>) -> Option<StateSlot> {
        let slot = self.slots.take(from)?;
        match from {
            None => self.clear(slot),
            Some(from) if from == slot => {}
            Some(from) => self.copy(from, slot),
        }
        Some(slot)
    }

    /// Keeps a copy of the state of a sequence that goes on, behind these tokens, if there is a slot that no sequence has.
    pub fn keep_copy(&mut self, slot: StateSlot, owners: impl Into<Owners>, tokens: &[u32]) {
        if let Some(copy) = self.slots.keep_copy(owners.into(), tokens) {
            self.copy(slot, copy);
        }
    }

    /// Keeps the state of a sequence that has ended behind these tokens, in the slot that was the sequence's.
    ///
    /// # Panics
    /// If no sequence has the slot.
    pub fn keep(&mut self, slot: StateSlot, owners: impl Into<Owners>, tokens: &[u32]) {
        self.slots.keep(slot, owners.into(), tokens);
    }

    /// Frees the slot of a sequence that has ended.
    ///
    /// # Panics
    /// If no sequence has the slot.
    pub fn release(&mut self, slot: StateSlot) {
        self.slots.release(slot);
    }

    /// Frees the snapshots of an owner, so that no prompt starts from them any more.
    pub fn forget(&mut self, owner: Owner) {
        self.slots.forget(owner);
    }

    /// Frees the owners' snapshots that a text begins with, because its state cannot be trusted.
    pub fn forget_prefixes(&mut self, owners: impl Into<Owners>, tokens: &[u32]) {
        self.slots.forget_prefixes(owners.into(), tokens);
    }

    /// Fills a slot with zeros, which is the state of a sequence before its first token.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn clear(&mut self, slot: StateSlot) {
        self.arena_mut().clear(slot);
    }

    fn copy(&mut self, from: StateSlot, to: StateSlot) {
        let bytes = self.layout.bytes();
        self.arena_mut()
            .copy_parts(from, to, std::iter::once((0, bytes)));
    }

    /// The bytes of a slot, as a session's file has them.
    ///
    /// # Panics
    /// If there is no such slot.
    #[must_use]
    pub fn bytes(&self, slot: StateSlot) -> &[u8] {
        let Some(arena) = &self.arena else {
            panic!("a slot of a network without states");
        };
        let bytes = self.layout.bytes();
        &arena.bytes()[usize::from(slot) * bytes..][..bytes]
    }

    /// The bytes of a slot, to change.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn bytes_mut(&mut self, slot: StateSlot) -> &mut [u8] {
        let bytes = self.layout.bytes();
        self.arena_mut().chunk_mut(slot, 0, bytes)
    }

    /// The state of one delta layer: the last columns of its convolution's input, `[conv]`, and its matrices, `[delta]`.
    ///
    /// # Panics
    /// If there is no such slot or layer.
    pub fn layer_mut(&mut self, slot: StateSlot, layer: usize) -> (&mut [f32], &mut [f32]) {
        let (conv, delta) = self.layout.values(layer);
        // slots begin at multiples of four bytes of a map, which begins with a page of memory
        let values = bytemuck::cast_slice_mut(self.bytes_mut(slot));
        let (before, after) = values[..delta.end].split_at_mut(delta.start);
        (&mut before[conv], after)
    }

    /// The hidden state of a slot's last token.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn hidden_mut(&mut self, slot: StateSlot) -> &mut [f32] {
        let hidden = self.layout.hidden;
        let values = bytemuck::cast_slice_mut(self.bytes_mut(slot));
        let len = values.len();
        &mut values[len - hidden..]
    }

    /// Every snapshot, with its owner and the tokens that it is behind.
    #[cfg(test)]
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = (StateSlot, Owner, &[u32])> {
        self.slots.snapshots()
    }

    fn arena_mut(&mut self) -> &mut Arena {
        match &mut self.arena {
            Some(arena) => arena,
            None => panic!("a slot of a network without states"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const LAYOUT: StateLayout = StateLayout {
        layers: 3,
        conv: 5,
        delta: 7,
        width: 9,
        hidden: 2,
    };

    fn fill(states: &mut States, slot: StateSlot, value: f32) {
        for layer in 0..LAYOUT.layers {
            let (conv, delta) = states.layer_mut(slot, layer);
            assert_eq!((conv.len(), delta.len()), (LAYOUT.conv, LAYOUT.delta));
            conv.fill(value);
            delta.fill(value);
        }
        states.hidden_mut(slot).fill(value);
    }

    fn has(states: &States, slot: StateSlot, value: f32) -> bool {
        let values: &[f32] = bytemuck::cast_slice(states.bytes(slot));
        values.len() == 38 && values.iter().all(|v| *v == value)
    }

    #[test]
    fn a_slot_is_zeros_or_what_it_was_taken_from() {
        let mut states = States::new(LAYOUT, 3).unwrap();
        let first = states.take(None).unwrap();
        assert!(has(&states, first, 0.0));
        fill(&mut states, first, 1.5);
        states.keep_copy(first, 7, &[1, 2]);
        assert_eq!(states.counts(), (1, 1));
        // the copy stays as it was
        fill(&mut states, first, 2.5);
        let [(kept, 2)] = states.find(7, &[1, 2, 3])[..] else {
            panic!("not found");
        };
        assert!(has(&states, kept, 1.5) && has(&states, first, 2.5));
        let second = states.take(Some(kept)).unwrap();
        assert!(has(&states, second, 1.5) && second != kept);
        // the only slot that no sequence has is the snapshot's own
        assert_eq!(states.take(Some(kept)), Some(kept));
        assert!(has(&states, kept, 1.5) && states.find(7, &[1, 2, 3]).is_empty());
        assert!(!states.is_room() && states.take(None).is_none());
        // what another left is gone
        states.release(first);
        let again = states.take(None).unwrap();
        assert!(again == first && has(&states, again, 0.0));
    }

    #[test]
    fn layers_share_no_value() {
        let mut states = States::new(LAYOUT, 2).unwrap();
        let slot = states.take(None).unwrap();
        let other = states.take(None).unwrap();
        for layer in 0..LAYOUT.layers {
            let (conv, delta) = states.layer_mut(slot, layer);
            conv.fill(layer as f32 + 1.0);
            delta.fill(-(layer as f32) - 1.0);
        }
        for layer in 0..LAYOUT.layers {
            let (conv, delta) = states.layer_mut(slot, layer);
            assert!(conv.iter().all(|v| *v == layer as f32 + 1.0));
            assert!(delta.iter().all(|v| *v == -(layer as f32) - 1.0));
        }
        assert!(has(&states, other, 0.0));
    }

    #[test]
    #[should_panic(expected = "delta layer 3 of 3")]
    fn a_layer_that_is_not_there_is_no_slot_of_another() {
        let mut states = States::new(LAYOUT, 2).unwrap();
        states.layer_mut(0, 3);
    }

    #[test]
    fn an_impossible_size_is_refused_and_none_is_none() {
        let most = usize::MAX;
        for (layers, conv, delta, slots) in [
            (1, most, 1, 1),
            (most, 1, 1, 2),
            (1, most / 16, most / 16, 1 << 10),
            (1, 1, 1, 1 << 20),
        ] {
            let layout = StateLayout {
                layers,
                conv,
                delta,
                width: 1,
                hidden: 0,
            };
            assert!(States::new(layout, slots).is_err());
        }
        let none = States::new(StateLayout::default(), 9).unwrap();
        assert!(!none.are_needed() && none.is_room() && none.lock().is_ok());
    }
}
