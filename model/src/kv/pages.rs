//! Who holds which page. This knows page numbers and tokens, but no bytes and no clock.
//!
//! Every page has an [`Owner`], and no other owner finds what its sequences put into pages. So neither the number of tokens
//! that need not be computed, nor the time that takes, tells anything of another's text.
//!
//! A page is in one of three states:
//! - free: nothing of use is in it;
//! - held by running sequences (references) or by idle sessions (pins), by one or by many;
//! - cached: held by nobody, but its tokens are known, so that a prompt may find it until its room is needed.
//!
//! # The life of a sequence
//! 1. [`Pages::find`] gives it the pages that hold its prompt's beginning.
//! 2. [`Pages::reserve`] promises it the pages that it will need at most, beyond those found. The order matters, because a
//!    cached page that was found is no longer there to be evicted. If the promise is refused, the sequence is released and
//!    waits, or the caller unpins an idle session and reserves again.
//! 3. If a page was found that shares a part of the prompt, the first page taken is made a copy of it before anything else
//!    is taken. The taken page may be that very page.
//! 4. [`Pages::take`] turns promises into pages as the sequence grows; it cannot fail.
//! 5. [`Pages::fill`] says what is in a page once it is full, and in the last page at the end. Others find it from then on,
//!    and nobody writes into it any more.
//! 6. At the end [`Pages::pin`] keeps what an idle session wants kept, [`Pages::release`] gives up the references, and
//!    [`Pages::unreserve`] gives up the promises that were not used.
//!
//! # Invariants
//! - Whoever holds a page holds all pages before it. So what follows a cached page is cached, and if any page is cached,
//!   there is one that nothing follows, which is the next to be evicted.
//! - A page is never older than one that follows it.
//! - There are at least as many free and cached pages as are promised.

use super::prefix::{Owner, Owners, PageId, PrefixIndex};
use glowplug_firmware_config::limits::{PAGE_TOKENS, PAGES_MAX};

/// The pages of one running sequence, in the order of its tokens.
pub type PageTable = heapless::Vec<PageId, PAGES_MAX>;

/// Makes an empty table on the heap. It has 8 KiB, whatever the arena's size.
#[must_use]
pub fn page_table() -> Box<PageTable> {
    Box::default()
}

/// The bookkeeping of all pages of an arena.
#[derive(Debug)]
pub struct Pages {
    holders: Box<[Holders]>,
    index: PrefixIndex,
    free: Box<PageTable>,
    /// How many pages are known and held by nobody.
    cached: usize,
    /// How many pages are promised and not yet taken.
    reserved: usize,
    /// PageCounts uses, so that a later use has a larger number.
    uses: u64,
}

/// Who holds a page, and when it was last used.
#[derive(Debug, Clone, Default)]
struct Holders {
    /// How many running sequences refer to it.
    refs: u16,
    /// How many idle sessions have pinned it.
    pins: u16,
    /// The count of uses at its last use.
    age: u64,
}

impl Holders {
    fn count(&self) -> usize {
        usize::from(self.refs) + usize::from(self.pins)
    }
}

/// The arena was to have more pages than is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{pages} KV pages, at most {PAGES_MAX}")]
pub struct TooManyPages {
    /// How many pages were asked for.
    pub pages: usize,
}

/// What a prompt found in known pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How many tokens are in the full pages that are now in the table.
    pub tokens: usize,
    /// A page that shares a part of what follows.
    pub partial: Option<Partial>,
}

/// A page whose first tokens are those that come next. It is not held, so it must be copied into the first page taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// The number of the page.
    pub page: PageId,
    /// How many of its tokens are shared, which is fewer than a page has.
    pub tokens: usize,
}

/// There are not enough pages now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{pages} KV pages are missing")]
pub struct Missing {
    /// How many pages are missing.
    pub pages: usize,
    /// How many pages only idle sessions hold, so that unpinning them would make room for as many.
    pub pinned: usize,
}

/// How many pages are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCounts {
    /// Pages that a sequence or a session holds.
    pub used: usize,
    /// Those of the used pages that more than one holds.
    pub shared: usize,
    /// Pages that nobody holds, but whose tokens are known.
    pub cached: usize,
    /// Pages with nothing of use in them.
    pub free: usize,
}

impl Pages {
    /// Starts with the pages `0..total`, all of them free.
    ///
    /// # Errors
    /// [`TooManyPages`] if `total` is above [`PAGES_MAX`].
    pub fn new(total: usize) -> Result<Self, TooManyPages> {
        Self::with_buckets(total, total.max(1).next_power_of_two())
    }

    fn with_buckets(total: usize, buckets: usize) -> Result<Self, TooManyPages> {
        let error = TooManyPages { pages: total };
        if total > PAGES_MAX {
            return Err(error);
        }
        let mut free = page_table();
        for page in (0..total).rev() {
            free.push(page as PageId).map_err(|_| error)?;
        }
        Ok(Self {
            holders: vec![Holders::default(); total].into(),
            index: PrefixIndex::new(total, buckets),
            free,
            cached: 0,
            reserved: 0,
            uses: 0,
        })
    }

