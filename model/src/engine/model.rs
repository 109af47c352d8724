//! A loaded model: network, cache and runtime, which are fed with tokens and know nothing of requests.

use super::config::{Compute, EngineConfig, LoadError, check_context};
use super::shape::states;
use crate::gguf::Gguf;
use crate::kv::{KvCache, KvLayout, PageId, Span};
use crate::network::dims::Dims;
use crate::network::{Network, key_formats};
use crate::ops::memory::Traffic;
use crate::ops::no_gpu::NoGpu;
use crate::ops::processor::Processor;
use crate::ops::runtime::Runtime;
use crate::pool::Pool;
use crate::quant::Kernels;
use crate::text::Tokenizer;
use burn::tensor::Tensor;
use glowplug_firmware_config::limits::{
    CHUNK_TOKENS, DEVICE_WAIT, DEVICE_WAIT_MAX, DRAFT_MAX, PAGE_TOKENS, STEP_TOKENS, STREAMS_MAX,
};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

pub(super) struct Model {
    pub(super) kv: KvCache,
    /// `None` where a GPU that hangs has it.
    pass: Option<Pass>,
    dims: Dims,
    processor: Processor,
    /// Why the GPU cannot be used any more, once it is so.
    lost: Option<NoGpu>,
    /// The name of the GPU, or that of the instruction set in use.
    pub(super) name: String,
    /// Most tokens of a step, where no GPU computes.
    step_tokens: usize,
    pub(super) prefill_threads: usize,
    pub(super) decode_threads: usize,
}

/// What a pass of the network needs besides the cache. On a GPU both are lent to the thread that calls its driver, for as long
/// as a step takes.
struct Pass {
    network: Network,
    runtime: Runtime,
}

impl Model {
    /// Loads the weights and makes a cache with `tables` page tables, one for each sequence that holds pages.
    pub(super) fn load(
        gguf: &Gguf,
        config: &EngineConfig,
        tables: usize,
    ) -> Result<Self, LoadError> {
        let dims = Dims::from_gguf(gguf)?;
        check_context(config.context, &dims)?;
        let processor = match config.compute {
            Compute::Cpu => Processor::Host,
            Compute::Gpu => {
                dims.check_gpu(config.context)?;
                Processor::gpu()?
            }
        };
        processor.wait_at_most(DEVICE_WAIT);
        // read all of the file now: the daemon then has its full size from the start, and no answer makes it grow
        let threads = config.prefill_threads.max(config.decode_threads);
        gguf.touch(threads)?;
        let kernels = Kernels::detect(config.isa)?;
        let keys = key_formats(gguf, &dims, config.kv.k);
        let layout = KvLayout::new(
            dims.kv_layers(),
            dims.kv_heads,
            dims.head_dim,
            keys,
            config.kv.v,
        )?;
        processor.check(gguf, &layout, config.pages)?;
        let states = states(&dims);
        let network = Network::load(gguf, dims, config.drafts, &processor)?;
        let kv = processor.cache(layout, config.pages, tables)?;
        let kv = kv.with_states(states, config.state_slots.max(1))?;
        processor.wait()?;
        if config.lock {
            kv.lock()?;
        }
        let rope = network.rope_table(config.context);
        // last: this thread is held to its place from here on, and so is each thread that it starts
        let pool = Pool::placed(threads, &config.affinity).map_err(LoadError::Threads)?;
        let mut runtime = Runtime::new(pool, kernels, rope);
        processor.prepare(&mut runtime, &network.dims().widths(config.context))?;
        let name = match processor.name() {
            Some(gpu) => gpu.to_owned(),
            None => runtime.kernels.isa().to_string(),
        };
        let mut model = Self {
            dims: network.dims().clone(),
            pass: Some(Pass { network, runtime }),
            kv,
            processor,
            lost: None,
            name,
            step_tokens: config.step_tokens.clamp(CHUNK_TOKENS, STEP_TOKENS),
            prefill_threads: config.prefill_threads,
            decode_threads: config.decode_threads,
        };
        if model.processor.name().is_some() {
            // each step compiles its kernels, which takes its time
            model.wait_at_most(DEVICE_WAIT_MAX);
            model.warm_up(config)?;
        }
        Ok(model)
    }

