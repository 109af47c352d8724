//! The Burn extension: the fused steps of a layer, the embedding and the LM head, as one backend trait.
//!
//! The default body of a step is plain Burn ops on f32, in `reference`: that is the oracle, and what any backend without a
//! body of its own runs. The host (`Flex`) overrides every step with the int8 kernels of [`crate::quant`], in `host`. All
//! matrices are row-major; activations are `[tokens, width]`, which the kernels call columns of `width` values.
//!
//! One file, because it is one trait: what every backend computes, what it is given, and how it is called.
//!
//! # Why so few ops
//! A composed RMS norm costs 22 allocations on Flex, and a fused step that is moved in and out costs none (measured on Burn
//! 0.22.1). Besides, each op is one barrier of the thread pool.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "burn-ndarray is deprecated upstream; it is the oracle device of tests only"
    )
)]

#[cfg(feature = "wgpu")]
pub mod cube;
pub mod delta;
mod host;
pub mod memory;
pub mod no_gpu;
pub mod processor;
mod reference;
mod rest;
pub mod rope;
pub mod runtime;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod top_groups;

use crate::gguf::{GgmlType, Layout};
use crate::kv::KvCache;
#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension};
use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::Tensor;
use delta::{DeltaInput, DeltaSpec};
pub use host::settle;
use no_gpu::NoGpu;
pub use rest::Rest;
use rope::RopePairing;
use runtime::Runtime;
use std::ops::Range;

/// A weight matrix in its GGUF blocks: `rows` rows of `cols` values, as bytes.
#[derive(Debug, Clone, ExtensionType)]
pub struct Matrix<B: Backend> {
    /// The bytes, as a U8 tensor over the mapped file; on a GPU, the U32 words that [`cube`](self) makes of them.
    pub blocks: IntTensor<B>,
    /// The rows behind the first [`Self::part_rows`], where a GPU has no buffer for all.
    #[extension_type]
    pub rest: Rest<B>,
    /// How many rows `blocks` has, and each tensor of `rest` but the last one.
    pub part_rows: usize,
    /// The format of the blocks.
    pub ty: GgmlType,
    /// The order of the bytes.
    pub layout: Layout,
    /// Rows of the matrix: values that a product has.
    pub rows: usize,
    /// Columns of the matrix: values that a product is made of.
    pub cols: usize,
}

/// The norm of an input or of a product, where the network has one.
#[derive(Debug, Clone, ExtensionType)]
pub enum Norm<B: Backend> {
    /// There is none: values go on as they are.
    Absent,
    /// An RMS norm with this weight, as long as a column.
    Rms(FloatTensor<B>),
}

impl<B: Backend> Norm<B> {
    /// The weight, if there is a norm.
    pub fn weight(&self) -> Option<&FloatTensor<B>> {
        match self {
            Self::Absent => None,
            Self::Rms(weight) => Some(weight),
        }
    }
}

/// Weights of the attention's input side, for `H` query heads, `K` key/value heads and heads of `D` values.
#[derive(Debug, Clone, ExtensionType)]
pub struct AttentionInput<B: Backend> {
    /// The tensor `attn_norm.weight`: `[embed]`.
    #[extension_type]
    pub norm: Norm<B>,
    /// The tensor `attn_q.weight`: `[H * D, embed]`. With gates it is `[2 * H * D, embed]`: of each head `D` rows of its query,
    /// and then `D` of its gate.
    #[extension_type]
    pub q: Matrix<B>,
    /// The tensor `attn_k.weight`: `[K * D, embed]`.
    #[extension_type]
    pub k: Matrix<B>,
    /// The tensor `attn_v.weight`: `[K * D, embed]`.
    #[extension_type]
    pub v: Matrix<B>,
    /// The biases of q, k and v one after the other, as long as these, with zeros where the file has none.
    pub bias: FloatTensor<B>,
    /// The tensor `attn_q_norm.weight`: `[D]`. It is not read with [`HeadNorm::Absent`].
    pub q_norm: FloatTensor<B>,
    /// The tensor `attn_k_norm.weight`: `[D]`. It is not read with [`HeadNorm::Absent`].
    pub k_norm: FloatTensor<B>,
}

