//! Finds where the last tokens of a sequence stood before, in its prompt, in its own answer or in another text. What followed them
//! there may follow again.

/// Earlier positions of the last token that are looked at, the latest first. Each costs a few nanoseconds; a step takes
/// milliseconds.
const WALK: usize = 256;

/// Most tokens that are compared. A longer match promises no more.
pub(super) const MATCH_MAX: usize = 32;

/// Most tokens of a changed piece within a copy, for example a name, before the change and after it.
const CHANGED_MAX: usize = 3;

/// Tokens that must be the same before the change; fewer may be chance.
const COPIED_MIN: usize = 4;

/// An index of the tokens of one text, allocated once for the longest one.
#[derive(Debug)]
pub(super) struct Lookup {
    /// by the hash of a token, the position after the latest token of that hash; 0 if there is none
    latest: Box<[u32]>,
    /// by position, the position before it under the same hash; 0 if there is none
    earlier: Box<[u32]>,
    /// positions below this are in the index
    indexed: usize,
}

/// An earlier position at which the last `len` tokens stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// position of the token that followed them there
    pub(super) at: usize,
    /// tokens that are the same, 1 to [`MATCH_MAX`]
    pub(super) len: usize,
    /// tokens that are the same before those, beyond a change of at most [`CHANGED_MAX`] tokens: 0, or [`COPIED_MIN`] to
    /// [`MATCH_MAX`]
    pub(super) copied: usize,
    /// whether they stood in another text
    pub(super) elsewhere: bool,
}

impl Match {
    /// Compares the end of `tokens` with the part of `text` that ends before `at`.
    fn of(text: &[u32], at: usize, tokens: &[u32]) -> Self {
        let (there, here) = (&text[..at], tokens);
        let len = same(there, here);
        let (there, here) = (&there[..at - len], &here[..here.len() - len]);
        let mut copied = 0;
        for i in 0..=CHANGED_MAX.min(there.len()) {
            for j in 0..=CHANGED_MAX.min(here.len()) {
                let (there, here) = (&there[..there.len() - i], &here[..here.len() - j]);
                // no text is a copy of itself
                if !std::ptr::eq(there, here) {
                    copied = copied.max(same(there, here));
                }
            }
        }
        Self {
            at,
            len,
            copied: if copied >= COPIED_MIN { copied } else { 0 },
            elsewhere: false,
        }
    }

    /// The match when `more` tokens behind it have come true.
    pub(super) fn and(self, more: usize) -> Self {
        Self {
            len: self.len + more,
            ..self
        }
    }

    fn score(&self) -> usize {
        self.len + self.copied
    }
}

/// Counts the tokens at the ends of both that are the same, at most [`MATCH_MAX`].
fn same(a: &[u32], b: &[u32]) -> usize {
    let pairs = a.iter().rev().zip(b.iter().rev());
    pairs.take(MATCH_MAX).take_while(|(a, b)| a == b).count()
}

impl Lookup {
    /// Allocates an index for sequences of up to `context` tokens.
    pub(super) fn new(context: usize) -> Self {
        Self {
            latest: vec![0; context.max(1).next_power_of_two()].into(),
            earlier: vec![0; context].into(),
            indexed: 1,
        }
    }

    /// Forgets all tokens, before another sequence is indexed.
    pub(super) fn restart(&mut self) {
        self.latest.fill(0);
        self.indexed = 1;
    }

