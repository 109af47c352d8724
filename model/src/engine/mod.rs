//! Requests in, tokens out: the one owner of network, KV cache and sequences. Never blocks, never reads a clock: the
//! inference thread of the daemon calls [`Engine::step`] in a loop.

mod config;
mod drafts;
mod evaluator;
mod info;
mod memory;
mod model;
mod prompt;
mod request;
mod scheduler;
mod sequence;
mod session;
mod shape;

use crate::gguf::{Gguf, Watch};
use crate::kv::{Owner, Pages, Span};
use crate::text::ChatTemplate;
use drafts::{Drafted, Drafts};
use memory::{Memory, TABLES};
use model::Model;
use prompt::Preparing;
use scheduler::Scheduler;
use sequence::{Next, Sequence};
use session::files::Snapshots;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

pub use config::{Effort, EngineConfig, KvFormats, LoadError, Share};
pub use evaluator::{Evaluator, TooLong};
pub use info::{ModelInfo, recommended};
pub use prompt::{Prepared, PromptBuilder, PromptJob};
pub use request::{
    Event, Finish, Notice, Outcome, Priority, Refusal, Request, RequestId, SessionBound,
    SessionFault, SessionState, SessionVerb, Thinking, TokenLogprob, Worked,
};
pub use session::verbs::Conversations;
pub use shape::shape;

/// Numbers for `metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// in the next step
    pub running: usize,
    /// waiting
    pub queued: usize,
    /// begun, and without a place
    pub parked: usize,
    /// 32-token pages
    pub pages_total: usize,
    /// held by a sequence or a session
    pub pages_used: usize,
    /// free, or kept only until they are needed
    pub pages_free: usize,
    /// of those used, held by more than one
    pub pages_shared: usize,
    /// named sessions in memory
    pub sessions: usize,
}

/// One model, its running sequences, a bounded queue of waiting ones, and the sessions.
pub struct Engine {
    model: Model,
    prompts: PromptBuilder,
    info: ModelInfo,
    /// those whose prompt is being prepared
    preparing: BTreeMap<RequestId, Preparing>,
    scheduler: Scheduler,
    sequences: BTreeMap<RequestId, Sequence>,
    memory: Memory,
    /// none: answers are decoded token by token
    drafts: Option<Drafts>,
    /// what the last step computed beyond its token
    drafted: Option<Drafted>,
    share: Share,
    /// of clients, for the scheduler and as owners of pages
    hasher: RandomState,
    /// the next id of a request of our own, downwards
    own: RequestId,
    /// of the weights' file
    watch: Watch,
}

impl Engine {
    /// Maps the weights, makes every buffer.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays behind.
    pub fn load(gguf: &Gguf, config: &EngineConfig) -> Result<Self, LoadError> {
        let (model, tokenizer) = Model::load_with_tokenizer(gguf, config, TABLES)?;
        let template = ChatTemplate::from_gguf(gguf);
        let pages = Pages::new(config.pages)?;
        let layout = model.kv.layout();
        let snapshots = config.sessions.as_ref().map(|folder| {
            Snapshots::new(folder, gguf, layout, config.pages, config.session_writes)
        });
        let memory = Memory::new(pages, snapshots);
        Ok(Self {
            info: ModelInfo::new(
                gguf,
                &model,
                config.context,
                template.as_ref().is_ok_and(ChatTemplate::thinks),
            ),
            scheduler: Scheduler::new(config.streams, config.queue),
            sequences: BTreeMap::new(),
            memory,
            drafts: config.drafts.then(|| Drafts::new(config.context)),
            drafted: None,
            share: config.share,
            hasher: RandomState::new(),
            own: RequestId::MAX,
            prompts: PromptBuilder::new(tokenizer, template, config),
            preparing: BTreeMap::new(),
            watch: gguf.watch(),
            model,
        })
    }

    /// Prompts are written by this template instead of the file's own.
    pub fn set_template(&mut self, template: ChatTemplate) {
        self.info.thinks = template.thinks();
        self.prompts.template = Arc::new(Ok(template));
    }