/// Weights of the gated MLP's input side.
#[derive(Debug, Clone, ExtensionType)]
pub struct MlpInput<B: Backend> {
    /// The tensor `ffn_norm.weight`: `[embed]`.
    #[extension_type]
    pub norm: Norm<B>,
    /// The tensor `ffn_gate.weight`: `[ff, embed]`.
    #[extension_type]
    pub gate: Matrix<B>,
    /// The tensor `ffn_up.weight`: `[ff, embed]`.
    #[extension_type]
    pub up: Matrix<B>,
}

/// Weights of the input side of a layer that drafts.
#[derive(Debug, Clone, ExtensionType)]
pub struct DraftInput<B: Backend> {
    /// The tensor `nextn.enorm.weight`: `[embed]`, which norms embeddings.
    pub embed_norm: FloatTensor<B>,
    /// The tensor `output_norm.weight`: `[embed]`, which norms hidden states first.
    pub output_norm: FloatTensor<B>,
    /// The tensor `nextn.hnorm.weight`: `[embed]`, which norms them again.
    pub hidden_norm: FloatTensor<B>,
    /// The tensor `nextn.eh_proj.weight`: `[embed, 2 * embed]`.
    #[extension_type]
    pub join: Matrix<B>,
}

/// Weights of an output side, of attention or of the MLP.
#[derive(Debug, Clone, ExtensionType)]
pub struct Projection<B: Backend> {
    /// The tensor `attn_output.weight` or `ffn_down.weight`.
    #[extension_type]
    pub matrix: Matrix<B>,
    /// The tensor `post_attention_norm.weight` or `post_ffw_norm.weight`: `[embed]`. It norms what is added.
    #[extension_type]
    pub norm: Norm<B>,
}

/// Weights of the LM head: the final norm and the matrix that makes logits.
#[derive(Debug, Clone, ExtensionType)]
pub struct LmHead<B: Backend> {
    /// The tensor `output_norm.weight`: `[embed]`.
    pub norm: FloatTensor<B>,
    /// The tensor `output.weight`, or the embedding where the file has none: `[vocab, embed]`.
    #[extension_type]
    pub exact: Matrix<B>,
    /// The matrix that all logits are first computed with: `exact` itself, or a requantised matrix of its shape.
    #[extension_type]
    pub scan: Matrix<B>,
    /// Whether `scan` is a requantised matrix, so that the largest logits are computed again with `exact`.
    pub requantized: bool,
}

/// Where the heads of q and k are RMS-normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    /// They are not normed.
    Absent,
    /// Before the rotation, as in qwen3.
    BeforeRotation,
    /// Behind the rotation, as in hunyuan-dense.
    AfterRotation,
}

/// The sizes and options of an attention block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// How many query heads there are.
    pub heads: usize,
    /// How many key/value heads there are; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// How many values a head has.
    pub head_dim: usize,
    /// The epsilon of every RMS norm.
    pub eps: f32,
    /// Where each q and k head is RMS-normed.
    pub qk_norm: HeadNorm,
    /// Which values of a head are rotated together.
    pub pairing: RopePairing,
    /// In every so-manieth layer heads are not rotated; 0 if they are in all.
    pub unrotated_every: usize,
    /// Whether what each head gives is multiplied with a gate.
    pub gated: bool,
}

impl AttentionSpec {
    /// Whether a layer rotates its heads.
    #[must_use]
    pub fn rotates(&self, layer: usize) -> bool {
        // no number above 0 is a multiple of 0
        !(layer + 1).is_multiple_of(self.unrotated_every)
    }
}