    /// The match of the end of `tokens` before its last token; see [`Self::search`]. They go on from those of the call before,
    /// unless [`Self::restart`] came between.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Option<Match> {
        self.index(tokens);
        self.search(tokens, tokens)
    }

    /// Brings the index to the end of a text, which goes on from that of the call before, unless [`Self::restart`] came between. Of
    /// more tokens than there is room for, nothing is found.
    pub(super) fn index(&mut self, text: &[u32]) {
        if text.len() < self.indexed || text.len() > self.earlier.len() {
            self.restart();
        }
        if text.len() > self.earlier.len() {
            return;
        }
        for at in self.indexed..text.len() {
            let slot = self.slot(text[at - 1]);
            self.earlier[at] = std::mem::replace(&mut self.latest[slot], at as u32);
        }
        self.indexed = self.indexed.max(text.len());
    }

    /// The match of the end of `tokens` in the indexed text with the most equal tokens, and of several such the latest.
    pub(super) fn search(&self, text: &[u32], tokens: &[u32]) -> Option<Match> {
        let mut best: Option<Match> = None;
        let mut at = self.latest[self.slot(*tokens.last()?)] as usize;
        for _ in 0..WALK {
            if at == 0 || best.is_some_and(|best| best.len == MATCH_MAX) {
                break;
            }
            let found = Match::of(text, at, tokens);
            // tokens of the same hash may differ
            if found.len > 0 && best.is_none_or(|best| found.score() > best.score()) {
                best = Some(found);
            }
            at = self.earlier[at] as usize;
        }
        best
    }

    fn slot(&self, token: u32) -> usize {
        // the upper bits of a product, so that ids which differ by a power of two do not collide
        let hash = u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & (self.latest.len() - 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Finds the match by its definition.
    fn longest(tokens: &[u32]) -> Option<Match> {
        let n = tokens.len();
        let run = |a: usize, b: usize| {
            let most = a.min(b).min(MATCH_MAX);
            (1..=most)
                .take_while(|i| tokens[a - i] == tokens[b - i])
                .count()
        };
        let mut best: Option<Match> = None;
        for at in (1..n).rev() {
            let len = run(at, n);
            let mut copied = 0;
            for (i, j) in (0..16).map(|ij| (ij / 4, ij % 4)) {
                if let (Some(a), Some(b)) = ((at - len).checked_sub(i), (n - len).checked_sub(j)) {
                    copied = copied.max(if a == b { 0 } else { run(a, b) });
                }
            }
            if copied < 4 {
                copied = 0;
            }
            if len > 0 && best.is_none_or(|best| len + copied > best.len + best.copied) {
                best = Some(Match {
                    at,
                    len,
                    copied,
                    elsewhere: false,
                });
            }
            if best.is_some_and(|best| best.len == MATCH_MAX) {
                break;
            }
        }
        best
    }

    proptest! {
        #[test]
        fn the_longest_and_latest_match_is_found(
            tokens in prop::collection::vec(0u32..6, 0..200),
            slots in 1usize..300,
        ) {
            // with any number of slots, so that hashes collide
            let mut lookup = Lookup { latest: vec![0; slots.next_power_of_two()].into(), ..Lookup::new(200) };
            for end in 0..=tokens.len() {
                prop_assert_eq!(lookup.find(&tokens[..end]), longest(&tokens[..end]));
            }
            lookup.restart();
            prop_assert_eq!(lookup.find(&tokens), longest(&tokens));
        }
    }

    #[test]
    fn a_copy_goes_on_behind_a_change() {
        let mut tokens: Vec<u32> = (10..30).collect();
        // the same token elsewhere, and later
        tokens.extend([1, 20, 99, 2]);
        // 17, 18 and 19 changed to one other
        tokens.extend([10, 11, 12, 13, 14, 15, 16, 77, 20]);
        let found = Lookup::new(100).find(&tokens).unwrap();
        assert_eq!((found.at, found.len, found.copied), (11, 1, 7));
        // four changed are a change too many
        tokens.truncate(tokens.len() - 2);
        tokens.extend([77, 21]);
        let found = Lookup::new(100).find(&tokens).unwrap();
        assert_eq!((found.at, found.len, found.copied), (12, 1, 0));
    }

    #[test]
    fn the_walk_and_the_match_are_bounded() {
        // the longer match is too far back: 300 places of the same token lie between
        let mut tokens = vec![1, 2, 7];
        for i in 0..300 {
            tokens.extend([100 + i, 7]);
        }
        tokens.extend([1, 2, 7]);
        let mut lookup = Lookup::new(tokens.len());
        let latest = Match {
            at: tokens.len() - 3,
            len: 1,
            copied: 0,
            elsewhere: false,
        };
        assert_eq!(lookup.find(&tokens), Some(latest));

        let same = [5; 100];
        let mut lookup = Lookup::new(100);
        let found = lookup.find(&same).unwrap();
        assert_eq!((found.at, found.len), (99, MATCH_MAX));
    }
}
