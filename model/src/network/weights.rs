//! The tensors of a file as Burn modules, mapped without a copy.

use super::dims::Dims;
use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{GgmlType, Gguf, Layout, TensorInfo};
use crate::ops::delta::DeltaInput;
use crate::ops::no_gpu::NoGpu;
use crate::ops::processor::{Processor, mapped};
use crate::ops::{
    AttentionInput, DraftInput, HeadNorm, LmHead, Matrix, MlpInput, Norm, Projection, Rest,
};
use crate::quant::TAPS;
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
        Self::of(gguf, find(gguf, name)?, processor)
    }

    /// The first rows of a matrix, at most `rows`, which must be whole groups.
    fn first_rows(
        gguf: &Gguf,
        name: &str,
        rows: usize,
        processor: &Processor,
    ) -> Result<Self, WeightError> {
        let mut info = find(gguf, name)?.clone();
        let all = info.rows();
        info.dims = vec![info.dims[0], all.min(rows as u64)];
        info.bytes = info.bytes / all.max(1) as usize * info.dims[1] as usize;
        Self::of(gguf, &info, processor)
    }

    fn of(gguf: &Gguf, info: &TensorInfo, processor: &Processor) -> Result<Self, WeightError> {
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

/// The weights by which the tokens of a text look at each other, up to the output matrix.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each layer, and a box would only be one more step to it"
)]
pub(crate) enum Mixer {
    Attention(Attention),
    Delta(Delta),
}

/// The input side of attention.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    norm: Option<Vector>,
    q: QuantLinear,
    k: QuantLinear,
    v: QuantLinear,
    /// The biases of q, k and v one after the other, with zeros where the file has none.
    bias: Vector,
    q_norm: Vector,
    k_norm: Vector,
    /// The layer's number among those that attend, by which the cache knows it.
    #[module(skip)]
    pub(super) layer: usize,
}

impl Attention {
    fn load(source: &Layer<'_>, layer: usize) -> Result<Self, WeightError> {
        let dims = source.dims;
        let head_norm = |part: &str| match dims.qk_norm {
            HeadNorm::Absent => Vector::from_values(vec![0.0], source.processor),
            _ => source.vector(part),
        };
        let bias = if dims.qkv_bias {
            let mut bias = Vec::with_capacity(dims.q_rows() + 2 * dims.kv_dim());
            for part in ["attn_q.bias", "attn_k.bias", "attn_v.bias"] {
                bias.extend(source.values(part)?);
            }
            bias
        } else {
            vec![0.0; dims.q_rows() + 2 * dims.kv_dim()]
        };
        Ok(Self {
            norm: source.norm(!dims.post_norm, 0)?,
            q: source.linear("attn_q.weight")?,
            k: source.linear("attn_k.weight")?,
            v: source.linear("attn_v.weight")?,
            bias: Vector::from_values(bias, source.processor)?,
            q_norm: head_norm("attn_q_norm.weight")?,
            k_norm: head_norm("attn_k_norm.weight")?,
            layer,
        })
    }

    pub(super) fn input(&self) -> AttentionInput<Dispatch> {
        AttentionInput {
            norm: norm(self.norm.as_ref()),
            q: self.q.matrix(),
            k: self.k.matrix(),
            v: self.v.matrix(),
            bias: self.bias.tensor().into_dispatch(),
            q_norm: self.q_norm.tensor().into_dispatch(),
            k_norm: self.k_norm.tensor().into_dispatch(),
        }
    }
}

/// A gated delta net without its output matrix.
#[derive(Module, Debug)]
pub(crate) struct Delta {
    input_norm: Option<Vector>,
    qkv: QuantLinear,
    gate: QuantLinear,
    alpha: QuantLinear,
    beta: QuantLinear,
    /// Column by column of the window, so that a step goes along the channels.
    convolution: Vector,
    rate: Vector,
    bias: Vector,
    norm: Vector,
    /// The layer's number among the delta nets, by which the cache knows it.
    #[module(skip)]
    pub(super) layer: usize,
}

