//! Who holds which slot of state. This knows slot numbers and tokens, but no bytes and no clock.
//!
//! A slot is in one of three states:
//! - free: nothing of use is in it;
//! - taken by a sequence that has started, whose state changes with every token;
//! - a snapshot: the state behind a known text, held by nobody, so that a prompt which begins with that text may start from
//!   it until its room is needed. The snapshot that was used longest ago goes first. Whoever uses one uses those that its text
//!   begins with as well: what all prompts have in common is used by each of them.
//!
//! A snapshot is found by its owner and by all of its tokens, as pages are: nobody finds that of another owner. Its tokens are
//! kept and compared, because they are little beside a state.

use super::prefix::{EVERYBODY, Owner, Owners};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::cmp::Reverse;

/// The number of a slot in the arena of states.
pub type StateSlot = u16;

/// The bookkeeping of all slots.
#[derive(Debug)]
pub(super) struct Slots {
    total: usize,
    free: Vec<StateSlot>,
    snapshots: Vec<Kept>,
    /// Counts uses, so that a later use has a larger number.
    uses: u64,
}

/// A slot that holds the state behind a text.
#[derive(Debug)]
struct Kept {
    slot: StateSlot,
    owner: Owner,
    tokens: Box<[u32]>,
    /// The count of uses at its last use.
    age: u64,
}

impl Slots {
    /// Starts with the slots `0..total`, all of them free.
    pub(super) fn new(total: StateSlot) -> Self {
        Self {
            total: total.into(),
            free: (0..total).rev().collect(),
            snapshots: Vec::with_capacity(total.into()),
            uses: 0,
        }
    }

