//! Which pages a sequence gets, and what becomes of them afterwards. This joins the bookkeeping of [`Pages`], the bytes of
//! the cache, and the sessions that hold pages between two turns.
//!
//! A sequence that waits for pages holds none, so no two can wait for each other. A sequence that has started holds all
//! pages that it can ever need. Between two turns the pages of a session are a cache of what was said, and a sequence that
//! starts may take them: those of idle sessions first, those of a session whose turn waits last, and after them those that a
//! request without a session keeps while it waits for the results of tools. Once that turn starts, its
//! sequence alone holds what it found of them. So every request that needs no more pages than there are starts at the
//! latest when nothing else runs.
//!
//! In a network with states a sequence that has started also has a slot of state, and a prompt goes on only from where both its
//! pages and a snapshot of the state are known. Snapshots are nobody's: whoever starts takes the slot of the one that was
//! used longest ago, and waits only where sequences that have started have all slots.

use super::request::RequestId;
use super::scheduler::{Admitted, PARKED_MAX, Scheduler};
use super::sequence::{Sequence, Slot};
use super::session::files::Snapshots;
use super::session::unsaved::Unsaved;
use super::session::{SessionKey, Sessions};
use crate::kv::{Found, KvCache, PageId, Pages, Partial, StateSlot, TooManyPages};
use glowplug_firmware_config::limits::{PAGE_TOKENS, QUEUE_MAX, STREAMS_MAX};
use heapless::Vec as Bounded;
use std::collections::BTreeMap;

/// Page tables: one for every sequence in a step, and one for every parked sequence.
pub(super) const TABLES: usize = STREAMS_MAX + PARKED_MAX;

/// Most requests whose pages are kept while they wait for tools.
const PAUSED_MAX: usize = QUEUE_MAX + STREAMS_MAX;

/// What became of a sequence that asked for its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// it holds all pages that it can ever need
    Started,
    /// it holds nothing, because the sequences that run have the pages that it lacks
    Waits,
    /// it holds nothing yet: a session was written to its file for it, which is enough work for one step
    Later,
}

/// What was read of a session's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recalled {
    /// nothing, and no page was taken
    Nothing,
    /// pages, as far as they are sound
    Pages,
    /// the state, or some of the pages before it, are not sound, so that all of them are of no use
    Broken,
}

/// Pages, sessions and their files.
pub(super) struct Memory {
    pub(super) pages: Pages,
    pub(super) sessions: Sessions,
    pub(super) snapshots: Option<Snapshots>,
    /// the last pages of requests without a session that wait for the results of tools; all pages up to them are pinned
    paused: BTreeMap<RequestId, PageId>,
    /// page tables that no sequence has
    tables: Bounded<usize, TABLES>,
}

impl Memory {
    pub(super) fn new(pages: Pages, snapshots: Option<Snapshots>) -> Self {
        Self {
            pages,
            sessions: Sessions::default(),
            snapshots,
            paused: BTreeMap::new(),
            tables: (0..TABLES).collect(),
        }
    }

    /// Does all that the scheduler decides before a step and calls `started` for each sequence that has its pages from now
    /// on. At most one session is written to its file meanwhile. Gives false if nothing was done, and nothing can be done
    /// before something ends.
    pub(super) fn admit(
        &mut self,
        kv: &mut KvCache,
        scheduler: &mut Scheduler,
        sequences: &mut BTreeMap<RequestId, Sequence>,
        started: &mut dyn FnMut(&Sequence),
    ) -> bool {
        let (mut worked, mut later) = (false, false);
        while let Some(admitted) = scheduler.admit(&mut |id| {
            let start = match sequences.get_mut(&id) {
                Some(sequence) if !later => self.start(kv, sequence),
                _ => Start::Waits,
            };
            later |= start == Start::Later;
            start == Start::Started
        }) {
            worked = true;
            if let Admitted::Started { id, .. } = admitted
                && let Some(sequence) = sequences.get(&id)
            {
                started(sequence);
            }
        }
        worked || later
    }

