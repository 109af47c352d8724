//! How the tokens of an answer are drawn, as far as a request says.

use glowplug_model::text::SamplerParams;

use crate::wire::fault::Fault;

/// Most log-probabilities of one request, `max_tokens` times (1 + `top_logprobs`), because its final frame carries them
/// all.
const LOGPROBS_MAX: u64 = 16_384;

/// The sampling fields that were given.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // the protocol's names
pub struct Sampling {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: Option<u64>,
    pub logprobs: bool,
    pub top_logprobs: Option<u8>,
}

impl Sampling {
    /// Fills in the model's recommended values where none was given, and `seed` if the request has none.
    #[must_use]
    pub fn over(&self, model: &SamplerParams, seed: u64) -> SamplerParams {
        SamplerParams {
            temperature: self.temperature.unwrap_or(model.temperature),
            top_p: self.top_p.unwrap_or(model.top_p),
            top_k: self.top_k.unwrap_or(model.top_k),
            min_p: self.min_p.unwrap_or(model.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(model.repeat_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(model.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(model.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or(seed),
            top_logprobs: self.logprobs.then_some(self.top_logprobs.unwrap_or(0)),
        }
    }
}

impl Sampling {
    /// # Errors
    /// The final frame of an answer of so many tokens would have too many log-probabilities.
    pub fn check_logprobs(&self, max_tokens: u32) -> Result<(), Fault> {
        let per_token = 1 + u64::from(self.top_logprobs.unwrap_or(0));
        let all = u64::from(max_tokens) * per_token;
        if self.logprobs && all > LOGPROBS_MAX {
            let why = format!(
                "`max_tokens` times (1 + `top_logprobs`) is {all}, the limit is {LOGPROBS_MAX}"
            );
            return Err(Fault::invalid("logprobs", why));
        }
        Ok(())
    }
}
