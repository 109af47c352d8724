//! Which pages a sequence gets and what becomes of them: the bookkeeping of [`Pages`], the bytes of the cache, and the
//! sessions that hold pages between two turns.
//!
//! What waits holds nothing that it waits for. A sequence that has started holds all pages it can ever need; one that has
//! not holds none. Between two turns a session's pages are a cache of what was said: whoever starts may have them, of an
//! idle session first, of one whose turn waits last, and once its turn starts the sequence alone holds what it found of
//! them. So whatever does not need more pages than there are starts when nothing else runs.

use super::RequestId;
use super::scheduler::{Admitted, PARKED_MAX, Scheduler};
use super::sequence::{Place, Sequence};
use super::session::files::{Snapshots, Unsaved};
use super::session::{SessionKey, Sessions};
use crate::kv::{KvCache, PageId, Pages, Partial};
use glowplug_firmware_config::limits::{PAGE_TOKENS, STREAMS_MAX};
use heapless::Vec as Bounded;
use std::collections::BTreeMap;

/// Page tables: one for every place in a step, and one for every parked sequence.
pub(super) const TABLES: usize = STREAMS_MAX + PARKED_MAX;

/// What became of a sequence that asked for its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// it holds all it can ever need
    Started,
    /// it holds nothing: what runs has what it lacks
    Waits,
    /// it holds nothing: a session was written to its file for it, which is enough for one step
    Later,
}

pub(super) struct Memory {
    pub(super) pages: Pages,
    pub(super) sessions: Sessions,
    pub(super) snapshots: Option<Snapshots>,
    /// tables that nobody has
    tables: Bounded<usize, TABLES>,
}

impl Memory {
    pub(super) fn new(pages: Pages, snapshots: Option<Snapshots>) -> Self {
        Self {
            pages,
            sessions: Sessions::default(),
            snapshots,
            tables: (0..TABLES).collect(),
        }
    }

    /// All that the scheduler decides before a step; `started` hears of those that have their pages from now on. At most
    /// one session is written to its file meanwhile. False: nothing was done, and nothing can be before something ends.
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

    /// Gives a sequence the pages that hold the beginning of its prompt already, and reserves all others that it can
    /// ever need.
    fn start(&mut self, kv: &mut KvCache, sequence: &mut Sequence) -> Start {
        let Some(&table) = self.tables.last() else {
            return Start::Waits;
        };
        let prompt = &sequence.tokens[..sequence.prompt];
        let found = self.pages.find(sequence.owner, prompt, kv.table(table));
        let needed = sequence.limit.div_ceil(PAGE_TOKENS) - kv.table(table).len();
        let own = sequence.turn.as_ref().map(|turn| turn.session.clone());
        let session = own.as_ref().and_then(|key| self.sessions.get(key));
        let asleep = session.is_some_and(|s| s.tip.is_none() && s.saved && s.paged);
        let reserved = self.reserve(kv, needed, own.as_ref());
        if reserved != Start::Started {
            self.pages.release(kv.table(table), usize::MAX);
            return reserved;
        }
        self.tables.pop();
        let mut place = Place {
            table,
            reserved: needed,
        };
        sequence.fed = found.tokens;
        let partial = found.partial.map_or(0, |partial| partial.tokens);
        let recalled = asleep
            && own
                .as_ref()
                .is_some_and(|key| self.recall(kv, key, sequence, &mut place, partial));
        if !recalled && let Some(Partial { page, tokens }) = found.partial {
            let own = self.take(kv, &mut place);
            // where it was the only page to be had, it is clear now
            if own != page {
                kv.copy_rows(page, own, tokens);
                sequence.fed += tokens;
            }
        }
        if let Some(key) = &own {
            self.hold(key, None);
        }
        sequence.cached = sequence.fed;
        sequence.place = Some(place);
        Start::Started
    }

