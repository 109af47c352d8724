//! A loaded model: network, cache and runtime, which are fed with tokens and know nothing of requests.

use super::config::{Compute, EngineConfig, LoadError};
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
use glowplug_firmware_config::limits::{DRAFT_MAX, PAGE_TOKENS, STEP_TOKENS};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub(super) struct Model {
    pub(super) network: Network,
    pub(super) kv: KvCache,
    pub(super) runtime: Runtime,
    processor: Processor,
    prefill_threads: usize,
    decode_threads: usize,
}

impl Model {
    /// Loads the weights and makes a cache with `tables` page tables, one for each sequence that holds pages.
    pub(super) fn load(
        gguf: &Gguf,
        config: &EngineConfig,
        tables: usize,
    ) -> Result<Self, LoadError> {
        let dims = Dims::from_gguf(gguf)?;
        if config.context == 0 || config.context > dims.context_train {
            return Err(LoadError::Context {
                asked: config.context,
                limit: dims.context_train,
            });
        }
        let processor = match config.compute {
            Compute::Cpu => Processor::Host,
            Compute::Gpu => Processor::gpu()?,
        };
        // read all of the file now: the daemon then has its full size from the start, and no answer makes it grow
        gguf.touch()?;
        let kernels = Kernels::detect(config.isa)?;
        let threads = config.prefill_threads.max(config.decode_threads);
        let pool = Pool::placed(threads, &config.affinity).map_err(LoadError::Threads)?;
        let keys = key_formats(gguf, &dims, config.kv.k);
        let layout = KvLayout::new(dims.layers, dims.kv_heads, dims.head_dim, keys, config.kv.v)?;
        processor.check(gguf, &layout, config.pages)?;
        let network = Network::load(gguf, dims, &processor)?;
        let mut kv = processor.cache(layout, config.pages, tables)?;
        processor.wait()?;
        if config.lock {
            kv.arena().lock()?;
        }
        let rope = network.rope_table(config.context);
        let mut runtime = Runtime::new(pool, kernels, rope);
        processor.prepare(&mut runtime, &network.dims().widths(config.context));
        let mut model = Self {
            runtime,
            network,
            kv,
            processor,
            prefill_threads: config.prefill_threads,
            decode_threads: config.decode_threads,
        };
        if model.processor.name().is_some() {
            model.warm_up(config)?;
        }
        Ok(model)
    }

    /// Runs a chunk of a prompt and a token on the device and forgets them. Its kernels are compiled now and not when somebody
    /// waits for an answer, all memory is taken, and a device that cannot run them is known before the model is used.
    fn warm_up(&mut self, config: &EngineConfig) -> Result<(), LoadError> {
        let tokens = STEP_TOKENS
            .min(config.pages * PAGE_TOKENS)
            .min(config.context);
        for page in 0..tokens.div_ceil(PAGE_TOKENS) {
            // there are as many pages as numbers for them
            let _ = self.kv.table(0).push(page as PageId);
        }
        let done = catch_unwind(AssertUnwindSafe(|| {
            for tokens in [tokens, 1] {
                let span = Span {
                    table: 0,
                    position: 0,
                    tokens,
                };
                let hidden = self.step(&[span], &vec![0; tokens]);
                self.best_logits(hidden, tokens - 1..tokens);
            }
        }));
        self.kv.table(0).clear();
        self.processor.wait()?;
        done.map_err(|_| NoGpu::Device("its runtime failed".to_owned()).into())
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

    /// The name of the GPU, or that of the instruction set in use.
    pub(super) fn processor(&self) -> String {
        match self.processor.name() {
            Some(gpu) => gpu.to_owned(),
            None => self.runtime.kernels.isa().to_string(),
        }
    }

    /// What was sent to the device and back so far.
    pub(super) fn traffic(&self) -> Traffic {
        self.processor.traffic(&self.runtime)
    }

    /// Bytes that the GPU's runtime holds, for this model and all others of the process.
    pub(super) fn reserved(&self) -> u64 {
        self.processor.reserved()
    }

    /// Why the GPU cannot be used any more, if that is so.
    pub(super) fn processor_lost(&self) -> Option<String> {
        self.processor.wait().err().map(|error| error.to_string())
    }

    /// Sets how many threads of the pool are used from now on.
    pub(super) fn threads(&mut self, prefill: usize, decode: usize) {
        let all = self.runtime.pool.threads();
        self.prefill_threads = prefill.clamp(1, all);
        self.decode_threads = decode.clamp(1, all);
    }

    /// Feeds the network with `tokens`, which are those of the spans one after the other, and gives their hidden states.
    pub(super) fn step(&mut self, spans: &[Span], tokens: &[u32]) -> Tensor<2> {
        // a step of answers, or of a draft, reads the weights once and is bound by memory: only a prompt gains from the
        // threads of prefill
        let draft = spans.len() == 1 && tokens.len() <= 1 + DRAFT_MAX;
        let prefill = !draft && spans.iter().any(|span| span.tokens > 1);
        self.runtime.threads = if prefill {
            self.prefill_threads
        } else {
            self.decode_threads
        };
        self.kv.begin(spans);
        self.network
            .forward(tokens, &mut self.kv, &mut self.runtime)
    }

    /// Logits of these rows of the hidden states of a step: `[rows.len() * vocab]`.
    pub(super) fn logits(&mut self, hidden: Tensor<2>, rows: Range<usize>) -> Vec<f32> {
        self.network.logits(hidden, rows, false, &mut self.runtime)
    }

    /// Does [`Self::logits`], but where the rows are on a device, only the best are read back and all others are -inf.
    pub(super) fn best_logits(&mut self, hidden: Tensor<2>, rows: Range<usize>) -> Vec<f32> {
        let device = self.processor.name().is_some();
        self.network.logits(hidden, rows, device, &mut self.runtime)
    }
}
