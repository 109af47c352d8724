//! A gated delta net on the host: products and convolution column by column, and the matrices of all value heads side by side.

use super::products::{MatrixRows, multiply_all};
use super::{Flex, FlexTensor, Planes, slice, tensor, values, weight, width, with_tile};
use crate::kv::KvCache;
use crate::ops::delta::{DeltaInput, DeltaSpec, LENGTH_EPS};
use crate::ops::runtime::Runtime;
use crate::quant::{DeltaRule, Kernels, TAPS};
use std::ops::Range;

/// See [`QuantOps::delta_input`](crate::ops::QuantOps::delta_input). There is a task for each column behind the products.
pub(super) fn delta_input(
    x: &FlexTensor,
    w: &DeltaInput<Flex>,
    spec: DeltaSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &mut Runtime,
) -> FlexTensor {
    let (n, k) = width(x);
    let Runtime {
        pool,
        kernels,
        threads,
        inputs,
        products,
        spare,
        ..
    } = rt;
    let (kernels, threads) = (*kernels, *threads);
    let matrices = [&w.qkv, &w.gate, &w.alpha, &w.beta];
    inputs.norm(kernels, pool, threads, slice(x), weight(&w.norm), spec.eps);
    let types = matrices.map(|matrix| matrix.ty);
    // one plane: nothing makes of a small error a large one, as the softmax of attention does, and these are a quarter of the
    // layer's work
    inputs.quantize_normed(kernels, pool, threads, k, Planes::One, &types);
    let wide = spec.width();
    products.resize(n * wide, 0.0);
    let matrices = matrices.map(MatrixRows::new);
    multiply_all(&matrices, kernels, pool, threads, inputs, products);

    let column = Column::new(w, spec);
    let channels = spec.channels();
    let mut out = std::mem::take(spare);
    out.resize(n * wide, 0.0);
    for run in runs(kv) {
        let table = kv.table_of(run.start);
        let certain = run.len() - kv.guesses(table);
        let (kept, _) = kv.state(table, layer);
        let products = &products[run.start * wide..run.end * wide];
        let out = &mut out[run.start * wide..run.end * wide];
        pool.run_chunks(threads, out, wide, &|token, out| {
            let columns = std::array::from_fn(|tap| match (token + tap).checked_sub(TAPS - 1) {
                Some(token) => &products[token * wide..][..channels],
                None => &kept[(token + tap) * channels..][..channels],
            });
            column.finish(kernels, columns, &products[token * wide..][..wide], out);
        });
        keep_last(kept, &products[..certain * wide], channels, wide);
        let guesses = products[certain * wide..].chunks_exact(wide);
        kv.keep_inputs(layer, guesses.map(|column| &column[..channels]));
    }
    tensor(out, [n, wide])
}

/// Keeps the first `channels` values of the last columns, `TAPS - 1` of them; where there are fewer, those kept before stay.
fn keep_last(kept: &mut [f32], columns: &[f32], channels: usize, wide: usize) {
    let new = (columns.len() / wide).min(TAPS - 1);
    kept.copy_within(new * channels.., 0);
    let stay = kept.len() - new * channels;
    let last = columns[columns.len() - new * wide..].chunks_exact(wide);
    for (kept, column) in kept[stay..].chunks_exact_mut(channels).zip(last) {
        kept.copy_from_slice(&column[..channels]);
    }
}

/// What makes the input of the matrices of a column of products.
struct Column<'a> {
    spec: DeltaSpec,
    convolution: [&'a [f32]; TAPS],
    rate: &'a [f32],
    bias: &'a [f32],
    /// The weights by which an RMS norm divides queries by their length and `sqrt(D)`, and keys by their length.
    lengths: [Vec<f32>; 2],
}

impl<'a> Column<'a> {
    fn new(w: &'a DeltaInput<Flex>, spec: DeltaSpec) -> Self {
        let (channels, d) = (spec.channels(), spec.head_dim);
        let weights = slice::<f32>(&w.convolution);
        Self {
            spec,
            convolution: std::array::from_fn(|tap| &weights[tap * channels..][..channels]),
            rate: slice(&w.rate),
            bias: slice(&w.bias),
            // a head's mean square is its squared length over D
            lengths: [1.0 / d as f32, 1.0 / (d as f32).sqrt()].map(|weight| vec![weight; d]),
        }
    }

    /// `products` has queries, keys, values, gates, alpha and beta of the token, and so has `out` what is made of them.
    fn finish(
        &self,
        kernels: &Kernels,
        columns: [&[f32]; TAPS],
        products: &[f32],
        out: &mut [f32],
    ) {
        let DeltaSpec {
            value_heads,
            head_dim,
            ..
        } = self.spec;
        let channels = self.spec.channels();
        let (qkv, rest) = out.split_at_mut(channels);
        kernels.convolve(columns, self.convolution, qkv);
        let keys = self.spec.keys();
        with_tile(head_dim, |plain| {
            for (part, lengths) in qkv.chunks_exact_mut(keys).zip(&self.lengths) {
                for head in part.chunks_exact_mut(head_dim) {
                    plain.copy_from_slice(head);
                    kernels.rms_norm(plain, lengths, LENGTH_EPS / head_dim as f32, head);
                }
            }
        });
        let (gates, decays) = rest.split_at_mut(self.spec.values());
        let (gate, alphas) = products[channels..].split_at(gates.len());
        gates.copy_from_slice(gate);
        let (decays, betas) = decays.split_at_mut(value_heads);
        let (alpha, beta) = alphas.split_at(value_heads);
        // in f64, because small errors of a decay add up over a text; there is one number a head
        for (((decay, alpha), bias), rate) in
            decays.iter_mut().zip(alpha).zip(self.bias).zip(self.rate)
        {
            let x = f64::from(alpha + bias);
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            *decay = (f64::from(*rate) * softplus).exp() as f32;
        }
        for (out, beta) in betas.iter_mut().zip(beta) {
            *out = (1.0 / (1.0 + f64::from(-beta).exp())) as f32;
        }
    }
}