    /// Most tokens of a step of the processor that computes.
    pub(super) fn step_tokens(&self) -> usize {
        match self.processor.name() {
            Some(_) => CHUNK_TOKENS,
            None => self.step_tokens,
        }
    }

    /// Runs a step of every width for which there are kernels of their own, and forgets it. The kernels are compiled now and not
    /// when somebody waits for an answer, all memory is taken, and a device that cannot run them is known before the model is
    /// used.
    fn warm_up(&mut self, config: &EngineConfig) -> Result<(), LoadError> {
        let most = CHUNK_TOKENS
            .min(config.pages * PAGE_TOKENS)
            .min(config.context);
        for page in 0..most.div_ceil(PAGE_TOKENS) {
            // there are as many pages as numbers for them
            let _ = self.kv.table(0).push(page as PageId);
        }
        let mut widths = step_widths().map(|width| width.min(most));
        let done = catch_unwind(AssertUnwindSafe(|| {
            widths.try_for_each(|tokens| {
                let span = Span {
                    table: 0,
                    position: 0,
                    tokens,
                    guesses: 0,
                };
                let hidden = self.step(&[span], &vec![0; tokens])?;
                // as many rows of logits as a step of so many streams asks for, and one of a chunk of a prompt
                let few = tokens <= 2 * STREAMS_MAX;
                let first = if few { 0 } else { tokens - 1 };
                self.best_logits(hidden, first..tokens).map(drop)
            })
        }));
        self.kv.table(0).clear();
        done.unwrap_or_else(|_| Err(NoGpu::Device("its runtime failed".to_owned())))?;
        Ok(self.processor.wait()?)
    }