    /// Gives a sequence the pages that already hold the beginning of its prompt, and reserves all others that it can ever
    /// need. Where the network has states, it gives it a slot as well.
    fn start(&mut self, kv: &mut KvCache, sequence: &mut Sequence) -> Start {
        let Some(&table) = self.tables.last().filter(|_| kv.states().is_room()) else {
            return Start::Waits;
        };
        let asked = sequence.owners;
        let (found, from) = self.find(kv, sequence, table);
        // what it kept while tools ran was found, or is of no use
        self.let_go(sequence.id);
        let needed = sequence.limit.div_ceil(PAGE_TOKENS) - kv.table(table).len();
        let own = sequence.turn.as_ref().map(|turn| turn.session.clone());
        let session = own.as_ref().and_then(|key| self.sessions.get(key));
        let asleep = session.is_some_and(|s| s.tip.is_none() && s.saved && s.paged);
        let reserved = self.reserve(kv, needed, own.as_ref());
        if reserved != Start::Started {
            self.pages.release(kv.table(table), usize::MAX);
            sequence.owners = asked;
            return reserved;
        }
        self.tables.pop();
        let state = kv.states_mut().take(from);
        kv.set_state(table, state);
        let mut slot = Slot {
            table,
            reserved: needed,
        };
        sequence.fed = found.tokens;
        let partial = found.partial.map_or(0, |partial| partial.tokens);
        let recalled = match own.as_ref().filter(|_| asleep) {
            Some(key) => self.recall(kv, key, sequence, &mut slot, partial),
            None => Recalled::Nothing,
        };
        if recalled == Recalled::Broken {
            // the session is known to have no pages in its file now
            (sequence.fed, sequence.owners) = (0, asked);
            self.give_back(kv, slot, usize::MAX);
            return self.start(kv, sequence);
        }
        if recalled == Recalled::Nothing
            && let Some(Partial { page, tokens }) = found.partial
        {
            slot.reserved -= 1;
            let own = self.pages.take(kv.table(table));
            if own == page && kv.has_states() {
                // the only page that could be taken is the one found, and the state is behind its rows
                kv.keep_rows(own, tokens);
                sequence.fed += tokens;
            } else {
                kv.clear(own);
                // a page that was its own copy is clear now
                if own != page {
                    kv.copy_rows(page, own, tokens);
                    sequence.fed += tokens;
                }
            }
        }
        if let Some(key) = &own {
            self.hold(key, None);
        }
        sequence.cached = sequence.fed.max(sequence.given);
        sequence.slot = Some(slot);
        Start::Started
    }

    /// Finds the pages that hold the beginning of a sequence's prompt, puts the full ones into the table, and says whose its pages
    /// are from then on. Where the network has states, they go exactly up to a snapshot, which is given as well.
    fn find(
        &mut self,
        kv: &mut KvCache,
        sequence: &mut Sequence,
        table: usize,
    ) -> (Found, Option<StateSlot>) {
        let prompt = &sequence.tokens[..sequence.prompt];
        if !kv.has_states() {
            let owners = &mut sequence.owners;
            return (self.pages.find(owners, prompt, kv.table(table)), None);
        }
        for (slot, tokens) in kv.states().find(sequence.owners, prompt) {
            let mut owners = sequence.owners;
            // the last token is found in no page
            let known = &prompt[..=tokens];
            let found = self.pages.find(&mut owners, known, kv.table(table));
            let partial = found.partial.map_or(0, |partial| partial.tokens);
            if found.tokens + partial == tokens {
                sequence.owners = owners;
                return (found, Some(slot));
            }
            self.pages.release(kv.table(table), usize::MAX);
        }
        let nothing = Found {
            tokens: 0,
            partial: None,
        };
        (nothing, None)
    }

    /// Reserves pages, and takes them from sessions if it must: first from the sequence's `own`, of which it holds already
    /// what it found. If all of them would not be enough, no session loses anything.
    fn reserve(&mut self, kv: &mut KvCache, pages: usize, own: Option<&SessionKey>) -> Start {
        while let Err(missing) = self.pages.reserve(pages) {
            if missing.pages > missing.pinned {
                return Start::Waits;
            }
            let session = own.and_then(|key| self.sessions.get(key));
            if let Some(key) = own.filter(|_| session.is_some_and(|s| s.tip.is_some())) {
                self.hold(key, None);
                continue;
            }
            let Some(key) = self.sessions.holder() else {
                let Some(oldest) = self.paused.keys().next().copied() else {
                    return Start::Waits;
                };
                self.let_go(oldest);
                continue;
            };
            if self.unload(kv, &key) {
                return Start::Later;
            }
        }
        Start::Started
    }

