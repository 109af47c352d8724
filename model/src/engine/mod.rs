//! Requests in, tokens out. The engine owns the network, the KV cache and all sequences. It never blocks and never reads a
//! clock: the inference thread of the daemon calls [`Engine::step`] in a loop.

mod config;
mod drafts;
mod evaluator;
mod guide;
mod info;
mod memory;
mod model;
mod prompt;
mod request;
mod scheduler;
mod sequence;
mod session;
mod shape;
mod step;

use crate::gguf::{Gguf, Watch};
use crate::kv::{Owner, Pages};
use crate::text::{ChatTemplate, Closing};
use drafts::{Drafted, Drafts};
use guide::{Guides, Masks};
use memory::{Memory, TABLES};
use model::Model;
use prompt::Preparing;
use scheduler::Scheduler;
use sequence::Sequence;
use session::files::Snapshots;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

pub use config::{Compute, Effort, EngineConfig, KvFormats, LoadError, Share, check_context};
pub use evaluator::{Evaluator, NotFed};
pub use info::{ModelInfo, recommended};
pub use prompt::{Prepared, PromptBuilder, PromptJob};
pub use request::{
    Event, Finish, Notice, Outcome, Priority, Refusal, Request, RequestId, SessionBound,
    SessionFault, SessionState, SessionVerb, Thinking, TokenLogprob, Worked,
};
pub use session::verbs::Conversations;
pub use shape::{device_memory, gpu, shape};

/// What the engine holds at the moment, for `metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that have a place in the next step.
    pub running: usize,
    /// Requests that wait, those whose prompt is being prepared included.
    pub queued: usize,
    /// Requests that have started and lost their place in the step.
    pub parked: usize,
    /// KV pages of the arena.
    pub pages_total: usize,
    /// Pages that a sequence or a session holds.
    pub pages_used: usize,
    /// Pages that are free, or kept only until somebody needs them.
    pub pages_free: usize,
    /// Pages that more than one sequence or session holds.
    pub pages_shared: usize,
    /// Named sessions in memory.
    pub sessions: usize,
}

/// One model, its running sequences, a bounded queue of waiting ones, and the sessions.
pub struct Engine {
    model: Model,
    prompts: PromptBuilder,
    /// ends thoughts that take too long
    closing: Closing,
    info: ModelInfo,
    /// requests whose prompt is being prepared
    preparing: BTreeMap<RequestId, Preparing>,
    scheduler: Scheduler,
    sequences: BTreeMap<RequestId, Sequence>,
    memory: Memory,
    /// without them answers are decoded token by token
    drafts: Option<Drafts>,
    /// the draft that the last run of the network computed, until all of it is checked
    drafted: Option<Drafted>,
    masks: Masks,
    /// tokens of the last run of the network
    fed: usize,
    share: Share,
    /// hashes the names of clients, for the scheduler and for the owners of pages
    hasher: RandomState,
    /// the next id of a request of the engine's own; these count down
    own: RequestId,
    /// tells whether the file of the weights is still whole
    watch: Watch,
}

impl Engine {
    /// Maps the weights and builds tokenizer, template, thread pool and KV cache.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays behind.
    pub fn load(gguf: &Gguf, config: &EngineConfig) -> Result<Self, LoadError> {
        // before the model, whose pool holds this thread to a processor, and with it each thread that it starts
        let masks = Masks::start().map_err(LoadError::Threads)?;
        let (model, tokenizer) = Model::load_with_tokenizer(gguf, config, TABLES)?;
        let template = ChatTemplate::from_gguf(gguf);
        let pages = Pages::new(config.pages)?;
        let layout = model.kv.layout();
        let snapshots = config.sessions.as_ref().map(|folder| {
            let (keys, writes) = (config.session_keys.clone(), config.session_writes);
            let states = model.kv.states().layout();
            Snapshots::new(folder, gguf, layout, config.pages, keys, writes).with_states(states)
        });
        let memory = Memory::new(pages, snapshots);
        let thinks = template.as_ref().is_ok_and(ChatTemplate::thinks);
        let info = ModelInfo::new(gguf, &model, config.context, thinks);
        let closing = Closing::new(&tokenizer, &info.architecture)?;
        let guides = Guides::new(info.vocab, closing.open);
        let mut prompts = PromptBuilder::new(tokenizer, template, guides, config);
        prompts.states = model.kv.has_states();
        Ok(Self {
            closing,
            masks,
            scheduler: Scheduler::new(config.streams, config.queue),
            sequences: BTreeMap::new(),
            memory,
            drafts: config.drafts.then(|| Drafts::new(config.context)),
            drafted: None,
            fed: 0,
            share: config.share,
            hasher: RandomState::new(),
            own: RequestId::MAX,
            prompts,
            info,
            preparing: BTreeMap::new(),
            watch: gguf.watch(),
            model,
        })
    }

