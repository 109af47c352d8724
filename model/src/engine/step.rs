//! One step of the engine: what ends, what starts, one run of the network, and a token for each row of logits.

use super::Engine;
use super::drafts::Drafted;
use super::request::{Event, Finish, RequestId, Worked};
use super::scheduler::Due;
use super::sequence::{Next, Sequence};
use crate::kv::Span;
use crate::ops::no_gpu::NoGpu;
use glowplug_firmware_config::limits::{CHUNK_TOKENS, STEP_TOKENS};
use std::time::Duration;

/// Most seconds of a chunk of [`STEP_TOKENS`]: who comes or cancels meanwhile waits for them.
const WIDE_SECONDS: f64 = 1.0;

impl Engine {
    /// Does one bounded piece of work. It reports the requests that end and those that start, and then either runs the
    /// network once, for a token of every stream that decodes and a chunk of one prompt, or takes the next token of a draft
    /// that came true.
    pub fn step(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> Worked {
        let mut worked = self.finish_ended(sink);
        if self.check(sink) {
            return Worked::Little;
        }
        worked |= self.admit(sink);
        let sequences = &self.sequences;
        let plan = self
            .scheduler
            .step(&|id| sequences.get(&id).map_or(Due::Answer(1), Sequence::due));
        if plan.is_empty() {
            return if worked {
                Worked::Little
            } else {
                Worked::Nothing
            };
        }
        match self.compute(&plan, sink) {
            Ok(tokens) => Worked::Pass(tokens),
            Err(_) => Worked::GpuLost,
        }
    }

    /// Tells how many seconds the last [`Self::step`] took, if it ran the network. The price of drafts and of wide chunks is learned
    /// from this; without it, an assumed price is used, and no chunk is wide.
    pub fn took(&mut self, seconds: f64) {
        if let Some(drafts) = &mut self.drafts {
            drafts.took(seconds);
        }
        if self.fed >= CHUNK_TOKENS {
            let wide = seconds * STEP_TOKENS as f64 / self.fed as f64;
            self.scheduler
                .widen(wide <= WIDE_SECONDS && self.model.step_tokens() >= STEP_TOKENS);
        }
    }

    /// Reports the requests that end. Every step begins with this, and it is all that may be called while the next step is
    /// put off. Gives false when no request ended.
    pub fn finish_ended(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> bool {
        let mut worked = self.finish_preparing(sink);
        while let Some((id, why)) = self
            .sequences
            .values()
            .find_map(|s| s.ended.map(|why| (s.id, why)))
        {
            self.finish(id, why, sink);
            worked = true;
        }
        worked
    }

    /// Starts and resumes what the scheduler decides. Gives false if it decides nothing.
    fn admit(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> bool {
        let Self {
            scheduler,
            sequences,
            memory,
            model,
            ..
        } = self;
        memory.admit(&mut model.kv, scheduler, sequences, &mut |sequence| {
            if !sequence.is_own() {
                sink(
                    sequence.id,
                    Event::Started {
                        prompt_tokens: sequence.prompt as u32,
                        cached_tokens: sequence.cached as u32,
                    },
                );
            }
        })
    }

    /// Runs the network once for `plan`, which says how many tokens each request is fed. Gives the number of all tokens.
    ///
    /// # Errors
    /// [`NoGpu`]: the GPU is lost, and nothing that had started can go on.
    fn compute(
        &mut self,
        plan: &[(RequestId, usize)],
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Result<usize, NoGpu> {
        // who has several tokens comes first, so that the rows whose logits are wanted lie together, from its last token on
        let mut order: Vec<(RequestId, usize)> = plan.to_vec();
        order.sort_by_key(|(_, n)| *n == 1);
        let draft = self.draft(plan)?;
        let (mut spans, mut tokens, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (id, n) in order {
            let Some(sequence) = self.sequences.get_mut(&id) else {
                continue;
            };
            let fed = n + draft.tokens.len();
            self.memory.grow(&mut self.model.kv, sequence, fed);
            let Some(slot) = sequence.slot else {
                continue;
            };
            let (position, end) = (sequence.fed, sequence.fed + n);
            spans.push(Span {
                table: slot.table,
                position,
                tokens: fed,
                guesses: draft.tokens.len(),
            });
            tokens.extend_from_slice(&sequence.tokens[position..end]);
            wanted.push((
                id,
                n,
                (end == sequence.tokens.len()).then(|| tokens.len() - 1),
            ));
        }
        tokens.extend_from_slice(&draft.tokens);
        for (id, _, row) in &wanted {
            let sequence = self.sequences.get_mut(id).filter(|_| row.is_some());
            if let Some(guide) = sequence.and_then(Sequence::lend) {
                self.masks.ask(*id, guide);
            }
        }
        self.fed = tokens.len();
        let hidden = self.model.step(&spans, &tokens);
        self.take_guides_back();
        let hidden = hidden?;
        for (id, n, _) in &wanted {
            self.scheduler.served(*id, *n);
            if let Some(sequence) = self.sequences.get_mut(id) {
                self.memory.fed(&mut self.model.kv, sequence, *n);
            }
        }
        let Some(first) = wanted.iter().find_map(|(_, _, row)| *row) else {
            return Ok(tokens.len());
        };
        let mut sampled = wanted.iter().filter(|(_, _, row)| row.is_some());
        let few = sampled.all(|(id, ..)| {
            let sequence = self.sequences.get(id);
            sequence.is_none_or(Sequence::needs_few_logits)
        });
        let mut logits = if few {
            self.model.best_logits(hidden, first..tokens.len())
        } else {
            self.model.logits(hidden, first..tokens.len())
        }?;
        for (id, _, row) in &wanted {
            if let Some(row) = row {
                let mut rows = logits.chunks_exact_mut(self.info.vocab);
                if let Some(logits) = rows.nth(row - first) {
                    self.sample(*id, logits, sink);
                }
            }
        }
        if let [(id, ..)] = wanted[..]
            && !draft.tokens.is_empty()
            && let Some(sequence) = self.sequences.get(&id)
        {
            self.drafted = Some(Drafted::new(id, sequence.fed, draft, logits));
        }
        Ok(tokens.len())
    }

    /// Waits for the guides that work ahead, and gives them back to their sequences.
    fn take_guides_back(&mut self) {
        let Self {
            masks, sequences, ..
        } = self;
        masks.collect(&mut |id, guide| {
            if let Some(sequence) = sequences.get_mut(&id) {
                sequence.take_back(guide);
            }
        });
    }

    /// Draws the next token of a sequence from its logits.
    pub(super) fn sample(
        &mut self,
        id: RequestId,
        logits: &mut [f32],
        sink: &mut dyn FnMut(RequestId, Event),
    ) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        if sequence.is_own() {
            return self.finish(id, Finish::Stop, sink);
        }
        if sequence.fed == sequence.prompt {
            sink(id, Event::Prefilled);
        }
        match sequence.sample(logits, &self.prompts.tokenizer, &self.closing, sink) {
            Ok(Next::Feed) => {}
            Ok(Next::Finish(why)) => self.finish(id, why, sink),
            Err(_) => self.finish(id, Finish::Failed, sink),
        }
    }

    /// Gives back what a sequence holds, then reports that it ended.
    pub(super) fn finish(
        &mut self,
        id: RequestId,
        why: Finish,
        sink: &mut dyn FnMut(RequestId, Event),
    ) {
        self.scheduler.remove(id);
        self.forget_draft(id);
        let Some(mut sequence) = self.sequences.remove(&id) else {
            return;
        };
        if why == Finish::Failed {
            // the cache may hold a number that is not finite, where the next prompt of these words would find it
            sequence.distrust();
        }
        sequence.pauses &= why.is_heard_out();
        // what is kept is behind all of its tokens
        self.model.settle();
        self.memory.end(&mut self.model.kv, &mut sequence);
        if sequence.is_own() {
            return self.settle(id, None);
        }
        if let Some(drafts) = &mut self.drafts {
            // what was in the cache was said before
            drafts.keep(sequence.owners.own, &sequence.tokens[sequence.cached..]);
        }
        let turn = sequence.finish(why, sink);
        self.settle(id, turn);
    }

    /// Why the GPU cannot be used any more, if a step has found that: see [`Self::go_on_without_gpu`].
    #[must_use]
    pub fn gpu_lost(&self) -> Option<String> {
        self.model.lost().map(ToString::to_string)
    }

    /// Sets the longest that a step waits for the GPU before it is taken for lost, up to
    /// [`DEVICE_WAIT_MAX`](glowplug_firmware_config::limits::DEVICE_WAIT_MAX).
    pub fn wait_at_most(&mut self, patience: Duration) {
        self.model.wait_at_most(patience);
    }

    /// Cleans up after a panic inside of [`Self::step`], or the loss of the GPU: drops the requests that had started, with all
    /// that they held.
    pub fn recover(&mut self) {
        self.take_guides_back();
        let started = self.scheduler.running().chain(self.scheduler.parked());
        let started: Vec<RequestId> = started.collect();
        for id in started {
            self.scheduler.remove(id);
            self.forget_draft(id);
            if let Some(mut sequence) = self.sequences.remove(&id) {
                // the panic may have left its part of the cache half written
                sequence.distrust();
                self.memory.end(&mut self.model.kv, &mut sequence);
            }
            self.settle(id, None);
        }
    }
}
