//! The bookkeeping of pages: its cases one by one, and any sequence of calls against every invariant.
//!
//! One file, because all of it checks one machine with one set of helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use super::*;
use proptest::prelude::*;

const ANY: Owner = 3;

impl Pages {
    /// Checks every invariant against the tables and tips that there are.
    fn check(&self, tables: &[&PageTable], tips: &[PageId]) {
        self.index.check();
        let mut refs = vec![0u16; self.total()];
        let mut pins = vec![0u16; self.total()];
        let mut free = vec![0u16; self.total()];
        for &page in tables.iter().flat_map(|table| table.iter()) {
            refs[usize::from(page)] += 1;
        }
        for page in tips.iter().flat_map(|&tip| self.chain(tip)) {
            pins[usize::from(page)] += 1;
        }
        for &page in self.free.iter() {
            free[usize::from(page)] += 1;
        }
        let mut cached = 0;
        for page in 0..self.total() as PageId {
            let at = usize::from(page);
            let holders = &self.holders[at];
            assert_eq!((holders.refs, holders.pins), (refs[at], pins[at]), "{page}");
            let held = holders.count() > 0;
            let known = self.index.contains(page);
            assert_eq!(free[at], u16::from(!held && !known), "page {page} is free");
            assert!(
                holders.refs < 2 && holders.pins == 0 || known,
                "page {page} is shared and unknown"
            );
            cached += usize::from(known && !held);
            if let Some(parent) = self.index.parent(page) {
                let parent = &self.holders[usize::from(parent)];
                assert!(
                    !held || parent.count() > 0,
                    "page {page} is held, the one before is not"
                );
                assert!(
                    holders.age <= parent.age,
                    "page {page} is younger than the one before"
                );
            }
        }
        assert_eq!(self.cached, cached);
        assert!(
            self.free.len() + cached >= self.reserved,
            "a promise is not covered"
        );
        let counts = self.counts();
        assert_eq!(counts.used + counts.cached + counts.free, self.total());
    }
}

/// Feeds all of `tokens` to a fresh sequence and ends it; gives the pages it had.
fn run(pages: &mut Pages, tokens: &[u32], keep: usize) -> Vec<PageId> {
    let mut table = page_table();
    pages.find_any(tokens, &mut table);
    let found = table.len();
    let needed = tokens.len().div_ceil(PAGE_TOKENS);
    pages.reserve(needed - found).unwrap();
    for (at, chunk) in tokens.chunks(PAGE_TOKENS).enumerate().skip(found) {
        pages.take(&mut table);
        pages.fill(ANY, &mut table, at, chunk);
    }
    let ids = table.to_vec();
    pages.release(&mut table, keep);
    ids
}

fn text(len: u32) -> Vec<u32> {
    (0..len).collect()
}

#[test]
fn a_repeated_prompt_finds_all_but_its_last_token() {
    let mut pages = Pages::new(8).unwrap();
    let first = run(&mut pages, &text(70), usize::MAX);
    let mut table = page_table();
    let found = pages.find_any(&text(70), &mut table);
    assert_eq!(table[..], first[..2]);
    let partial = |page, tokens| Some(Partial { page, tokens });
    assert_eq!((found.tokens, found.partial), (64, partial(first[2], 5)));
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 2,
            shared: 0,
            cached: 1,
            free: 5
        }
    );
    pages.release(&mut table, usize::MAX);

    // a prompt that ends with a page finds that page's tokens but the last
    let found = pages.find_any(&text(64), &mut table);
    assert_eq!((found.tokens, found.partial), (32, partial(first[1], 31)));
    let mut other = page_table();
    let found = pages.find_any(&[&text(40)[..], &[99; 40]].concat(), &mut other);
    assert_eq!((found.tokens, found.partial), (32, partial(first[1], 8)));
    assert_eq!(pages.counts().shared, 1);
    pages.check(&[&table, &other], &[]);
    pages.release(&mut table, usize::MAX);
    pages.release(&mut other, usize::MAX);
    for tokens in [&[][..], &[0], &[5, 6]] {
        let found = pages.find_any(tokens, &mut table);
        assert_eq!((found.tokens, found.partial, table.len()), (0, None, 0));
    }
}