    /// Goes on with the processor of the host, after the GPU was lost. All that had started ends without a word
    /// ([`Self::recover`]); what waits goes on to wait, and sessions keep what was said in them: their pages are computed
    /// again, or read from their files. `gguf` and `config` are those that the engine was loaded with.
    ///
    /// # Errors
    /// [`LoadError`]; the engine can only be given up then.
    pub fn go_on_without_gpu(
        &mut self,
        gguf: &Gguf,
        config: &EngineConfig,
    ) -> Result<(), LoadError> {
        self.recover();
        let config = EngineConfig {
            compute: Compute::Cpu,
            ..config.clone()
        };
        let (prefill, decode) = (self.model.prefill_threads, self.model.decode_threads);
        self.model = Model::load(gguf, &config, TABLES)?;
        // as many as were allowed last, because the board may be hot
        self.model.threads(prefill, decode);
        self.memory.forget_pages()?;
        self.drafts = config.drafts.then(|| Drafts::new(config.context));
        self.watch = gguf.watch();
        self.info.isa.clone_from(&self.model.name);
        Ok(())
    }

    /// Writes prompts with this template instead of the file's own from now on.
    pub fn set_template(&mut self, template: ChatTemplate) {
        self.info.thinks = template.thinks();
        self.prompts.template = Arc::new(Ok(template));
    }

    /// Tells whether all of the weights are still there, where the process is guarded against their loss. What was computed
    /// without them must not be used.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What `info` and `inspect` tell of the loaded model.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        &self.info
    }

    /// Ends a request in any state for this reason; its [`Event::Finished`] comes with the next step. Gives false if the
    /// request is not known or ends already.
    pub fn end(&mut self, id: RequestId, why: Finish) -> bool {
        if let Some(ends) = self.end_preparing(id, why) {
            return ends;
        }
        match self.sequences.get_mut(&id) {
            Some(sequence) if sequence.ended.is_none() => {
                sequence.ended = Some(why);
                if why == Finish::Superseded {
                    // the request that supersedes it goes on from what this one said
                    let turn = sequence.answered();
                    self.settle(id, turn);
                }
                true
            }
            _ => false,
        }
    }

    /// No request follows on this one, which ended and had tokens reserved for results: its pages need not be kept.
    pub fn release(&mut self, id: RequestId) {
        self.memory.let_go(id);
    }

    /// Closes the open thought of a running request. Gives false if the request is not known or not thinking.
    pub fn end_thinking(&mut self, id: RequestId) -> bool {
        match self.sequences.get_mut(&id) {
            Some(sequence) if sequence.slot.is_some() => sequence.end_thinking(&self.closing),
            _ => false,
        }
    }

    /// Sets how many of the loaded threads are used and how many streams may run, from the next step on. Streams that run
    /// already go on.
    pub fn limit(&mut self, effort: Effort) {
        self.model
            .threads(effort.prefill_threads, effort.decode_threads);
        self.scheduler.limit(effort.streams);
    }

    /// Counts requests, pages and sessions as they are now.
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

    /// The owner of the pages that a client's prompts fill: only the same owner finds them again.
    fn owner(&self, client: &str) -> Owner {
        match self.share {
            Share::Client => self.hasher.hash_one(client),
            Share::All => 0,
        }
    }

    /// The number by which the scheduler knows a client.
    fn share(&self, client: &str) -> u64 {
        self.hasher.hash_one(client)
    }
}
