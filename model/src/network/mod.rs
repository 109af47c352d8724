//! The network as Burn modules. All architectures are one network with other dimensions ([`dims::Dims`]), not a copy each.

pub mod dims;
mod weights;

use crate::gguf::Gguf;
use crate::kv::KvCache;
use crate::ops::delta::DeltaSpec;
use crate::ops::no_gpu::NoGpu;
use crate::ops::processor::Processor;
use crate::ops::rope::RopeTable;
use crate::ops::runtime::Runtime;
use crate::ops::{self, AttentionSpec};
use burn::tensor::{Tensor, TensorData};
use dims::Dims;
use glowplug_firmware_config::kv::KvFormat;
use std::ops::Range;
use weights::{Block, Draft, Mixer};
pub use weights::{DRAFTED_TOKENS, WeightError, Weights};

/// A network that is ready to run: its weights on a device, and its dimensions.
pub struct Network {
    weights: Weights,
    dims: Dims,
    spec: AttentionSpec,
    /// The sizes of the delta nets; zeros where there are none.
    delta: DeltaSpec,
    /// What rows of the embedding are multiplied with.
    embedding_scale: f32,
    /// Any float tensor of the device, by which an op finds its backend.
    like: Tensor<1>,
    /// What the rope frequencies are divided by: `[rope dims / 2]`.
    divisors: Vec<f32>,
}

/// The bias (as the root of its mean square) above which a layer's keys stay in f16. Three layers of Qwen2.5-Coder-1.5B
/// stand out with 77, 11 and 5, and most others have 0.4 to 0.8; of the 0.5B's 24 layers, seventeen have more than this
/// limit. On the vectors, the 0.5B has a mean KL of 0.00076 with all keys and values in f16, 0.00082 with this limit,
/// 0.00084 with a limit of 1.0, 0.00090 where only a largest value above 40 counts (four layers), and 0.0076 with all keys
/// in q8_0. Those are means of four runs that differ in the sixth digit of what is stored.
const WIDE_BIAS: f32 = 0.9;

/// The largest head that counts as small. With so few values, more of a key's rounding is left in each score. So the middle
/// third of the layers, where that costs most, keeps its keys in f16 too. On the vectors, SmolLM2-135M has a mean KL of
/// 0.00139 with all in f16, 0.00146 with this rule and 0.00153 without it. Those are means of eight runs that differ in the
/// sixth digit of their scores.
const SMALL_HEAD: usize = 64;

/// The format in which the keys of each layer that has some are stored: the chosen one, or f16 where eight bits are too few.
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
    let layers = 0..dims.layers + dims.draft_layers;
    (layers.filter(|layer| dims.attends(*layer)).map(format)).collect()
}

impl Network {
    /// Takes the weights of a file whose dimensions have been checked, of a layer that drafts if there are to be `drafts`.
    ///
    /// # Errors
    /// [`WeightError`]: a GPU does not take a weight. That one is missing is ruled out by [`Dims`] of the same file.
    pub fn load(
        gguf: &Gguf,
        dims: Dims,
        drafts: bool,
        processor: &Processor,
    ) -> Result<Self, WeightError> {
        let weights = Weights::load(gguf, &dims, drafts, processor)?;
        // Hidden states are kept divided by the residual scale, so that what a layer adds needs none: an RMS norm gives the same
        // of them with a smaller epsilon. No architecture has that scale and norms of heads, which would need the epsilon itself.
        let residual = dims.scales.residual;
        let spec = AttentionSpec {
            heads: dims.heads,
            kv_heads: dims.kv_heads,
            head_dim: dims.head_dim,
            eps: dims.norm_eps / (residual * residual),
            qk_norm: dims.qk_norm,
            pairing: dims.rope.pairing,
            unrotated_every: dims.rope.unrotated_every,
            gated: dims.gated,
        };
        let delta = dims.delta.as_ref();
        let delta = DeltaSpec {
            key_heads: delta.map_or(0, |delta| delta.key_heads),
            value_heads: delta.map_or(0, |delta| delta.value_heads),
            head_dim: delta.map_or(0, |delta| delta.head_dim),
            eps: spec.eps,
        };
        let table = || weights::f32_values(gguf, "rope_freqs.weight");
        let divisors = dims.rope.divisors(table)?;
        Ok(Self {
            embedding_scale: dims.scales.embedding / residual,
            like: weights.output_norm.tensor(),
            weights,
            dims,
            spec,
            delta,
            divisors,
        })
    }

    /// The dimensions that were read from the file.
    #[must_use]
    pub fn dims(&self) -> &Dims {
        &self.dims
    }

    /// The table of rotation angles and of queries' factors for `positions` tokens.
    #[must_use]
    pub fn rope_table(&self, positions: usize) -> RopeTable {
        let Dims { rope, scales, .. } = &self.dims;
        RopeTable::new(positions, rope.base, &self.divisors, rope.magnitude)
            .with_query_scale(|position| scales.query(position))
    }

