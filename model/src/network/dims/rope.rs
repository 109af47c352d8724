//! The rotary position embedding: which values it rotates, how fast, and how its frequencies are scaled.

use super::DimsError;
use super::arch::Arch;
use super::keys::Keys;
use super::{MAX_HEAD_DIM, shown};
use crate::gguf::GgufError;
pub use crate::ops::rope::RopePairing as Pairing;
use std::f64::consts::TAU;

/// How rope's frequencies are scaled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// The frequencies are not scaled.
    None,
    /// All positions are divided by this factor.
    Linear(f32),
    /// Frequency `i` is divided by value `i` of the tensor `rope_freqs.weight` (`dims / 2` values, F32), as in llama 3.1.
    Freqs,
    /// Slow frequencies are divided by a factor, fast ones are not, and those between them by something between.
    Yarn(Yarn),
}

/// The numbers of YaRN (Peng et al., 2023, <https://arxiv.org/abs/2309.00071>).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// What slow frequencies are divided by.
    pub factor: f32,
    /// How many positions the model knew before.
    pub original_context: usize,
    /// A frequency that turns more often than this within the original context is not divided.
    pub beta_fast: f32,
    /// A frequency that turns less often than this within the original context is divided by all of the factor.
    pub beta_slow: f32,
}

/// The numbers of the rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// The base of the frequencies: that of pair `i` is `base^(-2 i / dims)`.
    pub base: f32,
    /// How many values of a head are rotated, an even number. The values behind them stay as they are.
    pub dims: usize,
    /// Which two values of a head are rotated together.
    pub pairing: Pairing,
    /// How the frequencies are scaled.
    pub scaling: Scaling,
    /// How many times as long rotated values become.
    pub magnitude: f32,
    /// In every so-manieth layer nothing is rotated; 0 if all layers rotate.
    pub unrotated_every: usize,
}

impl Rope {
    /// What each frequency is divided by: `[dims / 2]`. `table` has the values of `rope_freqs.weight`, which are read only with
    /// [`Scaling::Freqs`].
    ///
    /// # Errors
    /// Those of `table`.
    pub fn divisors<E>(&self, table: impl FnOnce() -> Result<Vec<f32>, E>) -> Result<Vec<f32>, E> {
        let pairs = self.dims / 2;
        match self.scaling {
            Scaling::None => Ok(vec![1.0; pairs]),
            Scaling::Linear(factor) => Ok(vec![factor; pairs]),
            Scaling::Freqs => table(),
            Scaling::Yarn(yarn) => Ok(yarn.divisors(self.base, self.dims)),
        }
    }
}

impl Yarn {
    /// The paper's "NTK-by-parts": the ramp between the pair that turns [`Self::beta_fast`] times in the original context and the
    /// one that turns [`Self::beta_slow`] times, both rounded outwards.
    fn divisors(&self, base: f32, dims: usize) -> Vec<f32> {
        let pair_that_turns = |times: f32| {
            let positions_a_turn = self.original_context as f64 / (f64::from(times) * TAU);
            dims as f64 * positions_a_turn.ln() / (2.0 * f64::from(base).ln())
        };
        let first = pair_that_turns(self.beta_fast).floor().max(0.0);
        let last = pair_that_turns(self.beta_slow)
            .ceil()
            .min((dims - 1) as f64);
        // where both are the same pair, the ramp is a step
        let width = (last - first).max(0.001);
        let divisor = |pair: usize| {
            let divided = ((pair as f64 - first) / width).clamp(0.0, 1.0);
            1.0 / (divided / f64::from(self.factor) + 1.0 - divided)
        };
        (0..dims / 2).map(|pair| divisor(pair) as f32).collect()
    }

    /// How much longer the paper makes queries and keys, times `share` beside 1.
    fn magnitude(&self, share: f32) -> f32 {
        1.0 + 0.1 * share * self.factor.max(1.0).ln()
    }
}

