//! One request from its prompt to its last token, and the text of its tokens on the way out.

mod calls;
mod checkpoints;
mod thought;

pub(super) use calls::Calls;

use super::drafts::Odds;
use super::guide::Guide;
use super::request::{Event, Finish, Outcome, Request, RequestId, Thinking, TokenLogprob};
use super::scheduler::Due;
use super::session::Turn;
use crate::kv::{Owner, Owners};
use crate::text::{
    Closing, ConstraintError, Prompt, Sampled, Sampler, Side, StopStrings, TextError,
    ThoughtSplitter, Tokenizer, Utf8Stream,
};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::collections::VecDeque;

/// A request that was accepted, in any state up to its end. Its buffers are allocated when it is accepted.
pub(super) struct Sequence {
    pub(super) id: RequestId,
    /// whose pages it finds and fills
    pub(super) owners: Owners,
    /// tokens of the prompt in full pages that are everybody's: they count as cached whether they are there or not, so that the
    /// number tells nobody whether others have asked
    pub(super) given: usize,
    /// the prompt, and the tokens that were sampled or written for the model since; the last one is not fed yet, nor are those
    /// before it that a format has forced
    pub(super) tokens: Vec<u32>,
    /// tokens of the prompt
    pub(super) prompt: usize,
    /// tokens of the prompt that were in the cache when the sequence started
    pub(super) cached: usize,
    /// tokens of it that are in the cache now
    pub(super) fed: usize,
    /// whether what it has computed, or begun with, may be wrong
    pub(super) distrusted: bool,
    /// most tokens that it may have, prompt and answer
    pub(super) limit: usize,
    /// tokens of the prompt at which a step ends, so that the state there can be kept: see [`Self::check_at`]
    checkpoints: [usize; 3],
    /// why it ends with the next step; set between two steps
    pub(super) ended: Option<Finish>,
    /// its page table and its reservation, once it has started
    pub(super) slot: Option<Slot>,
    /// the turn of a conversation that it answers
    pub(super) turn: Option<Turn>,
    /// whether its pages are kept when it ends, because results of tools may follow
    pub(super) pauses: bool,
    /// messages that its session forgot to make room for the prompt
    pub(super) forgotten: usize,
    /// how often its drafts came true
    pub(super) odds: Odds,
    /// finds the tools that it calls; only where tools are offered
    pub(super) calls: Option<Calls>,
    /// holds the answer to what the request asks of it; not there while it is lent
    pub(super) guide: Option<Guide>,
    /// whether the guide was lent and has not come back
    lent: bool,
    sampler: Sampler,
    thinking: Thinking,
    max_tokens: u32,
    completion: u32,
    reasoning: u32,
    /// whether any of its tokens was part of a thought
    thought: bool,
    /// tokens that are written for the model next: the rest of the closing words
    forced: VecDeque<u32>,
    closed: bool,
    /// whether a blank that the tokenizer puts before text is left out where the answer begins: it goes on from no text
    apart: bool,
    utf8: Utf8Stream,
    splitter: ThoughtSplitter,
    stops: StopStrings,
}

/// The part of the cache that a started sequence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// number of its page table
    pub(super) table: usize,
    /// pages that are reserved for it and not yet in its table
    pub(super) reserved: usize,
}

/// What a token leads to.
pub(super) enum Next {
    /// it is one of [`Sequence::tokens`] now and is fed in the next step
    Feed,
    Finish(Finish),
}

/// Where a token comes from.
enum Origin {
    /// from the logits, of those that the guide allowed if it was `guided`
    Drawn {
        guided: bool,
        logprobs: Option<(f32, Vec<(u32, f32)>)>,
    },
    /// from a format that allows no other
    Format,
    /// from the words that end a thought
    Closing,
}

/// How an answer ends that cannot be held any further.
fn failed(error: &ConstraintError) -> Next {
    Next::Finish(match error {
        ConstraintError::Stuck => Finish::Stuck,
        // only tokens that may come are drawn
        ConstraintError::Token(_) | ConstraintError::Text => Finish::Failed,
    })
}

