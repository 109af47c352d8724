//! Drafts without a draft model: what followed the same tokens before may follow them again. A step that feeds the guesses
//! with the last token reads the weights once, and samples a token for each of them that comes true: the text is what it
//! would have been, sooner.

mod gate;
mod lookup;
mod steps;

use super::RequestId;
use gate::Gate;
pub(super) use gate::Odds;
use lookup::{Lookup, Match};

/// Drafts for one sequence at a time: where several decode, their columns fill the step already.
#[derive(Debug)]
pub(super) struct Drafts {
    lookup: Lookup,
    /// whose tokens it knows
    of: Option<RequestId>,
    gate: Gate,
    /// columns of the last step, if it was one that a draft could have been for; else 0
    columns: usize,
}

/// What may come next.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// at most [`DRAFT_MAX`](glowplug_firmware_config::limits::DRAFT_MAX)
    pub(super) tokens: Vec<u32>,
    /// what the first of them follows
    after: Option<Match>,
}

/// A draft that was fed, while its tokens are checked.
#[derive(Debug)]
pub(super) struct Drafted {
    /// whose it is
    pub(super) id: RequestId,
    /// how many tokens the sequence had when it was fed and the next was sampled
    len: usize,
    draft: Draft,
    /// a row for the token before the draft and for each of its tokens
    logits: Vec<f32>,
    checked: usize,
}

impl Drafted {
    /// For a sequence that has `len` tokens, the last of them sampled from the first row.
    pub(super) fn new(id: RequestId, len: usize, draft: Draft, logits: Vec<f32>) -> Self {
        Self {
            id,
            len,
            draft,
            logits,
            checked: 0,
        }
    }

    /// How many tokens the sequence has now, unless something else was added.
    pub(super) fn len(&self) -> usize {
        self.len + self.checked
    }

    /// The next guess, what it follows, and the logits of what follows it.
    fn next(&mut self, vocab: usize) -> Option<(u32, Match, &mut [f32])> {
        let (at, logits) = (self.checked, self.logits.chunks_exact_mut(vocab));
        self.checked += 1;
        let logits = logits.skip(1).nth(at)?;
        Some((
            *self.draft.tokens.get(at)?,
            self.draft.after?.and(at),
            logits,
        ))
    }
}

impl Drafts {
    /// For sequences of up to `context` tokens.
    pub(super) fn new(context: usize) -> Self {
        Self {
            lookup: Lookup::new(context),
            of: None,
            gate: Gate::default(),
            columns: 0,
        }
    }

    /// What is worth trying after `tokens`, at most `room` tokens.
    pub(super) fn guess(
        &mut self,
        id: RequestId,
        tokens: &[u32],
        odds: &Odds,
        room: usize,
    ) -> Draft {
        if self.of != Some(id) {
            self.lookup.restart();
            self.of = Some(id);
        }
        let found = self.lookup.find(tokens);
        let width = self.gate.width(odds, found, room);
        self.columns = 1 + width;
        let mut draft = Draft {
            tokens: Vec::with_capacity(width),
            after: found,
        };
        if let Some(found) = found {
            // what followed there, and once that has come up to here, the draft itself
            for at in found.at..found.at + width {
                let token = match tokens.get(at) {
                    Some(&token) => token,
                    None => draft.tokens[at - tokens.len()],
                };
                draft.tokens.push(token);
            }
        }
        draft
    }

    /// The next step is none that [`Self::guess`] was asked for.
    pub(super) fn pass(&mut self) {
        self.columns = 0;
    }

    /// The last step took so long.
    pub(super) fn took(&mut self, seconds: f64) {
        self.gate.took(self.columns, seconds);
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
        let mut guess = |id, tokens: &[u32], room| drafts.guess(id, tokens, &odds, room).tokens;
        let copied = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5];
        assert!(guess(1, &copied, 9).is_empty());
        assert_eq!(guess(1, &copied, 9)[..3], [6, 7, 8]);
        assert_eq!(guess(1, &copied, 2), [6, 7]);
        assert!(guess(1, &copied, 0).is_empty());
        // another sequence knows nothing of it
        assert!(guess(2, &[1, 2, 3, 4, 5], 9).is_empty());
        let mut same = vec![3, 4];
        same.extend([5; 12]);
        let draft = guess(3, &same, 9);
        assert!(draft.len() > 2 && draft.iter().all(|t| *t == 5));
    }

    #[test]
    fn columns_are_bounded() {
        let mut drafts = Drafts::new(100);
        let widths = (0..10).map(|_| drafts.guess(1, &[7; 40], &Odds::default(), 50).tokens.len());
        assert_eq!(widths.max(), Some(DRAFT_MAX));
    }
}
