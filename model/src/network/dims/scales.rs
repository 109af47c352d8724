//! What a network multiplies with besides its weights. Where a file says nothing of it, everything is 1.

use super::DimsError;
use super::keys::Keys;
use super::rope::in_bounds;

/// The factors of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// What rows of the embedding are multiplied with.
    pub embedding: f32,
    /// What attention and MLP are multiplied with before they are added.
    pub residual: f32,
    /// What queries are multiplied with, besides `1 / sqrt(head_dim)`.
    pub queries: f32,
    /// What logits are divided by.
    pub logits: f32,
    /// How queries grow with their position, or `None` where they do not.
    pub temperature: Option<Temperature>,
}

/// Queries that grow with the logarithm of their position, so that attention stays as sharp over a long context, as Llama 4 has
/// it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// What the logarithm is multiplied with.
    pub scale: f32,
    /// Positions that have the same factor; that of the first ones is 1.
    pub step: usize,
}

impl Scales {
    /// What queries of a position are multiplied with.
    #[must_use]
    pub fn query(&self, position: usize) -> f32 {
        self.queries * self.temperature.map_or(1.0, |by| by.factor(position))
    }
}

impl Temperature {
    fn factor(self, position: usize) -> f32 {
        let steps = 1 + position / self.step;
        (1.0 + f64::from(self.scale) * (steps as f64).ln()) as f32
    }
}

impl Keys<'_> {
    /// Those that the architecture has; the keys of the others are refused before.
    pub(super) fn scales(
        &self,
        head_dim: usize,
        context_train: usize,
    ) -> Result<Scales, DimsError> {
        let factor = |rest| self.optional_float(rest, in_bounds);
        let temperature = self.optional_float("attention.temperature_scale", |scale| {
            (0.0..=1e3).contains(&scale)
        })?;
        let temperature = match temperature {
            Some(scale) => Some(Temperature {
                scale,
                step: self.original_context(context_train)?,
            }),
            None => None,
        };
        Ok(Scales {
            embedding: factor("embedding_scale")?.unwrap_or(1.0),
            residual: factor("residual_scale")?.unwrap_or(1.0),
            queries: factor("attention.scale")?
                .map_or(1.0, |scale| scale * (head_dim as f32).sqrt()),
            logits: factor("logit_scale")?.unwrap_or(1.0),
            temperature,
        })
    }
}