impl Sequence {
    /// `limit` is the most tokens that it may have, prompt and answer.
    pub(super) fn new(
        id: RequestId,
        owner: Owner,
        request: Request,
        prompt: Prompt,
        vocab: usize,
        limit: usize,
        closing: &Closing,
    ) -> Self {
        let mut sampler = Sampler::new(request.sampler, vocab);
        if !request.thinking.enabled {
            // a thought that nobody wants is not begun
            closing
                .open
                .into_iter()
                .for_each(|open| sampler.never(open));
        }
        let common = prompt.common / PAGE_TOKENS * PAGE_TOKENS;
        let given = common.min(prompt.tokens.len().saturating_sub(1));
        for &token in &prompt.tokens {
            sampler.accept(token);
        }
        let mut tokens = prompt.tokens;
        let (prompt_len, limit) = (
            tokens.len(),
            limit.min(tokens.len().saturating_add(request.max_tokens as usize)),
        );
        tokens.reserve_exact(limit - prompt_len);
        Self {
            id,
            owners: Owners {
                own: owner,
                common: prompt.common,
            },
            given,
            tokens,
            prompt: prompt_len,
            cached: 0,
            fed: 0,
            distrusted: false,
            limit,
            checkpoints: [0; 3],
            ended: None,
            slot: None,
            turn: None,
            pauses: false,
            forgotten: 0,
            odds: Odds::default(),
            calls: None,
            guide: None,
            lent: false,
            sampler,
            thinking: request.thinking,
            max_tokens: request.max_tokens,
            completion: 0,
            reasoning: 0,
            thought: false,
            forced: VecDeque::new(),
            closed: false,
            apart: !request.raw,
            utf8: Utf8Stream::default(),
            splitter: ThoughtSplitter::new(prompt.thinking_open),
            stops: StopStrings::new(&request.stop),
        }
    }

    /// Tokens of the prompt that are still to be fed. A sequence that decodes has none.
    pub(super) fn remaining(&self) -> usize {
        self.prompt.saturating_sub(self.fed)
    }

    /// The tokens that it is to be fed.
    pub(super) fn due(&self) -> Due {
        match self.remaining() {
            0 => Due::Answer(self.tokens.len() - self.fed),
            tokens => Due::Prompt(self.next_checkpoint().unwrap_or(tokens)),
        }
    }

    /// Whether its guide says what may come next: not in a thought, and not where words are written for the model.
    fn is_guided(&self) -> bool {
        self.guide.is_some() && self.forced.is_empty() && self.splitter.side() == Side::Answer
    }

    /// Lends its guide, if that can work ahead for the next token.
    pub(super) fn lend(&mut self) -> Option<Guide> {
        let works = self.is_guided() && self.guide.as_ref().is_some_and(Guide::holds);
        let guide = self.guide.take_if(|_| works);
        self.lent = guide.is_some();
        guide
    }

    /// Takes its guide back; none if it was lost.
    pub(super) fn take_back(&mut self, guide: Option<Guide>) {
        (self.lent, self.guide) = (guide.is_none(), guide);
    }

    /// How many tokens of a draft may come, one after the other. In a thought nobody knows, and all may.
    pub(super) fn agreed(&mut self, draft: &[u32]) -> usize {
        match &mut self.guide {
            Some(guide) if self.forced.is_empty() && self.splitter.side() == Side::Answer => {
                guide.agreed(draft)
            }
            _ => draft.len(),
        }
    }

    /// Tokens whose keys and values are worth keeping when it ends. After a thought these are only the prompt: no later
    /// prompt repeats the text of a thought.
    pub(super) fn keep(&self) -> usize {
        if self.thought {
            self.prompt.min(self.fed)
        } else {
            self.fed
        }
    }

    /// Whether it is the engine's own work, computed only for its pages: see [`super::Engine::tidy`].
    pub(super) fn is_own(&self) -> bool {
        self.max_tokens == 0
    }

    /// Takes its turn out of it, if anything was answered.
    pub(super) fn answered(&mut self) -> Option<Turn> {
        self.turn.take().filter(|_| self.completion > 0)
    }

    /// Keeps nothing of it: neither its pages nor its turn, nor what a file had of them.
    pub(super) fn distrust(&mut self) {
        (self.fed, self.distrusted) = (0, true);
    }