impl Keys<'_> {
    pub(super) fn rope(&self, head_dim: usize, context_train: usize) -> Result<Rope, DimsError> {
        let dims = self
            .optional_size("rope.dimension_count", MAX_HEAD_DIM)?
            .unwrap_or(head_dim);
        if dims > head_dim || !dims.is_multiple_of(2) {
            let why = format!("is {dims}, which is odd or more than the {head_dim} of a head");
            return Err(self.inconsistent("rope.dimension_count", why));
        }
        let base = self.base(head_dim)?;
        let scaling = self.scaling(context_train)?;
        let yarn = match scaling {
            Scaling::Yarn(_) if base <= 1.0 => {
                let why = format!("is {base}, of which YaRN makes no frequencies");
                return Err(self.inconsistent("rope.freq_base", why));
            }
            // the share that the attention already has in its scale; Mistral's files name it
            Scaling::Yarn(yarn) => {
                let has = self.optional_float("rope.scaling.yarn_log_multiplier", |share| {
                    (0.0..=1.0).contains(&share)
                })?;
                yarn.magnitude(1.0) / yarn.magnitude(has.unwrap_or(0.0))
            }
            _ => 1.0,
        };
        let factor = self.optional_float("rope.scaling.attn_factor", in_bounds)?;
        // Granite's files use this key to turn the rotation off; elsewhere it says how the model was trained
        let finetuned = "rope.scaling.finetuned";
        let rotates = self.arch != Arch::Granite || self.optional_bool(finetuned)?.unwrap_or(true);
        Ok(Rope {
            base,
            dims,
            pairing: self.arch.pairing(),
            scaling,
            magnitude: yarn * factor.unwrap_or(1.0),
            unrotated_every: if rotates {
                self.arch.unrotated_every()
            } else {
                1
            },
        })
    }

    /// The base, with hunyuan's `alpha` in it: the base that makes the slowest frequency `alpha` times slower and leaves the
    /// fastest as it is. Most files have that in their base already.
    fn base(&self, head_dim: usize) -> Result<f32, DimsError> {
        let base = self.float("rope.freq_base", |base| base >= 1.0)?;
        let alpha = self.optional_float("rope.scaling.alpha", in_bounds)?;
        let Some(alpha) = alpha.filter(|_| head_dim > 2) else {
            return Ok(base);
        };
        let power = head_dim as f64 / (head_dim - 2) as f64;
        let scaled = (f64::from(base) * f64::from(alpha).powf(power)) as f32;
        if scaled.is_finite() && scaled >= 1.0 {
            Ok(scaled)
        } else {
            let why = format!("is {alpha}, which makes a base of {scaled}");
            Err(self.inconsistent("rope.scaling.alpha", why))
        }
    }

    /// How rope is scaled. Like llama.cpp, this takes a factor without a type for linear; `rope.scale_linear` is the older key
    /// of the factor.
    fn scaling(&self, context_train: usize) -> Result<Scaling, DimsError> {
        let kind = self.key("rope.scaling.type");
        let kind_name = if self.file.has(&kind) {
            Some(self.file.str(&kind)?)
        } else {
            None
        };
        let factor = ["rope.scaling.factor", "rope.scale_linear"]
            .into_iter()
            .find(|rest| self.file.has(&self.key(rest)));
        // in the other architectures it is a tensor without a place
        let table = self.arch.may_have_frequencies();
        let table = table && self.file.tensor("rope_freqs.weight").is_some();
        match (kind_name, factor) {
            (Some("none"), _) | (None, None) if table => Ok(Scaling::Freqs),
            (Some("none"), _) | (None, None) => Ok(Scaling::None),
            (Some("linear" | "yarn"), None) => Err(GgufError::Missing {
                key: self.key("rope.scaling.factor"),
            }
            .into()),
            (Some("linear" | "yarn") | None, Some(_)) if table => Err(DimsError::Inconsistent {
                key: kind,
                why: format!(
                    "is {} beside a `rope_freqs.weight`",
                    kind_name.unwrap_or("linear")
                ),
            }),
            (Some("linear") | None, Some(rest)) => {
                Ok(Scaling::Linear(self.float(rest, |factor| factor > 0.0)?))
            }
            (Some("yarn"), Some(rest)) => Ok(Scaling::Yarn(self.yarn(rest, context_train)?)),
            (Some(other), _) => Err(DimsError::Unsupported {
                key: kind,
                value: shown(other),
            }),
        }
    }

    fn yarn(&self, factor: &str, context_train: usize) -> Result<Yarn, DimsError> {
        let above_zero = |value: f32| value > 0.0;
        let fast = self.optional_float("rope.scaling.yarn_beta_fast", above_zero)?;
        let slow = self.optional_float("rope.scaling.yarn_beta_slow", above_zero)?;
        Ok(Yarn {
            factor: self.float(factor, |factor| (1e-3..=1e6).contains(&factor))?,
            original_context: self.original_context(context_train)?,
            // the paper's, which files leave out
            beta_fast: fast.unwrap_or(32.0),
            beta_slow: slow.unwrap_or(1.0),
        })
    }

    /// How many positions the model knew before it was stretched.
    pub(super) fn original_context(&self, context_train: usize) -> Result<usize, DimsError> {
        let original = "rope.scaling.original_context_length";
        let original = self.optional_size(original, u32::MAX as usize)?;
        Ok(original.unwrap_or(context_train))
    }
}

/// Whether a factor keeps what it scales within f32.
pub(super) fn in_bounds(factor: f32) -> bool {
    (1e-6..=1e6).contains(&factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_divides_slow_frequencies_and_leaves_fast_ones() {
        let yarn = Yarn {
            factor: 4.0,
            original_context: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let divisors = yarn.divisors(10_000.0, 16);
        // pair 2 turns 65 times in 4,096 positions, pair 3 20 times, and pair 6 less than once
        let between = [1.0 / 0.8125, 1.0 / 0.625, 1.0 / 0.4375];
        assert_eq!(
            divisors,
            [&[1.0; 3][..], &between[..], &[4.0; 2][..]].concat()
        );
        assert_eq!(yarn.magnitude(1.0), 1.0 + 0.1 * 4f32.ln());
    }
}