    /// How many pages there are. A request that needs more can never be served.
    #[must_use]
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// How many pages are in which state.
    #[must_use]
    pub fn counts(&self) -> PageCounts {
        let count = |what: fn(usize) -> bool| {
            let holders = self.holders.iter().map(Holders::count);
            holders.filter(|&n| what(n)).count()
        };
        PageCounts {
            used: count(|n| n > 0),
            shared: count(|n| n > 1),
            cached: self.cached,
            free: self.free.len(),
        }
    }

    /// Puts the owners' full pages that hold the beginning of `tokens` into the empty `table`, as many as there are, and
    /// names the page that shares the most of what follows. Where a page that could be everybody's is found among one's own,
    /// all behind it are one's own too, and `owners` says so. The last token is never among those found, because it must be
    /// computed for its logits.
    pub fn find(&mut self, owners: &mut Owners, tokens: &[u32], table: &mut PageTable) -> Found {
        debug_assert!(table.is_empty());
        self.uses += 1;
        let known = &tokens[..tokens.len().saturating_sub(1)];
        for page_tokens in known.chunks_exact(PAGE_TOKENS) {
            let parent = table.last().copied();
            let of = owners.of(table.len());
            let mut found = self.index.get(of, parent, page_tokens);
            if found.is_none() && of != owners.own {
                found = self.index.get(owners.own, parent, page_tokens);
                if found.is_some() {
                    owners.common = table.len() * PAGE_TOKENS;
                }
            }
            let Some(page) = found else {
                break;
            };
            // the last pages that can be evicted may be promised to others, and whoever found them could not reserve anyway
            let promised = self.is_cached(page) && self.room() == 0;
            if promised || table.push(page).is_err() {
                break;
            }
            self.hold(page);
            self.holders[usize::from(page)].age = self.uses;
        }
        let found = table.len() * PAGE_TOKENS;
        // a copy must have room for another token, or nobody would ever fill it
        let rest = known[found..].chunks(PAGE_TOKENS - 1).next();
        let parent = table.last().copied();
        let of = owners.of(table.len());
        let closest = rest.and_then(|rest| self.index.closest(of, parent, rest));
        let partial = closest.map(|(page, tokens)| {
            self.holders[usize::from(page)].age = self.uses;
            Partial { page, tokens }
        });
        Found {
            tokens: found,
            partial,
        }
    }

    /// Promises `pages` pages to a sequence.
    ///
    /// # Errors
    /// [`Missing`] if there is no room, and then nothing has changed.
    pub fn reserve(&mut self, pages: usize) -> Result<(), Missing> {
        let room = self.room();
        if pages > room {
            let sessions = self.holders.iter().filter(|h| h.refs == 0 && h.pins > 0);
            return Err(Missing {
                pages: pages - room,
                pinned: sessions.count(),
            });
        }
        self.reserved += pages;
        Ok(())
    }

    /// Gives back promises that were not used.
    ///
    /// # Panics
    /// If fewer pages are promised.
    pub fn unreserve(&mut self, pages: usize) {
        assert!(pages <= self.reserved, "{pages} pages were not reserved");
        self.reserved -= pages;
    }

    /// Adds a promised page to `table`: a free one, or the oldest cached one that nothing follows. It still holds what its
    /// last holder wrote, so nobody may read from it what was not written first.
    ///
    /// # Panics
    /// If none was promised.
    pub fn take(&mut self, table: &mut PageTable) -> PageId {
        assert!(self.reserved > 0, "a page was taken that was not reserved");
        let taken = self.free.pop().or_else(|| self.evict(|_, _| true));
        // a promise is covered by a free or a cached page, and the pages in a table are no more than there are
        let taken = taken.filter(|&page| table.push(page).is_ok());
        let Some(page) = taken else {
            unreachable!("a promised page is not there");
        };
        self.reserved -= 1;
        self.holders[usize::from(page)].refs = 1;
        page
    }

    /// Says that entry `at` of `table` holds `tokens`, so that other sequences of its owner find it. The entries before it
    /// must have been filled before and be of these owners. Nobody may write into the page from here on.
    ///
    /// If a page with the same tokens behind the same page is known already, it takes the entry's place, and the duplicate
    /// is freed. A page behind one that is not known or not full stays its sequence's own.
    ///
    /// # Panics
    /// If there is no such entry, or more tokens than a page has.
    pub fn fill(
        &mut self,
        owners: impl Into<Owners>,
        table: &mut PageTable,
        at: usize,
        tokens: &[u32],
    ) {
        let owner = owners.into().of(at);
        assert!(tokens.len() <= PAGE_TOKENS, "{} tokens", tokens.len());
        let page = table[at];
        let parent = at.checked_sub(1).map(|before| table[before]);
        let orphan = parent.is_some_and(|parent| self.index.len(parent) < PAGE_TOKENS);
        if orphan || tokens.is_empty() || self.index.contains(page) {
            return;
        }
        if let Some(equal) = self.index.get(owner, parent, tokens) {
            // nobody else can hold a page that was not known
            self.holders[usize::from(page)].refs = 0;
            self.put_free(page);
            self.hold(equal);
            table[at] = equal;
        } else {
            self.index.insert(page, owner, parent, tokens);
            let age = parent.map_or(self.uses, |parent| self.holders[usize::from(parent)].age);
            self.holders[usize::from(page)].age = age;
        }
    }