#[test]
fn a_promise_holds_though_others_find_what_was_to_be_evicted() {
    let mut pages = Pages::new(4).unwrap();
    run(&mut pages, &text(128), usize::MAX);
    pages.reserve(3).unwrap();
    assert_eq!(
        pages.reserve(2),
        Err(Missing {
            pages: 1,
            pinned: 0
        })
    );
    // one page is not promised: only that one can be held
    let mut other = page_table();
    let found = pages.find_any(&text(128), &mut other);
    assert_eq!(found.tokens, 32);
    // the next one is whole, and may be evicted: it could be copied, but not all of it
    assert_eq!(found.partial.unwrap().tokens, 31);
    assert_eq!(
        pages.reserve(1),
        Err(Missing {
            pages: 1,
            pinned: 0
        })
    );
    let mut table = page_table();
    for _ in 0..3 {
        pages.take(&mut table);
        pages.check(&[&table, &other], &[]);
    }
    pages.release(&mut table, 0);
    pages.release(&mut other, usize::MAX);
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 0,
            shared: 0,
            cached: 1,
            free: 3
        }
    );
}

#[test]
fn the_oldest_goes_first_and_the_last_page_before_the_first() {
    let mut pages = Pages::new(4).unwrap();
    let old = run(&mut pages, &[1; 64], usize::MAX);
    let new = run(&mut pages, &[2; 64], usize::MAX);
    let mut table = page_table();
    pages.reserve(4).unwrap();
    for expected in [old[1], old[0], new[1], new[0]] {
        assert_eq!(pages.take(&mut table), expected);
        pages.check(&[&table], &[]);
    }
}

#[test]
fn the_page_to_copy_is_the_last_to_be_evicted() {
    let mut pages = Pages::new(1).unwrap();
    run(&mut pages, &[1, 2, 3], usize::MAX);
    let mut table = page_table();
    let partial = pages.find_any(&[1, 2, 4], &mut table).partial.unwrap();
    assert_eq!(partial, Partial { page: 0, tokens: 2 });
    pages.reserve(1).unwrap();
    // it is its own copy
    assert_eq!(pages.take(&mut table), 0);
    pages.fill(ANY, &mut table, 0, &[1, 2, 4]);
    pages.check(&[&table], &[]);
}

#[test]
fn equal_pages_become_one() {
    let mut pages = Pages::new(4).unwrap();
    let (mut a, mut b) = (page_table(), page_table());
    for table in [&mut a, &mut b] {
        pages.find_any(&text(64), table);
        pages.reserve(2).unwrap();
        pages.take(table);
        pages.take(table);
    }
    for at in 0..2 {
        for table in [&mut a, &mut b] {
            pages.fill(ANY, table, at, &text(64)[at * 32..][..32]);
        }
        pages.check(&[&a, &b], &[]);
    }
    assert_eq!(a, b);
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 2,
            shared: 2,
            cached: 0,
            free: 2
        }
    );
}

#[test]
fn a_thought_is_freed_at_once_with_what_was_cached_behind_it() {
    let mut pages = Pages::new(8).unwrap();
    // 40 tokens of prompt, then a thought: its second page holds some of both
    let thinking = text(96);
    let mut table = page_table();
    pages.reserve(3).unwrap();
    for at in 0..3 {
        pages.take(&mut table);
        pages.fill(ANY, &mut table, at, &thinking[at * 32..][..32]);
    }
    // another client thinks the same and goes on
    run(&mut pages, &text(160), usize::MAX);
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 3,
            shared: 0,
            cached: 2,
            free: 3
        }
    );
    pages.release(&mut table, 40);
    pages.check(&[], &[]);
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 0,
            shared: 0,
            cached: 1,
            free: 7
        }
    );

    // unless somebody else holds it
    let mut other = page_table();
    run(&mut pages, &text(64), usize::MAX);
    pages.find_any(&text(65), &mut other);
    run(&mut pages, &text(64), 0);
    assert_eq!(pages.counts().used, 2);
    pages.release(&mut other, 64);
    assert_eq!(pages.counts().cached, 2);
}

