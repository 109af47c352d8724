//! The architectures that are supported. Each is a set of choices in one network, and all that is said of it is said here.

use crate::ops::HeadNorm;
use crate::ops::rope::RopePairing;

/// An architecture, by what is particular in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// There is a bias on q, k and v.
    Qwen2,
    /// There is a norm over each head of q and k.
    Qwen3,
    /// Rope rotates neighbouring values, and its frequencies may be scaled.
    Llama,
    /// The text part of Qwen2-VL and Qwen2.5-VL: qwen2. A text has one position where an image has three, and rope that is
    /// told three equal positions is plain rope.
    Qwen2Vl,
    /// The text part of Qwen3-VL: qwen3, likewise.
    Qwen3Vl,
    /// A llama of which every fourth layer rotates nothing.
    SmolLm3,
    /// A llama with scales of the embedding, of attention, of what a layer adds, and of the logits.
    Granite,
    /// A llama with YaRN and queries that grow with their position (Ministral 3).
    Mistral3,
    /// There is a norm over each head of q and k, and the norms of a layer are behind attention and MLP.
    Exaone4,
    /// There is a norm over each head of q and k, behind the rotation.
    HunyuanDense,
    /// The text part of Qwen3.5: some layers attend, with gates over what they give, and the others are gated delta nets
    /// ([`super::Delta`]). Rope has sections as in [`Self::Qwen2Vl`].
    Qwen35,
}

impl Arch {
    /// Every architecture, in the order in which messages name them.
    pub const ALL: [Self; 11] = [
        Self::Qwen2,
        Self::Qwen3,
        Self::Llama,
        Self::Qwen2Vl,
        Self::Qwen3Vl,
        Self::SmolLm3,
        Self::Granite,
        Self::Mistral3,
        Self::Exaone4,
        Self::HunyuanDense,
        Self::Qwen35,
    ];

    /// The architecture's name in a file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Qwen2Vl => "qwen2vl",
            Self::Qwen3Vl => "qwen3vl",
            Self::SmolLm3 => "smollm3",
            Self::Granite => "granite",
            Self::Mistral3 => "mistral3",
            Self::Exaone4 => "exaone4",
            Self::HunyuanDense => "hunyuan-dense",
            Self::Qwen35 => "qwen35",
        }
    }

    /// The names of all, for a sentence.
    pub(super) fn names() -> String {
        let [names @ .., last] = Self::ALL.map(Self::name);
        format!("{} and {last}", names.join(", "))
    }

    /// Whether q, k and v always have a bias, as in llama.cpp. The others may have one.
    #[must_use]
    pub const fn qkv_bias(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen2Vl)
    }

    /// Where heads of q and k are normed.
    #[must_use]
    pub const fn qk_norm(self) -> HeadNorm {
        match self {
            Self::Qwen3 | Self::Qwen3Vl | Self::Exaone4 | Self::Qwen35 => HeadNorm::BeforeRotation,
            Self::HunyuanDense => HeadNorm::AfterRotation,
            _ => HeadNorm::Absent,
        }
    }

    /// Whether the norms of a layer are behind attention and MLP, not before them.
    #[must_use]
    pub const fn post_norm(self) -> bool {
        matches!(self, Self::Exaone4)
    }

    /// What a file calls the norm of attention and that of the MLP, wherever in a layer they are.
    #[must_use]
    pub const fn norm_names(self) -> [&'static str; 2] {
        match self {
            Self::Exaone4 => ["post_attention_norm.weight", "post_ffw_norm.weight"],
            Self::Qwen35 => ["attn_norm.weight", "post_attention_norm.weight"],
            _ => ["attn_norm.weight", "ffn_norm.weight"],
        }
    }

    /// Whether what a head of attention gives is multiplied with a gate, which `attn_q.weight` makes behind each head's query.
    #[must_use]
    pub const fn gated(self) -> bool {
        matches!(self, Self::Qwen35)
    }

    /// Which values are rotated together: neighbours where the converter permutes q and k for it.
    pub(super) const fn pairing(self) -> RopePairing {
        match self {
            Self::Llama | Self::SmolLm3 | Self::Granite | Self::Mistral3 => RopePairing::Norm,
            _ => RopePairing::Neox,
        }
    }

    /// In which layers nothing is rotated, as [`super::Rope::unrotated_every`]. No key says it.
    pub(super) const fn unrotated_every(self) -> usize {
        match self {
            Self::SmolLm3 => 4,
            _ => 0,
        }
    }

    /// Whether a file may have `rope_freqs.weight`.
    pub(super) const fn may_have_frequencies(self) -> bool {
        matches!(
            self,
            Self::Llama | Self::Granite | Self::Mistral3 | Self::Exaone4 | Self::HunyuanDense
        )
    }
}
