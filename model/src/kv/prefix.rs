//! The prefix index: which page holds the tokens that follow a given page.
//!
//! A page is found by its owner, its parent (the full page before it, or `None` at the start of a text) and its own tokens.
//! All three are compared, so the hash only says where to look, and two texts that collide still find their own pages. The
//! parent's number stands for all tokens before, because no page leaves the index before its children do.
//!
//! Nobody finds a page of another owner, or can tell that there is one. The first pages of a text may be everybody's: those that
//! hold nothing but what the configuration says.
//!
//! The capacity is the number of pages: there is one entry for each page, linked into buckets, and nothing ever grows.

use glowplug_firmware_config::limits::PAGE_TOKENS;

/// The number of a page in the arena.
pub type PageId = u16;

/// The owner of pages. Whoever has the same number finds them.
pub type Owner = u64;

/// The owner of pages that everybody finds whose text begins with what the configuration says.
pub(super) const EVERYBODY: Owner = Owner::MAX;

/// Whose the pages of a text are: its first `common` tokens are everybody's as far as they fill pages, the others are `own`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    /// Who finds the pages behind the common ones.
    pub own: Owner,
    /// Tokens that say nothing about anybody, because the configuration has them.
    pub common: usize,
}

impl Owners {
    /// The owner of the page with this number in the text.
    pub(super) fn of(self, page: usize) -> Owner {
        if (page + 1) * PAGE_TOKENS <= self.common {
            EVERYBODY
        } else {
            self.own
        }
    }
}

impl From<Owner> for Owners {
    fn from(own: Owner) -> Self {
        Self { own, common: 0 }
    }
}

/// The index of known pages. It does not know who holds a page.
#[derive(Debug)]
pub(super) struct PrefixIndex {
    /// The first entry of each bucket; their number is a power of two.
    buckets: Box<[Option<PageId>]>,
    entries: Box<[Entry]>,
}

/// What is known of one page.
#[derive(Debug, Clone)]
struct Entry {
    /// The owner of this page, and of every page behind it. Those before it are its own or everybody's.
    owner: Owner,
    /// The page before this one.
    parent: Option<PageId>,
    /// The next entry of the same bucket.
    next: Option<PageId>,
    /// How many entries have this page as their parent.
    children: u16,
    /// How many tokens it has, or 0 if the page is not in the index.
    len: u8,
    tokens: [u32; PAGE_TOKENS],
}

const _: () = assert!(PAGE_TOKENS <= u8::MAX as usize);

impl Entry {
    fn tokens(&self) -> &[u32] {
        &self.tokens[..usize::from(self.len)]
    }
}

impl PrefixIndex {
    /// Makes an empty index for the pages `0..total`. `buckets` must be a power of two.
    pub(super) fn new(total: usize, buckets: usize) -> Self {
        debug_assert!(buckets.is_power_of_two());
        let none = Entry {
            owner: 0,
            parent: None,
            next: None,
            children: 0,
            len: 0,
            tokens: [0; PAGE_TOKENS],
        };
        Self {
            buckets: vec![None; buckets].into(),
            entries: vec![none; total].into(),
        }
    }

    /// How many tokens a page has, which is 0 if it is not in the index.
    pub(super) fn len(&self, page: PageId) -> usize {
        self.entry(page).len.into()
    }

    /// The tokens of a page, of which there are none if it is not in the index.
    pub(super) fn tokens(&self, page: PageId) -> &[u32] {
        self.entry(page).tokens()
    }

    /// Whether the page is in the index, so that it can be found.
    pub(super) fn contains(&self, page: PageId) -> bool {
        self.entry(page).len > 0
    }

    /// The owner of a page, which means nothing if the page is not in the index.
    pub(super) fn owner(&self, page: PageId) -> Owner {
        self.entry(page).owner
    }

    /// The page before this one, if there is one.
    pub(super) fn parent(&self, page: PageId) -> Option<PageId> {
        self.entry(page).parent
    }

    /// Whether no page in the index follows this one.
    pub(super) fn is_leaf(&self, page: PageId) -> bool {
        self.entry(page).children == 0
    }

    /// One of the pages that follow this one.
    pub(super) fn child(&self, page: PageId) -> Option<PageId> {
        if self.is_leaf(page) {
            return None;
        }
        let behind = (0..).zip(&self.entries);
        let mut behind = behind.filter(|(_, e)| e.len > 0 && e.parent == Some(page));
        behind.next().map(|(page, _)| page)
    }

