//! The steps on the host: int8 kernels over the mapped blocks, with rows handed out in chunks to the thread pool.

mod attention;
mod delta;
mod products;

use super::delta::{DeltaInput, DeltaSpec};
use super::runtime::{Planes, Runtime};
use super::top_groups::TopGroups;
use super::{
    AttentionInput, AttentionSpec, DraftInput, Flex, FlexTensor, HeadNorm, LmHead, Matrix,
    MlpInput, Norm, Projection, QuantOps,
};
use crate::exp::exp;
use crate::gguf::GROUP;
use crate::kv::KvCache;
use crate::pool::RowTile;
use burn::backend::{TensorData, TensorMetadata};
pub use delta::settle;
use products::{MatrixRows, multiply_all};
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a matrix that a thread claims at least. 32 rows of 1,536 Q4_K values are 27 KB: as a prefill tile they stay in a
/// 32 KB L1, and in decode they take 3 microseconds at 10 GB/s, against 50 ns for the claim.
const ROWS: usize = 64;
// so that only the last tile of a matrix has rows that are left over of its groups
const _: () = assert!(ROWS.is_multiple_of(GROUP));

/// Columns with which weights are multiplied about as fast as they come from memory, at most.
const FEW: usize = 11;

/// The rows that are claimed at least, and how often as many at once, where they are multiplied by `n` columns. With few columns longer
/// pieces of memory are read faster, with 256 rows 1.05 to 1.12 times as fast (two cores of an Intel Xeon, Granite Rapids). With many
/// the tile would not stay in L1.
const fn claim(n: usize) -> (usize, usize) {
    (ROWS, if n <= FEW { 4 } else { 1 })
}

