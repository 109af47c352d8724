//! One request from its prompt to its last token, and the text of its tokens on the way out.

use super::drafts::Odds;
use super::request::{Event, Finish, Outcome, Request, RequestId, Thinking, TokenLogprob};
use super::session::Turn;
use crate::kv::{Owner, Owners};
use crate::text::{
    CallSplitter, Closing, Piece, Prompt, Sampled, Sampler, Side, StopStrings, TextError,
    ThoughtSplitter, Tokenizer, ToolCall, Utf8Stream,
};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::collections::VecDeque;

/// A thought is closed when a quarter of the request's tokens is left for the closing words and the answer, or this many tokens
/// if they are more.
const ANSWER_MIN: usize = 16;
/// A thought has at most so many tokens beyond its budget: its closing words.
const CLOSING_MAX: usize = 16;

/// A request that was accepted, in any state up to its end. Its buffers are allocated when it is accepted.
pub(super) struct Sequence {
    pub(super) id: RequestId,
    /// whose pages it finds and fills
    pub(super) owners: Owners,
    /// tokens of the prompt in full pages that are everybody's: they count as cached whether they are there or not, so that the
    /// number tells nobody whether others have asked
    pub(super) given: usize,
    /// the prompt, and the tokens that were sampled or written for the model since; the last one is not fed yet
    pub(super) tokens: Vec<u32>,
    /// tokens of the prompt
    pub(super) prompt: usize,
    /// tokens of the prompt that were in the cache when the sequence started
    pub(super) cached: usize,
    /// tokens of it that are in the cache now
    pub(super) fed: usize,
    /// most tokens that it may have, prompt and answer
    pub(super) limit: usize,
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

/// The calls in an answer.
pub(super) struct Calls {
    splitter: CallSplitter,
    /// what the ids of this answer's calls begin with
    seed: u64,
    found: usize,
}

impl Calls {
    pub(super) fn new(splitter: CallSplitter, seed: u64) -> Self {
        let found = 0;
        Self {
            splitter,
            seed,
            found,
        }
    }

    /// Takes text of the answer, or ends it. What is said goes to `stops` and from there to `content`, what is called to
    /// `called`. Gives whether a stop string was found.
    fn take(
        &mut self,
        text: Option<&str>,
        stops: &mut StopStrings,
        content: &mut String,
        called: &mut Vec<ToolCall>,
    ) -> bool {
        let (seed, found, mut stopped) = (self.seed, &mut self.found, false);
        let mut emit = |piece: Piece<'_>| match piece {
            Piece::Content(text) => stopped = stopped || stops.push(text, content),
            // what comes after a stop string was never said
            Piece::Call { .. } if stopped => {}
            Piece::Call { name, arguments } => {
                // no stop string goes across a call
                stops.finish(content);
                called.push(ToolCall {
                    id: format!("call_{seed:016x}{found:02x}"),
                    name: name.to_owned(),
                    arguments: arguments.to_owned(),
                });
                *found += 1;
            }
        };
        match text {
            Some(text) => self.splitter.push(text, &mut emit),
            None => self.splitter.finish(&mut emit),
        }
        stopped
    }
}

