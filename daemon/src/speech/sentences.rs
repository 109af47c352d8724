//! Cuts an answer into its sentences, as it comes.

use std::collections::VecDeque;

use unicode_segmentation::UnicodeSegmentation;

use super::abbreviations::{Dot, after_dot};

/// Most bytes of one sentence. What is longer is cut at a clause, at a blank, or between two characters.
pub(super) const SENTENCE_MAX: usize = 2048;

/// Finds sentences by the bounds of the Unicode standard (annex 29), less those that a reader does not see: behind
/// abbreviations, initials and ordinal numbers, in addresses, and where a quotation ends and its sentence goes on.
///
/// A bound is told once nothing that may still come can move it, mostly with the first word behind it. How the text is cut into
/// pushes does not matter, because it is looked at character by character.
#[derive(Debug, Default)]
pub(super) struct Sentences {
    /// The text since the last bound.
    pending: String,
    /// Up to here no bound of `pending` is one for a reader.
    looked: usize,
    /// Whether a stop or the end of a line has come since then.
    stopped: bool,
    /// Where its last clause ends; 0: nowhere.
    clause: usize,
    /// Whether the beginning of the sentence was given out already.
    inside: bool,
    /// How many bytes came before `pending`.
    before: usize,
    /// Where sentences end that were not taken yet, in bytes of the whole text.
    ends: VecDeque<usize>,
}

/// What a bound of Unicode's is for a reader.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Bound,
    None,
    /// The next word tells, and is not whole yet.
    Wait,
}

impl Sentences {
    pub(super) fn push(&mut self, text: &str) {
        for c in text.chars() {
            self.note_clause(c);
            self.pending.push(c);
            if self.stopped {
                self.look(false);
            }
            self.stopped = self.stopped || ends_something(c);
            if self.pending.len() >= SENTENCE_MAX {
                self.cut(self.place());
            }
        }
    }

    /// Ends the text: what is left is a sentence.
    pub(super) fn finish(&mut self) {
        self.look(true);
        self.cut(self.pending.len());
        self.inside = false;
    }

    /// Where the next sentence ends, if it has come.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.ends.pop_front()
    }

    /// Bytes of all sentences that have ended.
    pub(super) fn ended(&self) -> usize {
        self.before
    }

    pub(super) fn has_next(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Whether there is an unfinished sentence.
    pub(super) fn is_inside(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the unfinished sentence has a clause that could go ahead.
    pub(super) fn has_clause(&self) -> bool {
        self.clause > 0
    }

    /// Gives up waiting for the end of the sentence: its last clause becomes the next one to take.
    pub(super) fn cut_clause(&mut self) {
        self.cut(self.clause);
    }

    /// Notes that a clause ends before `next`.
    fn note_clause(&mut self, next: char) {
        if next.is_whitespace() {
            return;
        }
        let said = self.pending.trim_end();
        let blank = said.len() < self.pending.len();
        let ends = match said.chars().next_back() {
            Some(',' | ';' | ':' | '،' | '؛') => blank,
            Some(dash @ ('-' | '–')) => {
                let word = said.trim_end_matches(dash);
                blank && word.ends_with(char::is_whitespace)
            }
            Some('—') => next != '—',
            Some('，' | '；' | '：' | '、') => true,
            _ => false,
        };
        if ends && said.contains(char::is_alphanumeric) {
            self.clause = self.pending.len();
        }
    }

    /// Gives out sentences whose ends are certain. `last`: no more text comes.
    fn look(&mut self, last: bool) {
        loop {
            let text = &self.pending[self.looked..];
            // three dots in one character are no stop for Unicode, but for a reader where a blank follows
            let dotted = text.contains('…').then(|| as_stops(text));
            let mut bounds = dotted
                .as_deref()
                .unwrap_or(text)
                .split_sentence_bound_indices();
            let Some((bound, _)) = bounds.nth(1) else {
                // a stop that has a letter behind it and no bound is none
                if let Some(letter) = text.chars().next_back().filter(|c| c.is_alphabetic()) {
                    self.looked = self.pending.len() - letter.len_utf8();
                    self.stopped = false;
                }
                return;
            };
            let bound = moved(&self.pending, self.looked, self.looked + bound);
            let (left, right) = self.pending.split_at(bound);
            let decided = last || right.contains(|c: char| c == '\n' || c.is_alphabetic());
            if right.is_empty() || !decided {
                return;
            }
            match verdict(left, right, self.inside, last) {
                Verdict::Wait => return,
                Verdict::None => self.looked = bound,
                Verdict::Bound => {
                    self.cut(bound);
                    self.inside = false;
                }
            }
        }
    }

    fn cut(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.pending.drain(..bytes);
        self.before += bytes;
        self.ends.push_back(self.before);
        self.looked = self.looked.saturating_sub(bytes);
        self.clause = self.clause.saturating_sub(bytes);
        self.inside = true;
    }

    /// Where a sentence that is too long is cut.
    fn place(&self) -> usize {
        let blank = self.pending.trim_end().rfind(char::is_whitespace);
        let behind = |at: usize| at + self.pending[at..].chars().next().map_or(0, char::len_utf8);
        match (self.clause, blank) {
            (0, Some(at)) => behind(at),
            (0, None) => {
                // the last character may go on, unless it is longer than any
                let last = self.pending.grapheme_indices(true).next_back();
                let at = last.map_or(0, |(at, _)| at);
                if at == 0 { self.pending.len() } else { at }
            }
            (clause, _) => clause,
        }
    }
}

/// Whether a sentence or a line may end with this character.
fn ends_something(c: char) -> bool {
    let is_mark = !c.is_ascii() && !c.is_alphanumeric() && !c.is_whitespace();
    is_mark || matches!(c, '\n' | '.' | '!' | '?')
}

/// The text with each `…` that a blank follows as a full stop of the same length.
fn as_stops(text: &str) -> String {
    let mut chars = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        let stops = c == '…' && chars.peek().is_some_and(|c| c.is_whitespace());
        out.push(if stops { '．' } else { c });
    }
    out
}

