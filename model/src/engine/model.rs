//! A loaded model: network, cache and runtime, fed with tokens. Knows nothing of requests.

use super::{EngineConfig, LoadError};
use crate::gguf::Gguf;
use crate::kv::{Full, KvCache};
use crate::network::Network;
use crate::network::dims::Dims;
use crate::ops::runtime::Runtime;
use crate::pool::Pool;
use crate::quant::Kernels;
use crate::text::Tokenizer;
use burn::tensor::{Device, Tensor};
use std::panic::resume_unwind;

/// Tokens of a prompt that go through the network at once. A cancel waits for one such step at most; scratch grows with
/// it (`64 * ff * 4` bytes: 2.3 MB on the 1.5B).
pub(super) const PREFILL_CHUNK: usize = 64;

pub(super) struct Model {
    pub(super) network: Network,
    pub(super) kv: KvCache,
    pub(super) runtime: Runtime,
    prefill_threads: usize,
    decode_threads: usize,
}

impl Model {
    pub(super) fn load(gguf: &Gguf, config: &EngineConfig) -> Result<Self, LoadError> {
        let dims = Dims::from_gguf(gguf)?;
        if config.context == 0 || config.context > dims.context_train {
            return Err(LoadError::Context {
                asked: config.context,
                limit: dims.context_train,
            });
        }
        let kernels = Kernels::detect(config.isa)?;
        let pool = Pool::new(config.prefill_threads.max(config.decode_threads))
            .map_err(LoadError::Threads)?;
        let network = Network::load(gguf, dims, &Device::flex())?;
        let kv = KvCache::new(network.kv_layout(), config.context)?;
        let rope = network.rope_table(config.context);
        Ok(Self {
            runtime: Runtime::new(pool, kernels, rope),
            network,
            kv,
            prefill_threads: config.prefill_threads,
            decode_threads: config.decode_threads,
        })
    }

    /// [`Self::load`], and beside it on a thread of its own the tokenizer, which takes as long and needs nothing of the
    /// weights.
    pub(super) fn load_with_tokenizer(
        gguf: &Gguf,
        config: &EngineConfig,
    ) -> Result<(Self, Tokenizer), LoadError> {
        std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::from_gguf(gguf));
            let model = Self::load(gguf, config);
            let tokenizer = tokenizer
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic));
            Ok((model?, tokenizer?))
        })
    }

    /// One step of at most [`PREFILL_CHUNK`] tokens after what the cache holds; hidden states of all of them.
    pub(super) fn step(&mut self, tokens: &[u32]) -> Result<Tensor<2>, Full> {
        self.runtime.threads = if tokens.len() > 1 {
            self.prefill_threads
        } else {
            self.decode_threads
        };
        self.network
            .forward(tokens, &mut self.kv, &mut self.runtime)
    }

    /// Logits of the last of `tokens` hidden states: `[vocab]`.
    pub(super) fn last_logits(&mut self, hidden: Tensor<2>, tokens: usize) -> Vec<f32> {
        self.network
            .logits(hidden, tokens - 1..tokens, &mut self.runtime)
    }
}