/// What a sampled token leads to.
pub(super) enum Next {
    /// it is the last of [`Sequence::tokens`] now and is fed in the next step
    Feed,
    Finish(Finish),
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
            limit,
            ended: None,
            slot: None,
            turn: None,
            pauses: false,
            forgotten: 0,
            odds: Odds::default(),
            calls: None,
            sampler,
            thinking: request.thinking,
            max_tokens: request.max_tokens,
            completion: 0,
            reasoning: 0,
            thought: false,
            forced: VecDeque::new(),
            closed: false,
            utf8: Utf8Stream::default(),
            splitter: ThoughtSplitter::new(prompt.thinking_open),
            stops: StopStrings::new(&request.stop),
        }
    }

    /// Tokens of the prompt that are still to be fed. A sequence that decodes has none.
    pub(super) fn remaining(&self) -> usize {
        self.prompt.saturating_sub(self.fed)
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

    /// Keeps nothing of it: neither its pages nor its turn.
    pub(super) fn distrust(&mut self) {
        (self.fed, self.turn) = (0, None);
    }

    /// Closes an open thought by writing words for the model. Gives false if no thought is open.
    pub(super) fn end_thinking(&mut self, closing: &Closing) -> bool {
        let words = self.last_words(closing, self.limit);
        self.close(closing, words)
    }

    fn close(&mut self, closing: &Closing, words: &[u32]) -> bool {
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
    fn must_end<'a>(&self, closing: &'a Closing) -> Option<&'a [u32]> {
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

    /// Tokens that may still come.
    fn left(&self) -> usize {
        self.limit.saturating_sub(self.tokens.len())
    }

    /// Whether the best logits of a row are enough to draw this sequence's next token from.
    pub(super) fn needs_few_logits(&self) -> bool {
        self.sampler.needs_few()
    }

    /// Draws the next token from the logits of the last one, unless one is written for the model, and turns it into text.
    pub(super) fn sample(
        &mut self,
        logits: &mut [f32],
        tokenizer: &Tokenizer,
        closing: &Closing,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Result<Next, TextError> {
        let in_thought = self.splitter.side() == Side::Thought;
        if in_thought && let Some(words) = self.must_end(closing) {
            self.close(closing, words);
        }
        let (mut token, mut logprobs, mut forced) = match self.forced.pop_front() {
            Some(token) => (token, None, true),
            None => {
                let Sampled { token, logprobs } = self.sampler.sample(logits)?;
                (token, logprobs, false)
            }
        };
        if in_thought
            && !forced
            && tokenizer.is_end(token)
            && self.close(closing, &closing.mark)
            && let Some(first) = self.forced.pop_front()
        {
            // the model would end its turn without an answer: only its thought ends
            (token, logprobs, forced) = (first, None, true);
        }
        self.sampler.accept(token);
        self.completion += 1;
        self.thought |= in_thought;
        // an empty thought that is closed at once is none
        self.reasoning += u32::from(in_thought && self.thinking.enabled);
        if !forced && tokenizer.is_end(token) {
            return Ok(Next::Finish(Finish::Stop));
        }

        let mut text = String::new();
        match tokenizer.call_mark(token).filter(|_| self.calls.is_some()) {
            Some(mark) => self.utf8.push(mark.as_bytes(), &mut text),
            None => self.utf8.push(&tokenizer.token_bytes(token), &mut text),
        }
        let (mut content, mut reasoning, mut stopped) = (String::new(), String::new(), false);
        let mut called = Vec::new();
        let (stops, calls) = (&mut self.stops, &mut self.calls);
        let mut emit = |side, piece: &str| match (side, &mut *calls) {
            (Side::Thought, _) => reasoning.push_str(piece),
            _ if stopped => {}
            (Side::Answer, Some(calls)) => {
                stopped = calls.take(Some(piece), stops, &mut content, &mut called);
            }
            (Side::Answer, None) => stopped = stops.push(piece, &mut content),
        };
        if closing.open == Some(token) && self.splitter.at_line_start() {
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
            .map(|(logprob, top)| named(tokenizer, token, logprob, top));
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

        let full = (self.calls.as_ref()).is_some_and(|calls| calls.splitter.is_full());
        if stopped || full {
            Ok(Next::Finish(Finish::Stop))
        } else if self.completion >= self.max_tokens || self.tokens.len() >= self.limit {
            Ok(Next::Finish(Finish::Length))
        } else {
            self.tokens.push(token);
            Ok(Next::Feed)
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

/// A token and its alternatives with their texts.
fn named(tokenizer: &Tokenizer, token: u32, logprob: f32, top: Vec<(u32, f32)>) -> TokenLogprob {
    let text = |token| {
        let bytes = tokenizer.token_bytes(token);
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    };
    let (name, bytes) = text(token);
    let top = top
        .into_iter()
        .map(|(token, logprob)| {
            let (name, bytes) = text(token);
            (name, bytes, logprob)
        })
        .collect();
    TokenLogprob {
        token: name,
        bytes,
        logprob,
        top,
    }
}