    /// Does [`Self::load`] and builds the tokenizer on a thread of its own meanwhile: that takes as long and needs nothing
    /// of the weights.
    pub(super) fn load_with_tokenizer(
        gguf: &Gguf,
        config: &EngineConfig,
        tables: usize,
    ) -> Result<(Self, Tokenizer), LoadError> {
        std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::from_gguf(gguf));
            let model = Self::load(gguf, config, tables);
            let tokenizer = tokenizer
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic));
            Ok((model?, tokenizer?))
        })
    }

    /// The dimensions of the network.
    pub(super) fn dims(&self) -> &Dims {
        &self.dims
    }

    /// What was sent to the device and back so far.
    pub(super) fn traffic(&self) -> Traffic {
        let pass = self.pass.as_ref();
        pass.map_or_else(Traffic::default, |pass| {
            self.processor.traffic(&pass.runtime)
        })
    }

    /// Bytes that the GPU's runtime holds, for this model and all others of the process.
    pub(super) fn reserved(&self) -> Result<u64, NoGpu> {
        self.processor.reserved()
    }

    /// Why the GPU cannot be used any more, if that is so.
    pub(super) fn lost(&self) -> Option<&NoGpu> {
        self.lost.as_ref()
    }

    /// Sets the longest that anybody waits for the GPU.
    pub(super) fn wait_at_most(&mut self, patience: Duration) {
        self.processor.wait_at_most(patience);
    }

    /// Sets how many threads of the pool are used from now on.
    pub(super) fn threads(&mut self, prefill: usize, decode: usize) {
        let Some(pass) = &self.pass else { return };
        let all = pass.runtime.pool.threads();
        self.prefill_threads = prefill.clamp(1, all);
        self.decode_threads = decode.clamp(1, all);
    }

    /// Feeds the network with `tokens`, which are those of the spans one after the other, and gives their hidden states.
    ///
    /// # Errors
    /// [`NoGpu`]: the GPU is lost, see [`Self::lost`].
    pub(super) fn step(&mut self, spans: &[Span], tokens: &[u32]) -> Result<Tensor<2>, NoGpu> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        // a step of answers, or of a draft, reads the weights once and is bound by memory: only a prompt gains from the
        // threads of prefill
        let draft = spans.len() == 1 && tokens.len() <= 1 + DRAFT_MAX;
        let prefill = !draft && spans.iter().any(|span| span.tokens > 1);
        let threads = if prefill {
            self.prefill_threads
        } else {
            self.decode_threads
        };
        self.settle();
        self.kv.begin(spans);
        let tokens = tokens.to_vec();
        self.lend(move |pass, kv| {
            pass.runtime.threads = threads;
            Ok(pass.network.forward(&tokens, kv, &mut pass.runtime))
        })
    }

    /// Takes guesses that came true into the state of their sequence, before anything else is done with it.
    pub(super) fn settle(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.runtime.threads = self.decode_threads;
            pass.network.settle(&mut self.kv, &mut pass.runtime);
        }
    }

    /// Whether a layer of the network drafts.
    pub(super) fn drafts(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.network.drafts())
    }

    /// The logits of what the layer that drafts expects behind `token`, the next one of the sequence of a page table, which has a
    /// page for it.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(super) fn draft(
        &mut self,
        table: usize,
        position: usize,
        token: u32,
    ) -> Result<Vec<f32>, NoGpu> {
        self.settle();
        let span = Span {
            table,
            position,
            tokens: 1,
            guesses: 0,
        };
        self.kv.begin(&[span]);
        let threads = self.decode_threads;
        self.lend(move |pass, kv| {
            pass.runtime.threads = threads;
            pass.network.draft(token, kv, &mut pass.runtime)
        })
    }

    /// Logits of these rows of the hidden states of a step: `[rows.len() * vocab]`.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(super) fn logits(
        &mut self,
        hidden: Tensor<2>,
        rows: Range<usize>,
    ) -> Result<Vec<f32>, NoGpu> {
        self.lend(move |pass, _| pass.network.logits(hidden, rows, false, &mut pass.runtime))
    }

    /// Does [`Self::logits`], but where the rows are on a device, only the best are read back and all others are -inf.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(super) fn best_logits(
        &mut self,
        hidden: Tensor<2>,
        rows: Range<usize>,
    ) -> Result<Vec<f32>, NoGpu> {
        let device = self.processor.name().is_some();
        self.lend(move |pass, _| pass.network.logits(hidden, rows, device, &mut pass.runtime))
    }

    /// Lends network and cache to a part of a step, which the GPU's thread does if there is a GPU.
    ///
    /// # Errors
    /// [`NoGpu`]: the GPU is lost, and with it what was lent if it does not answer. The cache then has no page any more.
    ///
    /// # Panics
    /// As the part does, unless it panics because the GPU is lost.
    fn lend<T: Send + 'static>(
        &mut self,
        part: impl FnOnce(&mut Pass, &mut KvCache) -> Result<T, NoGpu> + Send + 'static,
    ) -> Result<T, NoGpu> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let gpu = self.processor.name().is_some();
        if let Some(pass) = self.pass.as_mut().filter(|_| !gpu) {
            return part(pass, &mut self.kv);
        }
        let Some(mut pass) = self.pass.take() else {
            unreachable!("what is lent is away only until it is back, or the GPU is lost");
        };
        let (layout, tables) = (self.kv.layout().clone(), self.kv.tables());
        let mut kv = std::mem::replace(&mut self.kv, KvCache::lost(layout.clone(), 0));
        let back = self.processor.run(move || {
            let done = catch_unwind(AssertUnwindSafe(|| part(&mut pass, &mut kv)));
            (pass, kv, done)
        });
        let done = match back {
            Ok((pass, kv, done)) => {
                (self.pass, self.kv) = (Some(pass), kv);
                match done {
                    Ok(done) => done,
                    // a runtime that lost its device may panic where it should say so
                    Err(panic) => match self.processor.wait() {
                        Ok(()) => resume_unwind(panic),
                        Err(lost) => Err(lost),
                    },
                }
            }
            Err(lost) => {
                self.kv = KvCache::lost(layout, tables);
                Err(lost)
            }
        };
        done.inspect_err(|lost| self.lost = Some(lost.clone()))
    }
}

/// The widths of steps that have kernels of their own on a GPU: the widest, and every power of two that a few streams or a draft
/// make.
fn step_widths() -> impl Iterator<Item = usize> {
    let few = 1 + (2 * STREAMS_MAX).ilog2();
    std::iter::once(CHUNK_TOKENS).chain((0..few).rev().map(|power| 1 << power))
}
