//! The Burn extension: the five fused steps of a layer, the embedding and the head, as one backend trait.
//!
//! A default body is plain Burn ops in f32 (the oracle: `reference` on any backend that has no body of its own); the
//! host (`Flex`) overrides every step with the int8 kernels of [`crate::quant`] (`host`). All matrices are row-major;
//! activations are `[tokens, width]`, which the kernels call columns of `width` rows.
//!
//! # Why so few ops
//! A composed RMS norm costs 22 allocations on Flex, a fused step moved in and out none (measured on Burn 0.22.1); and each op
//! is one barrier of the thread pool.

#![cfg_attr(
    feature = "ndarray",
    allow(
        deprecated,
        reason = "burn-ndarray is deprecated upstream; it is the oracle device of tests only"
    )
)]

mod host;
mod reference;
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
use burn::tensor::{Int, Tensor};
use rope::RopePairing;
use runtime::Runtime;

/// A weight matrix in its GGUF blocks: `rows` rows of `cols` values, as bytes.
#[derive(Debug, Clone, ExtensionType)]
pub struct Matrix<B: Backend> {
    /// U8 tensor over the mapped file
    pub blocks: IntTensor<B>,
    /// block format
    pub ty: GgmlType,
    /// order of the bytes
    pub layout: Layout,
    /// outputs
    pub rows: usize,
    /// inputs
    pub cols: usize,
}

/// Weights of the attention's input side. `H`, `K`, `D`: query heads, key/value heads, head size.
#[derive(Debug, Clone, ExtensionType)]
pub struct AttentionInput<B: Backend> {
    /// `attn_norm.weight`: `[embed]`
    pub norm: FloatTensor<B>,
    /// `attn_q.weight`: `[H * D, embed]`
    #[extension_type]
    pub q: Matrix<B>,
    /// `attn_k.weight`: `[K * D, embed]`
    #[extension_type]
    pub k: Matrix<B>,
    /// `attn_v.weight`: `[K * D, embed]`
    #[extension_type]
    pub v: Matrix<B>,
    /// q, k and v bias one after the other: `[(H + 2K) * D]`, zeros where the file has none
    pub bias: FloatTensor<B>,
    /// `attn_q_norm.weight`: `[D]`; read only with [`AttentionSpec::qk_norm`]
    pub q_norm: FloatTensor<B>,
    /// `attn_k_norm.weight`: `[D]`; likewise
    pub k_norm: FloatTensor<B>,
}

/// Weights of the gated MLP's input side.
#[derive(Debug, Clone, ExtensionType)]
pub struct MlpInput<B: Backend> {
    /// `ffn_norm.weight`: `[embed]`
    pub norm: FloatTensor<B>,
    /// `ffn_gate.weight`: `[ff, embed]`
    #[extension_type]
    pub gate: Matrix<B>,
    /// `ffn_up.weight`: `[ff, embed]`
    #[extension_type]
    pub up: Matrix<B>,
}

/// The output side.
#[derive(Debug, Clone, ExtensionType)]
pub struct Head<B: Backend> {
    /// `output_norm.weight`: `[embed]`
    pub norm: FloatTensor<B>,
    /// `output.weight`, or the embedding: `[vocab, embed]`
    #[extension_type]
    pub exact: Matrix<B>,
    /// what all logits are made with: the same, or a requantized one of its shape
    #[extension_type]
    pub scan: Matrix<B>,
    /// `scan` is another: the logits of the best are made again with `exact`
    pub requantized: bool,
}

/// The numbers of an attention block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// query heads
    pub heads: usize,
    /// key/value heads; `heads` is a multiple
    pub kv_heads: usize,
    /// values per head
    pub head_dim: usize,
    /// RMS norm epsilon
    pub eps: f32,
    /// RMS norm of each q and k head before the rotation (qwen3)
    pub qk_norm: bool,
    /// rotation
    pub pairing: RopePairing,
}

/// The fused steps. Shapes: `n` tokens in the step; which sequences and positions they are, the cache knows
/// ([`KvCache::begin`]).
#[cfg_attr(not(feature = "ndarray"), backend_extension(Flex))]
#[cfg_attr(feature = "ndarray", backend_extension(Flex, NdArray))]
pub trait QuantOps: Backend {
    /// Rows of the embedding table: `[n, cols]`. `like` is any float tensor of the device.
    fn embed(
        like: &FloatTensor<Self>,
        #[extension_type] table: Matrix<Self>,
        tokens: &[u32],
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::embed::<Self>(like, table, tokens, rt)
    }

    /// Norm, q/k/v, bias, q/k norm, rotation; keys and values go to the cache. `x`: `[n, embed]`; gives q: `[n, H * D]`.
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

    /// Causal attention of `q` (`[n, H * D]`) over the tokens of each row's sequence up to its own: `[n, H * D]`.
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

    /// `x + a . w^T`: the output projection of attention and MLP with its residual. `x`: `[n, rows]`, `a`: `[n, cols]`.
    fn project_add(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        #[extension_type] w: Matrix<Self>,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        Self::float_add(x, reference::linear::<Self>(a, w, rt))
    }

    /// Norm, gate, up, `silu(gate) * up`. `x`: `[n, embed]`; gives `[n, ff]`.
    fn mlp_input(
        x: &FloatTensor<Self>,
        #[extension_type] w: MlpInput<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::mlp_input::<Self>(x, w, eps, rt)
    }

    /// Final norm and output head. `x`: `[n, embed]`; gives logits `[n, vocab]`.
    fn head(
        x: FloatTensor<Self>,
        #[extension_type] w: Head<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FloatTensor<Self> {
        reference::linear::<Self>(reference::rms_norm::<Self>(x, w.norm, eps), w.exact, rt)
    }
}

#[cfg(feature = "ndarray")]
impl QuantOps for NdArray {}

/// [`QuantOps::embed`] on tensors.
pub fn embed(
    like: &Tensor<1>,
    table: Matrix<Dispatch>,
    tokens: &[u32],
    rt: &mut Runtime,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::embed(
        &like.clone().into_dispatch(),
        table,
        tokens,
        rt,
    ))
}

/// [`QuantOps::attention_input`] on tensors.
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

/// [`QuantOps::attention`] on tensors.
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

/// [`QuantOps::project_add`] on tensors.
pub fn project_add(x: Tensor<2>, a: Tensor<2>, w: Matrix<Dispatch>, rt: &mut Runtime) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::project_add(
        x.into_dispatch(),
        a.into_dispatch(),
        w,
        rt,
    ))
}

/// [`QuantOps::mlp_input`] on tensors.
pub fn mlp_input(x: &Tensor<2>, w: MlpInput<Dispatch>, eps: f32, rt: &mut Runtime) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::mlp_input(
        &x.clone().into_dispatch(),
        w,
        eps,
        rt,
    ))
}

/// [`QuantOps::head`] on tensors.
pub fn head(x: Tensor<2>, w: Head<Dispatch>, eps: f32, rt: &mut Runtime) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as QuantOps>::head(x.into_dispatch(), w, eps, rt))
}

/// The bytes of a tensor's blocks as the extension wants them.
pub fn matrix(
    blocks: Tensor<1, Int>,
    (ty, layout): (GgmlType, Layout),
    rows: usize,
    cols: usize,
) -> Matrix<Dispatch> {
    Matrix {
        blocks: blocks.into_dispatch(),
        ty,
        layout,
        rows,
        cols,
    }
}
