//! What a file says its network is: read from the metadata, held against every tensor.
//!
//! Nothing that the file must give is defaulted, and nothing in the file that would change the result is passed over:
//! a key or a tensor that this network does not compute is refused by name. Names and meanings are those of
//! llama.cpp's GGUF files (`gguf-py/gguf/constants.py`).

mod keys;
mod tensors;

use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{GgmlType, Gguf, GgufError};
pub use crate::ops::rope::RopePairing as Pairing;
use keys::Keys;

/// Layers of one network.
pub const MAX_LAYERS: usize = 256;
/// Query heads of one layer.
pub const MAX_HEADS: usize = 256;
/// Values of one position between layers.
pub const MAX_EMBED: usize = 65_536;
/// Values in the middle of the feed-forward part.
pub const MAX_FF: usize = 262_144;
/// Ids of the vocabulary.
pub const MAX_VOCAB: usize = 1 << 20;
/// Values of one head.
pub const MAX_HEAD_DIM: usize = 512;

/// The architectures, each a set of choices in one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// bias on q, k and v
    Qwen2,
    /// a norm over each head of q and k
    Qwen3,
    /// rope on neighbouring values, frequencies perhaps scaled
    Llama,
}

impl Arch {
    /// The name in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
        }
    }
}

/// What is done to rope's frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// nothing
    None,
    /// positions are divided by this
    Linear(f32),
    /// frequency `i` is divided by value `i` of the tensor `rope_freqs.weight` (`dims / 2` values, F32): llama 3.1
    Freqs,
}

/// Rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// `theta` of pair `i` is `base^(-2 i / dims)`
    pub base: f32,
    /// even, at most the head; values behind it are not turned
    pub dims: usize,
    /// see [`Pairing`]
    pub pairing: Pairing,
    /// see [`Scaling`]
    pub scaling: Scaling,
}

/// A whole network in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Dims {
    /// see [`Arch`]
    pub arch: Arch,
    /// 1 to [`MAX_LAYERS`]
    pub layers: usize,
    /// values of one position between layers, 1 to [`MAX_EMBED`]
    pub embed: usize,
    /// query heads, a multiple of `kv_heads`, at most [`MAX_HEADS`]
    pub heads: usize,
    /// key and value heads
    pub kv_heads: usize,
    /// values of one head, of queries, keys and values alike, at most [`MAX_HEAD_DIM`]
    pub head_dim: usize,
    /// values in the middle of the feed-forward part, at most [`MAX_FF`]
    pub ff: usize,
    /// rows of the embedding and of the head, and tokens of the vocabulary, at most [`MAX_VOCAB`]
    pub vocab: usize,
    /// tokens of context the model was trained for
    pub context_train: usize,
    /// added to the mean square in every norm
    pub norm_eps: f32,
    /// see [`Rope`]
    pub rope: Rope,
    /// no `output.weight`: the embedding is the head
    pub tied_head: bool,
    /// there is a [`REQUANTIZED_HEAD`]
    pub requantized_head: bool,
    /// `attn_{q,k,v}.bias` in every layer
    pub qkv_bias: bool,
    /// `attn_{q,k}_norm.weight` in every layer: one norm of `head_dim` values for all heads, before rope
    pub qk_norm: bool,
}

/// Why a file is not a network we compute.
#[derive(Debug, thiserror::Error)]
pub enum DimsError {
    /// a key is missing or of the wrong type
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// not one of [`Arch`]
    #[error("architecture `{0}` is not supported, only qwen2, qwen3 and llama")]
    Architecture(String),
    /// zero, or above a ceiling
    #[error("`{key}` is {got}, the limits are 1 and {limit}")]
    Limit {
        /// the metadata key
        key: String,
        /// in the file
        got: usize,
        /// ours
        limit: usize,
    },
    /// a value that contradicts another one, or itself makes no sense
    #[error("`{key}` {why}")]
    Inconsistent {
        /// the metadata key
        key: String,
        /// what it contradicts
        why: String,
    },
    /// the file asks for something this network does not do
    #[error("`{key}` is {value}, which is not supported")]
    Unsupported {
        /// the metadata key
        key: String,
        /// in the file
        value: String,
    },
    /// a tensor of the network is not in the file
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    /// a tensor of the file is not in the network
    #[error("tensor `{0}` has no place in a network of this architecture")]
    UnexpectedTensor(String),
    /// a tensor has other dimensions than the metadata says
    #[error("tensor `{tensor}` has dimensions {got:?}, expected {want:?}")]
    Shape {
        /// its name
        tensor: String,
        /// in the file, innermost first
        got: Vec<u64>,
        /// by the metadata
        want: Vec<u64>,
    },
    /// a norm, bias or table of frequencies that is not plain f32
    #[error("tensor `{tensor}` is {got}, only F32 is supported here")]
    TensorType {
        /// its name
        tensor: String,
        /// in the file
        got: GgmlType,
    },
    /// a table of frequencies that rope cannot divide by
    #[error("tensor `{0}` has a value that is not finite and above 0")]
    Frequencies(String),
}

impl Dims {
    /// Query values of one position, `heads * head_dim`.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Key (or value) values of one position, `kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Reads the metadata and checks every tensor against it: names, shapes, and the types of norms and biases.
    ///
    /// # Errors
    /// The first thing found that does not fit.
    pub fn from_gguf(file: &Gguf) -> Result<Self, DimsError> {
        let keys = Keys::new(file)?;
        keys.refuse_foreign()?;
        let layers = keys.size("block_count", MAX_LAYERS)?;
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
        let rope = keys.rope(head_dim)?;
        let vocab = keys.vocab()?;

        let has = |name: &str| file.tensor(name).is_some();
        let dims = Self {
            arch: keys.arch,
            layers,
            embed,
            heads,
            kv_heads,
            head_dim,
            ff,
            vocab,
            context_train,
            norm_eps,
            rope,
            tied_head: !has("output.weight"),
            requantized_head: has(REQUANTIZED_HEAD),
            // llama.cpp's qwen2 cannot be without, its llama may have them
            qkv_bias: keys.arch == Arch::Qwen2 || has("blk.0.attn_q.bias"),
            qk_norm: keys.arch == Arch::Qwen3,
        };
        tensors::check(&dims, file)?;
        Ok(dims)
    }
}

/// A string of the file, short and without control characters, fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
