//! Draws the next token from a row of logits.
//!
//! The order of the parameters and their meanings are those of llama.cpp (`src/llama-sampler.cpp`, the default chain of
//! `common/sampling.cpp`): bias, penalties, top-k, top-p, min-p, temperature, draw. Exponentials are our own, so that a seed
//! gives the same tokens on every platform.

mod exp;
mod top;

use super::{Mask, TextError};
use exp::{exp, sum_exp};
use std::collections::VecDeque;
use top::{Top, nucleus, select_nucleus};

/// Tokens that the penalties look back on (llama.cpp's `penalty_last_n`).
pub const PENALTY_WINDOW: usize = 64;
/// Best logits of a row that are read from a device for a sampler that needs few.
pub const BEST: usize = 128;
/// Most alternatives that are reported with a token, as in OpenAI's interface.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Every sampling parameter of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerParams {
    /// Divides the logits before the draw. At 0 the likeliest token is taken.
    pub temperature: f32,
    /// Keeps the likeliest tokens that have this probability together. 1 keeps all of them.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens. 0 keeps all of them.
    pub top_k: u32,
    /// Keeps tokens that have at least this share of the probability of the likeliest. 0 keeps all of them.
    pub min_p: f32,
    /// Divides positive logits of recent tokens and multiplies negative ones. 1 changes nothing.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of recent tokens. 0 changes nothing.
    pub presence_penalty: f32,
    /// Subtracted from the logits of recent tokens once for each time they came. 0 changes nothing.
    pub frequency_penalty: f32,
    /// Token ids and what is added to their logits, before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draw. The same seed, build and model give the same tokens.
    pub seed: u64,
    /// Number of alternatives to report, at most [`MAX_TOP_LOGPROBS`]. With `None`, no log-probabilities are reported at all.
    pub top_logprobs: Option<u8>,
}

impl Default for SamplerParams {
    /// How a model is sampled that recommends nothing itself: temperature 0.6, top-p 0.95, top-k 40, and all else off.
    fn default() -> Self {
        Self {
            temperature: 0.6,
            top_p: 0.95,
            top_k: 40,
            min_p: 0.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            top_logprobs: None,
        }
    }
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Id of the token.
    pub token: u32,
    /// Logarithm of its probability in the model's own distribution, before any parameter, and the likeliest alternatives, best
    /// first.
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
}

/// The parameters, the penalty window and the random generator of one sequence.
#[derive(Debug)]
pub struct Sampler {
    p: SamplerParams,
    vocab: usize,
    window: Window,
    rng: SplitMix64,
    top: Top,
    /// logits of the tokens that bias and penalties changed, as they were before
    raw: Vec<(u32, f32)>,
}

impl Sampler {
    /// Allocates all buffers, for rows of `vocab` logits. Biases of ids that are not in the vocabulary are dropped.
    pub fn new(mut p: SamplerParams, vocab: usize) -> Self {
        p.logit_bias.retain(|(id, _)| (*id as usize) < vocab);
        Self {
            vocab,
            window: Window {
                tokens: VecDeque::with_capacity(PENALTY_WINDOW),
            },
            rng: SplitMix64(p.seed),
            top: Top::new(vocab),
            raw: Vec::with_capacity(p.logit_bias.len() + PENALTY_WINDOW),
            p,
        }
    }

    /// Lets this token not come any more.
    pub fn never(&mut self, token: u32) {
        if (token as usize) < self.vocab {
            self.p.logit_bias.push((token, f32::NEG_INFINITY));
        }
    }

    /// Whether the [`BEST`] best logits of a row are enough to draw from, so that the others may be -inf. Penalties only take
    /// from the tokens of their window, and a bias below 0 from its own; what adds to a logit may make any token the best.
    #[must_use]
    pub fn needs_few(&self) -> bool {
        let p = &self.p;
        let kept = if p.temperature <= 0.0 {
            1
        } else {
            p.top_k as usize
        };
        p.top_logprobs.is_none()
            && p.logit_bias.iter().all(|(_, bias)| *bias <= 0.0)
            && p.repeat_penalty >= 1.0
            && p.presence_penalty >= 0.0
            && p.frequency_penalty >= 0.0
            && 0 < kept
            && kept + PENALTY_WINDOW + p.logit_bias.len() <= BEST
    }

