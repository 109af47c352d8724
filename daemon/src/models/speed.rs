//! How fast a loaded model is: `bench` and `tune` print it, and the choice between processor and GPU is made by it.

use std::hint::black_box;
use std::time::Instant;

use glowplug_model::engine::{EngineConfig, Evaluator, LoadError, NotFed};
use glowplug_model::gguf::Gguf;
use serde::{Deserialize, Serialize};

use crate::machine::energy::Energy;

/// Tokens of the prompt, which take two full steps.
pub const PREFILL: usize = 128;
/// Tokens that are decoded, which take five seconds on the slowest board.
pub const DECODE: usize = 16;

/// The question by which speeds are compared: a prompt and an answer of so many tokens.
pub const QUESTION: [f64; 2] = [256.0, 128.0];

/// Tokens per second of a prompt of [`PREFILL`] tokens and an answer of [`DECODE`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    pub prefill_tps: f64,
    pub decode_tps: f64,
}

/// Why a speed was not measured.
#[derive(Debug, thiserror::Error)]
pub enum NotMeasured {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Fed(#[from] NotFed),
}

impl Speed {
    /// Loads a model and measures it once, after a first token that nobody measures. `config` has a context of at least
    /// [`PREFILL`] tokens, or the model's own if that is shorter.
    ///
    /// # Errors
    /// [`NotMeasured`] if it is not loaded, or the GPU that computes it is lost.
    pub fn measure(gguf: &Gguf, config: &EngineConfig) -> Result<Self, NotMeasured> {
        let (prompt, answer) = (PREFILL.min(config.context), DECODE.min(config.context));
        let mut evaluator = Evaluator::load(gguf, config)?;
        let ids = ids(prompt, evaluator.vocab());
        // the first run brings the weights into memory and wakes the threads
        run_once(&mut evaluator, &ids, 0, 1, 1, 1, None)?;
        let took = run_once(&mut evaluator, &ids, 0, prompt, answer, 1, None)?;
        Ok(Self {
            prefill_tps: prompt as f64 / took.prefill_s,
            decode_tps: answer as f64 / took.decode_s,
        })
    }

    /// How long the question takes by which speeds are compared, in seconds.
    #[must_use]
    pub fn question_s(self) -> f64 {
        QUESTION[0] / self.prefill_tps + QUESTION[1] / self.decode_tps
    }

    /// The one that answers the question sooner.
    #[must_use]
    pub fn faster(self, other: Self) -> Self {
        if other.question_s() < self.question_s() {
            other
        } else {
            self
        }
    }

    /// Whether this was measured: a file may hold anything.
    #[must_use]
    pub fn is_speed(self) -> bool {
        [self.prefill_tps, self.decode_tps]
            .iter()
            .all(|tps| tps.is_finite() && *tps > 0.0)
    }
}

/// What is measured for a choice, on the threads and the processor of `config`: one stream without sessions, and room for
/// the prompt.
#[must_use]
pub fn to_measure(config: &EngineConfig) -> EngineConfig {
    let one = EngineConfig::new(PREFILL.min(config.context), 1, config.kv);
    EngineConfig {
        context: one.context,
        streams: one.streams,
        pages: one.pages,
        sessions: None,
        ..config.clone()
    }
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    pub prefill_s: f64,
    pub decode_s: f64,
    /// The energy of decoding, where it can be read.
    pub decode_j: Option<f64>,
}

/// Measures a prefill of `prompt` tokens of one stream (to the first token decoded), and `decode` tokens of each of `streams`,
/// the latter by the machine's counters of energy too. Each begins with `depth` tokens in the cache.
///
/// # Errors
/// [`NotFed`] if the cache is too small, or the GPU is lost.
pub fn run_once(
    evaluator: &mut Evaluator,
    ids: &[u32],
    depth: usize,
    prompt: usize,
    decode: usize,
    streams: usize,
    energy: Option<&Energy>,
) -> Result<Took, NotFed> {
    evaluator.reset();
    evaluator.prefill(0, &ids[..depth])?;
    let start = Instant::now();
    let mut tokens = vec![black_box(evaluator.prefill(0, &ids[..prompt])?); streams];
    let prefill_s = start.elapsed().as_secs_f64();

    evaluator.reset();
    for stream in 0..streams {
        evaluator.prefill(stream, &ids[..depth])?;
    }
    let begun = energy.and_then(Energy::read);
    let start = Instant::now();
    for _ in 0..decode {
        evaluator.decode(&mut tokens)?;
    }
    let decode_s = start.elapsed().as_secs_f64();
    let decode_j = energy.and_then(|energy| Some(energy.joules(&begun?, &energy.read()?)));
    Ok(Took {
        prefill_s,
        decode_s,
        decode_j,
    })
}

/// Token ids that are the same every time and spread over the vocabulary.
#[must_use]
pub fn ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count)
        .map(|i| (i.wrapping_mul(7919) % vocab.max(1)) as u32)
        .collect()
}

/// The value in the middle of all; not a number if there is none.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => f64::NAN,
        _ if values.len() % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&mut [5.0]), 5.0);
    }

    #[test]
    fn ids_stay_in_the_vocabulary() {
        assert!(ids(5000, 97).iter().all(|&id| id < 97));
        assert_eq!(ids(3, 49152), [0, 7919, 15838]);
    }
}
