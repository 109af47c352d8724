//! The steps in plain Burn ops on f32: the definition that every override is compared with. Only the blocks themselves are
//! opened by [`Kernels::open_row`], which is the definition of the formats.

pub(super) mod delta;

use super::rope::RopePairing;
use super::runtime::Runtime;
use super::{
    AttentionInput, AttentionSpec, Backend, DraftInput, FloatTensor, HeadNorm, Matrix, MlpInput,
    Norm, Projection,
};
use crate::kv::KvCache;
use crate::quant::{Kernels, Paged, hadamard_transform};
use burn::backend::tensor::Device;
use burn::backend::{Scalar, Shape, Slice, TensorData, TensorMetadata};
use burn::tensor::read_sync;

fn upload<B: Backend>(
    values: Vec<f32>,
    shape: impl Into<Vec<usize>>,
    device: &Device<B>,
) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(values, shape.into()), device)
}

pub(super) fn download<B: Backend>(tensor: FloatTensor<B>) -> Vec<f32> {
    match read_sync(B::float_into_data(tensor)).map(TensorData::try_into_vec) {
        Ok(Ok(values)) => values,
        _ => panic!("the device gave no f32 values"),
    }
}

/// Dequantises all values of a matrix: `[rows, cols]`.
fn open<B: Backend>(w: Matrix<B>, kernels: &Kernels, device: &Device<B>) -> FloatTensor<B> {
    let (rows, cols) = (w.rows, w.cols);
    upload::<B>(open_rows::<B>(w, kernels, 0..rows), [rows, cols], device)
}

fn open_rows<B: Backend>(
    w: Matrix<B>,
    kernels: &Kernels,
    rows: impl IntoIterator<Item = usize>,
) -> Vec<f32> {
    assert!(w.rest.0.is_empty(), "a matrix in parts left its GPU");
    let bytes: Vec<u8> = match read_sync(B::int_into_data(w.blocks)).map(TensorData::try_into_vec) {
        Ok(Ok(bytes)) => bytes,
        _ => panic!("the device gave no bytes"),
    };
    let mut out = Vec::new();
    for r in rows {
        let start = out.len();
        out.resize(start + w.cols, 0.0);
        kernels.open_row(w.ty, w.layout, &bytes, r, &mut out[start..]);
    }
    out
}

pub(super) fn embed<B: Backend>(
    like: &FloatTensor<B>,
    table: Matrix<B>,
    tokens: &[u32],
    scale: f32,
    rt: &Runtime,
) -> FloatTensor<B> {
    let cols = table.cols;
    let values = open_rows::<B>(table, rt.kernels, tokens.iter().map(|&t| t as usize));
    let rows = upload::<B>(values, [tokens.len(), cols], &like.device());
    B::float_mul_scalar(rows, Scalar::from(scale))
}

/// The product `x . w^T`: `[n, w.rows]`.
pub(super) fn linear<B: Backend>(x: FloatTensor<B>, w: Matrix<B>, rt: &Runtime) -> FloatTensor<B> {
    let device = x.device();
    B::float_matmul(x, B::float_transpose(open::<B>(w, rt.kernels, &device)))
}

pub(super) fn draft_input<B: Backend>(
    embedded: FloatTensor<B>,
    before: FloatTensor<B>,
    w: DraftInput<B>,
    eps: f32,
    rt: &Runtime,
) -> FloatTensor<B> {
    let embedded = rms_norm::<B>(embedded, w.embed_norm, eps);
    let before = rms_norm::<B>(before, w.output_norm, eps);
    let before = rms_norm::<B>(before, w.hidden_norm, eps);
    linear::<B>(B::float_cat(vec![embedded, before], 1), w.join, rt)
}

/// RMS norm over the last dimension, which `weight` is as long as.
pub(super) fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f32,
) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    let mut shape = vec![1; last];
    shape.push(weight.shape()[0]);
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), last);
    let root = B::float_sqrt(B::float_add_scalar(mean, Scalar::from(eps)));
    B::float_mul(
        B::float_div(x, root),
        B::float_reshape(weight, Shape::from(shape)),
    )
}

