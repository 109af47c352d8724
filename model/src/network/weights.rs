//! The tensors of a file as Burn modules, mapped without a copy.

use super::dims::Dims;
use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{GgmlType, Gguf, Layout, TensorInfo};
use crate::ops::no_gpu::NoGpu;
use crate::ops::processor::{Processor, mapped};
use crate::ops::{AttentionInput, HeadNorm, LmHead, Matrix, MlpInput, Norm, Projection, Rest};
use burn::backend::Dispatch;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Why there is no weight.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The file lacks it. [`Dims`] has checked for all of them before.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// The GPU does not take it.
    #[error(transparent)]
    NoGpu(#[from] NoGpu),
}

/// A matrix in GGUF blocks: a U8 tensor of `[rows * row_bytes]` over the mapped file.
#[derive(Module, Debug)]
pub(crate) struct QuantLinear {
    blocks: Param<Tensor<1, Int>>,
    /// The rows behind the first ones, as [`Matrix::rest`] has them.
    rest: Vec<Param<Tensor<1, Int>>>,
    #[module(skip)]
    part_rows: usize,
    #[module(skip)]
    ty: GgmlType,
    #[module(skip)]
    layout: Layout,
    #[module(skip)]
    rows: usize,
    #[module(skip)]
    cols: usize,
}

impl QuantLinear {
    fn load(gguf: &Gguf, name: &str, processor: &Processor) -> Result<Self, WeightError> {
        let info = find(gguf, name)?;
        let blocks = processor.blocks(gguf, info)?;
        let param = |tensor| Param::initialized(ParamId::new(), tensor);
        Ok(Self {
            blocks: param(blocks.first),
            rest: blocks.rest.into_iter().map(param).collect(),
            part_rows: blocks.part_rows,
            ty: info.ty,
            layout: info.layout,
            rows: info.rows() as usize,
            cols: info.dims[0] as usize,
        })
    }

    /// The matrix as the ops take it, which is a handle and no copy.
    pub(super) fn matrix(&self) -> Matrix<Dispatch> {
        let rest = self.rest.iter().map(|part| part.val().into_dispatch());
        Matrix {
            blocks: self.blocks.val().into_dispatch(),
            rest: Rest(rest.collect()),
            part_rows: self.part_rows,
            ty: self.ty,
            layout: self.layout,
            rows: self.rows,
            cols: self.cols,
        }
    }
}

/// The weight of a norm, or a bias: `[len]` f32.
#[derive(Module, Debug)]
pub(crate) struct Vector {
    values: Param<Tensor<1>>,
}

impl Vector {
    /// Maps a vector of F32, which [`Dims`] has checked it is. GGUF's alignment is a multiple of 8, so its f32 are aligned.
    fn load(gguf: &Gguf, name: &str, processor: &Processor) -> Result<Self, WeightError> {
        let info = find(gguf, name)?;
        Self::of(
            mapped(gguf, info, DType::F32, info.dims[0] as usize),
            processor,
        )
    }

    fn from_values(values: Vec<f32>, processor: &Processor) -> Result<Self, WeightError> {
        let len = values.len();
        Self::of(TensorData::new(values, [len]), processor)
    }

    fn of(data: TensorData, processor: &Processor) -> Result<Self, WeightError> {
        let values = processor.vector(data)?;
        Ok(Self {
            values: Param::initialized(ParamId::new(), values),
        })
    }

    /// The values as a tensor, which is a handle and no copy.
    pub(super) fn tensor(&self) -> Tensor<1> {
        self.values.val()
    }
}

/// The norm as the ops take it.
fn norm(weight: Option<&Vector>) -> Norm<Dispatch> {
    weight.map_or(Norm::Absent, |weight| {
        Norm::Rms(weight.tensor().into_dispatch())
    })
}

/// The weights of one layer. It has the norms before attention and MLP, or those behind them.
#[derive(Module, Debug)]
pub(crate) struct Block {
    attn_norm: Option<Vector>,
    attn_post_norm: Option<Vector>,
    attn_q: QuantLinear,
    attn_k: QuantLinear,
    attn_v: QuantLinear,
    /// The biases of q, k and v one after the other, with zeros where the file has none.
    attn_bias: Vector,
    attn_q_norm: Vector,
    attn_k_norm: Vector,
    attn_output: QuantLinear,
    ffn_norm: Option<Vector>,
    ffn_post_norm: Option<Vector>,
    ffn_gate: QuantLinear,
    ffn_up: QuantLinear,
    ffn_down: QuantLinear,
}

