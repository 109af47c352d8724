//! What the ended requests of a client said: a sequence that has nothing to follow in its own text may follow that. Nobody's drafts
//! come from another's text, so nobody's answers are faster for what another asked.

use super::lookup::{Lookup, Match};
use crate::kv::Owner;

/// Owners whose text is kept. Of more, the one that ended a request longest ago is forgotten.
const OWNERS_MAX: usize = 8;

/// Tokens that are kept of an owner; when they are full, the older half goes. With their index they are 24 KB, which
/// the memory plan counts among the program's own.
const TOKENS_MAX: usize = 2048;

/// The text of some owners, the one that ended a request last at the end.
#[derive(Debug, Default)]
pub(super) struct Histories {
    kept: Vec<History>,
}

#[derive(Debug)]
struct History {
    owner: Owner,
    /// what was said, at most [`TOKENS_MAX`] tokens of it
    tokens: Vec<u32>,
    lookup: Lookup,
}

impl Histories {
    /// Keeps what a request of this owner said.
    pub(super) fn add(&mut self, owner: Owner, said: &[u32]) {
        let of = self.kept.iter().position(|history| history.owner == owner);
        let mut history = match of {
            Some(i) => self.kept.remove(i),
            None if self.kept.len() < OWNERS_MAX => History::new(owner),
            None => self.kept.remove(0).of_another(owner),
        };
        history.add(said);
        self.kept.push(history);
    }

    /// Forgets what this owner's requests said.
    pub(super) fn forget(&mut self, owner: Owner) {
        self.kept.retain(|history| history.owner != owner);
    }

    /// Where the end of `tokens` stood in what this owner's requests said, and the tokens that followed there.
    pub(super) fn find(&mut self, owner: Owner, tokens: &[u32]) -> Option<(Match, &[u32])> {
        let history = self.kept.iter_mut().find(|h| h.owner == owner)?;
        history.lookup.index(&history.tokens);
        let found = history.lookup.search(&history.tokens, tokens)?;
        let found = Match {
            elsewhere: true,
            ..found
        };
        Some((found, &history.tokens[found.at..]))
    }
}

impl History {
    fn new(owner: Owner) -> Self {
        Self {
            owner,
            tokens: Vec::with_capacity(TOKENS_MAX),
            lookup: Lookup::new(TOKENS_MAX),
        }
    }

    /// The same buffers, for another owner.
    fn of_another(mut self, owner: Owner) -> Self {
        self.tokens.clear();
        self.lookup.restart();
        Self { owner, ..self }
    }

    fn add(&mut self, said: &[u32]) {
        let said = &said[said.len().saturating_sub(TOKENS_MAX / 2)..];
        if self.tokens.len() + said.len() > TOKENS_MAX {
            let older = self.tokens.len().saturating_sub(TOKENS_MAX / 2);
            self.tokens.drain(..older);
            self.lookup.restart();
        }
        self.tokens.extend_from_slice(said);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What would be guessed behind `tokens`.
    fn follows(histories: &mut Histories, owner: Owner, tokens: &[u32]) -> Option<u32> {
        histories.find(owner, tokens).map(|(_, then)| then[0])
    }

    #[test]
    fn only_the_owners_text_is_followed_until_it_is_forgotten() {
        let mut histories = Histories::default();
        histories.add(1, &[10, 11, 12, 13]);
        histories.add(2, &[10, 11, 99]);
        assert_eq!(follows(&mut histories, 1, &[7, 10, 11]), Some(12));
        assert_eq!(follows(&mut histories, 2, &[7, 10, 11]), Some(99));
        assert_eq!(follows(&mut histories, 3, &[7, 10, 11]), None);
        // nothing follows the last token of all
        assert_eq!(follows(&mut histories, 1, &[12, 13]), None);
        histories.add(1, &[13, 14]);
        assert_eq!(follows(&mut histories, 1, &[12, 13]), Some(13));
        histories.forget(1);
        assert_eq!(follows(&mut histories, 1, &[7, 10, 11]), None);
        assert_eq!(follows(&mut histories, 2, &[7, 10, 11]), Some(99));
    }

    #[test]
    fn owners_and_their_tokens_are_bounded() {
        let mut histories = Histories::default();
        let most = OWNERS_MAX as u64;
        for owner in 0..=most {
            histories.add(owner, &[1, 2, 3]);
        }
        assert_eq!(histories.kept.len(), OWNERS_MAX);
        assert_eq!(follows(&mut histories, 0, &[1]), None);
        assert_eq!(follows(&mut histories, 1, &[1]), Some(2));
        // the newest text is there at any time, and the first one is gone in the end
        for i in 0..20u32 {
            let said: Vec<u32> = (0..300).map(|j| 1000 * (i + 1) + j).collect();
            histories.add(most, &said);
            let history = histories.kept.last().unwrap();
            assert!(history.tokens.len() <= TOKENS_MAX && history.tokens.capacity() == TOKENS_MAX);
            assert_eq!(
                follows(&mut histories, most, &said[..9]),
                Some(1000 * (i + 1) + 9)
            );
        }
        assert_eq!(follows(&mut histories, most, &[1]), None);
        // of a text that is longer than all, its end
        let long: Vec<u32> = (0..10_000).collect();
        histories.add(most, &long);
        assert_eq!(follows(&mut histories, most, &[9000]), Some(9001));
        assert_eq!(follows(&mut histories, most, &[5000]), None);
    }
}
