//! One step of the engine: what ends, what starts, one run of the network, and a token for each row of logits.

use super::Engine;
use super::drafts::Drafted;
use super::request::{Event, Finish, RequestId, Worked};
use super::sequence::{Next, Sequence};
use crate::kv::Span;

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
            .step(&|id| sequences.get(&id).map_or(0, Sequence::remaining));
        if plan.is_empty() {
            return if worked {
                Worked::Little
            } else {
                Worked::Nothing
            };
        }
        Worked::Pass(self.compute(&plan, sink))
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
    fn compute(
        &mut self,
        plan: &[(RequestId, usize)],
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> usize {
        // prompts come first, so that the rows whose logits are wanted lie together, from the last token of a prompt on
        let mut order: Vec<(RequestId, usize)> = plan.to_vec();
        order.sort_by_key(|(id, _)| self.sequences.get(id).is_none_or(|s| s.remaining() == 0));
        let draft = self.draft(plan);
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
            });
            tokens.extend_from_slice(&sequence.tokens[position..end]);
            wanted.push((
                id,
                n,
                (end == sequence.tokens.len()).then(|| tokens.len() - 1),
            ));
        }
        tokens.extend_from_slice(&draft.tokens);
        let hidden = self.model.step(&spans, &tokens);
        for (id, n, _) in &wanted {
            self.scheduler.served(*id, *n);
            if let Some(sequence) = self.sequences.get_mut(id) {
                self.memory.fed(&mut self.model.kv, sequence, *n);
            }
        }
        let Some(first) = wanted.iter().find_map(|(_, _, row)| *row) else {
            return tokens.len();
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
        };
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
            let len = sequence.tokens.len();
            self.drafted = Some(Drafted::new(id, len, draft, logits));
        }
        tokens.len()
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
        sequence.pauses &= why == Finish::Stop;
        self.memory.end(&mut self.model.kv, &mut sequence);
        if sequence.is_own() {
            return self.settle(id, None);
        }
        let turn = sequence.finish(why, sink);
        self.settle(id, turn);
    }

    /// Why the GPU cannot be used any more, if that is so. After a panic it is asked for this; the next load then takes the
    /// processor, because the GPU is not opened again.
    #[must_use]
    pub fn gpu_lost(&self) -> Option<String> {
        self.model.processor_lost()
    }

    /// Cleans up after a panic inside of [`Self::step`]: drops the requests that had started, with all that they held.
    pub fn recover(&mut self) {
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
