//! Where the last tokens of a sequence stood before, in its prompt or in its own answer: what followed them there may
//! follow again.

/// Earlier places of the last token that are looked at, the latest first. Each costs a few nanoseconds; a step takes
/// milliseconds.
const WALK: usize = 256;

/// Tokens that are compared at most: a longer match says no more.
pub(super) const MATCH_MAX: usize = 32;

/// An index of one sequence's tokens, made once for the longest there can be.
#[derive(Debug)]
pub(super) struct Lookup {
    /// by hash of a token: the position after the latest one of that hash; 0 is none
    latest: Box<[u32]>,
    /// by position: the one before it under the same hash; 0 is none
    earlier: Box<[u32]>,
    /// positions below this are in the index
    indexed: usize,
}

/// A place where the last `len` tokens stood before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// position of what followed there
    pub(super) at: usize,
    /// tokens that are the same, 1 to [`MATCH_MAX`]
    pub(super) len: usize,
}

impl Lookup {
    /// For sequences of up to `context` tokens.
    pub(super) fn new(context: usize) -> Self {
        Self {
            latest: vec![0; context.max(1).next_power_of_two()].into(),
            earlier: vec![0; context].into(),
            indexed: 1,
        }
    }

    /// Forgets everything, for another sequence.
    pub(super) fn restart(&mut self) {
        self.latest.fill(0);
        self.indexed = 1;
    }

    /// The longest match of the end of `tokens`, of equal ones the latest. What was given before is their beginning.
    ///
    /// # Panics
    /// If they are more than the context.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Option<Match> {
        for at in self.indexed..tokens.len() {
            let slot = self.slot(tokens[at - 1]);
            self.earlier[at] = std::mem::replace(&mut self.latest[slot], at as u32);
        }
        self.indexed = self.indexed.max(tokens.len());
        let mut best = None;
        let mut longest = 0;
        let mut at = self.latest[self.slot(*tokens.last()?)] as usize;
        for _ in 0..WALK {
            if at == 0 || longest == MATCH_MAX {
                break;
            }
            let pairs = tokens[..at].iter().rev().zip(tokens.iter().rev());
            let len = pairs.take(MATCH_MAX).take_while(|(a, b)| a == b).count();
            if len > longest {
                (longest, best) = (len, Some(Match { at, len }));
            }
            at = self.earlier[at] as usize;
        }
        best
    }

    fn slot(&self, token: u32) -> usize {
        // the upper bits of a product: ids that differ by a power of two must not meet
        let hash = u64::from(token).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & (self.latest.len() - 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition.
    fn longest(tokens: &[u32]) -> Option<Match> {
        let n = tokens.len();
        let matches = (1..n).map(|at| {
            let same = (1..=at.min(MATCH_MAX)).take_while(|i| tokens[at - i] == tokens[n - i]);
            let len = same.count();
            Match { at, len }
        });
        matches.filter(|m| m.len > 0).max_by_key(|m| (m.len, m.at))
    }

    proptest! {
        #[test]
        fn the_longest_and_latest_match_is_found(
            tokens in prop::collection::vec(0u32..6, 0..200),
            slots in 1usize..300,
        ) {
            // whatever collides
            let mut lookup = Lookup { latest: vec![0; slots.next_power_of_two()].into(), ..Lookup::new(200) };
            for end in 0..=tokens.len() {
                prop_assert_eq!(lookup.find(&tokens[..end]), longest(&tokens[..end]));
            }
            lookup.restart();
            prop_assert_eq!(lookup.find(&tokens), longest(&tokens));
        }
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
        };
        assert_eq!(lookup.find(&tokens), Some(latest));

        let same = [5; 100];
        let mut lookup = Lookup::new(100);
        let found = lookup.find(&same).unwrap();
        assert_eq!((found.at, found.len), (99, MATCH_MAX));
    }
}