    /// Saves a session if that is possible and gives its pages back; its text stays in memory. Gives true if that took the
    /// time of a write.
    pub(super) fn unload(&mut self, kv: &mut KvCache, key: &SessionKey) -> bool {
        let mut wrote = false;
        if let Some(snapshots) = &mut self.snapshots
            && let Some(session) = self.sessions.get_mut(key)
            && !(session.saved && session.paged)
        {
            // a session that could not be saved is computed again when it goes on
            let saved = snapshots.save(key, session, &self.pages, kv);
            wrote = !matches!(saved, Err(Unsaved::Worn(_)));
        }
        self.hold(key, None);
        wrote
    }

    /// Reads the pages that a session's file has of a prompt, beyond what was found in memory, into pages of the sequence.
    /// It reads more than the `partial` tokens that could be copied, or nothing. What cannot be read is computed again. Where the
    /// network has states, it reads all of them with the state behind the last one, into the sequence's slot.
    fn recall(
        &mut self,
        kv: &mut KvCache,
        key: &SessionKey,
        sequence: &mut Sequence,
        slot: &mut Slot,
        partial: usize,
    ) -> Recalled {
        let Some(snapshots) = &mut self.snapshots else {
            return Recalled::Nothing;
        };
        let file = snapshots.open(key).ok();
        let Some(mut file) = file.filter(|file| file.unusable().is_none()) else {
            self.unpage(key);
            return Recalled::Nothing;
        };
        // the last token must be fed in any case, for its logits
        let prompt = &sequence.tokens[..sequence.prompt.saturating_sub(1)];
        let pairs = file.header().tokens.iter().zip(prompt);
        let common = pairs.take_while(|(a, b)| a == b).count();
        let state = kv.state_of(slot.table);
        let parts = state.is_some() && common < file.header().tokens.len();
        if common <= sequence.fed + partial || parts {
            return Recalled::Nothing;
        }
        if let Some(state) = state
            && file.read_state(kv.states_mut().bytes_mut(state)).is_err()
        {
            self.unpage(key);
            return Recalled::Broken;
        }
        // what a file says is its client's alone
        sequence.owners.common = sequence.owners.common.min(sequence.fed);
        let skipped = file.skip_pages(sequence.fed / PAGE_TOKENS);
        while sequence.fed < common {
            let (at, page) = (sequence.fed, self.take(kv, slot));
            let mut read = |bytes: &mut [u8]| file.read_page(bytes).is_ok();
            if skipped.is_err() || !kv.arena().change_page(page, &mut read) {
                // a damaged file costs this session its pages, and nobody else anything
                kv.clear(page);
                self.unpage(key);
                if state.is_some() {
                    return Recalled::Broken;
                }
                break;
            }
            sequence.fed = common.min(at + PAGE_TOKENS);
            if sequence.fed == at + PAGE_TOKENS {
                let (table, tokens) = (kv.table(slot.table), &sequence.tokens[at..sequence.fed]);
                self.pages
                    .fill(sequence.owners, table, at / PAGE_TOKENS, tokens);
            } else {
                kv.keep_rows(page, sequence.fed - at);
            }
        }
        Recalled::Pages
    }