    /// The owner's page that holds exactly these tokens behind `parent`.
    pub(super) fn get(
        &self,
        owner: Owner,
        parent: Option<PageId>,
        tokens: &[u32],
    ) -> Option<PageId> {
        let mut at = self.buckets[self.bucket(owner, parent, tokens)];
        while let Some(page) = at {
            let entry = self.entry(page);
            if (entry.owner, entry.parent) == (owner, parent) && entry.tokens() == tokens {
                return at;
            }
            at = entry.next;
        }
        None
    }

    /// The one of the owner's pages behind `parent` that shares the most leading tokens with `rest`, and how many it shares.
    pub(super) fn closest(
        &self,
        owner: Owner,
        parent: Option<PageId>,
        rest: &[u32],
    ) -> Option<(PageId, usize)> {
        if parent.is_some_and(|page| self.is_leaf(page)) {
            return None;
        }
        self.children(owner, parent)
            .map(|page| {
                let pairs = self.entry(page).tokens().iter().zip(rest);
                (page, pairs.take_while(|(a, b)| a == b).count())
            })
            .max_by_key(|&(_, shared)| shared)
            .filter(|&(_, shared)| shared > 0)
    }

    /// Puts a page into the index. The page must not be in it, its parent must be in it and have the same owner or be
    /// everybody's, and `get` must find no equal page.
    pub(super) fn insert(
        &mut self,
        page: PageId,
        owner: Owner,
        parent: Option<PageId>,
        tokens: &[u32],
    ) {
        debug_assert!(!self.contains(page) && self.get(owner, parent, tokens).is_none());
        debug_assert!(parent.is_none_or(|parent| [owner, EVERYBODY].contains(&self.owner(parent))));
        let bucket = self.bucket(owner, parent, tokens);
        let next = self.buckets[bucket].replace(page);
        if let Some(parent) = parent {
            self.entry_mut(parent).children += 1;
        }
        let entry = self.entry_mut(page);
        entry.tokens[..tokens.len()].copy_from_slice(tokens);
        entry.len = tokens.len() as u8;
        (entry.owner, entry.parent) = (owner, parent);
        entry.next = next;
    }

    /// Takes a page out of the index. No page may follow it.
    pub(super) fn remove(&mut self, page: PageId) {
        debug_assert!(self.contains(page) && self.is_leaf(page));
        let Entry {
            owner,
            parent,
            next,
            ..
        } = *self.entry(page);
        let bucket = self.bucket(owner, parent, self.entry(page).tokens());
        if self.buckets[bucket] == Some(page) {
            self.buckets[bucket] = next;
        } else {
            let mut at = self.buckets[bucket];
            while let Some(before) = at {
                let entry = self.entry_mut(before);
                if entry.next == Some(page) {
                    entry.next = next;
                }
                at = entry.next;
            }
        }
        if let Some(parent) = parent {
            self.entry_mut(parent).children -= 1;
        }
        let entry = self.entry_mut(page);
        entry.len = 0;
        entry.parent = None;
        entry.next = None;
    }

    /// Every page of the owner behind `parent`. This walks over all entries, once for a request and once for each page that
    /// leaves.
    fn children(&self, owner: Owner, parent: Option<PageId>) -> impl Iterator<Item = PageId> {
        (0..)
            .zip(&self.entries)
            .filter(move |(_, e)| e.len > 0 && (e.owner, e.parent) == (owner, parent))
            .map(|(page, _)| page)
    }

    /// The bucket of a page: FNV-1a over whole words, with its high bits folded in. Texts that are made to collide cost a
    /// walk over at most as many entries as there are pages.
    fn bucket(&self, owner: Owner, parent: Option<PageId>, tokens: &[u32]) -> usize {
        let parent = parent.map_or(u64::from(u32::MAX) + 1, u64::from);
        let words = [owner, parent]
            .into_iter()
            .chain(tokens.iter().map(|&t| t.into()));
        let hash = words.fold(0xcbf2_9ce4_8422_2325u64, |hash, word| {
            (hash ^ word).wrapping_mul(0x0100_0000_01b3)
        });
        (hash ^ (hash >> 32)) as usize & (self.buckets.len() - 1)
    }