    /// Reserves pages, at the cost of sessions if it must be: first of the sequence's `own`, of which it holds already
    /// what it found. Nobody loses anything where all of it would not be enough.
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
                return Start::Waits;
            };
            if self.unload(kv, &key) {
                return Start::Later;
            }
        }
        Start::Started
    }

    /// Saves a session if it can be and gives its pages back; what was said stays. True if that took the time of a write.
    pub(super) fn unload(&mut self, kv: &mut KvCache, key: &SessionKey) -> bool {
        let mut wrote = false;
        if let Some(snapshots) = &mut self.snapshots
            && let Some(session) = self.sessions.get_mut(key)
            && !(session.saved && session.paged)
        {
            // not saved: it is computed again when it goes on
            let saved = snapshots.save(key, session, &self.pages, kv);
            wrote = !matches!(saved, Err(Unsaved::Worn(_)));
        }
        self.hold(key, None);
        wrote
    }

    /// Reads what the file of a session has of a prompt beyond what was found of it, into the sequence's own pages: more
    /// than the `partial` tokens that may be copied, or nothing. False: no page was taken. What cannot be read is computed
    /// again.
    fn recall(
        &mut self,
        kv: &mut KvCache,
        key: &SessionKey,
        sequence: &mut Sequence,
        place: &mut Place,
        partial: usize,
    ) -> bool {
        let Some(snapshots) = &self.snapshots else {
            return false;
        };
        let file = snapshots.open(key).ok();
        let Some(mut file) = file.filter(|file| file.unusable().is_none()) else {
            self.unpage(key);
            return false;
        };
        // the last token must be fed for its logits
        let prompt = &sequence.tokens[..sequence.prompt.saturating_sub(1)];
        let pairs = file.header().tokens.iter().zip(prompt);
        let common = pairs.take_while(|(a, b)| a == b).count();
        if common <= sequence.fed + partial {
            return false;
        }
        let skipped = file.skip_pages(sequence.fed / PAGE_TOKENS);
        while sequence.fed < common {
            let (at, page) = (sequence.fed, self.take(kv, place));
            if skipped.is_err() || file.read_page(kv.arena().page_mut(page)).is_err() {
                // a damaged file costs this session its pages, and nobody anything else
                kv.clear(page);
                self.unpage(key);
                break;
            }
            sequence.fed = common.min(at + PAGE_TOKENS);
            if sequence.fed == at + PAGE_TOKENS {
                let (table, tokens) = (kv.table(place.table), &sequence.tokens[at..sequence.fed]);
                self.pages
                    .fill(sequence.owner, table, at / PAGE_TOKENS, tokens);
            } else {
                kv.keep_rows(page, sequence.fed - at);
            }
        }
        true
    }

    /// A session's file has no pages of use: it is not opened again when its session goes on.
    fn unpage(&mut self, key: &SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.paged = false;
        }
    }

    /// Makes room for the next `tokens` of a sequence, from its reservation.
    pub(super) fn grow(&mut self, kv: &mut KvCache, sequence: &mut Sequence, tokens: usize) {
        if let Some(mut place) = sequence.place {
            let needed = (sequence.fed + tokens).div_ceil(PAGE_TOKENS);
            while kv.table(place.table).len() < needed {
                self.take(kv, &mut place);
            }
            sequence.place = Some(place);
        }
    }

    /// The next page of a table, from its reservation.
    fn take(&mut self, kv: &mut KvCache, place: &mut Place) -> PageId {
        place.reserved -= 1;
        let page = self.pages.take(kv.table(place.table));
        kv.clear(page);
        page
    }

    /// `tokens` more of a sequence are in the cache: pages that became full can be found by others from now on.
    pub(super) fn fed(&mut self, kv: &mut KvCache, sequence: &mut Sequence, tokens: usize) {
        let before = sequence.fed / PAGE_TOKENS;
        sequence.fed += tokens;
        if let Some(place) = sequence.place {
            let table = kv.table(place.table);
            for i in before..sequence.fed / PAGE_TOKENS {
                let tokens = &sequence.tokens[i * PAGE_TOKENS..][..PAGE_TOKENS];
                self.pages.fill(sequence.owner, table, i, tokens);
            }
        }
    }

    /// Gives back what a sequence holds. What is worth keeping can still be found; if it was a turn of a session, the
    /// session holds it from now on.
    pub(super) fn end(&mut self, kv: &mut KvCache, sequence: &mut Sequence) {
        let Some(place) = sequence.place.take() else {
            return;
        };
        let keep = sequence.keep();
        let table = kv.table(place.table);
        if let Some(last) = keep.div_ceil(PAGE_TOKENS).checked_sub(1) {
            let tokens = &sequence.tokens[last * PAGE_TOKENS..keep];
            self.pages.fill(sequence.owner, table, last, tokens);
            let tip = table[last];
            if let Some(turn) = &sequence.turn {
                self.hold(&turn.session, Some(tip));
            }
        }
        self.pages.release(kv.table(place.table), keep);
        self.pages.unreserve(place.reserved);
        // it came from there
        let _ = self.tables.push(place.table);
    }

    /// A session holds the pages up to `tip` instead of those before.
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

    /// Forgets a session and what it holds.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        if let Some(tip) = self.sessions.remove(key).and_then(|s| s.tip) {
            self.pages.unpin(tip);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