    /// Tells whether all of the weights are still there, where the process is guarded against their loss: what is computed
    /// without them is nothing to go by.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// About the model.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        &self.info
    }

    /// Ends a request in any state with this reason: its [`Event::Finished`] comes with the next step. False: unknown,
    /// or already ending.
    pub fn end(&mut self, id: RequestId, why: Finish) -> bool {
        if let Some(ends) = self.end_preparing(id, why) {
            return ends;
        }
        match self.sequences.get_mut(&id) {
            Some(sequence) if sequence.ended.is_none() => {
                sequence.ended = Some(why);
                if why == Finish::Superseded {
                    // the request that takes its place goes on from what it said
                    let turn = sequence.answered();
                    self.settle(id, turn);
                }
                true
            }
            _ => false,
        }
    }

    /// Closes an open thought of a running request; false if unknown or not thinking.
    pub fn end_thinking(&mut self, id: RequestId) -> bool {
        match self.sequences.get_mut(&id) {
            Some(sequence) if sequence.place.is_some() => sequence
                .end_thinking(&self.prompts.tokenizer)
                .unwrap_or(false),
            _ => false,
        }
    }

    /// One bounded piece of work: the ends that are due, who starts, and one pass of the network: a token of every stream
    /// that decodes and a chunk of one prompt; or the next token of a draft that came true.
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

    /// The ends that are due: what a step begins with, and all that may be asked while the next one is put off. False when
    /// there was none.
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

    /// From the next step on: with other numbers of threads (of those there are) and places for streams. What runs goes on.
    pub fn limit(&mut self, effort: Effort) {
        self.model
            .threads(effort.prefill_threads, effort.decode_threads);
        self.scheduler.limit(effort.streams);
    }

    /// All that the scheduler decides; false if there is nothing to decide.
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

    /// One pass of the network for `plan`: how many tokens of whom. Gives how many it was for.
    fn compute(
        &mut self,
        plan: &[(RequestId, usize)],
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> usize {
        // prompts first: then the rows whose logits are wanted lie together, from the last token of a prompt on
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
            let Some(place) = sequence.place else {
                continue;
            };
            let (position, end) = (sequence.fed, sequence.fed + n);
            spans.push(Span {
                place: place.table,
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
        let mut logits = self.model.logits(hidden, first..tokens.len());
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

    /// The next token of a sequence.
    fn sample(
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
        match sequence.sample(logits, &self.prompts.tokenizer, sink) {
            Ok(Next::Feed) => {}
            Ok(Next::Finish(why)) => self.finish(id, why, sink),
            Err(_) => self.finish(id, Finish::Failed, sink),
        }
    }

    /// Gives back what a sequence holds, then says that it ended.
    fn finish(&mut self, id: RequestId, why: Finish, sink: &mut dyn FnMut(RequestId, Event)) {
        self.scheduler.remove(id);
        let Some(mut sequence) = self.sequences.remove(&id) else {
            return;
        };
        if why == Finish::Failed {
            // a number that is none may be in the cache, where the next prompt of these words would find it
            sequence.distrust();
        }
        self.memory.end(&mut self.model.kv, &mut sequence);
        if sequence.is_own() {
            return self.settle(id, None);
        }
        let turn = sequence.finish(why, sink);
        self.settle(id, turn);
    }

    /// After a panic inside of [`Self::step`]: the requests that were started and not finished are gone, with all that
    /// they held.
    pub fn recover(&mut self) {
        let started = self.scheduler.running().chain(self.scheduler.parked());
        let started: Vec<RequestId> = started.collect();
        for id in started {
            self.scheduler.remove(id);
            if let Some(mut sequence) = self.sequences.remove(&id) {
                // what the cache holds of it is not trusted
                sequence.distrust();
                self.memory.end(&mut self.model.kv, &mut sequence);
            }
            self.settle(id, None);
        }
    }

    /// Now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let pages = self.memory.pages.counts();
        Counts {
            running: self.scheduler.running().count(),
            queued: self.scheduler.waiting().count() + self.preparing.len(),
            parked: self.scheduler.parked().count(),
            pages_total: self.memory.pages.total(),
            pages_used: pages.used,
            pages_free: pages.free + pages.cached,
            pages_shared: pages.shared,
            sessions: self.memory.sessions.len(),
        }
    }

    /// Who finds what a client's prompts put into pages.
    fn owner(&self, client: &str) -> Owner {
        match self.share {
            Share::Client => self.hasher.hash_one(client),
            Share::All => 0,
        }
    }

    /// A client as the scheduler knows it.
    fn share(&self, client: &str) -> u64 {
        self.hasher.hash_one(client)
    }
}
