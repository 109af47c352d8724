//! What the steps of a gated delta net take: its weights and its sizes.

use super::{Backend, FloatTensor, Matrix, Norm};
use burn::backend::ExtensionType;

/// What is added to the square of a query's or a key's length before it is divided by its length.
pub(super) const LENGTH_EPS: f32 = 1e-6;

/// The sizes of a gated delta net.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaSpec {
    /// How many heads of queries and keys there are.
    pub key_heads: usize,
    /// How many heads of values there are; value head `i` goes with key head `i % key_heads`.
    pub value_heads: usize,
    /// How many values a query, a key or a value has.
    pub head_dim: usize,
    /// The epsilon of every RMS norm.
    pub eps: f32,
}

impl DeltaSpec {
    /// Values of all queries of a token, which are as many as those of its keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.key_heads * self.head_dim
    }

    /// Values of all values of a token, which are as many as those of its gates.
    #[must_use]
    pub fn values(&self) -> usize {
        self.value_heads * self.head_dim
    }

    /// Values that go through the convolution.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Values of a token between the two steps: queries, keys, values, gates, and a decay and a share to learn (beta) for each
    /// value head.
    #[must_use]
    pub fn width(&self) -> usize {
        self.channels() + self.values() + 2 * self.value_heads
    }
}

/// Weights of a gated delta net's input side, for the sizes of a [`DeltaSpec`].
#[derive(Debug, Clone, ExtensionType)]
pub struct DeltaInput<B: Backend> {
    /// The tensor `attn_norm.weight`: `[embed]`.
    #[extension_type]
    pub norm: Norm<B>,
    /// The tensor `attn_qkv.weight`: `[channels, embed]`, which makes queries, keys and values.
    #[extension_type]
    pub qkv: Matrix<B>,
    /// The tensor `attn_gate.weight`: `[values, embed]`.
    #[extension_type]
    pub gate: Matrix<B>,
    /// The tensor `ssm_alpha.weight`: `[value_heads, embed]`. It makes decays.
    #[extension_type]
    pub alpha: Matrix<B>,
    /// The tensor `ssm_beta.weight`: `[value_heads, embed]`.
    #[extension_type]
    pub beta: Matrix<B>,
    /// The tensor `ssm_conv1d.weight`, transposed: `[4, channels]`, the weights of the oldest column first.
    pub convolution: FloatTensor<B>,
    /// The tensor `ssm_a`: `[value_heads]`, what logarithms of decays are multiplied with.
    pub rate: FloatTensor<B>,
    /// The tensor `ssm_dt.bias`: `[value_heads]`, which is added to what `alpha` makes.
    pub bias: FloatTensor<B>,
}
