//! The network as Burn modules: qwen2, qwen3 and llama are data of one description ([`dims::Dims`]), not three copies.

pub mod dims;
mod weights;

use crate::gguf::Gguf;
use crate::kv::{Full, KvCache, KvLayout};
use crate::ops::rope::RopeTable;
use crate::ops::runtime::Runtime;
use crate::ops::{self, AttentionSpec, Place};
use burn::tensor::{Device, Tensor};
use dims::{Dims, Scaling};
use std::ops::Range;
pub use weights::{MissingTensor, Weights};

/// A model ready to run: weights, numbers, device.
pub struct Network {
    weights: Weights,
    dims: Dims,
    spec: AttentionSpec,
    /// any float tensor of the device: an op finds its backend by it
    like: Tensor<1>,
    /// of the rope frequencies: `[rope dims / 2]`
    divisors: Vec<f32>,
}

impl Network {
    /// Takes the weights of a file whose dimensions are already checked.
    ///
    /// # Errors
    /// [`MissingTensor`], which [`Dims`] of the same file rules out.
    pub fn load(gguf: &Gguf, dims: Dims, device: &Device) -> Result<Self, MissingTensor> {
        let weights = Weights::load(gguf, &dims, device)?;
        let spec = AttentionSpec {
            heads: dims.heads,
            kv_heads: dims.kv_heads,
            head_dim: dims.head_dim,
            eps: dims.norm_eps,
            qk_norm: dims.qk_norm,
            pairing: dims.rope.pairing,
        };
        let half = dims.rope.dims / 2;
        let divisors = match dims.rope.scaling {
            Scaling::None => vec![1.0; half],
            Scaling::Linear(factor) => vec![factor; half],
            Scaling::Freqs => weights::f32_values(gguf, "rope_freqs.weight")?,
        };
        Ok(Self {
            like: weights.output_norm.tensor(),
            weights,
            dims,
            spec,
            divisors,
        })
    }

    /// What the file says of itself.
    #[must_use]
    pub fn dims(&self) -> &Dims {
        &self.dims
    }

    /// Shape of one token in the KV cache.
    #[must_use]
    pub fn kv_layout(&self) -> KvLayout {
        KvLayout {
            layers: self.dims.layers,
            kv_heads: self.dims.kv_heads,
            head_dim: self.dims.head_dim,
        }
    }

    /// Rotation angles for `positions` tokens.
    #[must_use]
    pub fn rope_table(&self, positions: usize) -> RopeTable {
        RopeTable::new(positions, self.dims.rope.base, &self.divisors)
    }

    /// The whole pass: tokens in, hidden states out (`[tokens, embed]`, before the final norm). Keys and values of the
    /// tokens are in the cache afterwards.
    ///
    /// # Errors
    /// [`Full`] before anything is computed.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, or `tokens` is empty.
    pub fn forward(
        &self,
        tokens: &[u32],
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> Result<Tensor<2>, Full> {
        assert!(
            !tokens.is_empty() && tokens.iter().all(|&t| (t as usize) < self.dims.vocab),
            "a token outside of the vocabulary"
        );
        let position = kv.reserve(tokens.len())?.start;
        let mut x = ops::embed(&self.like, self.weights.token_embd.matrix(), tokens, rt);
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            let place = Place { layer, position };
            let q = ops::attention_input(&x, block.attention_input(), self.spec, place, kv, rt);
            let a = ops::attention(q, self.spec, place, kv, rt);
            x = ops::project_add(x, a, block.attention_output(), rt);
            let h = ops::mlp_input(&x, block.mlp_input(), self.spec.eps, rt);
            x = ops::project_add(x, h, block.mlp_output(), rt);
        }
        Ok(x)
    }

    /// Logits of some rows of a pass: `[rows.len() * vocab]`, row after row.
    pub fn logits(&self, x: Tensor<2>, rows: Range<usize>, rt: &mut Runtime) -> Vec<f32> {
        let x = x.slice([rows, 0..self.weights.token_embd.cols()]);
        let logits = ops::head(
            x,
            self.weights.output_norm.tensor(),
            self.weights.head(),
            self.spec.eps,
            rt,
        );
        match logits.into_data().try_into_vec() {
            Ok(logits) => logits,
            Err(error) => panic!("logits are not f32: {error:?}"),
        }
    }
}
