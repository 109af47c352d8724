//! Tokens in, logits out, without requests: what `eval` and `bench` measure.

use super::model::{Model, PREFILL_CHUNK};
use super::{EngineConfig, LoadError};
use crate::gguf::Gguf;
use crate::kv::Full;
use crate::text::Tokenizer;

/// Rows of logits computed at once: 16 rows of a 151,936-token vocabulary are 9.7 MB.
const LOGIT_ROWS: usize = 16;

/// One sequence, driven by hand.
pub struct Evaluator {
    model: Model,
    logits: Vec<f32>,
}

impl Evaluator {
    /// Maps the weights; no tokenizer is built.
    ///
    /// # Errors
    /// As [`super::Engine::load`].
    pub fn load(gguf: &Gguf, config: &EngineConfig) -> Result<Self, LoadError> {
        let (model, logits) = (Model::load(gguf, config)?, Vec::new());
        Ok(Self { model, logits })
    }

    /// Maps the weights and builds the tokenizer, as [`super::Engine::load`] does.
    ///
    /// # Errors
    /// As [`super::Engine::load`].
    pub fn load_with_tokenizer(
        gguf: &Gguf,
        config: &EngineConfig,
    ) -> Result<(Self, Tokenizer), LoadError> {
        let (model, tokenizer) = Model::load_with_tokenizer(gguf, config)?;
        let logits = Vec::new();
        Ok((Self { model, logits }, tokenizer))
    }

    /// Size of a row of logits.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.model.network.dims().vocab
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> String {
        self.model.runtime.kernels.isa().to_string()
    }

    /// Empties the cache.
    pub fn reset(&mut self) {
        self.model.kv.truncate(0);
    }

    /// From an empty cache: `sink(position, logits)` for every token, in order.
    ///
    /// # Errors
    /// [`Full`] when `tokens` are more than the context.
    pub fn logits(
        &mut self,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Full> {
        self.reset();
        let vocab = self.vocab();
        let mut position = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let hidden = self.model.step(chunk)?;
            for start in (0..chunk.len()).step_by(LOGIT_ROWS) {
                let rows = start..chunk.len().min(start + LOGIT_ROWS);
                let logits =
                    self.model
                        .network
                        .logits(hidden.clone(), rows, &mut self.model.runtime);
                for row in logits.chunks_exact(vocab) {
                    sink(position, row);
                    position += 1;
                }
            }
        }
        Ok(())
    }

    /// Feeds a prompt after what the cache holds; the logits of its last token are kept for [`Self::decode`].
    ///
    /// # Errors
    /// [`Full`]; the cache keeps the chunks that went in.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(), Full> {
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let hidden = self.model.step(chunk)?;
            self.logits = self.model.last_logits(hidden, chunk.len());
        }
        Ok(())
    }

    /// Feeds one token and gives the likeliest next.
    ///
    /// # Errors
    /// [`Full`].
    pub fn decode(&mut self, token: u32) -> Result<u32, Full> {
        let hidden = self.model.step(&[token])?;
        self.logits = self.model.last_logits(hidden, 1);
        Ok(self.greedy())
    }

    /// The likeliest token of the last logits, the lowest id among equals.
    #[must_use]
    pub fn greedy(&self) -> u32 {
        let mut best = 0;
        for (i, logit) in self.logits.iter().enumerate() {
            if *logit > self.logits[best] {
                best = i;
            }
        }
        best as u32
    }
}