impl Block {
    fn load(
        gguf: &Gguf,
        dims: &Dims,
        layer: usize,
        processor: &Processor,
    ) -> Result<Self, WeightError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let linear =
            |part: &str| QuantLinear::load(gguf, &name(&format!("{part}.weight")), processor);
        let vector = |part: &str| Vector::load(gguf, &name(&format!("{part}.weight")), processor);
        let head_norm = |part: &str| match dims.qk_norm {
            HeadNorm::Absent => Vector::from_values(vec![0.0], processor),
            _ => vector(part),
        };
        let norm = |there: bool, part: &str| there.then(|| vector(part)).transpose();
        let behind = dims.post_norm;
        let (q, kv) = (dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim);
        let bias = if dims.qkv_bias {
            let mut bias = Vec::with_capacity(q + 2 * kv);
            for part in ["attn_q", "attn_k", "attn_v"] {
                bias.extend(f32_values(gguf, &name(&format!("{part}.bias")))?);
            }
            bias
        } else {
            vec![0.0; q + 2 * kv]
        };
        Ok(Self {
            attn_norm: norm(!behind, "attn_norm")?,
            attn_post_norm: norm(behind, "post_attention_norm")?,
            attn_q: linear("attn_q")?,
            attn_k: linear("attn_k")?,
            attn_v: linear("attn_v")?,
            attn_bias: Vector::from_values(bias, processor)?,
            attn_q_norm: head_norm("attn_q_norm")?,
            attn_k_norm: head_norm("attn_k_norm")?,
            attn_output: linear("attn_output")?,
            ffn_norm: norm(!behind, "ffn_norm")?,
            ffn_post_norm: norm(behind, "post_ffw_norm")?,
            ffn_gate: linear("ffn_gate")?,
            ffn_up: linear("ffn_up")?,
            ffn_down: linear("ffn_down")?,
        })
    }

    pub(super) fn attention_input(&self) -> AttentionInput<Dispatch> {
        AttentionInput {
            norm: norm(self.attn_norm.as_ref()),
            q: self.attn_q.matrix(),
            k: self.attn_k.matrix(),
            v: self.attn_v.matrix(),
            bias: self.attn_bias.tensor().into_dispatch(),
            q_norm: self.attn_q_norm.tensor().into_dispatch(),
            k_norm: self.attn_k_norm.tensor().into_dispatch(),
        }
    }

    pub(super) fn attention_output(&self) -> Projection<Dispatch> {
        Projection {
            matrix: self.attn_output.matrix(),
            norm: norm(self.attn_post_norm.as_ref()),
        }
    }

    pub(super) fn mlp_input(&self) -> MlpInput<Dispatch> {
        MlpInput {
            norm: norm(self.ffn_norm.as_ref()),
            gate: self.ffn_gate.matrix(),
            up: self.ffn_up.matrix(),
        }
    }

    pub(super) fn mlp_output(&self) -> Projection<Dispatch> {
        Projection {
            matrix: self.ffn_down.matrix(),
            norm: norm(self.ffn_post_norm.as_ref()),
        }
    }
}

/// All weights of a network.
#[derive(Module, Debug)]
pub struct Weights {
    pub(super) token_embd: QuantLinear,
    pub(super) blocks: Vec<Block>,
    pub(super) output_norm: Vector,
    /// The LM head, or `None` where the embedding table is the head.
    output: Option<QuantLinear>,
    /// The tensor [`REQUANTIZED_HEAD`] of a packed file, which a GPU has no use for.
    requantized: Option<QuantLinear>,
}

impl Weights {
    /// Makes handles on the mapped file, where only the biases and the last norm are copied, or puts the weights into the memory
    /// of a GPU.
    ///
    /// # Errors
    /// [`WeightError`]: a GPU does not take a weight. That one is missing is ruled out by [`Dims`] of the same file.
    pub fn load(gguf: &Gguf, dims: &Dims, processor: &Processor) -> Result<Self, WeightError> {
        let optional = |there: bool, name| {
            there
                .then(|| QuantLinear::load(gguf, name, processor))
                .transpose()
        };
        // logits are scaled by the norm that they are products of
        let mut output_norm = f32_values(gguf, "output_norm.weight")?;
        for weight in &mut output_norm {
            *weight /= dims.scales.logits;
        }
        Ok(Self {
            token_embd: QuantLinear::load(gguf, "token_embd.weight", processor)?,
            blocks: (0..dims.layers)
                .map(|layer| Block::load(gguf, dims, layer, processor))
                .collect::<Result<_, _>>()?,
            output_norm: Vector::from_values(output_norm, processor)?,
            output: optional(!dims.tied_head, "output.weight")?,
            requantized: optional(
                dims.requantized_head && processor.name().is_none(),
                REQUANTIZED_HEAD,
            )?,
        })
    }

    pub(super) fn head(&self) -> LmHead<Dispatch> {
        let exact = self.output.as_ref().unwrap_or(&self.token_embd);
        LmHead {
            norm: self.output_norm.tensor().into_dispatch(),
            exact: exact.matrix(),
            scan: self.requantized.as_ref().unwrap_or(exact).matrix(),
            requantized: self.requantized.is_some(),
        }
    }
}

fn find<'a>(gguf: &'a Gguf, name: &str) -> Result<&'a TensorInfo, WeightError> {
    gguf.tensor(name)
        .ok_or_else(|| WeightError::Missing(name.to_owned()))
}

/// Copies the values of a small F32 tensor.
pub(super) fn f32_values(gguf: &Gguf, name: &str) -> Result<Vec<f32>, WeightError> {
    let info = find(gguf, name)?;
    Ok(gguf
        .data(info)
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect())
}
