//! When a thought ends that the model does not end itself, and by which words.

use super::Sequence;
use crate::text::{Closing, Side};

/// A thought is closed when a quarter of the request's tokens is left for the closing words and the answer, or this many tokens
/// if they are more.
const ANSWER_MIN: usize = 16;
/// A thought has at most so many tokens beyond its budget: its closing words.
const CLOSING_MAX: usize = 16;

impl Sequence {
    /// Takes all tokens of its answer for a thought.
    #[cfg(test)]
    pub(in crate::engine) fn has_thought(&mut self) {
        self.thought = true;
    }

    /// Closes an open thought by writing words for the model. Gives false if no thought is open.
    pub(in crate::engine) fn end_thinking(&mut self, closing: &Closing) -> bool {
        let words = self.last_words(closing, self.limit);
        self.close(closing, words)
    }

    pub(super) fn close(&mut self, closing: &Closing, words: &[u32]) -> bool {
        if self.closed || self.splitter.side() != Side::Thought {
            return false;
        }
        self.forced.extend(words);
        self.closed = true;
        // it was enough: the model does not think again in this answer
        closing
            .open
            .into_iter()
            .for_each(|open| self.sampler.never(open));
        // the rest of a character that has begun will not come any more
        self.utf8.cut();
        true
    }

    /// The words that an open thought must end with now, by its budget or so that tokens are left for an answer. Where thoughts
    /// are off, the model may still spell one, which is closed at once.
    pub(super) fn must_end<'a>(&self, closing: &'a Closing) -> Option<&'a [u32]> {
        if !self.thinking.enabled {
            return Some(&closing.mark);
        }
        let all = self.limit.saturating_sub(self.prompt);
        if self.left() <= (all / 4).max(ANSWER_MIN) {
            return Some(self.last_words(closing, self.limit));
        }
        let budget = self.thinking.budget? as usize;
        let words = self.last_words(closing, budget);
        // a sentence that is longer than what may follow the budget begins within it
        let most = budget.min((budget + CLOSING_MAX).saturating_sub(words.len()));
        (self.reasoning as usize >= most).then_some(words)
    }

    /// The closing sentence, unless it is too long for the tokens that are left or for so large a budget, or there was no thought.
    fn last_words<'a>(&self, closing: &'a Closing, budget: usize) -> &'a [u32] {
        let words = closing.sentence.len();
        let fits = words <= self.left() / 2 && words <= budget / 2 + CLOSING_MAX;
        if fits && self.reasoning > 0 {
            &closing.sentence
        } else {
            &closing.mark
        }
    }
}
