//! Which pages a sequence gets and what becomes of them: the bookkeeping of [`Pages`], the bytes of the cache, and the
//! sessions that hold pages between two turns.

use super::scheduler::PARKED_MAX;
use super::sequence::{Place, Sequence};
use super::session::{SessionKey, Sessions};
use super::snapshots::Snapshots;
use crate::kv::{KvCache, PageId, Pages, Partial};
use glowplug_firmware_config::limits::{PAGE_TOKENS, STREAMS_MAX};
use heapless::Vec as Bounded;

/// Page tables: one for every place in a step, one for every parked sequence, and one to read a session's pages with.
pub(super) const TABLES: usize = STREAMS_MAX + PARKED_MAX + 1;

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

    /// Gives a sequence the pages that hold the beginning of its prompt already, and reserves all others that it can
    /// ever need. False: it has to wait.
    pub(super) fn start(&mut self, kv: &mut KvCache, sequence: &mut Sequence) -> bool {
        let Some(&table) = self.tables.last() else {
            return false;
        };
        if let Some(turn) = &sequence.turn {
            self.recall(kv, &turn.session.clone());
        }
        let prompt = &sequence.tokens[..sequence.prompt];
        let found = self.pages.find(prompt, kv.table(table));
        let needed = sequence.limit.div_ceil(PAGE_TOKENS) - kv.table(table).len();
        if !self.reserve(kv, needed) {
            self.pages.release(kv.table(table), usize::MAX);
            return false;
        }
        self.tables.pop();
        let mut place = Place {
            table,
            reserved: needed,
        };
        sequence.fed = found.tokens;
        if let Some(Partial { page, tokens }) = found.partial {
            let own = self.take(kv, &mut place);
            // where it was the only page to be had, it is clear now
            if own != page {
                kv.copy_rows(page, own, tokens);
                sequence.fed += tokens;
            }
        }
        sequence.cached = sequence.fed;
        sequence.place = Some(place);
        true
    }

    /// Reserves pages, at the cost of idle sessions if it must be: the longest idle first, saved if there is a folder.
    fn reserve(&mut self, kv: &mut KvCache, pages: usize) -> bool {
        while self.pages.reserve(pages).is_err() {
            let Some(key) = self.sessions.victim(|s| s.tip.is_some()) else {
                return false;
            };
            self.unload(kv, &key);
        }
        true
    }

    /// Saves a session if it can be and gives its pages back; what was said stays.
    pub(super) fn unload(&mut self, kv: &mut KvCache, key: &SessionKey) {
        if let Some(snapshots) = &mut self.snapshots
            && let Some(session) = self.sessions.get_mut(key)
            && !(session.saved && session.paged)
        {
            // not saved: it is computed again when it goes on
            let _ = snapshots.save(key, session, &self.pages, kv);
        }
        self.hold(key, None);
    }

    /// Reads the pages of a session that is only in its file. What cannot be read is computed again.
    fn recall(&mut self, kv: &mut KvCache, key: &SessionKey) {
        let (Some(snapshots), Some(session)) = (&self.snapshots, self.sessions.get(key)) else {
            return;
        };
        if session.tip.is_some() || !session.saved || !session.paged {
            return;
        }
        let Some(&table) = self.tables.last() else {
            return;
        };
        let file = snapshots.open(key).ok();
        let Some(mut file) = file.filter(|file| file.unusable().is_none()) else {
            return self.unpage(key);
        };
        let tokens = file.header().tokens.clone();
        let needed = tokens.len().div_ceil(PAGE_TOKENS);
        if !self.reserve(kv, needed) {
            return;
        }
        let mut tip = None;
        for (at, part) in tokens.chunks(PAGE_TOKENS).enumerate() {
            let page = self.pages.take(kv.table(table));
            if file.read_page(kv.arena().page_mut(page)).is_err() {
                // a damaged file costs this session its pages, and nobody anything else
                self.pages.unreserve(needed - at - 1);
                break;
            }
            self.pages.fill(kv.table(table), at, part);
            tip = Some(kv.table(table)[at]);
        }
        if tip.is_none() {
            self.unpage(key);
        }
        self.hold(key, tip);
        self.pages.release(kv.table(table), tokens.len());
    }

    /// A session's file has no pages of use: it is not opened again at every try of a request that waits for pages.
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
                self.pages.fill(table, i, tokens);
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
            self.pages
                .fill(table, last, &sequence.tokens[last * PAGE_TOKENS..keep]);
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