/// The norm of `x`, or `x` where there is none.
fn normed<B: Backend>(x: FloatTensor<B>, norm: Norm<B>, eps: f32) -> FloatTensor<B> {
    match norm {
        Norm::Absent => x,
        Norm::Rms(weight) => rms_norm::<B>(x, weight, eps),
    }
}

pub(super) fn project_add<B: Backend>(
    x: FloatTensor<B>,
    a: FloatTensor<B>,
    w: Projection<B>,
    eps: f32,
    rt: &Runtime,
) -> FloatTensor<B> {
    B::float_add(x, normed::<B>(linear::<B>(a, w.matrix, rt), w.norm, eps))
}

pub(super) fn part<B: Backend>(
    x: FloatTensor<B>,
    dim: usize,
    from: usize,
    to: usize,
) -> FloatTensor<B> {
    let slices: Vec<Slice> = (0..x.shape().num_dims())
        .map(|d| {
            if d == dim {
                Slice::new(from as isize, Some(to as isize), 1)
            } else {
                Slice::new(0, None, 1)
            }
        })
        .collect();
    B::float_slice(x, &slices)
}

/// Rotates every head by its row's position; `x` is `[n, heads, D]`.
fn rotate<B: Backend>(
    x: FloatTensor<B>,
    pairing: RopePairing,
    kv: &KvCache,
    rt: &Runtime,
) -> FloatTensor<B> {
    let (n, heads, d) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let half = rt.rope.cos(0).len();
    let device = x.device();
    let table = |angle: fn(&super::rope::RopeTable, usize) -> &[f32], shape: &[usize]| {
        let values = (0..n)
            .flat_map(|row| angle(&rt.rope, kv.position(row)).iter().copied())
            .collect();
        upload::<B>(values, shape, &device)
    };
    let rest = part::<B>(x.clone(), 2, 2 * half, d);
    let rotated = part::<B>(x, 2, 0, 2 * half);
    let (shape, dim, rotated) = match pairing {
        RopePairing::Neox => (vec![n, 1, half], 2, rotated),
        RopePairing::Norm => (
            vec![n, 1, half, 1],
            3,
            B::float_reshape(rotated, Shape::from(vec![n, heads, half, 2])),
        ),
    };
    let (cos, sin) = (
        table(super::rope::RopeTable::cos, &shape),
        table(super::rope::RopeTable::sin, &shape),
    );
    let width = rotated.shape()[dim];
    let a = part::<B>(rotated.clone(), dim, 0, width / 2);
    let b = part::<B>(rotated, dim, width / 2, width);
    let low = B::float_sub(
        B::float_mul(a.clone(), cos.clone()),
        B::float_mul(b.clone(), sin.clone()),
    );
    let high = B::float_add(B::float_mul(b, cos), B::float_mul(a, sin));
    let rotated = B::float_reshape(
        B::float_cat(vec![low, high], dim),
        Shape::from(vec![n, heads, 2 * half]),
    );
    if d == 2 * half {
        rotated
    } else {
        B::float_cat(vec![rotated, rest], 2)
    }
}

