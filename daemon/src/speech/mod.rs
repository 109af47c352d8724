//! An answer as it is spoken: without marks of Markdown, and in sentences. No I/O and no clock.

mod abbreviations;
mod links;
mod marks;
mod sentences;

use std::time::{Duration, Instant};

use marks::Marks;
use sentences::Sentences;

/// A sentence that takes so many times `engine.chunk_ms` is not waited for: its last clause goes ahead.
const PATIENCE: u32 = 25;

/// Most bytes that one answer holds back: of Markdown that is not decided, and of a sentence that has not ended.
pub const HELD_MAX: usize = marks::HELD_MAX + sentences::SENTENCE_MAX;

/// The text of one answer on its way to be spoken.
#[derive(Debug, Default)]
pub struct Speech {
    marks: Marks,
    sentences: Sentences,
    /// Since when the unfinished sentence has been waiting.
    since: Option<Instant>,
}

impl Speech {
    /// Takes text of the model that came at `now`, and appends to `spoken` what is spoken of it.
    pub fn push(&mut self, text: &str, now: Instant, spoken: &mut String) {
        let before = spoken.len();
        self.marks.push(text, spoken);
        self.take(&spoken[before..], now);
    }

    /// Ends the text and appends the rest of it to `spoken`.
    pub fn finish(&mut self, now: Instant, spoken: &mut String) {
        let before = spoken.len();
        self.marks.finish(spoken);
        self.take(&spoken[before..], now);
        self.sentences.finish();
    }

    /// Appends what is held back to `spoken`: what comes now is another text of the same speaker.
    pub fn pause(&mut self, now: Instant, spoken: &mut String) {
        self.finish(now, spoken);
        self.marks = Marks::default();
    }

    fn take(&mut self, spoken: &str, now: Instant) {
        let had = self.sentences.ended();
        self.sentences.push(spoken);
        if self.sentences.ended() > had || self.since.is_none() {
            // what is unfinished has just begun
            self.since = self.sentences.is_inside().then_some(now);
        }
    }

    /// When [`Self::next`] should be asked; none while there is nothing to say. `every` is `engine.chunk_ms`.
    #[must_use]
    pub fn due(&self, every: Duration) -> Option<Due> {
        if self.sentences.has_next() {
            return Some(Due::Now);
        }
        let since = self.since.filter(|_| self.sentences.has_clause())?;
        Some(Due::At(since + every * PATIENCE))
    }

    /// Whether a sentence has ended that was not taken.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.sentences.has_next()
    }

    /// Where the next sentence ends, in bytes of what was spoken; where none has ended yet, the last clause.
    pub fn next(&mut self, now: Instant) -> Option<usize> {
        if !self.sentences.has_next() {
            self.sentences.cut_clause();
            self.since = self.sentences.is_inside().then_some(now);
        }
        self.sentences.next()
    }
}

/// When something should be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Now,
    At(Instant),
}

#[cfg(test)]
mod tests;
