//! The dimensions of the network in a file: read from the metadata, and checked against every tensor.
//!
//! Nothing that the file must give has a default, and nothing in the file that would change the result is ignored: a key or
//! a tensor that this network does not compute is refused by name. Names and meanings are those of llama.cpp's GGUF files
//! (`gguf-py/gguf/constants.py`).

mod arch;
mod delta;
mod keys;
mod rope;
mod scales;
mod tensors;

use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{GgmlType, Gguf, GgufError};
pub use crate::ops::HeadNorm;
use crate::ops::memory::Widths;
use crate::ops::no_gpu::NoGpu;
pub use arch::Arch;
pub use delta::{Delta, MAX_STATE_DIM};
use keys::Keys;
pub use rope::{Pairing, Rope, Scaling, Yarn};
pub use scales::{Scales, Temperature};

/// Most layers of a network.
pub const MAX_LAYERS: usize = 256;
/// Most query heads of a layer.
pub const MAX_HEADS: usize = 256;
/// Most values of one position between layers.
pub const MAX_EMBED: usize = 65_536;
/// Most values in the middle of the feed-forward part.
pub const MAX_FF: usize = 262_144;
/// Most tokens of a vocabulary.
pub const MAX_VOCAB: usize = 1 << 20;
/// Most values of one head.
pub const MAX_HEAD_DIM: usize = 512;

/// The dimensions and options of a whole network.
#[derive(Debug, Clone, PartialEq)]
pub struct Dims {
    /// The architecture that the file names.
    pub arch: Arch,
    /// The number of layers, from 1 to [`MAX_LAYERS`].
    pub layers: usize,
    /// How many layers behind these only draft tokens, 0 or 1. They attend.
    pub draft_layers: usize,
    /// How many values a position has between layers, from 1 to [`MAX_EMBED`].
    pub embed: usize,
    /// The number of query heads: a multiple of `kv_heads`, at most [`MAX_HEADS`].
    pub heads: usize,
    /// The number of key heads, which is that of value heads.
    pub kv_heads: usize,
    /// How many values a head of queries, keys or values has, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// How many values the middle of the feed-forward part has, at most [`MAX_FF`].
    pub ff: usize,
    /// The number of tokens in the vocabulary, which is that of rows of the embedding and of the LM head; at most
    /// [`MAX_VOCAB`].
    pub vocab: usize,
    /// How many tokens of context the model was trained for.
    pub context_train: usize,
    /// How many positions back attention looks, with the own one, or `None` where it looks at all. Up to so many tokens it is
    /// the same; more are not computed.
    pub window: Option<usize>,
    /// What every norm adds to the mean square.
    pub norm_eps: f32,
    /// What is multiplied with besides the weights.
    pub scales: Scales,
    /// The numbers of the rotary position embedding.
    pub rope: Rope,
    /// Whether there is no `output.weight`, so that the embedding is the LM head.
    pub tied_head: bool,
    /// Whether there is a [`REQUANTIZED_HEAD`].
    pub requantized_head: bool,
    /// Whether every layer has `attn_{q,k,v}.bias`.
    pub qkv_bias: bool,
    /// Whether every layer has `attn_{q,k}_norm.weight`, one norm of `head_dim` values for all heads, and where.
    pub qk_norm: HeadNorm,
    /// Whether every layer has `post_attention_norm.weight` and `post_ffw_norm.weight`, which norm what is added, in the place of
    /// `attn_norm.weight` and `ffn_norm.weight`.
    pub post_norm: bool,
    /// Whether what heads of attention give is multiplied with gates ([`Arch::gated`]).
    pub gated: bool,
    /// The layers that are delta nets; `None` where all layers attend.
    pub delta: Option<Delta>,
}

/// Why the network of a file cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum DimsError {
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The architecture is not one of [`Arch`].
    #[error("architecture `{0}` is not supported, only {names}", names = Arch::names())]
    Architecture(String),
    /// A size is zero, or above its limit.
    #[error("`{key}` is {got}, the limits are 1 and {limit}")]
    Limit {
        /// The metadata key in question.
        key: String,
        /// The size in the file.
        got: usize,
        /// The largest size that we accept.
        limit: usize,
    },
    /// A value contradicts another one, or makes no sense by itself.
    #[error("`{key}` {why}")]
    Inconsistent {
        /// The metadata key in question.
        key: String,
        /// What it is and what it contradicts.
        why: String,
    },
    /// The file asks for something that this network does not do.
    #[error("`{key}` is {value}, which is not supported")]
    Unsupported {
        /// The metadata key in question.
        key: String,
        /// The value in the file.
        value: String,
    },
    /// The file's weights are transformed, and only what undoes that to activations would make sense of them.
    #[error(
        "`{0}` says that the weights are stored rotated; without the transformation that belongs to them, which is not supported, \
         the model would speak gibberish"
    )]
    Transformed(String),
    /// A tensor of the network is not in the file.
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    /// A tensor of the file is not in the network.
    #[error("tensor `{0}` has no place in a network of this architecture")]
    UnexpectedTensor(String),
    /// A tensor has other dimensions than the metadata says.
    #[error("tensor `{tensor}` has dimensions {got:?}, expected {want:?}")]
    Shape {
        /// The name of the tensor.
        tensor: String,
        /// The dimensions in the file, innermost first.
        got: Vec<u64>,
        /// The dimensions that follow from the metadata.
        want: Vec<u64>,
    },
    /// A norm, bias or table of frequencies is not plain F32.
    #[error("tensor `{tensor}` is {got}, only F32 is supported here")]
    TensorType {
        /// The name of the tensor.
        tensor: String,
        /// The type in the file.
        got: GgmlType,
    },
    /// The table of frequencies has a value that rope cannot divide by.
    #[error("tensor `{0}` has a value that is not finite and above 0")]
    Frequencies(String),
}