thread_local! {
    /// A worker's own tile: the up half of gate/up, the product before the residual is added, or a tile of attention. It is
    /// bounded by `ROWS * tokens of a step` or by `4 * ROWS * FEW`, and by `glowplug_firmware_config::attention::scratch`.
    static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The first `len` values of the buffer, which is grown to at least that many.
fn first(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

fn with_tile<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    TILE.with_borrow_mut(|tile| body(first(tile, len)))
}

fn slice<E: burn::tensor::Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[E] {
    match tensor.as_slice::<E>() {
        Some(slice) => slice,
        None => panic!(
            "a {:?} tensor that is not contiguous reached a host step",
            tensor.dtype()
        ),
    }
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The tensor's own values if nobody else holds it, so that they can be changed in place, and otherwise a copy.
fn values(tensor: FlexTensor) -> Vec<f32> {
    match tensor.into_data().try_into_vec() {
        Ok(values) => values,
        Err(error) => panic!("a step's activations are not f32: {error:?}"),
    }
}

/// The weight of a norm, if there is one.
fn weight(norm: &Norm<Flex>) -> Option<&[f32]> {
    norm.weight().map(slice)
}

/// The two sizes of `x`, which is `[n, k]`.
fn width(x: &FlexTensor) -> (usize, usize) {
    let shape = x.shape();
    (shape[0], shape[1])
}

impl QuantOps for Flex {
    fn embed(
        _like: &FlexTensor,
        table: Matrix<Self>,
        tokens: &[u32],
        scale: f32,
        _kv: &KvCache,
        rt: &mut Runtime,
    ) -> FlexTensor {
        let rows = MatrixRows::new(&table);
        let mut out = vec![0.0; tokens.len() * table.cols];
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(table.cols)) {
            rt.kernels
                .open_row(table.ty, table.layout, rows.bytes, token as usize, out);
            multiply(out, scale);
        }
        tensor(out, [tokens.len(), table.cols])
    }

    fn attention_input(
        x: &FlexTensor,
        w: AttentionInput<Self>,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FlexTensor {
        let (n, k) = width(x);
        let Runtime {
            pool,
            kernels,
            threads,
            rope,
            inputs,
            products,
            ..
        } = rt;
        let (kernels, threads) = (*kernels, *threads);
        inputs.norm(kernels, pool, threads, slice(x), weight(&w.norm), spec.eps);
        inputs.quantize_normed(
            kernels,
            pool,
            threads,
            k,
            Planes::Two,
            &[w.q.ty, w.k.ty, w.v.ty],
        );

        let (q_rows, kv_rows) = (w.q.rows, spec.kv_heads * spec.head_dim);
        let rows = q_rows + 2 * kv_rows;
        products.resize(n * rows, 0.0);
        let matrices = [&w.q, &w.k, &w.v].map(MatrixRows::new);
        multiply_all(&matrices, kernels, pool, threads, inputs, products);

        let norm_if = |place: HeadNorm, head: &mut [f32], norm: &FlexTensor| {
            if spec.qk_norm == place {
                let plain = head.to_vec();
                kernels.rms_norm(&plain, slice(norm), spec.eps, head);
            }
        };
        let rotates = spec.rotates(layer);
        let finish = |head: &mut [f32], bias: &[f32], norm: &FlexTensor, position: usize| {
            add(head, bias);
            norm_if(HeadNorm::BeforeRotation, head, norm);
            if rotates {
                rope.rotate(spec.pairing, position, head);
            }
            norm_if(HeadNorm::AfterRotation, head, norm);
        };
        let bias = slice::<f32>(&w.bias);
        let d = spec.head_dim;
        let positions: &KvCache = kv;
        pool.run_chunks(threads, products, rows, &|i, column| {
            let position = positions.position(i);
            let (queries, rest) = column.split_at_mut(q_rows);
            let (keys, vals) = rest.split_at_mut(kv_rows);
            for (h, head) in queries.chunks_exact_mut(q_rows / spec.heads).enumerate() {
                let bias = &bias[h * head.len()..][..head.len()];
                let (query, gate) = head.split_at_mut(d);
                finish(query, &bias[..d], &w.q_norm, position);
                multiply(query, rope.query_scale(position));
                for (gate, bias) in gate.iter_mut().zip(&bias[d..]) {
                    *gate = 1.0 / (1.0 + exp::<false>(-(*gate + bias)));
                }
            }
            for (h, head) in keys.chunks_exact_mut(d).enumerate() {
                finish(head, &bias[q_rows + h * d..][..d], &w.k_norm, position);
            }
            add(vals, &bias[q_rows + kv_rows..]);
            positions.encode(kernels, layer, keys, vals);
        });
        let mut q = Vec::with_capacity(n * q_rows);
        for (i, column) in products.chunks_exact(rows).enumerate() {
            let (queries, rest) = column.split_at(q_rows);
            let (keys, vals) = rest.split_at(kv_rows);
            // all queries, and behind them all gates if there are any
            for part in 0..q_rows / (spec.heads * d) {
                for head in queries.chunks_exact(q_rows / spec.heads) {
                    q.extend_from_slice(&head[part * d..][..d]);
                }
            }
            kv.store(layer, i, keys, vals);
        }
        tensor(q, [n, q_rows])
    }

    fn attention(
        q: FlexTensor,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FlexTensor {
        attention::attention(q, spec, layer, kv, rt)
    }

    fn delta_input(
        x: &FlexTensor,
        w: DeltaInput<Self>,
        spec: DeltaSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FlexTensor {
        delta::delta_input(x, &w, spec, layer, kv, rt)
    }

    fn delta(
        x: FlexTensor,
        norm: FlexTensor,
        spec: DeltaSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> FlexTensor {
        delta::delta(x, &norm, spec, layer, kv, rt)
    }

    fn project_add(
        x: FlexTensor,
        a: FlexTensor,
        w: Projection<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FlexTensor {
        let (n, rows) = width(&x);
        let Projection { matrix: w, norm } = w;
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
        inputs.quantize(
            kernels,
            pool,
            threads,
            slice(&a),
            w.cols,
            Planes::One,
            &[w.ty],
        );
        let a = values(a);
        if a.capacity() > spare.capacity() {
            *spare = a;
        }
        let matrix = MatrixRows::new(&w);
        let mut out = values(x);
        if norm.weight().is_some() {
            // whole columns are normed, so that they are multiplied first and added by themselves
            products.resize(n * rows, 0.0);
            pool.run_rows(threads, products, rows, claim(n), &|range, out| {
                matrix.multiply(kernels, range, inputs.of(w.ty), out);
            });
            inputs.norm(kernels, pool, threads, products, weight(&norm), eps);
            add(&mut out, &inputs.normed);
            return tensor(out, [n, rows]);
        }
        pool.run_rows(threads, &mut out, rows, claim(n), &|range, out| {
            with_tile(n * range.len(), |tile| {
                let len = range.len();
                matrix.multiply(
                    kernels,
                    range.clone(),
                    inputs.of(w.ty),
                    &mut RowTile::new(tile, len),
                );
                for (c, product) in tile.chunks_exact(len).enumerate() {
                    add(out.column(c), product);
                }
            });
        });
        tensor(out, [n, rows])
    }

    fn mlp_input(x: &FlexTensor, w: MlpInput<Self>, eps: f32, rt: &mut Runtime) -> FlexTensor {
        let (n, k) = width(x);
        let Runtime {
            pool,
            kernels,
            threads,
            inputs,
            spare,
            ..
        } = rt;
        let (kernels, threads) = (*kernels, *threads);
        inputs.norm(kernels, pool, threads, slice(x), weight(&w.norm), eps);
        inputs.quantize_normed(
            kernels,
            pool,
            threads,
            k,
            Planes::One,
            &[w.gate.ty, w.up.ty],
        );
        let (gate, up) = (MatrixRows::new(&w.gate), MatrixRows::new(&w.up));
        let ff = w.gate.rows;
        let mut out = std::mem::take(spare);
        out.resize(n * ff, 0.0);
        pool.run_rows(threads, &mut out, ff, claim(n), &|range, out| {
            gate.multiply(kernels, range.clone(), inputs.of(w.gate.ty), out);
            with_tile(n * range.len(), |tile| {
                let len = range.len();
                up.multiply(
                    kernels,
                    range.clone(),
                    inputs.of(w.up.ty),
                    &mut RowTile::new(tile, len),
                );
                for (c, up) in tile.chunks_exact(len).enumerate() {
                    kernels.silu_mul(out.column(c), up);
                }
            });
        });
        tensor(out, [n, ff])
    }

    fn draft_input(
        embedded: FlexTensor,
        before: FlexTensor,
        w: DraftInput<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FlexTensor {
        let (n, k) = width(&embedded);
        let Runtime {
            pool,
            kernels,
            threads,
            inputs,
            ..
        } = rt;
        let (kernels, threads) = (*kernels, *threads);
        let (embedded, before) = (slice::<f32>(&embedded), slice::<f32>(&before));
        let mut joined = vec![0.0; n * 2 * k];
        pool.run_chunks(threads, &mut joined, 2 * k, &|column, out| {
            let (own, last) = out.split_at_mut(k);
            kernels.rms_norm(&embedded[column * k..][..k], slice(&w.embed_norm), eps, own);
            with_tile(k, |normed| {
                kernels.rms_norm(
                    &before[column * k..][..k],
                    slice(&w.output_norm),
                    eps,
                    normed,
                );
                kernels.rms_norm(normed, slice(&w.hidden_norm), eps, last);
            });
        });
        let types = [w.join.ty];
        inputs.quantize(kernels, pool, threads, &joined, 2 * k, Planes::Two, &types);
        let matrix = MatrixRows::new(&w.join);
        let mut out = vec![0.0; n * w.join.rows];
        pool.run_rows(threads, &mut out, w.join.rows, claim(n), &|range, out| {
            matrix.multiply(kernels, range, inputs.of(w.join.ty), out);
        });
        tensor(out, [n, w.join.rows])
    }

    fn head(
        x: FlexTensor,
        rows: Range<usize>,
        w: LmHead<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> FlexTensor {
        let (n, k) = (rows.len(), width(&x).1);
        let x = &slice::<f32>(&x)[rows.start * k..rows.end * k];
        let Runtime {
            pool,
            kernels,
            threads,
            inputs,
            top_groups,
            ..
        } = rt;
        let (kernels, threads) = (*kernels, *threads);
        inputs.norm(kernels, pool, threads, x, Some(slice(&w.norm)), eps);
        let types = [w.exact.ty, w.scan.ty];
        inputs.quantize_normed(kernels, pool, threads, k, Planes::Two, &types);
        let (exact, scan, vocab) = (
            MatrixRows::new(&w.exact),
            MatrixRows::new(&w.scan),
            w.exact.rows,
        );
        let mut out = vec![0.0; n * vocab];
        // one plane, which is the first columns, for all
        pool.run_rows(threads, &mut out, vocab, claim(n), &|range, out| {
            scan.multiply_plane(kernels, range, inputs.of(w.scan.ty), 0, out);
        });
        let acts = inputs.of(w.exact.ty);
        let planes = acts.cols() / n;
        if w.requantized || planes > 1 {
            top_groups.find(&out, vocab);
            let TopGroups { groups, logits, .. } = top_groups;
            pool.run_chunks(threads, logits, GROUP, &|task, logits| {
                let (column, row) = groups[task];
                let rows = row..vocab.min(row + GROUP);
                exact.multiply_column(kernels, rows, acts, (column, n), logits);
            });
            top_groups.place(&mut out, vocab);
        }
        tensor(out, [n, vocab])
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += f;
    }
}

fn multiply(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}
