//! Draws the next token from a row of logits.
//!
//! The order of the knobs and what each means are llama.cpp's (`src/llama-sampler.cpp`, the default
//! chain of `common/sampling.cpp`): bias, penalties, top-k, top-p, min-p, temperature, draw.
//! Exponentials are our own, so that a seed gives the same tokens on every platform.

mod exp;
mod top;

use super::TextError;
use exp::{exp, sum_exp};
use std::collections::VecDeque;
use top::{Top, nucleus, select_nucleus};

/// How many taken tokens the penalties look back on (llama.cpp's `penalty_last_n`).
pub const PENALTY_WINDOW: usize = 64;
/// Most alternatives reported with a token, as OpenAI has it.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// Every sampling knob of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerParams {
    /// 0 is greedy
    pub temperature: f32,
    /// 1 is off
    pub top_p: f32,
    /// 0 is off
    pub top_k: u32,
    /// 0 is off
    pub min_p: f32,
    /// 1 is off
    pub repeat_penalty: f32,
    /// 0 is off
    pub presence_penalty: f32,
    /// 0 is off
    pub frequency_penalty: f32,
    /// added to logits first
    pub logit_bias: Vec<(u32, f32)>,
    /// same seed, same build, same model: same tokens
    pub seed: u64,
    /// how many alternatives to report, at most [`MAX_TOP_LOGPROBS`]; None: no logprobs at all
    pub top_logprobs: Option<u8>,
}

impl Default for SamplerParams {
    /// What models without a recommendation of their own are sampled with: temperature 0.6, top-p 0.95, top-k 40, nothing
    /// else.
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

/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// id
    pub token: u32,
    /// ln p of the model's own distribution (before the knobs), with the likeliest alternatives,
    /// best first
    pub logprobs: Option<(f32, Vec<(u32, f32)>)>,
}

/// The knobs, the penalty window and the generator of one sequence.
#[derive(Debug)]
pub struct Sampler {
    p: SamplerParams,
    vocab: usize,
    window: Window,
    rng: SplitMix64,
    top: Top,
    /// logits as they were before bias and penalties, of the tokens that these changed
    raw: Vec<(u32, f32)>,
}

impl Sampler {
    /// All buffers are made here, sized by `vocab`. Biases of ids that are not in the vocabulary
    /// are dropped.
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

    /// Draws from one row; bias and penalties are written into `logits`. A logit of -inf is a token
    /// that cannot come.
    ///
    /// # Errors
    /// [`TextError::Numeric`] if a logit is NaN or +inf, or all are -inf; [`TextError::Logits`] if
    /// the row is not one of this vocabulary.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, TextError> {
        if logits.len() != self.vocab {
            return Err(TextError::Logits {
                got: logits.len(),
                vocab: self.vocab,
            });
        }
        // counted, not searched: a loop without an early way out becomes vectors
        let bad = |block: &[f32]| block.iter().filter(|l| !is_logit(**l)).count() > 0;
        if logits.chunks(1024).any(bad) {
            return Err(TextError::Numeric);
        }
        let model = self.p.top_logprobs.map(|n| {
            self.top
                .logprobs(logits, usize::from(n.min(MAX_TOP_LOGPROBS)))
        });
        self.change(logits)?;
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

    /// The token that was really taken (drawn or forced): enters the penalty window. Prompt tokens
    /// too.
    pub fn accept(&mut self, token: u32) {
        self.window.push(token);
    }

    /// Bias, then penalties.
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
        // knobs out of all bounds
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

    /// Top-k, top-p, min-p, temperature, draw.
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
        // rounding ate the last bit of the sum
        Ok(best)
    }

    /// Leaves in `top.found` what top-k and then top-p leave (all if both are off).
    fn top_k_top_p(&mut self, logits: &[f32], max: f32) {
        /// How many are looked at first when only top-p limits them: mostly enough, and sorted in
        /// microseconds.
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

/// The last tokens taken.
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

    /// Each token once, with how often it stands in the window.
    fn counts(&self) -> impl Iterator<Item = (u32, usize)> {
        self.tokens.iter().enumerate().filter_map(|(at, token)| {
            let first = !self.tokens.iter().take(at).any(|t| t == token);
            first.then(|| (*token, self.tokens.iter().filter(|t| *t == token).count()))
        })
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014: 64 bits of state
/// that any seed may be, the same numbers on every platform.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 ≤ u < 1, in steps of 2^-53.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