pub(super) fn attention_input<B: Backend>(
    x: &FloatTensor<B>,
    w: AttentionInput<B>,
    spec: AttentionSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &Runtime,
) -> FloatTensor<B> {
    let n = x.shape()[0];
    let d = spec.head_dim;
    let (heads, q_rows, kv_rows) = (spec.heads, w.q.rows, spec.kv_heads * d);
    let h = normed::<B>(x.clone(), w.norm, spec.eps);
    let bias = B::float_reshape(w.bias, Shape::from(vec![1, q_rows + 2 * kv_rows]));
    let project = |w: Matrix<B>, from: usize, rows: usize| {
        B::float_add(
            linear::<B>(h.clone(), w, rt),
            part::<B>(bias.clone(), 1, from, from + rows),
        )
    };
    let rotated = |x: FloatTensor<B>, norm: FloatTensor<B>, heads: usize| {
        let norm_if = |place: HeadNorm, x: FloatTensor<B>| {
            if spec.qk_norm == place {
                rms_norm::<B>(x, norm.clone(), spec.eps)
            } else {
                x
            }
        };
        let x = B::float_reshape(x, Shape::from(vec![n, heads, d]));
        let x = norm_if(HeadNorm::BeforeRotation, x);
        let x = if spec.rotates(layer) {
            rotate::<B>(x, spec.pairing, kv, rt)
        } else {
            x
        };
        norm_if(HeadNorm::AfterRotation, x)
    };
    // of each head its query, and behind it its gate if it has one
    let q = B::float_reshape(
        project(w.q, 0, q_rows),
        Shape::from(vec![n, heads, q_rows / heads]),
    );
    let gates = part::<B>(q.clone(), 2, d, q_rows / heads);
    let q = rotated(part::<B>(q, 2, 0, d), w.q_norm, heads);
    let mut keys = download::<B>(rotated(
        project(w.k, q_rows, kv_rows),
        w.k_norm,
        spec.kv_heads,
    ));
    let mut vals = download::<B>(project(w.v, q_rows + kv_rows, kv_rows));
    for (row, (keys, vals)) in keys
        .chunks_exact_mut(kv_rows)
        .zip(vals.chunks_exact_mut(kv_rows))
        .enumerate()
    {
        kv.encode(rt.kernels, layer, keys, vals);
        kv.store(layer, row, keys, vals);
    }
    let scales = (0..n)
        .map(|row| rt.rope.query_scale(kv.position(row)))
        .collect();
    let scales = upload::<B>(scales, [n, 1], &x.device());
    let q = B::float_mul(B::float_reshape(q, Shape::from(vec![n, heads * d])), scales);
    if !spec.gated {
        return q;
    }
    let gates = B::float_reshape(gates, Shape::from(vec![n, heads * d]));
    B::float_cat(vec![q, sigmoid::<B>(gates)], 1)
}

/// Attention row by row, because each row may look only at its own sequence, up to itself.
pub(super) fn attention<B: Backend>(
    q: &FloatTensor<B>,
    spec: AttentionSpec,
    layer: usize,
    kv: &KvCache,
) -> FloatTensor<B> {
    let (n, d) = (q.shape()[0], spec.head_dim);
    let device = q.device();
    let open = |paged: Paged<'_>, len: usize, rotated: bool| {
        let mut values = vec![0.0; len * d];
        for (position, row) in values.chunks_exact_mut(d).enumerate() {
            paged.read(position, row);
            if rotated {
                hadamard_transform(row);
            }
        }
        upload::<B>(values, [len, d], &device)
    };
    let rows = (0..n)
        .map(|row| {
            let len = kv.position(row) + 1;
            let own = part::<B>(q.clone(), 0, row, row + 1);
            let heads = (0..spec.heads)
                .map(|h| {
                    let kv_head = h / (spec.heads / spec.kv_heads);
                    let query = B::float_mul_scalar(
                        part::<B>(own.clone(), 1, h * d, (h + 1) * d),
                        Scalar::from(1.0 / (d as f32).sqrt()),
                    );
                    let keys = open(kv.keys(layer, kv_head, row), len, kv.keys_rotated(layer));
                    let scores = B::float_matmul(query, B::float_transpose(keys));
                    let shifted = B::float_sub(scores.clone(), B::float_max_dim(scores, 1));
                    let e = B::float_exp(shifted);
                    let p = B::float_div(e.clone(), B::float_sum_dim(e, 1));
                    B::float_matmul(
                        p,
                        open(kv.values(layer, kv_head, row), len, kv.values_rotated()),
                    )
                })
                .collect();
            B::float_cat(heads, 1)
        })
        .collect();
    let out = B::float_cat(rows, 0);
    if spec.gated {
        let width = spec.heads * d;
        B::float_mul(out, part::<B>(q.clone(), 1, width, 2 * width))
    } else {
        out
    }
}

pub(super) fn mlp_input<B: Backend>(
    x: &FloatTensor<B>,
    w: MlpInput<B>,
    eps: f32,
    rt: &Runtime,
) -> FloatTensor<B> {
    let h = normed::<B>(x.clone(), w.norm, eps);
    let gate = linear::<B>(h.clone(), w.gate, rt);
    let up = linear::<B>(h, w.up, rt);
    B::float_mul(silu::<B>(gate), up)
}

/// The logistic function, `1 / (1 + exp(-x))`.
fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let denominator = B::float_add_scalar(B::float_exp(B::float_neg(x)), Scalar::from(1.0f32));
    B::float_recip(denominator)
}

fn silu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(x.clone(), sigmoid::<B>(x))
}