fn closes(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | '”'
            | '’'
            | '“'
            | '‘'
            | '»'
            | '«'
            | '›'
            | '‹'
            | ')'
            | ']'
            | '}'
            | '」'
            | '』'
            | '）'
            | '】'
            | '》'
    )
}

fn opens(c: char) -> bool {
    matches!(
        c,
        '"' | '\''
            | '„'
            | '‚'
            | '“'
            | '‘'
            | '”'
            | '»'
            | '«'
            | '›'
            | '‹'
            | '('
            | '['
            | '{'
            | '「'
            | '『'
            | '（'
            | '【'
            | '《'
            | '¿'
            | '¡'
    )
}

/// Moves a bound to where a reader sees it: before quotation marks and brackets that the next sentence begins with, which Unicode
/// takes for closing ones, or behind those that close this one although a blank is before them, and behind all blanks.
fn moved(text: &str, from: usize, bound: usize) -> usize {
    let opens = |c: char| {
        matches!(
            c,
            '“' | '‘' | '«' | '„' | '(' | '「' | '『' | '（' | '【' | '《'
        )
    };
    let blanks = |at: usize| at + text[at..].len() - text[at..].trim_start().len();
    let before = from + text[from..bound].trim_end_matches(opens).len();
    if from < before && before < bound {
        return before;
    }
    let mut at = blanks(bound);
    loop {
        let mut chars = text[at..].chars();
        let (first, second) = (chars.next(), chars.next());
        match (first, second) {
            (Some('»' | '”' | '’' | '"'), None) => return text.len(),
            (Some(mark @ ('»' | '”' | '’' | '"')), Some(next))
                if next.is_whitespace() || matches!(next, ',' | '.' | ';') =>
            {
                at = blanks(at + mark.len_utf8());
            }
            _ => return at,
        }
    }
}

/// Whether a letter is small in a script whose sentences begin with a capital one. Georgian has capitals for headlines alone.
fn is_small(c: char) -> bool {
    c.is_lowercase() && !matches!(c, '\u{10d0}'..='\u{10ff}')
}

fn is_hiragana(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{309f}')
}

/// Whether the bound between these two is one for a reader.
fn verdict(left: &str, right: &str, inside: bool, last: bool) -> Verdict {
    let said = left.trim_end();
    if !said.contains(char::is_alphanumeric) {
        return Verdict::None;
    }
    let gap = &left[said.len()..];
    if gap.contains('\n') {
        return Verdict::Bound;
    }
    let next = right.trim_start_matches(opens);
    let Some(first) = next.chars().next() else {
        return if last { Verdict::Bound } else { Verdict::Wait };
    };
    if is_small(first) || matches!(first, ',' | ';' | ':') {
        return Verdict::None;
    }
    let core = said.trim_end_matches(|c: char| closes(c) || c.is_whitespace());
    let stop = core.chars().next_back();
    if gap.is_empty() {
        let in_a_word = stop == Some('.') || first.is_ascii() && stop.is_some_and(|c| c.is_ascii());
        // a particle that says who is quoted
        let quoted = core.len() < said.len() && is_hiragana(first);
        if in_a_word || quoted {
            return Verdict::None;
        }
    }
    match core
        .strip_suffix('.')
        .map(|left| after_dot(left, next, inside, last))
    {
        None | Some(Dot::Ends) => Verdict::Bound,
        Some(Dot::GoesOn) => Verdict::None,
        Some(Dot::Unknown) => Verdict::Wait,
    }
}