    /// The forward pass: takes tokens and gives hidden states, `[tokens, embed]`, before the final norm. Row `i` is the token
    /// at the cache's row `i` ([`KvCache::begin`]), and its keys and values are in the cache afterwards.
    ///
    /// # Panics
    /// If a token is not in the vocabulary, or if `tokens` are none or not as many as the cache expects.
    pub fn forward(&self, tokens: &[u32], kv: &mut KvCache, rt: &mut Runtime) -> Tensor<2> {
        assert!(
            !tokens.is_empty() && tokens.iter().all(|&t| (t as usize) < self.dims.vocab),
            "a token outside of the vocabulary"
        );
        assert_eq!(tokens.len(), kv.rows(), "a step's tokens and its rows");
        let (table, scale) = (&self.weights.token_embd, self.embedding_scale);
        let mut x = ops::embed(&self.like, table.matrix(), tokens, scale, kv, rt);
        for block in &self.weights.blocks {
            x = self.block(block, x, kv, rt);
        }
        if let Some(draft) = &self.weights.draft {
            self.follow(draft, tokens, &x, kv, rt);
        }
        x
    }

    /// Takes hidden states through one layer.
    fn block(&self, block: &Block, x: Tensor<2>, kv: &mut KvCache, rt: &mut Runtime) -> Tensor<2> {
        let eps = self.spec.eps;
        let a = match &block.mixer {
            Mixer::Attention(w) => {
                let q = ops::attention_input(&x, w.input(), self.spec, w.layer, kv, rt);
                ops::attention(q, self.spec, w.layer, kv, rt)
            }
            Mixer::Delta(w) => {
                let y = ops::delta_input(&x, w.input(), self.delta, w.layer, kv, rt);
                ops::delta(y, w.norm(), self.delta, w.layer, kv, rt)
            }
        };
        let x = ops::project_add(x, a, block.mixer_output(), eps, rt);
        let h = ops::mlp_input(&x, block.mlp_input(), eps, rt);
        ops::project_add(x, h, block.mlp_output(), eps, rt)
    }

    /// Has the layer that drafts see the tokens of a pass: its keys and values are in the cache afterwards. Row `i` is made of token
    /// `i` and of the hidden state of the token before it, so that it depends on no token behind it, as in all other layers.
    fn follow(
        &self,
        draft: &Draft,
        tokens: &[u32],
        x: &Tensor<2>,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) {
        let hidden: Vec<f32> = match x.to_data().try_into_vec() {
            Ok(hidden) => hidden,
            Err(error) => panic!("hidden states are not f32: {error:?}"),
        };
        let before = kv.keep_hidden(&hidden);
        let x = self.draft_input(draft, tokens, before, kv, rt);
        if let Mixer::Attention(w) = &draft.block.mixer {
            ops::attention_input(&x, w.input(), self.spec, w.layer, kv, rt);
        }
    }

    fn draft_input(
        &self,
        draft: &Draft,
        tokens: &[u32],
        before: Vec<f32>,
        kv: &KvCache,
        rt: &mut Runtime,
    ) -> Tensor<2> {
        let (table, input) = self.weights.draft_input(draft);
        let embedded = ops::embed(&self.like, table, tokens, self.embedding_scale, kv, rt);
        let before = TensorData::new(before, [tokens.len(), self.dims.embed]);
        let before = Tensor::from_data(before, &self.like.device());
        ops::draft_input(embedded, before, input, self.spec.eps, rt)
    }

    /// Whether there is a layer that drafts.
    #[must_use]
    pub fn drafts(&self) -> bool {
        self.weights.draft.is_some()
    }

    /// The logits of what may follow `token`, which is the only row of the step and comes behind all that the sequence was fed. They
    /// are those of the first [`DRAFTED_TOKENS`] tokens; none without a layer that drafts.
    ///
    /// # Errors
    /// [`NoGpu`] if a device does not give them; it was given up then.
    pub fn draft(&self, token: u32, kv: &mut KvCache, rt: &mut Runtime) -> Result<Vec<f32>, NoGpu> {
        let Some(draft) = &self.weights.draft else {
            return Ok(Vec::new());
        };
        let before = kv.hidden(kv.table_of(0)).to_vec();
        let x = self.draft_input(draft, &[token], before, kv, rt);
        let x = self.block(&draft.block, x, kv, rt);
        let logits = ops::head(x, 0..1, draft.head(), self.spec.eps, rt);
        ops::read_logits(logits, false, rt)
    }

    /// Takes the guesses of the last pass that came true into the states of their sequence.
    pub fn settle(&self, kv: &mut KvCache, rt: &mut Runtime) {
        ops::settle(self.delta, kv, rt);
    }

    /// The logits of some rows of a pass: `[rows.len() * vocab]`, row after row. With `best`, all but the best may be -inf.
    ///
    /// # Errors
    /// [`NoGpu`] if a device does not give them; it was given up then.
    pub fn logits(
        &self,
        x: Tensor<2>,
        rows: Range<usize>,
        best: bool,
        rt: &mut Runtime,
    ) -> Result<Vec<f32>, NoGpu> {
        let logits = ops::head(x, rows, self.weights.head(), self.spec.eps, rt);
        ops::read_logits(logits, best, rt)
    }
}