impl Delta {
    fn load(source: &Layer<'_>, layer: usize) -> Result<Self, WeightError> {
        let taps = source.values("ssm_conv1d.weight")?;
        let column = |tap: usize| taps.iter().skip(tap).step_by(TAPS).copied();
        let convolution = (0..TAPS).flat_map(column).collect();
        Ok(Self {
            input_norm: source.norm(true, 0)?,
            qkv: source.linear("attn_qkv.weight")?,
            gate: source.linear("attn_gate.weight")?,
            alpha: source.linear("ssm_alpha.weight")?,
            beta: source.linear("ssm_beta.weight")?,
            convolution: Vector::from_values(convolution, source.processor)?,
            rate: source.vector("ssm_a")?,
            bias: source.vector("ssm_dt.bias")?,
            norm: source.vector("ssm_norm.weight")?,
            layer,
        })
    }

    pub(super) fn input(&self) -> DeltaInput<Dispatch> {
        DeltaInput {
            norm: norm(self.input_norm.as_ref()),
            qkv: self.qkv.matrix(),
            gate: self.gate.matrix(),
            alpha: self.alpha.matrix(),
            beta: self.beta.matrix(),
            convolution: self.convolution.tensor().into_dispatch(),
            rate: self.rate.tensor().into_dispatch(),
            bias: self.bias.tensor().into_dispatch(),
        }
    }

    /// The weight of the norm of each head's result.
    pub(super) fn norm(&self) -> Tensor<1> {
        self.norm.tensor()
    }
}

/// The tensors of one layer of a file.
struct Layer<'a> {
    gguf: &'a Gguf,
    dims: &'a Dims,
    number: usize,
    processor: &'a Processor,
}

impl Layer<'_> {
    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.number)
    }

    fn linear(&self, part: &str) -> Result<QuantLinear, WeightError> {
        QuantLinear::load(self.gguf, &self.name(part), self.processor)
    }

    fn vector(&self, part: &str) -> Result<Vector, WeightError> {
        Vector::load(self.gguf, &self.name(part), self.processor)
    }

    fn values(&self, part: &str) -> Result<Vec<f32>, WeightError> {
        f32_values(self.gguf, &self.name(part))
    }

    /// The norm of attention (0) or of the MLP (1), if it is `there`.
    fn norm(&self, there: bool, of: usize) -> Result<Option<Vector>, WeightError> {
        let part = self.dims.arch.norm_names()[of];
        there.then(|| self.vector(part)).transpose()
    }
}

/// The weights of one layer. It has the norms before attention and MLP, or those behind them.
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub(super) mixer: Mixer,
    output: QuantLinear,
    post_norm: Option<Vector>,
    ffn_norm: Option<Vector>,
    ffn_post_norm: Option<Vector>,
    ffn_gate: QuantLinear,
    ffn_up: QuantLinear,
    ffn_down: QuantLinear,
}

impl Block {
    fn load(source: &Layer<'_>) -> Result<Self, WeightError> {
        let (dims, layer) = (source.dims, source.number);
        let behind = dims.post_norm;
        let attending = (0..layer).filter(|layer| dims.attends(*layer)).count();
        let (mixer, output) = if dims.attends(layer) {
            let attention = Attention::load(source, attending)?;
            (Mixer::Attention(attention), "attn_output.weight")
        } else {
            let delta = Delta::load(source, layer - attending)?;
            (Mixer::Delta(delta), "ssm_out.weight")
        };
        Ok(Self {
            mixer,
            output: source.linear(output)?,
            post_norm: source.norm(behind, 0)?,
            ffn_norm: source.norm(!behind, 1)?,
            ffn_post_norm: source.norm(behind, 1)?,
            ffn_gate: source.linear("ffn_gate.weight")?,
            ffn_up: source.linear("ffn_up.weight")?,
            ffn_down: source.linear("ffn_down.weight")?,
        })
    }