    fn entry(&self, page: PageId) -> &Entry {
        &self.entries[usize::from(page)]
    }

    fn entry_mut(&mut self, page: PageId) -> &mut Entry {
        &mut self.entries[usize::from(page)]
    }

    /// Checks that every link leads to an entry that leads back.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut linked = vec![0; self.entries.len()];
        for (bucket, first) in self.buckets.iter().enumerate() {
            let mut at = *first;
            while let Some(page) = at {
                linked[usize::from(page)] += 1;
                let entry = self.entry(page);
                assert!(entry.len > 0, "page {page} is linked and empty");
                assert_eq!(
                    self.bucket(entry.owner, entry.parent, entry.tokens()),
                    bucket
                );
                at = entry.next;
            }
        }
        for (page, entry) in (0..).zip(&self.entries) {
            assert_eq!(linked[usize::from(page)], usize::from(entry.len > 0));
            let behind = self.entries.iter();
            let behind = behind.filter(|e| e.len > 0 && e.parent == Some(page));
            assert_eq!(behind.count(), usize::from(entry.children));
            if entry.len > 0 {
                let found = self.get(entry.owner, entry.parent, entry.tokens());
                assert_eq!(found, Some(page), "twice");
                let before = entry.parent.map_or(entry.owner, |p| self.owner(p));
                let may = [entry.owner, EVERYBODY].contains(&before);
                assert!(may, "page {page} follows another owner's");
                let parent = entry.parent.map_or(PAGE_TOKENS, |p| self.len(p));
                assert_eq!(parent, PAGE_TOKENS, "page {page} follows no full page");
            } else {
                assert_eq!((entry.parent, entry.children), (None, 0));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_by_its_parent_and_all_its_tokens() {
        // one bucket: every look-up is a collision
        for buckets in [1, 8] {
            let mut index = PrefixIndex::new(8, buckets);
            index.insert(3, 5, None, &[7; 32]);
            index.insert(1, 5, Some(3), &[7; 32]);
            index.insert(2, 5, Some(3), &[7, 8]);
            index.insert(0, 5, Some(1), &[7, 8]);
            index.check();
            assert_eq!(index.get(5, None, &[7; 32]), Some(3));
            assert_eq!(index.get(5, Some(3), &[7; 32]), Some(1));
            assert_eq!(index.get(5, Some(3), &[7, 8]), Some(2));
            assert_eq!(index.get(5, Some(1), &[7, 8]), Some(0));
            assert_eq!(index.get(5, None, &[7, 8]), None);
            assert_eq!(index.get(5, Some(1), &[7]), None);
            assert_eq!(index.get(5, Some(0), &[7, 8]), None);

            // the same text of another owner is another page
            assert_eq!(index.get(6, None, &[7; 32]), None);
            assert_eq!(index.get(6, Some(3), &[7, 8]), None);
            index.insert(4, 6, None, &[7; 32]);
            index.check();
            assert_eq!(index.get(6, None, &[7; 32]), Some(4));
            assert_eq!(index.get(5, None, &[7; 32]), Some(3));
            index.remove(4);

            index.remove(2);
            index.check();
            assert_eq!(index.get(5, Some(3), &[7, 8]), None);
            assert_eq!(index.get(5, Some(1), &[7, 8]), Some(0));
            assert_eq!(index.child(3), Some(1));
            assert!(index.is_leaf(0) && !index.is_leaf(1));
        }
    }

    #[test]
    fn the_closest_page_shares_the_most_tokens() {
        let mut index = PrefixIndex::new(8, 8);
        index.insert(0, 5, None, &[1; 32]);
        index.insert(1, 5, Some(0), &[1, 2, 3]);
        index.insert(2, 5, Some(0), &[1, 2, 4, 5]);
        assert_eq!(index.closest(5, Some(0), &[1, 2, 4, 6]), Some((2, 3)));
        assert_eq!(index.closest(5, Some(0), &[1, 2, 3, 4]), Some((1, 3)));
        assert_eq!(index.closest(5, Some(0), &[2]), None);
        assert_eq!(index.closest(5, Some(0), &[]), None);
        assert_eq!(index.closest(5, Some(1), &[1]), None);
        assert_eq!(index.closest(5, None, &[1, 1, 2]), Some((0, 2)));
        assert_eq!(index.closest(6, None, &[1, 1, 2]), None);
    }
}