    /// Tokens that may still come.
    fn left(&self) -> usize {
        self.limit.saturating_sub(self.tokens.len())
    }

    /// Whether the best logits of a row are enough to draw this sequence's next token from. What a guide allows may be any other.
    pub(super) fn needs_few_logits(&self) -> bool {
        self.guide.is_none() && self.sampler.needs_few()
    }

    /// Goes on behind the last token that was fed, whose logits are given: takes the token that is written for the model, else
    /// those that a format forces, else draws one. What a format forces behind it is taken along.
    pub(super) fn sample(
        &mut self,
        logits: &mut [f32],
        tokenizer: &Tokenizer,
        closing: &Closing,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Result<Next, TextError> {
        if self.lent {
            // a panic has cost it its guide
            return Ok(Next::Finish(Finish::Failed));
        }
        let in_thought = self.splitter.side() == Side::Thought;
        if in_thought && let Some(words) = self.must_end(closing) {
            self.close(closing, words);
        }
        let text = (tokenizer, closing);
        if let Some(next) = self.write_forced(text, sink) {
            return Ok(next);
        }
        let next = match self.forced.pop_front() {
            Some(token) => self.take(token, Origin::Closing, text, sink),
            None => {
                let guided = self.is_guided();
                let mask = match self.guide.as_mut().filter(|_| guided).map(Guide::mask) {
                    None => None,
                    Some(Ok(mask)) => mask,
                    Some(Err(error)) => return Ok(failed(&error)),
                };
                let Sampled { token, logprobs } = self.sampler.sample(logits, mask)?;
                if in_thought
                    && tokenizer.is_end(token)
                    && self.close(closing, &closing.mark)
                    && let Some(first) = self.forced.pop_front()
                {
                    // the model would end its turn without an answer: only its thought ends
                    self.take(first, Origin::Closing, text, sink)
                } else {
                    self.take(token, Origin::Drawn { guided, logprobs }, text, sink)
                }
            }
        };
        Ok(match next {
            Next::Feed => self.write_forced(text, sink).unwrap_or(Next::Feed),
            finish @ Next::Finish(_) => finish,
        })
    }

    /// Takes the tokens that a format forces now; none if there are none.
    fn write_forced(
        &mut self,
        text: (&Tokenizer, &Closing),
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Option<Next> {
        let mut next = None;
        while self.is_guided()
            && let Some(stretch) = self.guide.as_mut().map(Guide::stretch)
            && !stretch.is_empty()
        {
            for token in stretch {
                match self.take(token, Origin::Format, text, sink) {
                    Next::Feed => next = Some(Next::Feed),
                    finish @ Next::Finish(_) => return Some(finish),
                }
                if !self.guide.as_ref().is_some_and(Guide::holds) {
                    // a call has ended within the stretch, and what is behind it is free
                    break;
                }
            }
        }
        next
    }

    /// Takes the token that comes next, and turns it into text.
    fn take(
        &mut self,
        token: u32,
        origin: Origin,
        (tokenizer, closing): (&Tokenizer, &Closing),
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Next {
        let in_thought = self.splitter.side() == Side::Thought;
        let whole = self.guide.as_ref().is_some_and(Guide::is_whole);
        let (guided, may_end, logprobs) = match origin {
            Origin::Drawn { guided, logprobs } => (guided, true, logprobs),
            Origin::Format => (true, true, None),
            Origin::Closing => (false, false, None),
        };
        self.sampler.accept(token);
        self.completion += 1;
        self.thought |= in_thought;
        // an empty thought that is closed at once is none
        self.reasoning += u32::from(in_thought && self.thinking.enabled);
        let mut held = guided;
        if let Some(guide) = self.guide.as_mut().filter(|_| guided) {
            held = !guide.opens_thought(token);
            if held && let Err(error) = guide.accept(token) {
                return failed(&error);
            }
        }
        if may_end && tokenizer.is_end(token) {
            return Next::Finish(Finish::Stop);
        }

        let mut text = String::new();
        match tokenizer.call_mark(token).filter(|_| self.calls.is_some()) {
            Some(mark) => self.utf8.push(mark.as_bytes(), &mut text),
            // what a format holds is the format's to its first blank
            None if self.apart && self.completion == 1 && !(held && whole) => {
                self.utf8.push(&tokenizer.first_bytes(token), &mut text);
            }
            None => self.utf8.push(&tokenizer.token_bytes(token), &mut text),
        }
        let (mut content, mut reasoning, mut stopped) = (String::new(), String::new(), false);
        let mut called = Vec::new();
        let (stops, calls) = (&mut self.stops, &mut self.calls);
        let mut emit = |side, piece: &str| match (side, &mut *calls) {
            (Side::Thought, _) => reasoning.push_str(piece),
            // what the last token of a thought has behind it is not the answer that the guide begins with
            _ if stopped || in_thought && whole => {}
            (Side::Answer, Some(calls)) => {
                stopped = calls.take(Some(piece), stops, &mut content, &mut called);
            }
            (Side::Answer, None) => stopped = stops.push(piece, &mut content),
        };
        if held && whole {
            // no tag in it is one
            if !text.is_empty() {
                emit(Side::Answer, &text);
            }
        } else if closing.open == Some(token) && self.splitter.at_line_start() {
            // a tag that is a token of its own is no text: the model thinks again
            self.splitter.reopen(&mut emit);
        } else {
            self.splitter.push(&text, &mut emit);
        }
        if !self.thinking.visible {
            reasoning.clear();
        }
        if let Some(turn) = &mut self.turn {
            turn.answer.push_str(&content);
            turn.calls.extend_from_slice(&called);
        }
        let logprobs = logprobs
            .filter(|_| !in_thought)
            .map(|(logprob, top)| TokenLogprob::of(tokenizer, token, logprob, top));
        sink(
            self.id,
            Event::Text {
                content,
                reasoning,
                logprobs,
            },
        );
        for call in called {
            sink(self.id, Event::Call(call));
        }

        let mut over = false;
        if let (Some(guide), Some(calls)) = (&mut self.guide, &mut self.calls)
            && let Err(error) = guide.follow(&mut calls.splitter)
        {
            return failed(&error);
        }
        if let Some(guide) = self.guide.as_ref().filter(|_| held) {
            over = guide.is_over();
        }
        let full = (self.calls.as_ref()).is_some_and(|calls| calls.splitter.is_full());
        if stopped || full || over {
            Next::Finish(Finish::Stop)
        } else if self.completion >= self.max_tokens || self.tokens.len() >= self.limit {
            Next::Finish(Finish::Length)
        } else {
            self.tokens.push(token);
            Next::Feed
        }
    }

    /// Gives out the text that is still held back, unless a stop string cut it off, and the last event. Returns the turn if
    /// it was answered.
    pub(super) fn finish(
        mut self,
        finish: Finish,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Option<Turn> {
        let (mut content, mut reasoning, mut called) = (String::new(), String::new(), Vec::new());
        let (stops, calls) = (&mut self.stops, &mut self.calls);
        let mut emit = |side, piece: &str| match (side, &mut *calls) {
            (Side::Thought, _) => reasoning.push_str(piece),
            (Side::Answer, Some(calls)) => {
                calls.take(Some(piece), stops, &mut content, &mut called);
            }
            (Side::Answer, None) => {
                stops.push(piece, &mut content);
            }
        };
        self.splitter.finish(&mut emit);
        if let Some(calls) = calls {
            calls.take(None, stops, &mut content, &mut called);
        }
        stops.finish(&mut content);
        if !self.thinking.visible {
            reasoning.clear();
        }
        if let Some(turn) = &mut self.turn {
            turn.answer.push_str(&content);
            turn.calls.extend_from_slice(&called);
        }
        if !content.is_empty() || !reasoning.is_empty() {
            sink(
                self.id,
                Event::Text {
                    content,
                    reasoning,
                    logprobs: None,
                },
            );
        }
        for call in called {
            sink(self.id, Event::Call(call));
        }
        let outcome = Outcome {
            finish,
            prompt_tokens: self.prompt as u32,
            cached_tokens: self.cached as u32,
            completion_tokens: self.completion,
            reasoning_tokens: self.reasoning,
            forgotten_messages: self.forgotten as u32,
        };
        sink(self.id, Event::Finished(outcome));
        self.answered().filter(|_| finish != Finish::Failed)
    }
}
