//! The bytes of every token, and which token has some bytes.

use crate::gguf::{MAX_ARRAY, MAX_TOKEN};
use std::hash::{BuildHasher, RandomState};

const _: () = assert!(
    MAX_ARRAY as u64 * MAX_TOKEN as u64 <= u32::MAX as u64,
    "`ends` are u32"
);
const _: () = assert!(MAX_ARRAY <= 1 << ID_BITS, "ids fit a slot");

/// Bits of a token's id in a slot. Above them are bits of the hash, and the top one says that the slot is taken.
const ID_BITS: u32 = 20;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
const TAKEN: u32 = 1 << 31;

/// The bytes of all tokens, end to end, and a hash table of those that text is made of. Nothing is allocated for a token of its
/// own.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// where each token ends in `bytes`
    ends: Vec<u32>,
    /// ids by the hash of their bytes, in the first free slot from there on
    slots: Vec<u32>,
    seed: u64,
    /// bytes of the longest token that can be found
    longest: usize,
}

impl Pieces {
    /// Makes room for so many tokens with so many bytes in all.
    pub(super) fn with_capacity(tokens: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(tokens),
            slots: vec![0; slots(tokens)],
            // an unknown seed, so that no file can be made of tokens that all have the same hash
            seed: RandomState::new().hash_one(0) | 1,
            longest: 0,
        }
    }

    /// Appends the bytes of the next token. A control token has none.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Lets the token that was pushed last be found by its bytes. Gives false if another one has the same.
    pub(super) fn index_last(&mut self) -> bool {
        let id = self.ends.len() as u32 - 1;
        let piece = self.get(id);
        let (len, hash) = (piece.len(), self.hash(piece));
        let Err(free) = self.probe(hash, piece) else {
            return false;
        };
        self.slots[free] = TAKEN | tag(hash) | id;
        self.longest = self.longest.max(len);
        true
    }

    /// The token with these bytes.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        self.probe(self.hash(bytes), bytes).ok()
    }

    /// The id of the token with these bytes, or else the slot where it belongs.
    fn probe(&self, hash: u64, bytes: &[u8]) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            // there are more slots than tokens
            if slot == 0 {
                return Err(at);
            }
            let id = slot & ID_MASK;
            if slot & !ID_MASK == TAKEN | tag(hash) && self.get(id) == bytes {
                return Ok(id);
            }
            at = (at + 1) & mask;
        }
    }

    /// Folds the product of each eight bytes with what came before.
    fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hash = self.seed ^ bytes.len() as u64;
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        for word in words.iter().chain([&last]) {
            hash = fold(hash ^ u64::from_le_bytes(*word), self.seed);
        }
        fold(hash, self.seed)
    }

    /// Whether no token has a blank behind anything but blanks, so that no merge goes across the beginning of a run of blanks.
    pub(super) fn begin_with_blanks(&self) -> bool {
        (0..self.count() as u32).all(|id| {
            let piece = self.get(id);
            !piece.windows(2).any(|two| two[0] != b' ' && two[1] == b' ')
        })
    }

    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token; none if there is no such token.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else {
            return &[];
        };
        let start = (id as usize)
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }
}

/// A power of two of slots, of which at most three quarters are taken.
pub(super) fn slots(entries: usize) -> usize {
    (entries + entries / 3 + 1).next_power_of_two()
}

/// Both halves of a product of 128 bits: each bit of the factors changes many of it.
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9E37_79B9_7F4A_7C15) * u128::from(b ^ 0xD1B5_4A32_D192_ED03);
    (product as u64) ^ (product >> 64) as u64
}

/// The bits of a hash between the id and the top of a slot. They are not those that choose the slot.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & !ID_MASK & !TAKEN
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn finds_what_a_map_finds(
            tokens in prop::collection::vec("[ab]{0,3}|[a-c]{7,18}", 0..60),
            asked in prop::collection::vec("[ab]{0,4}|[a-c]{7,20}", 0..60),
        ) {
            let mut pieces = Pieces::with_capacity(tokens.len(), 0);
            let mut map = HashMap::new();
            for (id, token) in tokens.iter().enumerate() {
                pieces.push(token.as_bytes());
                prop_assert_eq!(pieces.index_last(), !map.contains_key(token));
                map.entry(token).or_insert(id as u32);
            }
            prop_assert_eq!(pieces.count(), tokens.len());
            for (id, token) in tokens.iter().enumerate() {
                prop_assert_eq!(pieces.get(id as u32), token.as_bytes());
            }
            prop_assert_eq!(pieces.get(tokens.len() as u32), b"");
            for text in tokens.iter().chain(&asked) {
                prop_assert_eq!(pieces.find(text.as_bytes()), map.get(text).copied(), "{}", text);
            }
        }
    }

    #[test]
    fn most_tokens_find_a_slot_near_theirs() {
        let count = 100_000;
        let mut pieces = Pieces::with_capacity(count, 0);
        for id in 0..count {
            pieces.push(&(id as u32).to_be_bytes());
            assert!(pieces.index_last());
        }
        let mask = pieces.slots.len() - 1;
        let far: usize = (0..count as u32)
            .map(|id| {
                let hash = pieces.hash(&id.to_be_bytes());
                let at = pieces
                    .slots
                    .iter()
                    .position(|slot| slot & ID_MASK == id && *slot != 0);
                (at.unwrap().wrapping_sub(hash as usize)) & mask
            })
            .take(1000)
            .sum();
        assert!(far < 4000, "{far} slots beyond their own for 1000 tokens");
    }

    #[test]
    fn the_largest_vocabulary_is_found() {
        let mut pieces = Pieces::with_capacity(MAX_ARRAY, 0);
        for id in 0..MAX_ARRAY as u32 {
            pieces.push(&id.to_le_bytes());
            assert!(pieces.index_last());
        }
        for id in [0, 1, MAX_ARRAY as u32 - 1] {
            assert_eq!(pieces.find(&id.to_le_bytes()), Some(id));
        }
        assert_eq!(pieces.find(&(MAX_ARRAY as u32).to_le_bytes()), None);
    }
}