    /// Draws a token from one row, of those that the mask allows if there is one. Bias, penalties and mask are written into
    /// `logits`. A token whose logit is -inf cannot come.
    ///
    /// # Errors
    /// [`TextError::Numeric`] if a logit is NaN or +inf, or all that may come are -inf; [`TextError::Logits`] if the row has not
    /// one logit for each token of the vocabulary.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        mask: Option<&Mask>,
    ) -> Result<Sampled, TextError> {
        if logits.len() != self.vocab {
            return Err(TextError::Logits {
                got: logits.len(),
                vocab: self.vocab,
            });
        }
        // counted and not searched, because a loop without an early exit is compiled to vector instructions
        let bad = |block: &[f32]| block.iter().filter(|l| !is_logit(**l)).count() > 0;
        if logits.chunks(1024).any(bad) {
            return Err(TextError::Numeric);
        }
        let model = self.p.top_logprobs.map(|n| {
            self.top
                .logprobs(logits, usize::from(n.min(MAX_TOP_LOGPROBS)))
        });
        self.change(logits)?;
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        let token = self.draw(logits)?;
        let logprobs = model.map(|(log_sum, alternatives)| {
            let raw = self
                .raw
                .iter()
                .find(|(id, _)| *id == token)
                .map_or(logits[token as usize], |(_, raw)| *raw);
            (raw - log_sum, alternatives)
        });
        Ok(Sampled { token, logprobs })
    }

    /// Enters a token into the penalty window. The caller does this for each token that is taken, drawn or forced, and for
    /// those of the prompt.
    pub fn accept(&mut self, token: u32) {
        self.window.push(token);
    }

    /// Applies the bias, and then the penalties.
    fn change(&mut self, logits: &mut [f32]) -> Result<(), TextError> {
        let p = &self.p;
        self.raw.clear();
        for &(id, bias) in &p.logit_bias {
            self.raw.push((id, logits[id as usize]));
            logits[id as usize] += bias;
        }
        if p.repeat_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 {
            for (id, count) in self.window.counts() {
                let Some(logit) = logits.get_mut(id as usize) else {
                    continue;
                };
                self.raw.push((id, *logit));
                *logit = if *logit <= 0.0 {
                    *logit * p.repeat_penalty
                } else {
                    *logit / p.repeat_penalty
                };
                *logit -= count as f32 * p.frequency_penalty + p.presence_penalty;
            }
        }
        // parameters out of all bounds may have made a logit infinite
        if self
            .raw
            .iter()
            .all(|(id, _)| is_logit(logits[*id as usize]))
        {
            Ok(())
        } else {
            Err(TextError::Numeric)
        }
    }

    /// Applies top-k, top-p, min-p and temperature, and draws.
    fn draw(&mut self, logits: &[f32]) -> Result<u32, TextError> {
        let (best, max) = self.top.scan(logits).ok_or(TextError::Numeric)?;
        let SamplerParams {
            temperature, min_p, ..
        } = self.p;
        if temperature <= 0.0 || temperature.is_nan() {
            return Ok(best);
        }
        self.top_k_top_p(logits, max);
        let candidates = &mut self.top.found;
        if min_p > 0.0 {
            candidates.retain(|(id, l)| exp(l - max) >= min_p || *id == best);
        }
        let mut total = 0.0;
        for (_, l) in candidates.iter_mut() {
            *l = exp((*l - max) / temperature);
            total += f64::from(*l);
        }
        let mut left = total * self.rng.unit();
        for (id, weight) in candidates {
            left -= f64::from(*weight);
            if left < 0.0 {
                return Ok(*id);
            }
        }
        // rounding lost the last bit of the sum
        Ok(best)
    }

    /// Leaves in `top.found` the tokens that top-k and then top-p keep, which are all if both are off.
    fn top_k_top_p(&mut self, logits: &[f32], max: f32) {
        /// Tokens that are looked at first when only top-p limits them. They are mostly enough, and sorted in microseconds.
        const FIRST: usize = 256;
        let (k, top_p) = (self.p.top_k as usize, f64::from(self.p.top_p));
        let limited = 0 < k && k < self.vocab;
        match (limited, top_p < 1.0) {
            (false, false) => self.top.all(logits),
            (true, false) => self.top.of(logits, k),
            (true, true) => {
                self.top.of(logits, k);
                let found = &mut self.top.found;
                let total: f64 = found.iter().map(|(_, l)| f64::from(exp(l - max))).sum();
                let len = nucleus(found, max, top_p * total).unwrap_or(found.len());
                found.truncate(len);
            }
            (false, true) => {
                let mass = top_p * sum_exp(logits, max);
                self.top.of(logits, FIRST);
                let len = nucleus(&self.top.found, max, mass).unwrap_or_else(|| {
                    self.top.all(logits);
                    select_nucleus(&mut self.top.found, max, mass)
                });
                self.top.found.truncate(len);
            }
        }
    }
}

fn is_logit(l: f32) -> bool {
    l < f32::INFINITY
}

/// The tokens that were taken last.
#[derive(Debug)]
struct Window {
    tokens: VecDeque<u32>,
}

impl Window {
    fn push(&mut self, token: u32) {
        if self.tokens.len() == PENALTY_WINDOW {
            self.tokens.pop_front();
        }
        self.tokens.push_back(token);
    }

    /// Each token of the window once, with how often it stands there.
    fn counts(&self) -> impl Iterator<Item = (u32, usize)> {
        self.tokens.iter().enumerate().filter_map(|(at, token)| {
            let first = !self.tokens.iter().take(at).any(|t| t == token);
            first.then(|| (*token, self.tokens.iter().filter(|t| *t == token).count()))
        })
    }
}

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. Any 64 bits may be the
/// seed, and the numbers are the same on every platform.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to below 1, in steps of 2^-53.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