#[test]
fn what_an_idle_session_holds_is_told_and_not_evicted() {
    let mut pages = Pages::new(4).unwrap();
    let mut table = page_table();
    pages.reserve(3).unwrap();
    for (at, chunk) in text(70).chunks(PAGE_TOKENS).enumerate() {
        pages.take(&mut table);
        pages.fill(ANY, &mut table, at, chunk);
    }
    let ids = table.to_vec();
    pages.pin(ids[2]);
    pages.check(&[&table], &[ids[2]]);
    pages.release(&mut table, usize::MAX);
    pages.check(&[], &[ids[2]]);
    assert_eq!(
        pages.reserve(2),
        Err(Missing {
            pages: 1,
            pinned: 3
        })
    );
    assert!(pages.chain(ids[2]).eq([ids[2], ids[1], ids[0]]));

    // its next turn finds them, and then the pin can go
    assert_eq!(pages.find_any(&text(80), &mut table).tokens, 64);
    pages.unpin(ids[2]);
    pages.check(&[&table], &[]);
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 2,
            shared: 0,
            cached: 1,
            free: 1
        }
    );
    pages.release(&mut table, usize::MAX);
    pages.reserve(4).unwrap();
}

#[test]
fn a_page_behind_one_that_is_not_known_stays_private() {
    let mut pages = Pages::new(4).unwrap();
    let mut table = page_table();
    pages.reserve(3).unwrap();
    for _ in 0..3 {
        pages.take(&mut table);
    }
    pages.fill(ANY, &mut table, 1, &[1; 32]);
    pages.fill(ANY, &mut table, 0, &[1; 31]);
    pages.fill(ANY, &mut table, 1, &[1; 32]);
    pages.fill(ANY, &mut table, 2, &[]);
    pages.check(&[&table], &[]);
    pages.release(&mut table, usize::MAX);
    assert_eq!(
        pages.counts(),
        PageCounts {
            used: 0,
            shared: 0,
            cached: 1,
            free: 3
        }
    );
}

#[test]
fn more_pages_than_ids_are_sized_for_are_refused() {
    assert_eq!(Pages::new(4097).unwrap_err(), TooManyPages { pages: 4097 });
    let mut pages = Pages::new(PAGES_MAX).unwrap();
    run(&mut pages, &text(131_072), usize::MAX);
    assert_eq!(pages.counts().cached, PAGES_MAX);
    assert_eq!(
        Pages::new(0).unwrap().reserve(1),
        Err(Missing {
            pages: 1,
            pinned: 0
        })
    );
}

/// A text made of pages that are often the same: its first tokens of one kind, the rest of another.
type Text = Vec<(u8, u8, u8)>;

#[derive(Debug, Clone)]
enum Op {
    /// A new sequence starts. `from` takes the first `share` eighths of the text of a running or idle one.
    Start {
        from: Option<u8>,
        share: u8,
        text: Text,
        room: u16,
        owner: Owner,
    },
    /// A running sequence grows by some tokens.
    Grow { which: u8, token: u8, count: u8 },
    /// A running sequence ends, keeps some eighths of its text, and becomes an idle session or not.
    End { which: u8, keep: u8, idle: bool },
    /// A running sequence is broken off, and nothing is said about its last page.
    Cancel { which: u8 },
    /// An idle session is dropped.
    Unpin { which: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let page = (0..2u8, prop_oneof![Just(32u8), 0..32u8], 0..3u8);
    let text = prop::collection::vec(page, 0..12);
    prop_oneof![
        4 => (prop::option::of(any::<u8>()), 0..=8u8, text, 0..600u16, 0..2u64)
            .prop_map(|(from, share, text, room, owner)| Op::Start { from, share, text, room, owner }),
        6 => (any::<u8>(), 0..3u8, 1..50u8)
            .prop_map(|(which, token, count)| Op::Grow { which, token, count }),
        3 => (any::<u8>(), 0..=8u8, any::<bool>())
            .prop_map(|(which, keep, idle)| Op::End { which, keep, idle }),
        1 => any::<u8>().prop_map(|which| Op::Cancel { which }),
        1 => any::<u8>().prop_map(|which| Op::Unpin { which }),
    ]
}

struct Sequence {
    owner: Owner,
    table: Box<PageTable>,
    tokens: Vec<u32>,
    reserved: usize,
}

/// The bookkeeping, and beside it what an arena would hold: for each page its owner and all tokens that its keys and values
/// come from.
struct World {
    pages: Pages,
    arena: Vec<(Owner, Vec<u32>)>,
    running: Vec<Sequence>,
    /// The tip, the owner and the text of each idle session.
    idle: Vec<(PageId, (Owner, Vec<u32>))>,
}

const TOTAL: usize = 64;

impl World {
    fn new(buckets: usize) -> Self {
        Self {
            pages: Pages::with_buckets(TOTAL, buckets).unwrap(),
            arena: vec![(0, Vec::new()); TOTAL],
            running: Vec::new(),
            idle: Vec::new(),
        }
    }

