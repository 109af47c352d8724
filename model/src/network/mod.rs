//! The network as Burn modules: qwen2, qwen3 and llama are data of one description ([`dims::Dims`]), not three copies.

pub mod dims;
mod weights;

use crate::gguf::Gguf;
use crate::kv::KvCache;
use crate::ops::rope::RopeTable;
use crate::ops::runtime::Runtime;
use crate::ops::{self, AttentionSpec};
use burn::tensor::{Device, Tensor};
use dims::{Dims, Scaling};
use glowplug_firmware_config::kv::KvFormat;
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

/// Above this bias (the root of its mean square), a layer's keys stay f16. Three layers of the 1.5B of Qwen2.5-Coder stand
/// out (77, 11, 5) and most others have 0.4 to 0.8; of the 0.5B's 24 seventeen have more. Mean KL of the 0.5B on the
/// vectors, means of four runs that differ in the sixth digit of what is stored: 0.00076 with all keys and values in f16,
/// 0.00082 with this limit, 0.00084 with 1.0, 0.00090 where only a largest value above 40 counts (four layers), 0.0076 with
/// all keys in q8_0.
const WIDE_BIAS: f32 = 0.9;

/// Heads of so few values leave more of a key's rounding in each score: of such a model the middle third of the layers,
/// which costs most, keeps its keys in f16 too. SmolLM2-135M on the vectors, means of eight runs that
/// differ in the sixth digit of their scores: 0.00139 with all in f16, 0.00146 so, 0.00153 without.
const SMALL_HEAD: usize = 64;

/// How each layer's keys are stored: as chosen, or in f16 where eight bits are too few.
#[must_use]
pub fn key_formats(gguf: &Gguf, dims: &Dims, chosen: KvFormat) -> Box<[KvFormat]> {
    let format = |layer: usize| {
        let bias = weights::f32_values(gguf, &format!("blk.{layer}.attn_k.bias"));
        let values = bias.iter().flatten();
        let squares: f32 = values.map(|v| v * v).sum();
        let count = bias.iter().flatten().count().max(1);
        let middle = (dims.layers / 3..2 * dims.layers / 3).contains(&layer);
        if (squares / count as f32).sqrt() > WIDE_BIAS || dims.head_dim <= SMALL_HEAD && middle {
            KvFormat::F16
        } else {
            chosen
        }
    };
    (0..dims.layers).map(format).collect()
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

    /// Rotation angles for `positions` tokens.
    #[must_use]
    pub fn rope_table(&self, positions: usize) -> RopeTable {
        RopeTable::new(positions, self.dims.rope.base, &self.divisors)
    }

    /// The whole pass: tokens in, hidden states out (`[tokens, embed]`, before the final norm). Row `i` is the token at
    /// the cache's row `i` ([`KvCache::begin`]); its keys and values are in the cache afterwards.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, or `tokens` are not as many as the cache expects, or none.
    pub fn forward(&self, tokens: &[u32], kv: &mut KvCache, rt: &mut Runtime) -> Tensor<2> {
        assert!(
            !tokens.is_empty() && tokens.iter().all(|&t| (t as usize) < self.dims.vocab),
            "a token outside of the vocabulary"
        );
        assert_eq!(tokens.len(), kv.rows(), "a step's tokens and its rows");
        let mut x = ops::embed(&self.like, self.weights.token_embd.matrix(), tokens, rt);
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            let q = ops::attention_input(&x, block.attention_input(), self.spec, layer, kv, rt);
            let a = ops::attention(q, self.spec, layer, kv, rt);
            x = ops::project_add(x, a, block.attention_output(), rt);
            let h = ops::mlp_input(&x, block.mlp_input(), self.spec.eps, rt);
            x = ops::project_add(x, h, block.mlp_output(), rt);
        }
        x
    }

    /// Logits of some rows of a pass: `[rows.len() * vocab]`, row after row.
    pub fn logits(&self, x: Tensor<2>, rows: Range<usize>, rt: &mut Runtime) -> Vec<f32> {
        let x = x.slice([rows, 0..self.weights.token_embd.cols()]);
        let logits = ops::head(x, self.weights.head(), self.spec.eps, rt);
        match logits.into_data().try_into_vec() {
            Ok(logits) => logits,
            Err(error) => panic!("logits are not f32: {error:?}"),
        }
    }
}
