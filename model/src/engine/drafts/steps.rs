//! Drafts in the engine's steps: they are guessed before a run of the network and checked one by one after it.

use super::Draft;
use crate::engine::Engine;
use crate::engine::request::{Event, RequestId};
use crate::engine::scheduler::Due;
use crate::ops::no_gpu::NoGpu;

impl Engine {
    /// The draft for the next step, if a single stream decodes in it. Where no match is worth following, the layer that drafts is asked.
    ///
    /// # Errors
    /// [`NoGpu`]: the GPU is lost.
    pub(in crate::engine) fn draft(&mut self, plan: &[(RequestId, usize)]) -> Result<Draft, NoGpu> {
        let Some(drafts) = &mut self.drafts else {
            return Ok(Draft::default());
        };
        if let [(id, _)] = *plan
            && let Some(sequence) = self.sequences.get_mut(&id)
            && sequence.due() == Due::Answer(1)
            && !sequence.is_own()
        {
            let room = sequence.limit - sequence.tokens.len();
            let of = (id, sequence.owners.own);
            let mut draft = drafts.guess(of, &sequence.tokens, &sequence.odds, room);
            let asks = draft.tokens.is_empty() && room > 0 && self.model.drafts();
            if asks && drafts.asks(&sequence.odds) {
                self.memory.grow(&mut self.model.kv, sequence, 1);
                if let (Some(slot), Some(&last)) = (sequence.slot, sequence.tokens.last()) {
                    let logits = self.model.draft(slot.table, sequence.fed, last)?;
                    let best = (0..).zip(&logits).max_by(|(_, a), (_, b)| a.total_cmp(b));
                    draft = Draft {
                        tokens: best.map(|(token, _)| token).into_iter().collect(),
                        after: None,
                    };
                }
            }
            let agreed = sequence.agreed(&draft.tokens);
            if agreed == 0 && draft.after.is_none() && !draft.tokens.is_empty() {
                // a guess that may not come is a wrong one, and was paid for
                sequence.odds.saw(None, false);
            }
            drafts.cut(&mut draft, agreed);
            return Ok(draft);
        }
        drafts.pass();
        Ok(Draft::default())
    }

    /// Takes the next token from the logits of the last draft. If the guesses are the tokens that came, they are in the cache
    /// already, and the token behind them is sampled from their logits. Gives false if there is no draft, or no more of it.
    /// Each token that is drawn is a step of its own, so that a cancel is seen before the next one.
    pub(in crate::engine) fn check(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> bool {
        let Some(mut drafted) = self.drafted.take() else {
            return false;
        };
        // the request may have ended since
        let id = drafted.id;
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return false;
        };
        while sequence.fed < sequence.tokens.len() {
            let Some((guess, after)) = drafted.guess(sequence.fed) else {
                return false;
            };
            let right = sequence.tokens[sequence.fed] == guess;
            sequence.odds.saw(after, right);
            if !right {
                return false;
            }
            self.model.kv.accept();
            self.memory.fed(&mut self.model.kv, sequence, 1);
            self.scheduler.served(id, 1);
        }
        let Some(logits) = drafted.logits(sequence.fed, self.info.vocab) else {
            return false;
        };
        self.sample(id, logits, sink);
        if self.sequences.contains_key(&id) {
            self.drafted = Some(drafted);
        }
        true
    }

    /// Forgets the draft of a request that has ended, so that none is checked for another request of the same id.
    pub(in crate::engine) fn forget_draft(&mut self, id: RequestId) {
        self.drafted.take_if(|drafted| drafted.id == id);
        if let Some(drafts) = &mut self.drafts {
            drafts.forget(id);
        }
    }
}