    fn start(&mut self, owner: Owner, tokens: &[u32], room: usize) {
        let needed = (tokens.len() + room).div_ceil(PAGE_TOKENS);
        if tokens.is_empty() || needed > TOTAL || self.running.len() == 8 {
            return;
        }
        let mut table = page_table();
        let found = self.pages.find(&mut owner.into(), tokens, &mut table);
        assert_eq!(found.tokens, table.len() * PAGE_TOKENS);
        for (at, &page) in table.iter().enumerate() {
            let held = (owner, tokens[..(at + 1) * PAGE_TOKENS].to_vec());
            assert_eq!(self.arena[usize::from(page)], held);
        }
        let reserved = needed - table.len();
        while let Err(missing) = self.pages.reserve(reserved) {
            let held = self.pages.counts();
            assert!(missing.pages > 0 && missing.pinned <= held.used);
            if missing.pinned == 0 || self.idle.is_empty() {
                self.pages.release(&mut table, usize::MAX);
                return;
            }
            self.pages.unpin(self.idle.remove(0).0);
        }
        let mut sequence = Sequence {
            owner,
            tokens: tokens[..found.tokens].to_vec(),
            table,
            reserved,
        };
        if let Some(partial) = found.partial {
            let end = found.tokens + partial.tokens;
            assert!(end < tokens.len());
            let (of, source) = &self.arena[usize::from(partial.page)];
            assert_eq!((*of, &source[..end]), (owner, &tokens[..end]));
            let copy = (owner, source[..end].to_vec());
            let page = self.pages.take(&mut sequence.table);
            sequence.reserved -= 1;
            self.arena[usize::from(page)] = copy;
            sequence.tokens = tokens[..end].to_vec();
        }
        let fed = sequence.tokens.len();
        self.running.push(sequence);
        self.grow(self.running.len() - 1, &tokens[fed..]);
    }

    fn grow(&mut self, which: usize, tokens: &[u32]) {
        let sequence = &mut self.running[which];
        for &token in tokens {
            let at = sequence.tokens.len() / PAGE_TOKENS;
            if at == sequence.table.len() {
                if sequence.reserved == 0 {
                    return;
                }
                let page = self.pages.take(&mut sequence.table);
                sequence.reserved -= 1;
                // a sequence's first page has nothing before it
                self.arena[usize::from(page)] = (sequence.owner, sequence.tokens.clone());
            }
            sequence.tokens.push(token);
            let page = usize::from(sequence.table[at]);
            self.arena[page].1.push(token);
            assert_eq!(self.arena[page].1, sequence.tokens);
            if sequence.tokens.len().is_multiple_of(PAGE_TOKENS) {
                let full = &sequence.tokens[at * PAGE_TOKENS..];
                self.pages
                    .fill(sequence.owner, &mut sequence.table, at, full);
            }
        }
    }