/// The fused steps. `n` is the number of tokens in the step; the cache knows which sequences and positions they are of, by
/// [`KvCache::begin`].
#[cfg_attr(
    not(any(feature = "ndarray", feature = "wgpu")),
    backend_extension(Flex)
)]
#[cfg_attr(
    all(feature = "ndarray", not(feature = "wgpu")),
    backend_extension(Flex, NdArray)
)]
#[cfg_attr(
    all(feature = "wgpu", not(feature = "ndarray")),
    backend_extension(Flex, Cube)
)]
#[cfg_attr(
    all(feature = "wgpu", feature = "ndarray"),
    backend_extension(Flex, NdArray, Cube)
)]
pub trait QuantOps: Backend {
    /// Looks the tokens up in the embedding table and gives their rows times `scale`, `[n, cols]`. `like` is any float tensor of the device. The cache
    /// is what a device is told of the step, of which this is the first op.
    fn embed(
        like: &FloatTensor<Self>,
        #[extension_type] table: Matrix<Self>,
        tokens: &[u32],
        scale: f32,
        kv: &KvCache,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        let _ = kv;
        reference::embed::<Self>(like, table, tokens, scale, rt)
    }

    /// Norm, q/k/v with their biases, q/k norm and rotation, and q times [`RopeTable::query_scale`](rope::RopeTable::query_scale).
    /// Keys and values go to the cache. Takes `x` of `[n, embed]` and gives q of `[n, H * D]`. With gates it gives
    /// `[n, 2 * H * D]`: all queries of a token, and then the logistic functions of all its gates.
    fn attention_input(
        x: &FloatTensor<Self>,
        #[extension_type] w: AttentionInput<Self>,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::attention_input::<Self>(x, w, spec, layer, kv, rt)
    }

    /// Causal attention of `q`, as [`Self::attention_input`] gives it, over the tokens of each row's sequence up to its own.
    /// Gives `[n, H * D]`, times the gates if there are any.
    fn attention(
        q: FloatTensor<Self>,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        let _ = rt;
        reference::attention::<Self>(&q, spec, layer, kv)
    }

    /// The input side of a gated delta net: norm, the products of all its matrices, the convolution over this and the three
    /// tokens before with SiLU, queries and keys divided by their length, and the queries by `sqrt(D)` too. The decay is
    /// `exp(rate * softplus(alpha + bias))`, beta the logistic function of its product. Takes `x` of `[n, embed]` and gives
    /// `[n, width]` ([`DeltaSpec::width`]). The last columns go to the states of the cache.
    fn delta_input(
        x: &FloatTensor<Self>,
        #[extension_type] w: DeltaInput<Self>,
        spec: DeltaSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::delta::delta_input::<Self>(x, w, spec, layer, kv, rt)
    }

    /// The gated delta rule ([`Kernels::delta_rule`](crate::quant::Kernels::delta_rule)) of each value head over the tokens of each
    /// sequence, with the matrices in the states of the cache; then the RMS norm of each head with the weight `norm`, `[D]`,
    /// times SiLU of its gate. Takes `x` of `[n, width]` and gives `[n, values]`.
    fn delta(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        spec: DeltaSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        let _ = rt;
        reference::delta::delta::<Self>(&x, &norm, spec, layer, kv)
    }

    /// `x + norm(a . w^T)`, the output projection of attention and MLP with its residual. `x` is `[n, rows]`, `a` is
    /// `[n, cols]`.
    fn project_add(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        #[extension_type] w: Projection<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::project_add::<Self>(x, a, w, eps, rt)
    }

    /// Norm, gate and up products, and `silu(gate) * up`. Takes `x` of `[n, embed]` and gives `[n, ff]`.
    fn mlp_input(
        x: &FloatTensor<Self>,
        #[extension_type] w: MlpInput<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::mlp_input::<Self>(x, w, eps, rt)
    }

    /// The input of a layer that drafts: the normed embedding of each token and, behind it, the normed hidden state of the token
    /// before, times the matrix that joins them. Takes both as `[n, embed]` and gives `[n, embed]`.
    fn draft_input(
        embedded: FloatTensor<Self>,
        before: FloatTensor<Self>,
        #[extension_type] w: DraftInput<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::draft_input::<Self>(embedded, before, w, eps, rt)
    }

    /// Final norm and LM head. Takes `x` of `[n, embed]` and gives logits of `[rows.len(), vocab]`, those of some of its rows.
    fn head(
        x: FloatTensor<Self>,
        rows: Range<usize>,
        #[extension_type] w: LmHead<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        let x = reference::part::<Self>(x, 0, rows.start, rows.end);
        reference::linear::<Self>(reference::rms_norm::<Self>(x, w.norm, eps), w.exact, rt)
    }

