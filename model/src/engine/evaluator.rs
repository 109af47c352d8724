//! Tokens in, logits out, without requests: `eval` and `bench` measure the model through this.

use super::config::{EngineConfig, LoadError};
use super::model::Model;
use crate::gguf::Gguf;
use crate::kv::Span;
use crate::ops::memory::Traffic;
use crate::ops::no_gpu::NoGpu;
use crate::text::Tokenizer;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// Rows of logits that are computed at once. 16 rows of a vocabulary of 151,936 tokens are 9.7 MB.
const LOGIT_ROWS: usize = 16;

/// Why a model did not take tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFed {
    /// They are more than a stream's part of the cache holds.
    #[error("the KV cache of a stream holds {limit} tokens, {needed} are needed")]
    TooLong {
        /// Position after the last token.
        needed: usize,
        /// Tokens that the cache holds for one stream.
        limit: usize,
    },
    /// The GPU was lost.
    #[error("the GPU is lost: {0}")]
    GpuLost(#[from] NoGpu),
}

/// A model whose streams are fed by hand. What needs only one stream uses stream 0; [`Self::decode`] feeds all of them.
pub struct Evaluator {
    model: Model,
    context: usize,
    /// tokens in the cache, by stream
    lengths: Vec<usize>,
    /// logits of the last token of each stream in the last step: `[streams * vocab]`
    logits: Vec<f32>,
}

impl Evaluator {
    /// Maps the weights without building a tokenizer. Each of `config.streams` gets an equal part of `config.pages`.
    ///
    /// # Errors
    /// As [`super::Engine::load`].
    pub fn load(gguf: &Gguf, config: &EngineConfig) -> Result<Self, LoadError> {
        let model = Model::load(gguf, &with_states(config), config.streams)?;
        Ok(Self::new(model, config))
    }

    /// Maps the weights and builds the tokenizer, as [`super::Engine::load`] does.
    ///
    /// # Errors
    /// As [`super::Engine::load`].
    pub fn load_with_tokenizer(
        gguf: &Gguf,
        config: &EngineConfig,
    ) -> Result<(Self, Tokenizer), LoadError> {
        let each = with_states(config);
        let (model, tokenizer) = Model::load_with_tokenizer(gguf, &each, config.streams)?;
        Ok((Self::new(model, config), tokenizer))
    }

    fn new(mut model: Model, config: &EngineConfig) -> Self {
        let each = config.pages / config.streams;
        for stream in 0..config.streams {
            let first = stream * each;
            model
                .kv
                .table(stream)
                .extend((first..first + each).map(|page| page as u16));
            let state = model.kv.states_mut().take(None);
            model.kv.set_state(stream, state);
        }
        Self {
            model,
            context: config.context.min(each * PAGE_TOKENS),
            lengths: vec![0; config.streams],
            logits: Vec::new(),
        }
    }

    /// Length of a row of logits.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.model.dims().vocab
    }

    /// Name of the instruction set in use, or of the GPU.
    #[must_use]
    pub fn isa(&self) -> String {
        self.model.name.clone()
    }

    /// What was sent to the GPU and back so far; nothing where the host computes.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.model.traffic()
    }

    /// Bytes of the GPU that its runtime holds, for this model and all others of the process.
    ///
    /// # Errors
    /// [`NoGpu`] if it does not answer.
    pub fn reserved(&self) -> Result<u64, NoGpu> {
        self.model.reserved()
    }

    /// Empties the cache of all streams.
    pub fn reset(&mut self) {
        self.lengths.fill(0);
    }

    /// Takes the next `tokens` positions of a stream.
    fn span(&mut self, stream: usize, tokens: usize) -> Result<Span, NotFed> {
        let position = self.lengths[stream];
        let (needed, limit) = (position + tokens, self.context);
        if needed > limit {
            return Err(NotFed::TooLong { needed, limit });
        }
        self.lengths[stream] = needed;
        if let Some(state) = self.model.kv.state_of(stream).filter(|_| position == 0) {
            self.model.kv.states_mut().clear(state);
        }
        Ok(Span {
            table: stream,
            position,
            tokens,
            guesses: 0,
        })
    }

    /// Feeds all of `tokens` but the last to the empty cache, `chunk` at a time, and gives the logits of what the layer that drafts
    /// expects behind the last one.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn drafted(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>, NotFed> {
        self.reset();
        let Some((last, before)) = tokens.split_last() else {
            return Ok(Vec::new());
        };
        for chunk in before.chunks(chunk) {
            let span = self.span(0, chunk.len())?;
            self.model.step(&[span], chunk)?;
        }
        Ok(self.model.draft(0, before.len(), *last)?)
    }

    /// Feeds `tokens` to the empty cache and calls `sink(position, logits)` for each of them, in order.
    ///
    /// # Errors
    /// [`NotFed`] if there are more `tokens` than the context holds.
    pub fn logits(
        &mut self,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), NotFed> {
        self.reset();
        let vocab = self.vocab();
        let mut position = 0;
        for chunk in tokens.chunks(self.model.step_tokens()) {
            let span = self.span(0, chunk.len())?;
            let hidden = self.model.step(&[span], chunk)?;
            for start in (0..chunk.len()).step_by(LOGIT_ROWS) {
                let rows = start..chunk.len().min(start + LOGIT_ROWS);
                let logits = self.model.logits(hidden.clone(), rows)?;
                for row in logits.chunks_exact(vocab) {
                    sink(position, row);
                    position += 1;
                }
            }
        }
        Ok(())
    }

    /// Feeds a prompt to a stream, behind what the stream holds, and gives the likeliest next token.
    ///
    /// # Errors
    /// [`NotFed`]; the cache keeps the chunks that went in.
    pub fn prefill(&mut self, stream: usize, tokens: &[u32]) -> Result<u32, NotFed> {
        let mut last = None;
        for chunk in tokens.chunks(self.model.step_tokens()) {
            let span = self.span(stream, chunk.len())?;
            last = Some((self.model.step(&[span], chunk)?, chunk.len() - 1));
        }
        let Some((hidden, row)) = last else {
            return Ok(0);
        };
        self.logits = self.model.best_logits(hidden, row..row + 1)?;
        Ok(greedy(&self.logits))
    }

    /// Feeds the first `tokens.len()` streams a token each and replaces it by the likeliest next one.
    ///
    /// # Errors
    /// [`NotFed`] if one of these streams is full.
    pub fn decode(&mut self, tokens: &mut [u32]) -> Result<(), NotFed> {
        let spans = (0..tokens.len())
            .map(|stream| self.span(stream, 1))
            .collect::<Result<Vec<_>, _>>()?;
        let hidden = self.model.step(&spans, tokens)?;
        self.logits = self.model.best_logits(hidden, 0..tokens.len())?;
        let vocab = self.vocab();
        for (token, logits) in tokens.iter_mut().zip(self.logits.chunks_exact(vocab)) {
            *token = greedy(logits);
        }
        Ok(())
    }
}

/// The configuration with a slot of state for each stream.
fn with_states(config: &EngineConfig) -> EngineConfig {
    EngineConfig {
        state_slots: config.streams,
        ..config.clone()
    }
}

/// The likeliest token, and of equally likely ones the one with the lowest id.
fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}
