//! How large a model of the catalogue is, for a plan before its file is here.

use glowplug_firmware_config::limits::DRAFT_MAX;
use glowplug_firmware_config::plan::Shape;
use glowplug_model::network::dims::Arch;
use glowplug_model::ops::HeadNorm;
use serde::Deserialize;

/// What the `config.json` of a model says, and how its file is quantised.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sizes {
    arch: String,
    layers: usize,
    embed: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ff: usize,
    vocab: usize,
    /// Bytes of all tokens together. Without them a token has [`TOKEN_BYTES`].
    token_bytes: Option<u64>,
    merges: usize,
    /// Tokens of context that the model was trained for.
    pub(crate) context: usize,
    /// Whether the file has an LM head beside the embedding.
    head: bool,
    /// Layers whose keys are stored in f16 because of the biases in the file. Without them it may be all layers.
    f16_key_layers: Option<usize>,
    /// Q4_K_M where it is absent.
    quant: Option<Quant>,
    /// The layers that are gated delta nets, of a network that has some.
    delta: Option<Delta>,
}

/// Layers that keep a state instead of keys and values, and their sizes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delta {
    /// Of so many layers the last attends, and the others are delta nets.
    attends_every: usize,
    key_heads: usize,
    value_heads: usize,
    /// Values of a key, and of a value.
    state: usize,
}

impl Delta {
    /// Values that go through a layer's convolution: queries, keys and values.
    fn channels(&self) -> usize {
        (2 * self.key_heads + self.value_heads) * self.state
    }

    /// Values of a token that go into a layer's matrices: the same, gates, and two numbers for each value head.
    fn width(&self) -> usize {
        self.channels() + self.value_heads * (self.state + 2)
    }

    /// Whether a layer attends.
    fn attends(&self, layer: usize) -> bool {
        (layer + 1).is_multiple_of(self.attends_every)
    }
}

/// How `llama-quantize` mixes the types of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Quant {
    /// Q4_K, but the head, half of the value matrices and half of those that end a layer in Q6_K, and inputs of delta nets in Q5_K.
    #[serde(rename = "Q4_K_M")]
    Q4KM,
    /// All matrices in ternary blocks of 64 values with a scale.
    #[serde(rename = "Q2_0")]
    Q2,
}

/// Most bytes of a token on average; those of Qwen2.5 have 9.04.
const TOKEN_BYTES: u64 = 10;
/// Heads of at most so many values keep the keys of the middle third of the layers in f16.
const SMALL_HEAD: usize = 64;
/// Bytes of the metadata besides the vocabulary.
const METADATA: u64 = 16 << 10;

/// Values and bytes of a block of each type.
const Q4_K: (u64, u64) = (256, 144);
const Q5_K: (u64, u64) = (256, 176);
const Q6_K: (u64, u64) = (256, 210);
const Q2_0: (u64, u64) = (64, 18);

impl Sizes {
    /// The numbers that the memory plan needs, with the file's bytes where they are known.
    pub(crate) fn shape(&self, file_bytes: Option<u64>) -> Shape {
        let token_bytes = self.token_bytes.unwrap_or(self.vocab as u64 * TOKEN_BYTES);
        // where nobody knows the biases, it may be every layer
        let small = self.head_dim <= SMALL_HEAD;
        let middle = 2 * self.layers / 3 - self.layers / 3;
        let has_bias = self.arch().is_none_or(Arch::qkv_bias);
        let f16 = match (self.f16_key_layers, has_bias) {
            (Some(layers), _) => layers,
            (None, true) => self.layers,
            (None, false) => middle * usize::from(small),
        };
        Shape {
            file_bytes: file_bytes.unwrap_or_else(|| self.weights() + self.header(token_bytes)),
            layers: self.attending(),
            embed: self.embed,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ff: self.ff,
            vocab: self.vocab,
            token_bytes,
            merges: self.merges,
            f16_key_layers: f16,
            delta_width: self.delta.map_or(0, |delta| delta.width()),
            draft_bytes: self.delta.map_or(0, |delta| {
                let layers = self.layers - self.attending();
                (4 * DRAFT_MAX * layers * (delta.channels() + delta.width())) as u64
            }),
            state_bytes: self.delta.map_or(0, |delta| {
                let (layers, conv) = (self.layers - self.attending(), 3 * delta.channels());
                (4 * layers * (conv + delta.value_heads * delta.state * delta.state)) as u64
            }),
        }
    }

    fn arch(&self) -> Option<Arch> {
        Arch::ALL.into_iter().find(|arch| arch.name() == self.arch)
    }

    /// How many layers have keys and values.
    fn attending(&self) -> usize {
        self.layers / self.delta.map_or(1, |delta| delta.attends_every)
    }

    /// Bytes of all tensors.
    fn weights(&self) -> u64 {
        let bytes = |(values, bytes): (u64, u64), count: usize| count as u64 / values * bytes;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let (plain, fine) = match self.quant {
            Some(Quant::Q4KM) | None => (Q4_K, Q6_K),
            Some(Quant::Q2) => (Q2_0, Q2_0),
        };
        // attn_q has a gate for each query where there are delta nets
        let gated = if self.delta.is_some() { 2 } else { 1 };
        let attention = self.embed * (gated + 1) * q + self.embed * kv;
        let layer = |layer: usize| {
            let mixed = if self.is_fine(layer) { fine } else { plain };
            let mlp = bytes(plain, 2 * self.embed * self.ff) + bytes(mixed, self.ff * self.embed);
            mlp + match self.delta {
                Some(delta) if !delta.attends(layer) => {
                    let heads = delta.value_heads;
                    let vectors = 4 * delta.channels() + 2 * heads + delta.state;
                    bytes(Q5_K, self.embed * delta.channels())
                        + bytes(plain, 2 * self.embed * heads * (delta.state + 1))
                        + 4 * vectors as u64
                }
                _ => bytes(plain, attention) + bytes(mixed, self.embed * kv),
            }
        };
        let layers: u64 = (0..self.layers).map(layer).sum();
        let table = self.embed * self.vocab;
        let tables = bytes(fine, table) + if self.head { bytes(plain, table) } else { 0 };
        let arch = self.arch();
        let norms = arch.is_some_and(|arch| arch.qk_norm() != HeadNorm::Absent);
        let bias = arch.is_some_and(Arch::qkv_bias);
        let of_attention =
            2 * self.head_dim * usize::from(norms) + (q + 2 * kv) * usize::from(bias);
        let vectors = (2 * self.layers + 1) * self.embed + self.attending() * of_attention;
        layers + tables + 4 * vectors as u64
    }

    /// Whether a layer has the finer type: the first and last eighth, and every third between them.
    fn is_fine(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }

    /// Bytes before the tensors: the vocabulary with lengths and types, and the merges, which have a token and a blank.
    fn header(&self, token_bytes: u64) -> u64 {
        let (vocab, merges) = (self.vocab as u64, self.merges as u64);
        let token = token_bytes.div_ceil(vocab.max(1));
        token_bytes + vocab * (8 + 4) + merges * (8 + token + 1) + METADATA
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