impl Dims {
    /// How many query values a position has: `heads * head_dim`.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// How many rows `attn_q.weight` has: a query for each head, and where there are gates as many values behind it.
    pub fn q_rows(&self) -> usize {
        self.q_dim() * if self.gated { 2 } else { 1 }
    }

    /// Whether a layer attends, so that it has keys and values. The others are delta nets.
    #[must_use]
    pub fn attends(&self, layer: usize) -> bool {
        let attends = |delta: &Delta| delta.attends.get(layer).copied();
        self.delta.as_ref().and_then(attends).unwrap_or(true)
    }

    /// How many layers have keys and values, with those that draft.
    #[must_use]
    pub fn kv_layers(&self) -> usize {
        (0..self.layers + self.draft_layers)
            .filter(|layer| self.attends(*layer))
            .count()
    }

    /// How many values the keys (or the values) of a position have: `kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// How wide steps are over sequences of at most `positions` tokens.
    #[must_use]
    pub fn widths(&self, positions: usize) -> Widths {
        Widths {
            embed: self.embed,
            heads: self.heads,
            queries: self.q_dim(),
            keys: self.kv_dim(),
            ff: self.ff,
            vocab: self.vocab,
            positions,
            pairs: self.rope.dims / 2,
        }
    }

    /// The longest sequence that is computed.
    #[must_use]
    pub fn context_max(&self) -> usize {
        self.window.unwrap_or(usize::MAX).min(self.context_train)
    }

    /// Checks that a GPU has kernels for what the network does with sequences of at most `context` tokens, whatever its weights
    /// are in.
    ///
    /// # Errors
    /// [`NoGpu::Network`] names the first thing that only the host computes.
    pub fn check_gpu(&self, context: usize) -> Result<(), NoGpu> {
        let scales = &self.scales;
        // queries grow with their position, or do not
        let ends = [0, context.saturating_sub(1)];
        let queries = ends.iter().any(|end| scales.query(*end) != 1.0);
        let only_host = [
            (self.delta.is_some(), "layers that are gated delta nets"),
            (self.gated, "gates behind attention"),
            (
                scales.embedding / scales.residual != 1.0,
                "a scale of the embedding",
            ),
            (queries, "a scale of the queries"),
            (self.rope.unrotated_every > 0, "layers that do not rotate"),
            (
                self.qk_norm == HeadNorm::AfterRotation,
                "norms of heads behind the rotation",
            ),
            (self.post_norm, "norms behind attention and MLP"),
        ];
        match only_host.into_iter().find(|(there, _)| *there) {
            Some((_, what)) => Err(NoGpu::Network { what }),
            None => Ok(()),
        }
    }

    /// Reads the metadata and checks every tensor against it: names, shapes, and the types of norms and biases.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn from_gguf(file: &Gguf) -> Result<Self, DimsError> {
        let keys = Keys::new(file)?;
        keys.refuse_foreign()?;
        let blocks = keys.size("block_count", MAX_LAYERS)?;
        let draft_layers = keys.draft_layers()?;
        let layers = blocks - draft_layers;
        if layers == 0 {
            let why = format!("is {blocks}, which leaves no layer beside those that draft");
            return Err(keys.inconsistent("block_count", why));
        }
        let delta = keys.delta(layers, draft_layers)?;
        let embed = keys.size("embedding_length", MAX_EMBED)?;
        let heads = keys.size("attention.head_count", MAX_HEADS)?;
        let kv_heads = keys.size("attention.head_count_kv", MAX_HEADS)?;
        if !heads.is_multiple_of(kv_heads) {
            let why = format!("is {kv_heads}, which does not divide the {heads} heads");
            return Err(keys.inconsistent("attention.head_count_kv", why));
        }
        let head_dim = keys.head_dim(embed, heads)?;
        let ff = keys.size("feed_forward_length", MAX_FF)?;
        let context_train = keys.size("context_length", u32::MAX as usize)?;
        let norm_eps = keys.float("attention.layer_norm_rms_epsilon", |eps| {
            eps > 0.0 && eps < 1.0
        })?;
        let rope = keys.rope(head_dim, context_train)?;
        let scales = keys.scales(head_dim, context_train)?;
        let window = keys.window()?;
        let vocab = keys.vocab()?;

        let has = |name: &str| file.tensor(name).is_some();
        let dims = Self {
            arch: keys.arch,
            layers,
            draft_layers,
            embed,
            heads,
            kv_heads,
            head_dim,
            ff,
            vocab,
            context_train,
            window,
            norm_eps,
            scales,
            rope,
            tied_head: !has("output.weight"),
            requantized_head: has(REQUANTIZED_HEAD),
            qkv_bias: keys.arch.qkv_bias() || has("blk.0.attn_q.bias"),
            qk_norm: keys.arch.qk_norm(),
            post_norm: keys.arch.post_norm(),
            gated: keys.arch.gated(),
            delta,
        };
        tensors::check(&dims, file)?;
        Ok(dims)
    }
}

/// A string of the file made fit for a message: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
