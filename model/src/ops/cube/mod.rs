//! The steps on a GPU: CubeCL kernels over weights that stay quantised in its memory.
//!
//! A step sends its tokens, positions, angles and page numbers in one upload, then eleven kernels for each layer, and reads
//! nothing back but what the sampler needs. Activations are f32: see [`kernels::matvec`]. [`pack`] says how weights lie in the
//! memory of the device, [`buffers`] what a step computes in, [`device`] opens it, and [`driver`] is where all of
//! that runs.
//!
//! Kernels are launched checked: an index beyond a buffer reads or writes nothing of another. The tensors of a step are its
//! buffers, so that they are good until the next step begins.

mod buffers;
pub mod device;
pub mod driver;
mod kernels;
mod launch;
mod pack;
mod pages;
pub(super) mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
pub mod thread;

use super::no_gpu::NoGpu;
use super::runtime::Runtime;
use super::{AttentionInput, AttentionSpec, LmHead, Matrix, MlpInput, QuantOps};
use crate::kv::KvCache;
use buffers::Slot;
use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use driver::Driver;
use kernels::matvec::Finish;
pub(super) use launch::Launcher;
pub use pages::CubePages;
use std::ops::Range;

impl QuantOps for CubeBackend {
    fn embed(
        like: &CubeTensor,
        table: Matrix<Self>,
        tokens: &[u32],
        kv: &KvCache,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, like);
        let step = launcher.step(kv, tokens, &rt.rope);
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
        let launcher = Launcher::of(&mut rt.launcher, x);
        let step = launcher.step(kv, &[], &rt.rope);
        let n = rows(x);
        let normed = launcher.norm(x, 0..n, &w.norm, spec.eps);
        let (q, k) = (w.q.rows, w.k.rows);
        let stride = q + 2 * k;
        let qkv = launcher.tensor(Slot::Qkv, [n, stride]);
        for (matrix, first) in [(&w.q, 0), (&w.k, q), (&w.v, q + k)] {
            launcher.multiply(matrix, &normed, Finish::Store, (&qkv, stride, first));
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
        let launcher = Launcher::of(&mut rt.launcher, &q);
        let step = launcher.step(kv, &[], &rt.rope);
        launcher.attend(&q, &spec, &step, layer, kv);
        q
    }

    fn project_add(x: CubeTensor, a: CubeTensor, w: Matrix<Self>, rt: &mut Runtime) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, &x);
        launcher.multiply(&w, &a, Finish::Add, (&x, w.rows, 0));
        x
    }

    fn mlp_input(x: &CubeTensor, w: MlpInput<Self>, eps: f32, rt: &mut Runtime) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, x);
        let (n, ff) = (rows(x), w.gate.rows);
        let normed = launcher.norm(x, 0..n, &w.norm, eps);
        let out = launcher.tensor(Slot::Inner, [n, ff]);
        launcher.multiply(&w.gate, &normed, Finish::Store, (&out, ff, 0));
        launcher.multiply(&w.up, &normed, Finish::Gate, (&out, ff, 0));
        out
    }

    fn head(
        x: CubeTensor,
        rows: Range<usize>,
        w: LmHead<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, &x);
        let (n, vocab) = (rows.len(), w.exact.rows);
        let normed = launcher.norm(&x, rows, &w.norm, eps);
        let out = launcher.tensor(Slot::Logits, [n, vocab]);
        launcher.multiply(&w.exact, &normed, Finish::Store, (&out, vocab, 0));
        out
    }

    fn read_logits(logits: CubeTensor, best: bool, rt: &mut Runtime) -> Result<Vec<f32>, NoGpu> {
        let launcher = Launcher::of(&mut rt.launcher, &logits);
        let read = if best {
            launcher.best(&logits)
        } else {
            launcher.all(&logits)
        };
        read.map_err(|error| Driver::give_up(&error))
    }
}

/// How many rows an activation has.
fn rows(x: &CubeTensor) -> usize {
    x.shape()[0]
}