    pub(super) fn mixer_output(&self) -> Projection<Dispatch> {
        Projection {
            matrix: self.output.matrix(),
            norm: norm(self.post_norm.as_ref()),
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

/// How many tokens a layer that drafts chooses from: the first ones, which are the most frequent where merges made the vocabulary.
/// With all of Qwen3.5's 248,320 a draft would read a third of what a step reads.
pub const DRAFTED_TOKENS: usize = 32_768;

/// A layer that drafts, behind all others.
#[derive(Module, Debug)]
pub(crate) struct Draft {
    embed_norm: Vector,
    hidden_norm: Vector,
    join: QuantLinear,
    pub(super) block: Block,
    head_norm: Vector,
    head: QuantLinear,
    /// Its own embedding, or `None` where it takes the network's.
    token_embd: Option<QuantLinear>,
}

impl Draft {
    fn load(source: &Layer<'_>) -> Result<Self, WeightError> {
        let (gguf, processor) = (source.gguf, source.processor);
        let there = |name: &String| gguf.tensor(name).is_some();
        let own = |part: &str| Some(source.name(part)).filter(there);
        let or = |part: &str, names: &[&str]| {
            let named = names.iter().map(|name| (*name).to_owned()).find(there);
            own(part).or(named).unwrap_or_default()
        };
        let norm = or("nextn.shared_head_norm.weight", &["output_norm.weight"]);
        let head = or(
            "nextn.shared_head_head.weight",
            &["output.weight", "token_embd.weight"],
        );
        let table = own("nextn.embed_tokens.weight");
        Ok(Self {
            embed_norm: source.vector("nextn.enorm.weight")?,
            hidden_norm: source.vector("nextn.hnorm.weight")?,
            join: source.linear("nextn.eh_proj.weight")?,
            block: Block::load(source)?,
            head_norm: Vector::load(gguf, &norm, processor)?,
            head: QuantLinear::first_rows(gguf, &head, DRAFTED_TOKENS, processor)?,
            token_embd: table
                .map(|name| QuantLinear::load(gguf, &name, processor))
                .transpose()?,
        })
    }

    pub(super) fn head(&self) -> LmHead<Dispatch> {
        LmHead {
            norm: self.head_norm.tensor().into_dispatch(),
            exact: self.head.matrix(),
            scan: self.head.matrix(),
            requantized: false,
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
    pub(super) draft: Option<Draft>,
    /// The tensor [`REQUANTIZED_HEAD`] of a packed file, which a GPU has no use for.
    requantized: Option<QuantLinear>,
}

impl Weights {
    /// Makes handles on the mapped file, where only biases, convolutions and the last norm are copied, or puts the weights into the memory
    /// of a GPU.
    ///
    /// # Errors
    /// [`WeightError`]: a GPU does not take a weight. That one is missing is ruled out by [`Dims`] of the same file.
    pub fn load(
        gguf: &Gguf,
        dims: &Dims,
        drafts: bool,
        processor: &Processor,
    ) -> Result<Self, WeightError> {
        let layer = |number| Layer {
            gguf,
            dims,
            number,
            processor,
        };
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
                .map(|number| Block::load(&layer(number)))
                .collect::<Result<_, _>>()?,
            output_norm: Vector::from_values(output_norm, processor)?,
            draft: (drafts && dims.draft_layers > 0)
                .then(|| Draft::load(&layer(dims.layers)))
                .transpose()?,
            output: optional(!dims.tied_head, "output.weight")?,
            requantized: optional(
                dims.requantized_head && processor.name().is_none(),
                REQUANTIZED_HEAD,
            )?,
        })
    }

    /// The embedding that a layer which drafts looks tokens up in, and its input side.
    pub(super) fn draft_input(&self, draft: &Draft) -> (Matrix<Dispatch>, DraftInput<Dispatch>) {
        let table = draft.token_embd.as_ref().unwrap_or(&self.token_embd);
        let input = DraftInput {
            embed_norm: draft.embed_norm.tensor().into_dispatch(),
            output_norm: self.output_norm.tensor().into_dispatch(),
            hidden_norm: draft.hidden_norm.tensor().into_dispatch(),
            join: draft.join.matrix(),
        };
        (table.matrix(), input)
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