    fn end(&mut self, which: usize, keep: usize, idle: bool, fill: bool) {
        let mut sequence = self.running.swap_remove(which);
        let at = sequence.tokens.len() / PAGE_TOKENS;
        let rest = &sequence.tokens[at * PAGE_TOKENS..];
        if fill && !rest.is_empty() {
            self.pages
                .fill(sequence.owner, &mut sequence.table, at, rest);
        }
        // the last page counts if nothing of it goes
        let whole = if keep >= sequence.tokens.len() && fill {
            sequence.tokens.len().div_ceil(PAGE_TOKENS)
        } else {
            keep / PAGE_TOKENS
        };
        if idle && let Some(&tip) = sequence.table[..whole].last() {
            self.pages.pin(tip);
            sequence.tokens.truncate(whole * PAGE_TOKENS);
            self.idle.push((tip, (sequence.owner, sequence.tokens)));
        }
        self.pages.unreserve(sequence.reserved);
        self.pages.release(&mut sequence.table, keep);
    }

    fn step(&mut self, op: Op) {
        let pick = |which: u8, len: usize| (len > 0).then(|| usize::from(which) % len.max(1));
        match op {
            Op::Start {
                from,
                share,
                text,
                room,
                owner,
            } => {
                let known = self.running.len() + self.idle.len();
                let from = from.and_then(|from| pick(from, known));
                let mut tokens = from.map_or(Vec::new(), |at| {
                    let running = self.running.get(at).map(|s| &s.tokens);
                    let tokens = running.unwrap_or_else(|| &self.idle[at - self.running.len()].1.1);
                    tokens[..tokens.len() * usize::from(share) / 8].to_vec()
                });
                for (first, cut, second) in text {
                    tokens.extend([u32::from(first)].repeat(cut.into()));
                    tokens.extend([u32::from(second)].repeat(PAGE_TOKENS - usize::from(cut)));
                }
                self.start(owner, &tokens, room.into());
            }
            Op::Grow {
                which,
                token,
                count,
            } => {
                if let Some(which) = pick(which, self.running.len()) {
                    self.grow(which, &vec![token.into(); count.into()]);
                }
            }
            Op::End { which, keep, idle } => {
                if let Some(which) = pick(which, self.running.len()) {
                    let keep = self.running[which].tokens.len() * usize::from(keep) / 8;
                    self.end(which, keep, idle, true);
                }
            }
            Op::Cancel { which } => {
                if let Some(which) = pick(which, self.running.len()) {
                    self.end(which, usize::MAX, false, false);
                }
            }
            Op::Unpin { which } => {
                if let Some(which) = pick(which, self.idle.len()) {
                    self.pages.unpin(self.idle.remove(which).0);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let tables: Vec<&PageTable> = self.running.iter().map(|s| &*s.table).collect();
        let tips: Vec<PageId> = self.idle.iter().map(|idle| idle.0).collect();
        self.pages.check(&tables, &tips);
        let reserved: usize = self.running.iter().map(|s| s.reserved).sum();
        assert_eq!(self.pages.reserved, reserved);
        // nobody wrote into what another holds
        for sequence in &self.running {
            for (at, &page) in sequence.table.iter().enumerate() {
                let end = sequence.tokens.len().min((at + 1) * PAGE_TOKENS);
                let held = (sequence.owner, sequence.tokens[..end].to_vec());
                assert_eq!(self.arena[usize::from(page)], held);
            }
        }
        for (tip, held) in &self.idle {
            assert_eq!(self.arena[usize::from(*tip)], *held);
        }
    }
}

proptest! {
    /// With one bucket every look-up collides with every page there is.
    #[test]
    fn no_prompt_is_given_pages_of_another_text(
        buckets in prop_oneof![Just(1usize), Just(4), Just(64)],
        ops in prop::collection::vec(op(), 1..300),
    ) {
        let mut world = World::new(buckets);
        for op in ops {
            world.step(op);
        }
        while !world.running.is_empty() {
            world.step(Op::Cancel { which: 0 });
        }
        while !world.idle.is_empty() {
            world.step(Op::Unpin { which: 0 });
        }
        prop_assert_eq!(world.pages.reserve(TOTAL), Ok(()));
        let mut table = page_table();
        for _ in 0..TOTAL {
            world.pages.take(&mut table);
            world.pages.check(&[&table], &[]);
        }
        world.pages.release(&mut table, 0);
        prop_assert_eq!(world.pages.counts().free, TOTAL);
    }
}