    /// Ends a sequence: empties `table` and drops its references. Pages with a token at or behind `keep_tokens` (a thought,
    /// which the template drops) are freed at once if nobody else holds them, together with what is cached behind them. So
    /// are pages that were never filled. The others stay cached.
    pub fn release(&mut self, table: &mut PageTable, keep_tokens: usize) {
        self.uses += 1;
        while let Some(page) = table.pop() {
            let end = table.len() * PAGE_TOKENS + self.index.len(page);
            let holders = &mut self.holders[usize::from(page)];
            holders.age = self.uses;
            holders.refs -= 1;
            if holders.count() > 0 {
                continue;
            }
            if !self.index.contains(page) {
                self.put_free(page);
                continue;
            }
            self.cached += 1;
            if end > keep_tokens {
                self.forget(page);
            }
        }
    }

    /// Frees the owner's pages that nobody holds, so that no prompt finds what is in them any more.
    pub fn forget_cached(&mut self, owner: Owner) {
        while let Some(page) = self.evict(|index, page| index.owner(page) == owner) {
            self.put_free(page);
        }
    }

    /// Keeps a page and all pages before it for an idle session, which has to remember only this `tip`.
    ///
    /// # Panics
    /// If nobody holds the page, or it was not filled.
    pub fn pin(&mut self, tip: PageId) {
        assert!(
            self.holders[usize::from(tip)].count() > 0 && self.index.contains(tip),
            "page {tip} is not held or not filled"
        );
        let mut at = Some(tip);
        while let Some(page) = at {
            self.holders[usize::from(page)].pins += 1;
            at = self.index.parent(page);
        }
    }

    /// Takes back one [`Pages::pin`]. The pages keep the age of their last use.
    ///
    /// # Panics
    /// If the page is not pinned.
    pub fn unpin(&mut self, tip: PageId) {
        let mut at = Some(tip);
        while let Some(page) = at {
            let holders = &mut self.holders[usize::from(page)];
            assert!(holders.pins > 0, "page {page} is not pinned");
            holders.pins -= 1;
            if holders.count() == 0 {
                self.cached += 1;
            }
            at = self.index.parent(page);
        }
    }

    /// The pages up to a pinned `tip`, the last one first, which is what a snapshot holds in reverse order.
    pub fn chain(&self, tip: PageId) -> impl Iterator<Item = PageId> {
        std::iter::successors(Some(tip), |&page| self.index.parent(page))
    }

    /// The owner of a filled page.
    #[must_use]
    pub fn owner(&self, page: PageId) -> Owner {
        self.index.owner(page)
    }

    /// The tokens of a filled page, or none for any other page.
    #[must_use]
    pub fn tokens(&self, page: PageId) -> &[u32] {
        self.index.tokens(page)
    }

    /// How many pages may still be promised.
    fn room(&self) -> usize {
        self.free.len() + self.cached - self.reserved
    }

    fn is_cached(&self, page: PageId) -> bool {
        self.holders[usize::from(page)].count() == 0 && self.index.contains(page)
    }

    /// Adds a reference to a page.
    fn hold(&mut self, page: PageId) {
        if self.is_cached(page) {
            self.cached -= 1;
        }
        self.holders[usize::from(page)].refs += 1;
    }

    fn put_free(&mut self, page: PageId) {
        let put = self.free.push(page);
        debug_assert!(put.is_ok(), "page {page} was freed twice");
    }

    /// Takes the oldest cached page that nothing follows, of those that `also` accepts, out of the index.
    fn evict(&mut self, also: impl Fn(&PrefixIndex, PageId) -> bool) -> Option<PageId> {
        let leaves = (0..self.total() as PageId).filter(|&page| {
            self.is_cached(page) && self.index.is_leaf(page) && also(&self.index, page)
        });
        let oldest = leaves.min_by_key(|&page| self.holders[usize::from(page)].age)?;
        self.index.remove(oldest);
        self.cached -= 1;
        Some(oldest)
    }

    /// Frees a cached page and all pages that follow it, which nobody could find any more.
    fn forget(&mut self, root: PageId) {
        let mut at = root;
        loop {
            if let Some(child) = self.index.child(at) {
                at = child;
                continue;
            }
            let parent = self.index.parent(at);
            self.index.remove(at);
            self.cached -= 1;
            self.put_free(at);
            match parent {
                Some(parent) if at != root => at = parent,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
