//! Which two neighbours become one token, and in which order: byte-pair merges by their place in the file, and SentencePiece's by
//! the score of the token that they make.

use super::pieces::{Pieces, fold, slots};
use crate::gguf::MAX_ARRAY;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, RandomState};

/// Bits of an id and of a rank in a slot of [`Ranks`].
const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;
const TAKEN: u64 = 1 << 63;
const _: () = assert!(MAX_ARRAY <= 1 << BITS, "ids and ranks fit a slot");

/// What decides about two neighbours.
#[derive(Debug)]
pub(super) enum Merges {
    /// A list of merges.
    Ranks(Ranks),
    /// An order of all tokens: any two neighbours merge that together are a token.
    Orders(Vec<u32>),
}

/// Merges of two tokens, the first of the file first.
#[derive(Debug)]
pub(super) struct Ranks {
    /// left and right token and rank of each merge, in the first free slot from their hash on
    slots: Vec<u64>,
    /// what each merge makes, by its rank
    made: Vec<u32>,
    seed: u64,
}

impl Ranks {
    /// Makes room for so many merges.
    pub(super) fn with_capacity(merges: usize) -> Self {
        Self {
            slots: vec![0; slots(merges)],
            made: Vec::with_capacity(merges),
            seed: RandomState::new().hash_one(0),
        }
    }

    /// Appends the next merge. One that is there already counts by its first rank.
    pub(super) fn push(&mut self, left: u32, right: u32, made: u32) {
        let rank = self.made.len() as u64;
        self.made.push(made);
        if let Err(free) = self.probe(left, right) {
            self.slots[free] = TAKEN | pair(left, right) << BITS | rank;
        }
    }

    /// The rank of the merge of two tokens, and what it makes.
    fn find(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let rank = self.probe(left, right).ok()?;
        Some((rank, self.made[rank as usize]))
    }

    /// The rank of a merge, or else the slot where it belongs.
    fn probe(&self, left: u32, right: u32) -> Result<u32, usize> {
        let (pair, mask) = (pair(left, right), self.slots.len() - 1);
        let mut at = fold(pair, self.seed) as usize & mask;
        loop {
            let slot = self.slots[at];
            // there are more slots than merges
            if slot == 0 {
                return Err(at);
            }
            if (slot & !TAKEN) >> BITS == pair {
                return Ok((slot & MASK) as u32);
            }
            at = (at + 1) & mask;
        }
    }
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << BITS | u64::from(right)
}

/// The place of a token with this score: higher scores come first, and equal ones are equal.
pub(super) fn order(score: f32) -> u32 {
    // of floats that are not negative the bits grow with the value, of others they fall; adding zero makes -0 to 0
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 {
        !bits & !(1 << 31)
    } else {
        bits
    }
}

/// A stretch of a word that is a token, or a character that is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    pub(super) start: u32,
    /// The same as `start` once it is merged into the one before it.
    pub(super) end: u32,
    pub(super) id: Option<u32>,
    before: u32,
    behind: u32,
}

/// The index of no symbol: the word begins or ends there.
const NONE: u32 = u32::MAX;

/// A merge that may be done: those of the lowest rank first, and of the same rank those further left.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    /// where the right one ends
    end: u32,
    id: u32,
}