    /// Slots that hold snapshots, and slots that hold nothing.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.snapshots.len(), self.free.len())
    }

    /// Whether [`Self::take`] gives a slot.
    pub(super) fn is_room(&self) -> bool {
        !self.free.is_empty() || !self.snapshots.is_empty()
    }

    /// The owners' snapshots from which a text may go on, and how many of its tokens each of them is behind, the longest first.
    /// The last token is behind none of them, because it must be computed for its logits.
    pub(super) fn find(&self, owners: Owners, tokens: &[u32]) -> Vec<(StateSlot, usize)> {
        let known = &tokens[..tokens.len().saturating_sub(1)];
        let found = self.snapshots.iter().filter(|kept| {
            let may = kept.owner == owners.own || kept.owner == owner(owners, kept.tokens.len());
            may && known.starts_with(&kept.tokens)
        });
        let mut found: Vec<_> = found.map(|kept| (kept.slot, kept.tokens.len())).collect();
        found.sort_by_key(|&(_, tokens)| Reverse(tokens));
        found
    }

    /// The longest snapshot that a text of an owner begins with, or is, and how many tokens it is behind. What the configuration
    /// says is part of everybody's text.
    pub(super) fn longest(&self, owner: Owner, tokens: &[u32]) -> Option<(StateSlot, usize)> {
        let found = self.snapshots.iter().filter(|kept| {
            [owner, EVERYBODY].contains(&kept.owner) && tokens.starts_with(&kept.tokens)
        });
        let longest = found.max_by_key(|kept| kept.tokens.len())?;
        Some((longest.slot, longest.tokens.len()))
    }

    /// Takes a slot for a sequence that goes on from the snapshot `from`: a free one, else that of the snapshot that was used
    /// longest ago, and that of `from` itself where there is no other.
    pub(super) fn take(&mut self, from: Option<StateSlot>) -> Option<StateSlot> {
        let from = self.snapshots.iter().find(|kept| Some(kept.slot) == from);
        if let Some((owner, tokens)) = from.map(|kept| (kept.owner, kept.tokens.clone())) {
            // `from` was used last, so it goes last
            self.touch(owner, &tokens);
        }
        self.free.pop().or_else(|| self.evict())
    }

    /// Takes a slot for a snapshot of a sequence that goes on, behind these tokens. Gives none if there is such a snapshot
    /// already, or no slot that no sequence has.
    pub(super) fn keep_copy(&mut self, owners: Owners, tokens: &[u32]) -> Option<StateSlot> {
        let owner = owner(owners, tokens.len());
        if self.touch(owner, tokens) {
            return None;
        }
        let slot = self.free.pop().or_else(|| self.evict())?;
        self.put(slot, owner, tokens);
        Some(slot)
    }

    /// Makes the slot of a sequence that has ended a snapshot behind these tokens, or frees it if there is such a snapshot
    /// already.
    pub(super) fn keep(&mut self, slot: StateSlot, owners: Owners, tokens: &[u32]) {
        let owner = owner(owners, tokens.len());
        if self.touch(owner, tokens) {
            self.release(slot);
        } else {
            self.put(slot, owner, tokens);
        }
    }

    /// Frees the slot of a sequence that has ended.
    ///
    /// # Panics
    /// If no sequence has it.
    pub(super) fn release(&mut self, slot: StateSlot) {
        self.assert_taken(slot);
        self.free.push(slot);
    }

    /// Frees the snapshots of an owner.
    pub(super) fn forget(&mut self, owner: Owner) {
        self.drop_where(|kept| kept.owner == owner);
    }

    /// Frees the owners' snapshots that a text begins with.
    pub(super) fn forget_prefixes(&mut self, owners: Owners, tokens: &[u32]) {
        self.drop_where(|kept| {
            let may = kept.owner == owners.own || kept.owner == owner(owners, kept.tokens.len());
            may && tokens.starts_with(&kept.tokens)
        });
    }

    fn drop_where(&mut self, drops: impl Fn(&Kept) -> bool) {
        let free = &mut self.free;
        self.snapshots.retain(|kept| {
            let drops = drops(kept);
            if drops {
                free.push(kept.slot);
            }
            !drops
        });
    }

    /// Notes a use of the owner's snapshot behind exactly these tokens, and before it one of all that this text begins with.
    /// Gives whether there is that snapshot.
    fn touch(&mut self, owner: Owner, tokens: &[u32]) -> bool {
        self.uses += 2;
        let mut is_there = false;
        for kept in &mut self.snapshots {
            if [owner, EVERYBODY].contains(&kept.owner) && tokens.starts_with(&kept.tokens) {
                let same = kept.owner == owner && kept.tokens.len() == tokens.len();
                kept.age = self.uses - u64::from(!same);
                is_there |= same;
            }
        }
        is_there
    }

    fn put(&mut self, slot: StateSlot, owner: Owner, tokens: &[u32]) {
        self.assert_taken(slot);
        self.snapshots.push(Kept {
            slot,
            owner,
            tokens: tokens.into(),
            age: self.uses,
        });
    }

    /// Takes the slot of the snapshot that was used longest ago. Of those that were used as beginnings of one text the longest goes,
    /// because the others serve more texts.
    fn evict(&mut self) -> Option<StateSlot> {
        let ages = self.snapshots.iter().enumerate();
        let order = |kept: &Kept| (kept.age, Reverse(kept.tokens.len()));
        let (oldest, _) = ages.min_by_key(|(_, kept)| order(kept))?;
        Some(self.snapshots.swap_remove(oldest).slot)
    }

    /// Every snapshot, with its owner and the tokens that it is behind.
    #[cfg(test)]
    pub(super) fn snapshots(&self) -> impl Iterator<Item = (StateSlot, Owner, &[u32])> {
        let all = self.snapshots.iter();
        all.map(|kept| (kept.slot, kept.owner, &*kept.tokens))
    }

    fn assert_taken(&self, slot: StateSlot) {
        let kept = self.snapshots.iter().any(|kept| kept.slot == slot);
        assert!(
            usize::from(slot) < self.total && !kept && !self.free.contains(&slot),
            "no sequence has slot {slot}"
        );
    }
}

/// The owner of a snapshot behind so many tokens, which is that of the page with the last of them.
fn owner(owners: Owners, tokens: usize) -> Owner {
    owners.of(tokens.saturating_sub(1) / PAGE_TOKENS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
