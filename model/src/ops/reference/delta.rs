//! The steps of a gated delta net in plain Burn ops, token by token.

use super::{download, linear, normed, part, rms_norm, sigmoid, silu, upload};
use crate::kv::KvCache;
use crate::ops::delta::{DeltaInput, DeltaSpec, LENGTH_EPS};
use crate::ops::runtime::Runtime;
use crate::ops::{Backend, FloatTensor};
use crate::quant::{STATE_COLUMNS, TAPS};
use burn::backend::{Scalar, Shape, TensorMetadata};

/// The logarithm of `1 + exp(x)`, made of numbers that do not overflow.
fn softplus<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let rest = B::float_log1p(B::float_exp(B::float_neg(B::float_abs(x.clone()))));
    B::float_add(B::float_clamp_min(x, Scalar::from(0.0f32)), rest)
}

/// Divides every head of `x`, which is `[1, heads * d]`, by its length.
fn unit_heads<B: Backend>(x: FloatTensor<B>, d: usize) -> FloatTensor<B> {
    let values = x.shape()[1];
    let heads = B::float_reshape(x, Shape::from(vec![values / d, d]));
    let squares = B::float_sum_dim(B::float_mul(heads.clone(), heads.clone()), 1);
    let length = B::float_sqrt(B::float_add_scalar(squares, Scalar::from(LENGTH_EPS)));
    B::float_reshape(B::float_div(heads, length), Shape::from(vec![1, values]))
}

/// The first of `n` rows that is a guess, or `n`. Guesses are the last rows of a step.
fn first_guess(n: usize, kv: &KvCache) -> usize {
    n - kv.guesses(kv.table_of(n - 1))
}

pub(in crate::ops) fn delta_input<B: Backend>(
    x: &FloatTensor<B>,
    w: DeltaInput<B>,
    spec: DeltaSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &Runtime,
) -> FloatTensor<B> {
    let (n, device) = (x.shape()[0], x.device());
    let (keys, channels, heads, d) = (
        spec.keys(),
        spec.channels(),
        spec.value_heads,
        spec.head_dim,
    );
    let h = normed::<B>(x.clone(), w.norm, spec.eps);
    let qkv = linear::<B>(h.clone(), w.qkv, rt);
    let gate = linear::<B>(h.clone(), w.gate, rt);
    let row_of = |x: FloatTensor<B>| B::float_reshape(x, Shape::from(vec![1, heads]));
    let alpha = B::float_add(linear::<B>(h.clone(), w.alpha, rt), row_of(w.bias));
    let decay = B::float_exp(B::float_mul(softplus::<B>(alpha), row_of(w.rate)));
    let beta = sigmoid::<B>(linear::<B>(h, w.beta, rt));
    let first = first_guess(n, kv);
    let mut before = None;
    let convolved = (0..n)
        .map(|row| {
            let (state, _) = kv.state(kv.table_of(row), layer);
            if row == first {
                before = Some(state.to_vec());
            }
            let last = upload::<B>(state.to_vec(), [TAPS - 1, channels], &device);
            let own = part::<B>(qkv.clone(), 0, row, row + 1);
            let columns = B::float_cat(vec![last, own], 0);
            let kept = part::<B>(columns.clone(), 0, 1, TAPS);
            state.copy_from_slice(&download::<B>(kept));
            let sum = B::float_sum_dim(B::float_mul(columns, w.convolution.clone()), 0);
            let out = silu::<B>(sum);
            let q = unit_heads::<B>(part::<B>(out.clone(), 1, 0, keys), d);
            let q = B::float_mul_scalar(q, Scalar::from(1.0 / (d as f32).sqrt()));
            let k = unit_heads::<B>(part::<B>(out.clone(), 1, keys, 2 * keys), d);
            B::float_cat(vec![q, k, part::<B>(out, 1, 2 * keys, channels)], 1)
        })
        .collect();
    if let Some(before) = before {
        kv.state(kv.table_of(first), layer)
            .0
            .copy_from_slice(&before);
        let guesses = download::<B>(part::<B>(qkv, 0, first, n));
        kv.keep_inputs(layer, guesses.chunks_exact(channels));
    }
    B::float_cat(vec![B::float_cat(convolved, 0), gate, decay, beta], 1)
}

pub(in crate::ops) fn delta<B: Backend>(
    x: &FloatTensor<B>,
    norm: &FloatTensor<B>,
    spec: DeltaSpec,
    layer: usize,
    kv: &mut KvCache,
) -> FloatTensor<B> {
    let (n, d, device) = (x.shape()[0], spec.head_dim, x.device());
    let (keys, channels) = (spec.keys(), spec.channels());
    let (gates, decays) = (channels, channels + spec.values());
    let first = first_guess(n, kv);
    let mut before = None;
    let rows = (0..n)
        .map(|row| {
            let (_, state) = kv.state(kv.table_of(row), layer);
            if row == first {
                before = Some(state.to_vec());
            }
            let token = part::<B>(x.clone(), 0, row, row + 1);
            let values = |from: usize, len: usize| part::<B>(token.clone(), 1, from, from + len);
            let mut heads = Vec::new();
            for (head, state) in state.chunks_exact_mut(d * d).enumerate() {
                let key_head = head % spec.key_heads * d;
                let (q, k) = (values(key_head, d), values(keys + key_head, d));
                let k_column = B::float_transpose(k.clone());
                let decay = values(decays + head, 1);
                let beta = values(decays + spec.value_heads + head, 1);
                let mut out = Vec::new();
                for (at, state) in state.chunks_exact_mut(d * STATE_COLUMNS).enumerate() {
                    let before = upload::<B>(state.to_vec(), [d, STATE_COLUMNS], &device);
                    let before = B::float_mul(before, decay.clone());
                    let v = values(2 * keys + head * d + at * STATE_COLUMNS, STATE_COLUMNS);
                    let known = B::float_matmul(k.clone(), before.clone());
                    let change = B::float_mul(B::float_sub(v, known), beta.clone());
                    let after = B::float_add(before, B::float_matmul(k_column.clone(), change));
                    out.push(B::float_matmul(q.clone(), after.clone()));
                    state.copy_from_slice(&download::<B>(after));
                }
                let out = rms_norm::<B>(B::float_cat(out, 1), norm.clone(), spec.eps);
                heads.push(B::float_mul(out, silu::<B>(values(gates + head * d, d))));
            }
            B::float_cat(heads, 1)
        })
        .collect();
    if let Some(before) = before {
        kv.state(kv.table_of(first), layer)
            .1
            .copy_from_slice(&before);
        kv.keep_columns(layer, &download::<B>(part::<B>(x.clone(), 0, first, n)));
    }
    B::float_cat(rows, 0)
}