/// Merges the symbols of a word, one word after the other in the same memory. A word of `n` symbols takes O(n log n).
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Appends a symbol of the word, from the end of the one before it.
    pub(super) fn push(&mut self, end: usize, id: Option<u32>) {
        let at = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |symbol| symbol.end);
        self.symbols.push(Symbol {
            start,
            // no text is longer than what is tokenized at once
            end: end as u32,
            id,
            before: at.wrapping_sub(1),
            behind: at + 1,
        });
    }

    /// Does all merges of the word whose symbols were pushed, and gives what is left of them, in order.
    pub(super) fn merge(
        &mut self,
        word: &[u8],
        merges: &Merges,
        pieces: &Pieces,
    ) -> impl Iterator<Item = Symbol> {
        if let Some(last) = self.symbols.last_mut() {
            last.behind = NONE;
        }
        let count = self.symbols.len() as u32;
        for right in 1..count {
            self.consider(right - 1, right, word, merges, pieces);
        }
        while let Some(Reverse(next)) = self.queue.pop() {
            let left = self.symbols[next.left as usize];
            let Some(right) = self.symbols.get(left.behind as usize).copied() else {
                continue;
            };
            // a symbol that was merged since has gone or grown
            if left.start == left.end || right.end != next.end {
                continue;
            }
            let gone = left.behind as usize;
            self.symbols[gone].end = right.start;
            self.symbols[next.left as usize] = Symbol {
                end: right.end,
                id: Some(next.id),
                behind: right.behind,
                ..left
            };
            if let Some(behind) = self.symbols.get_mut(right.behind as usize) {
                behind.before = next.left;
            }
            self.consider(left.before, next.left, word, merges, pieces);
            self.consider(next.left, right.behind, word, merges, pieces);
        }
        self.symbols
            .drain(..)
            .filter(|symbol| symbol.start < symbol.end)
    }

    /// Queues the merge of two neighbours, if there is one.
    fn consider(&mut self, left: u32, right: u32, word: &[u8], merges: &Merges, pieces: &Pieces) {
        let get = |at: u32| self.symbols.get(at as usize);
        let (Some(a), Some(b)) = (get(left), get(right)) else {
            return;
        };
        let found = match merges {
            Merges::Ranks(ranks) => match (a.id, b.id) {
                (Some(a), Some(b)) => ranks.find(a, b),
                _ => None,
            },
            Merges::Orders(orders) => {
                let id = pieces.find(&word[a.start as usize..b.end as usize]);
                id.map(|id| (orders[id as usize], id))
            }
        };
        if let Some((rank, id)) = found {
            self.queue.push(Reverse(Candidate {
                rank,
                left,
                end: b.end,
                id,
            }));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_higher_score_comes_first() {
        let scores = [f32::MAX, 1e-3, 0.0, -1e-40, -1.0, -2.0, -31_740.0, f32::MIN];
        for pair in scores.windows(2) {
            assert!(order(pair[0]) < order(pair[1]), "{pair:?}");
        }
        assert_eq!(order(0.0), order(-0.0));
    }

    #[test]
    fn the_first_of_two_equal_merges_counts() {
        let mut ranks = Ranks::with_capacity(3);
        ranks.push(1, 2, 3);
        ranks.push(2, 1, 4);
        ranks.push(1, 2, 5);
        assert_eq!(ranks.find(1, 2), Some((0, 3)));
        assert_eq!(ranks.find(2, 1), Some((1, 4)));
        assert_eq!(ranks.find(1, 1), None);
    }

    /// Tokens of "a" and "b", the letters first.
    fn vocabulary(words: &[String]) -> Pieces {
        let mut pieces = Pieces::with_capacity(words.len() + 2, 0);
        for word in ["a", "b"]
            .into_iter()
            .chain(words.iter().map(String::as_str))
        {
            pieces.push(word.as_bytes());
            pieces.index_last();
        }
        pieces
    }

    fn merged(word: &str, merges: &Merges, pieces: &Pieces) -> Vec<Option<u32>> {
        let mut merger = Merger::default();
        for at in 0..word.len() {
            merger.push(at + 1, pieces.find(&word.as_bytes()[at..=at]));
        }
        let symbols = merger.merge(word.as_bytes(), merges, pieces);
        symbols.map(|symbol| symbol.id).collect()
    }

    /// Looks for the best pair again and again, as byte-pair encoding is defined.
    fn slowly(word: &str, find: impl Fn(&str, &str) -> Option<(u32, u32)>) -> Vec<String> {
        let mut symbols: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let pairs = symbols.windows(2).zip(0..);
            let found = pairs.filter_map(|(pair, at)| Some((find(&pair[0], &pair[1])?.0, at)));
            let Some((_, at)) = found.min() else {
                return symbols;
            };
            let right = symbols.remove(at + 1);
            symbols[at].push_str(&right);
        }
    }

    proptest! {
        #[test]
        fn merges_are_done_best_first(
            words in prop::collection::hash_set("[ab]{2,6}", 0..20),
            scores in prop::collection::vec(-3i8..3, 22),
            splits in prop::collection::vec(1usize..6, 20),
            word in "[ab]{0,30}",
        ) {
            let words: Vec<String> = words.into_iter().collect();
            let pieces = vocabulary(&words);
            let text = |id: Option<u32>| String::from_utf8(pieces.get(id.unwrap()).to_vec()).unwrap();
            let id = |text: &str| pieces.find(text.as_bytes());

            let orders: Vec<u32> = scores.iter().map(|score| order(f32::from(*score))).collect();
            let slow = slowly(&word, |a, b| {
                let id = id(&format!("{a}{b}"))?;
                Some((orders[id as usize], id))
            });
            let fast = merged(&word, &Merges::Orders(orders.clone()), &pieces);
            prop_assert_eq!(fast.into_iter().map(text).collect::<Vec<_>>(), slow);

            let mut ranks = Ranks::with_capacity(words.len());
            for (word, at) in words.iter().zip(&splits) {
                let (a, b) = word.split_at((*at).min(word.len() - 1));
                if let (Some(a), Some(b), Some(made)) = (id(a), id(b), id(word)) {
                    ranks.push(a, b, made);
                }
            }
            let slow = slowly(&word, |a, b| ranks.find(id(a)?, id(b)?));
            let merges = Merges::Ranks(ranks);
            let fast = merged(&word, &merges, &pieces);
            prop_assert_eq!(fast.into_iter().map(text).collect::<Vec<_>>(), slow);
        }
    }
}