/// See [`QuantOps::delta`](crate::ops::QuantOps::delta). There is a task for each value head, which takes the tokens of a sequence
/// one after the other.
pub(super) fn delta(
    x: FlexTensor,
    norm: &FlexTensor,
    spec: DeltaSpec,
    layer: usize,
    kv: &mut KvCache,
    rt: &mut Runtime,
) -> FlexTensor {
    /// The matrix of a value head, and its part of each token's result.
    struct Head<'a> {
        state: &'a mut [f32],
        out: Vec<&'a mut [f32]>,
    }
    let (n, wide) = width(&x);
    let (d, channels) = (spec.head_dim, spec.channels());
    let (kernels, norm) = (rt.kernels, slice::<f32>(norm));
    let x = values(x);
    let mut out = vec![0.0; n * spec.values()];
    for run in runs(kv) {
        let table = kv.table_of(run.start);
        let columns = &x[run.start * wide..run.end * wide];
        let (certain, guesses) = columns.split_at((run.len() - kv.guesses(table)) * wide);
        kv.keep_columns(layer, guesses);
        let (_, state) = kv.state(table, layer);
        let states = state.chunks_exact_mut(d * d);
        let mut heads: Vec<Head<'_>> = states
            .map(|state| Head {
                state,
                out: Vec::with_capacity(run.len()),
            })
            .collect();
        let own = &mut out[run.start * spec.values()..run.end * spec.values()];
        for token in own.chunks_exact_mut(spec.values()) {
            for (head, out) in heads.iter_mut().zip(token.chunks_exact_mut(d)) {
                head.out.push(out);
            }
        }
        rt.pool.run_chunks(rt.threads, &mut heads, 1, &|head, own| {
            let gate = channels + head * d;
            let copied = if guesses.is_empty() { 0 } else { d * d };
            for Head { state, out } in own {
                with_tile((out.len() + 1) * d + copied, |tile| {
                    let (normed, rest) = tile.split_at_mut(d);
                    let (results, copy) = rest.split_at_mut(out.len() * d);
                    let (sure, guessed) = results.split_at_mut(certain.len() / wide * d);
                    kernels.delta_rule(&rule(spec, head, certain), state, sure);
                    if !guesses.is_empty() {
                        copy.copy_from_slice(state);
                        kernels.delta_rule(&rule(spec, head, guesses), copy, guessed);
                    }
                    let tokens = results.chunks_exact(d).zip(columns.chunks_exact(wide));
                    for (out, (result, column)) in out.iter_mut().zip(tokens) {
                        kernels.rms_norm(result, norm, spec.eps, normed);
                        out.copy_from_slice(&column[gate..][..d]);
                        kernels.silu_mul(out, normed);
                    }
                });
            }
        });
    }
    if x.capacity() > rt.spare.capacity() {
        rt.spare = x;
    }
    tensor(out, [n, spec.values()])
}

/// The rule of a value head for columns of [`DeltaSpec::width`] values.
fn rule(spec: DeltaSpec, head: usize, columns: &[f32]) -> DeltaRule<'_> {
    let (d, keys) = (spec.head_dim, spec.keys());
    let key_head = head % spec.key_heads * d;
    let decays = spec.channels() + spec.values();
    DeltaRule {
        columns,
        width: spec.width(),
        q: key_head,
        k: keys + key_head,
        v: 2 * keys + head * d,
        decay: decays + head,
        beta: decays + spec.value_heads + head,
        d,
    }
}

/// Takes the guesses of the last step that came true into the state of their sequence, in all layers. States are on the host
/// whatever the backend.
pub fn settle(spec: DeltaSpec, kv: &mut KvCache, rt: &mut Runtime) {
    if kv.accepted().is_none() {
        return;
    }
    let (d, channels, kernels) = (spec.head_dim, spec.channels(), rt.kernels);
    for layer in 0..kv.states().layout().layers {
        if let Some(of) = kv.take_accepted(layer) {
            keep_last(of.conv, of.inputs, channels, channels);
            let columns = of.columns;
            rt.pool
                .run_chunks(rt.threads, of.delta, d * d, &|head, state| {
                    let rule = rule(spec, head, columns);
                    with_tile(columns.len() / rule.width * d, |results| {
                        kernels.delta_rule(&rule, state, results);
                    });
                });
        }
    }
    kv.settled();
}

/// The rows of the step that are tokens of one sequence, one after the other.
fn runs(kv: &KvCache) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for row in 0..kv.rows() {
        match runs.last_mut() {
            Some(run) if kv.table_of(run.start) == kv.table_of(row) => run.end = row + 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}