    /// Reads logits, `[n, vocab]`. With `best`, those are enough which a sampler may need that takes one of the best: at least
    /// the [`BEST`](crate::text::BEST) best of each row. The others may be -inf then.
    fn read_logits(
        logits: FloatTensor<Self>,
        best: bool,
        rt: &mut Runtime,
    ) -> Result<Vec<f32>, NoGpu> {
        let _ = (best, rt);
        Ok(reference::download::<Self>(logits))
    }
}

#[cfg(feature = "ndarray")]
impl QuantOps for NdArray {}

/// Calls [`QuantOps::embed`] on tensors of the dispatching backend.
pub fn embed(
    like: &Tensor<1>,
    table: Matrix<Dispatch>,
    tokens: &[u32],
    scale: f32,
    kv: &KvCache,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::embed(
        &like.clone().into_dispatch(),
        table,
        tokens,
        scale,
        kv,
        rt,
    ))
}

/// Calls [`QuantOps::attention_input`] on tensors of the dispatching backend.
pub fn attention_input(
    x: &Tensor<2>,
    w: AttentionInput<Dispatch>,
    spec: AttentionSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::attention_input(
        &x.clone().into_dispatch(),
        w,
        spec,
        layer,
        kv,
        rt,
    ))
}

/// Calls [`QuantOps::attention`] on tensors of the dispatching backend.
pub fn attention(
    q: Tensor<2>,
    spec: AttentionSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::attention(
        q.into_dispatch(),
        spec,
        layer,
        kv,
        rt,
    ))
}

/// Calls [`QuantOps::delta_input`] on tensors of the dispatching backend.
pub fn delta_input(
    x: &Tensor<2>,
    w: DeltaInput<Dispatch>,
    spec: DeltaSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::delta_input(
        &x.clone().into_dispatch(),
        w,
        spec,
        layer,
        kv,
        rt,
    ))
}

/// Calls [`QuantOps::delta`] on tensors of the dispatching backend.
pub fn delta(
    x: Tensor<2>,
    norm: Tensor<1>,
    spec: DeltaSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::delta(
        x.into_dispatch(),
        norm.into_dispatch(),
        spec,
        layer,
        kv,
        rt,
    ))
}

/// Calls [`QuantOps::project_add`] on tensors of the dispatching backend.
pub fn project_add(
    x: Tensor<2>,
    a: Tensor<2>,
    w: Projection<Dispatch>,
    eps: f32,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::project_add(
        x.into_dispatch(),
        a.into_dispatch(),
        w,
        eps,
        rt,
    ))
}

/// Calls [`QuantOps::mlp_input`] on tensors of the dispatching backend.
pub fn mlp_input(x: &Tensor<2>, w: MlpInput<Dispatch>, eps: f32, rt: &mut Runtime) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::mlp_input(
        &x.clone().into_dispatch(),
        w,
        eps,
        rt,
    ))
}

/// Calls [`QuantOps::draft_input`] on tensors of the dispatching backend.
pub fn draft_input(
    embedded: Tensor<2>,
    before: Tensor<2>,
    w: DraftInput<Dispatch>,
    eps: f32,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::draft_input(
        embedded.into_dispatch(),
        before.into_dispatch(),
        w,
        eps,
        rt,
    ))
}

/// Calls [`QuantOps::head`] on tensors of the dispatching backend.
pub fn head(
    x: Tensor<2>,
    rows: Range<usize>,
    w: LmHead<Dispatch>,
    eps: f32,
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::head(
        x.into_dispatch(),
        rows,
        w,
        eps,
        rt,
    ))
}

/// Calls [`QuantOps::read_logits`] on tensors of the dispatching backend.
pub fn read_logits(logits: Tensor<2>, best: bool, rt: &mut Runtime) -> Result<Vec<f32>, NoGpu> {
    <Dispatch as QuantOps>::read_logits(logits.into_dispatch(), best, rt)
}
