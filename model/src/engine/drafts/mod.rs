//! Drafts without a draft model: what followed the same tokens before may follow them again, and some files have a layer that
//! expects the token after the next one. A step that feeds the guesses with the last token reads the weights only once and yields a
//! token for each guess that comes true. The text is the same as without drafts, and it comes sooner.

mod gate;
mod history;
mod lookup;
mod steps;

use super::request::RequestId;
use crate::kv::Owner;
use gate::Gate;
pub(super) use gate::Odds;
use history::Histories;
use lookup::{Lookup, Match};

/// Makes drafts for one sequence at a time. Where several decode, their tokens fill the step already.
#[derive(Debug)]
pub(super) struct Drafts {
    lookup: Lookup,
    /// the request whose tokens are in the index
    of: Option<RequestId>,
    histories: Histories,
    gate: Gate,
    /// columns of the last step if a draft was possible in it, else 0
    columns: usize,
    /// whether the layer that drafts was asked in the last step
    asked: bool,
}

/// Tokens that may come next.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// the guesses, at most [`DRAFT_MAX`](glowplug_firmware_config::limits::DRAFT_MAX)
    pub(super) tokens: Vec<u32>,
    /// the match that the first of them follows; none where the layer that drafts expects it
    after: Option<Match>,
}

/// A draft that was fed, while its tokens are checked.
#[derive(Debug)]
pub(super) struct Drafted {
    /// the request that it is a draft of
    pub(super) id: RequestId,
    /// tokens of the sequence before the draft
    len: usize,
    draft: Draft,
    /// a row for the token before the draft and for each of its tokens
    logits: Vec<f32>,
}

impl Drafted {
    /// A draft that was fed behind `len` tokens of a sequence, with the logits of the last of these and of its own.
    pub(super) fn new(id: RequestId, len: usize, draft: Draft, logits: Vec<f32>) -> Self {
        Self {
            id,
            len,
            draft,
            logits,
        }
    }

    /// The guess at the token of this place in the sequence, and the match that it follows, if it follows one.
    fn guess(&self, at: usize) -> Option<(u32, Option<Match>)> {
        let at = at.checked_sub(self.len)?;
        let after = self.draft.after.map(|after| after.and(at));
        Some((*self.draft.tokens.get(at)?, after))
    }

    /// The logits of the token before this place.
    fn logits(&mut self, at: usize, vocab: usize) -> Option<&mut [f32]> {
        let mut rows = self.logits.chunks_exact_mut(vocab);
        rows.nth(at.checked_sub(self.len)?)
    }
}

impl Drafts {
    /// Makes an index for sequences of up to `context` tokens.
    pub(super) fn new(context: usize) -> Self {
        Self {
            lookup: Lookup::new(context),
            of: None,
            histories: Histories::default(),
            gate: Gate::default(),
            columns: 0,
            asked: false,
        }
    }

    /// The tokens that are worth trying behind `tokens`, at most `room` of them. They are guessed from the text of the sequence or
    /// from what its owner's requests said before, whichever has the better odds.
    pub(super) fn guess(
        &mut self,
        (id, owner): (RequestId, Owner),
        tokens: &[u32],
        odds: &Odds,
        room: usize,
    ) -> Draft {
        if self.of != Some(id) {
            self.lookup.restart();
            self.of = Some(id);
        }
        let own = self.lookup.find(tokens);
        let elsewhere = self.histories.find(owner, tokens);
        let elsewhere =
            elsewhere.filter(|(there, _)| own.is_none_or(|own| odds.of(*there) > odds.of(own)));
        // a sequence's own text goes on into the draft; another one ends
        let (found, then, most) = match (elsewhere, own) {
            (Some((there, then)), _) => (Some(there), then, then.len()),
            (None, Some(own)) => (Some(own), &tokens[own.at..], usize::MAX),
            (None, None) => (None, tokens, 0),
        };
        let width = self.gate.width(odds, found, room.min(most));
        (self.columns, self.asked) = (1 + width, false);
        let mut draft = Draft {
            tokens: Vec::with_capacity(width),
            after: found,
        };
        for i in 0..width {
            let token = match then.get(i) {
                Some(&token) => token,
                None => draft.tokens[i - then.len()],
            };
            draft.tokens.push(token);
        }
        draft
    }

    /// Whether the layer that drafts is worth asking for the next step, in which nothing else is guessed.
    pub(super) fn asks(&mut self, odds: &Odds) -> bool {
        self.asked = self.gate.asks(odds);
        self.asked
    }

    /// Keeps what an ended request said, to guess from.
    pub(super) fn keep(&mut self, owner: Owner, said: &[u32]) {
        self.histories.add(owner, said);
    }

    /// Forgets what an owner's requests said.
    pub(super) fn forget_owner(&mut self, owner: Owner) {
        self.histories.forget(owner);
    }

    /// Cuts a draft for the next step.
    pub(super) fn cut(&mut self, draft: &mut Draft, len: usize) {
        draft.tokens.truncate(len);
        self.columns = 1 + draft.tokens.len();
    }

    /// Forgets a request that has ended: its id may come again with other tokens.
    pub(super) fn forget(&mut self, id: RequestId) {
        if self.of == Some(id) {
            self.of = None;
        }
    }

    /// Notes that no draft is possible in the next step.
    pub(super) fn pass(&mut self) {
        (self.columns, self.asked) = (0, false);
    }

    /// Notes how long the last step took.
    pub(super) fn took(&mut self, seconds: f64) {
        if self.asked {
            self.gate.layer_took(seconds);
        } else {
            self.gate.took(self.columns, seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glowplug_firmware_config::limits::DRAFT_MAX;

    #[test]
    fn what_followed_before_is_guessed_and_goes_on_into_itself() {
        let mut drafts = Drafts::new(100);
        // the price of a plain step first
        let odds = Odds::default();
        let mut guess =
            |id, tokens: &[u32], room| drafts.guess((id, 0), tokens, &odds, room).tokens;
        let copied = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5];
        assert!(guess(1, &copied, 9).is_empty());
        assert_eq!(guess(1, &copied, 9)[..3], [6, 7, 8]);
        assert_eq!(guess(1, &copied, 2), [6, 7]);
        assert!(guess(1, &copied, 0).is_empty());
        // nothing of it is guessed for another sequence
        assert!(guess(2, &[1, 2, 3, 4, 5], 9).is_empty());
        let mut same = vec![3, 4];
        same.extend([5; 12]);
        let draft = guess(3, &same, 9);
        assert!(draft.len() > 2 && draft.iter().all(|t| *t == 5));
    }

    #[test]
    fn what_the_owner_said_before_is_guessed_as_far_as_it_goes() {
        let mut drafts = Drafts::new(100);
        let odds = Odds::default();
        let said: Vec<u32> = (10..30).collect();
        drafts.keep(1, &said);
        let here = [1, 2, 23, 24, 25, 26, 27];
        let mut guess = |id, owner| drafts.guess((id, owner), &here, &odds, 9).tokens;
        // the price of a plain step first
        assert!(guess(1, 1).is_empty());
        assert_eq!(guess(1, 1), [28, 29]);
        assert!(guess(2, 2).is_empty());
        drafts.forget_owner(1);
        assert!(drafts.guess((1, 1), &here, &odds, 9).tokens.is_empty());
    }

    #[test]
    fn columns_are_bounded() {
        let mut drafts = Drafts::new(100);
        let widths = (0..10).map(|_| {
            drafts
                .guess((1, 0), &[7; 40], &Odds::default(), 50)
                .tokens
                .len()
        });
        assert_eq!(widths.max(), Some(DRAFT_MAX));
    }
}
