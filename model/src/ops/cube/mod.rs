//! The steps on a GPU: CubeCL kernels over weights that stay quantised in its memory.
//!
//! A step sends its tokens, positions, angles and page numbers in one upload ([`step`]), then some fourteen kernels for each
//! layer, and reads nothing back but what the sampler needs. Activations are quantised once for each layer input, as on the
//! host: see [`kernels::quantize`]. [`pack`] says how weights lie in the memory of the device, and [`device`] opens it.
//!
//! Kernels are launched checked: an index beyond a buffer reads or writes nothing of another.

pub mod device;
mod kernels;
mod launch;
mod memory;
mod pack;
mod pages;
mod step;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

use super::runtime::Runtime;
use super::{AttentionInput, AttentionSpec, LmHead, Matrix, MlpInput, QuantOps};
use crate::kv::KvCache;
use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use kernels::quantize::Planes;
use launch::{Columns, Launcher};
pub use pack::device_bytes;
pub use pages::CubePages;
pub(super) use step::Uploaded;

impl QuantOps for CubeBackend {
    fn embed(
        like: &CubeTensor,
        table: Matrix<Self>,
        tokens: &[u32],
        kv: &KvCache,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(like);
        let step = rt.uploaded.step(like, kv, tokens, &rt.rope);
        launcher.embed(&table, &step, tokens.len())
    }

    fn attention_input(
        x: &CubeTensor,
        w: AttentionInput<Self>,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(x);
        let step = rt.uploaded.step(x, kv, &[], &rt.rope);
        let columns = launcher.quantize(x, Some((&w.norm, spec.eps)), Planes::Two);
        let (q, k) = (w.q.rows, w.k.rows);
        let stride = q + 2 * k;
        let qkv = launcher.floats(columns.count, stride);
        for (matrix, first) in [(&w.q, 0), (&w.k, q), (&w.v, q + k)] {
            launcher.multiply(matrix, &columns, None, (&qkv, stride, first));
        }
        launcher.finish_heads(&qkv, &w, &spec, &step, layer, kv, rt.rope.cos(0).len())
    }

    fn attention(
        q: CubeTensor,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(&q);
        let step = rt.uploaded.step(&q, kv, &[], &rt.rope);
        launcher.attend(&q, &spec, &step, layer, kv)
    }

    fn project_add(x: CubeTensor, a: CubeTensor, w: Matrix<Self>, _: &mut Runtime) -> CubeTensor {
        let launcher = Launcher::of(&x);
        let columns = launcher.quantize(&a, None, Planes::One);
        let out = launcher.floats(columns.count, w.rows);
        launcher.multiply(&w, &columns, Some(&x), (&out, w.rows, 0));
        out
    }

    fn mlp_input(x: &CubeTensor, w: MlpInput<Self>, eps: f32, _: &mut Runtime) -> CubeTensor {
        let launcher = Launcher::of(x);
        let columns = launcher.quantize(x, Some((&w.norm, eps)), Planes::One);
        let out = launcher.floats(columns.count, w.gate.rows);
        let up = launcher.floats(columns.count, w.up.rows);
        launcher.multiply(&w.gate, &columns, None, (&out, w.gate.rows, 0));
        launcher.multiply(&w.up, &columns, None, (&up, w.up.rows, 0));
        launcher.silu_mul(&out, &up);
        out
    }

    fn head(x: CubeTensor, w: LmHead<Self>, eps: f32, _: &mut Runtime) -> CubeTensor {
        let launcher = Launcher::of(&x);
        let columns: Columns = launcher.quantize(&x, Some((&w.norm, eps)), Planes::Two);
        let vocab = w.exact.rows;
        let out = launcher.floats(columns.count, vocab);
        launcher.multiply(&w.exact, &columns, None, (&out, vocab, 0));
        out
    }

    fn read_best(logits: CubeTensor) -> Vec<f32> {
        match Launcher::of(&logits).best(&logits) {
            Ok(best) => best,
            Err(error) => panic!("the device gives no logits: {error}"),
        }
    }
}

/// How many rows an activation has.
fn rows(x: &CubeTensor) -> usize {
    x.shape()[0]
}