    /// Notes that a session's file has no pages of use, so that it is not opened for them again.
    fn unpage(&mut self, key: &SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.paged = false;
        }
    }

    /// Takes pages from a sequence's reservation until its table has room for the next `tokens`.
    pub(super) fn grow(&mut self, kv: &mut KvCache, sequence: &mut Sequence, tokens: usize) {
        if let Some(mut slot) = sequence.slot {
            let needed = (sequence.fed + tokens).div_ceil(PAGE_TOKENS);
            while kv.table(slot.table).len() < needed {
                self.take(kv, &mut slot);
            }
            sequence.slot = Some(slot);
        }
    }

    /// Takes the next page of a table from its reservation.
    fn take(&mut self, kv: &mut KvCache, slot: &mut Slot) -> PageId {
        slot.reserved -= 1;
        let page = self.pages.take(kv.table(slot.table));
        kv.clear(page);
        page
    }

    /// Notes that `tokens` more of a sequence are in the cache. Pages that became full can be found by others from now on, and
    /// so can the state at a checkpoint.
    pub(super) fn fed(&mut self, kv: &mut KvCache, sequence: &mut Sequence, tokens: usize) {
        let before = sequence.fed / PAGE_TOKENS;
        sequence.fed += tokens;
        if let Some(slot) = sequence.slot {
            let table = kv.table(slot.table);
            for i in before..sequence.fed / PAGE_TOKENS {
                let tokens = &sequence.tokens[i * PAGE_TOKENS..][..PAGE_TOKENS];
                self.pages.fill(sequence.owners, table, i, tokens);
            }
            if let Some(state) = kv.state_of(slot.table)
                && sequence.is_at_checkpoint()
            {
                let tokens = &sequence.tokens[..sequence.fed];
                kv.states_mut().keep_copy(state, sequence.owners, tokens);
            }
        }
    }

    /// Gives back what a sequence holds. Pages that are worth keeping can still be found. If it answered a turn of a session,
    /// the session holds them from now on.
    pub(super) fn end(&mut self, kv: &mut KvCache, sequence: &mut Sequence) {
        let Some(slot) = sequence.slot.take() else {
            return;
        };
        if let Some(turn) = sequence.turn.take_if(|_| sequence.distrusted)
            && let Some(session) = self.sessions.get_mut(&turn.session)
        {
            // its file may be what it began with, and is to be written anew
            (session.saved, session.paged) = (false, false);
        }
        let keep = sequence.keep();
        let table = kv.table(slot.table);
        if let Some(last) = keep.div_ceil(PAGE_TOKENS).checked_sub(1) {
            let tokens = &sequence.tokens[last * PAGE_TOKENS..keep];
            self.pages.fill(sequence.owners, table, last, tokens);
            let tip = table[last];
            if let Some(turn) = &sequence.turn {
                self.hold(&turn.session, Some(tip));
            } else if sequence.pauses {
                self.pages.pin(tip);
                self.let_go(sequence.id);
                self.paused.insert(sequence.id, tip);
                if self.paused.len() > PAUSED_MAX
                    && let Some(oldest) = self.paused.keys().next().copied()
                {
                    self.let_go(oldest);
                }
            }
        }
        if let Some(state) = kv.state_of(slot.table) {
            let (owners, tokens) = (sequence.owners, &sequence.tokens);
            if sequence.distrusted {
                kv.states_mut().forget_prefixes(owners, tokens);
            } else if keep > 0 && keep == sequence.fed && !sequence.is_tidied() {
                kv.states_mut().keep(state, owners, &tokens[..keep]);
                kv.set_state(slot.table, None);
            }
        }
        self.give_back(kv, slot, keep);
    }

    /// Gives back pages, promises, table and slot of state. Pages with a token at or behind `keep` are freed at once.
    fn give_back(&mut self, kv: &mut KvCache, slot: Slot, keep: usize) {
        self.pages.release(kv.table(slot.table), keep);
        self.pages.unreserve(slot.reserved);
        if let Some(state) = kv.state_of(slot.table) {
            kv.states_mut().release(state);
            kv.set_state(slot.table, None);
        }
        // there is room: the table came from this list
        let _ = self.tables.push(slot.table);
    }

    /// Forgets what all pages hold, because they are gone. No sequence may hold any.
    ///
    /// # Errors
    /// None: there are as many pages as before.
    pub(super) fn forget_pages(&mut self) -> Result<(), TooManyPages> {
        self.pages = Pages::new(self.pages.total())?;
        self.tables = (0..TABLES).collect();
        self.sessions.forget_pages();
        Ok(())
    }

    /// Lets a session hold the pages up to `tip` instead of those that it held.
    pub(super) fn hold(&mut self, key: &SessionKey, tip: Option<PageId>) {
        if let Some(session) = self.sessions.get_mut(key) {
            if let Some(tip) = tip {
                self.pages.pin(tip);
            }
            if let Some(before) = std::mem::replace(&mut session.tip, tip) {
                self.pages.unpin(before);
            }
        }
    }

    /// A request that paused for tools keeps its pages no longer.
    pub(super) fn let_go(&mut self, id: RequestId) {
        if let Some(tip) = self.paused.remove(&id) {
            self.pages.unpin(tip);
        }
    }

    /// Forgets a session and unpins its pages.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        if let Some(tip) = self.sessions.remove(key).and_then(|s| s.tip) {
            self.pages.unpin(tip);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
