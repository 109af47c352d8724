//! Drafts in the engine's steps: guessed before a pass of the network, checked one by one after it.

use super::Draft;
use crate::engine::{Engine, Event, RequestId};

impl Engine {
    /// What may follow, where a single stream decodes.
    pub(in crate::engine) fn draft(&mut self, plan: &[(RequestId, usize)]) -> Draft {
        let Some(drafts) = &mut self.drafts else {
            return Draft::default();
        };
        if let [(id, _)] = *plan
            && let Some(sequence) = self.sequences.get(&id)
            && sequence.remaining() == 0
            && !sequence.is_own()
        {
            let room = sequence.limit - sequence.tokens.len();
            return drafts.guess(id, &sequence.tokens, &sequence.odds, room);
        }
        drafts.pass();
        Draft::default()
    }

    /// The next token from the rows of the last draft: if the token guessed is the one that was sampled, it is in the cache
    /// already, and what follows it is sampled from its logits. False: there is no draft, or no more of it. A step each, so
    /// that a cancel is seen before the next token here too.
    pub(in crate::engine) fn check(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> bool {
        let Some(mut drafted) = self.drafted.take() else {
            return false;
        };
        // it may have ended since, or its thought have been closed
        let Some(sequence) = self.sequences.get_mut(&drafted.id) else {
            return false;
        };
        if sequence.tokens.len() != drafted.len() {
            return false;
        }
        let id = drafted.id;
        let Some((guess, after, logits)) = drafted.next(self.info.vocab) else {
            return false;
        };
        let right = sequence.tokens.last() == Some(&guess);
        sequence.odds.saw(after, right);
        if !right {
            return false;
        }
        self.memory.fed(&mut self.model.kv, sequence, 1);
        self.scheduler.served(id, 1);
        self.sample(id, logits, sink);
        self.drafted = Some(drafted);
        true
    }

    /// The last [`Self::step`], a pass of the network, took so many seconds: what a draft costs is measured, not believed.
    /// Optional.
    pub fn took(&mut self, seconds: f64) {
        if let Some(drafts) = &mut self.drafts {
            drafts.took(seconds);
        }
    }
}
