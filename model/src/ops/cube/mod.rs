//! The steps on a GPU: CubeCL kernels over weights that stay quantised in its memory.
//!
//! A step sends its tokens, positions, angles and page numbers in one upload, then thirteen kernels for each layer, and reads
//! nothing back but what the sampler needs. All of them give the bits that the host's level gives: what it rounds is rounded alike
//! ([`kernels::quantize`]), and what it adds up is added in its order ([`kernels::arithmetic`]). [`pack`] says how weights lie in the
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
mod products;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
pub mod thread;

use super::no_gpu::NoGpu;
use super::runtime::{Planes, Runtime};
use super::{AttentionInput, AttentionSpec, LmHead, Matrix, MlpInput, Projection, QuantOps};
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
        scale: f32,
        kv: &KvCache,
        rt: &mut Runtime,
    ) -> CubeTensor {
        assert!(scale == 1.0, "an embedding that is scaled reached a device");
        let launcher = Launcher::of(&mut rt.launcher, like, rt.kernels.isa());
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
        let launcher = Launcher::of(&mut rt.launcher, x, rt.kernels.isa());
        let step = launcher.step(kv, &[], &rt.rope);
        let n = rows(x);
        let (q, k) = (w.q.rows, w.k.rows);
        let stride = q + 2 * k;
        let qkv = launcher.tensor(Slot::Qkv, [n, stride]);
        let matrices = [(&w.q, 0), (&w.k, q), (&w.v, q + k)];
        let matrices = matrices.map(|(w, first)| (w, Finish::Store, (&qkv, stride, first)));
        let norm = w.norm.weight().map(|weight| (weight, spec.eps));
        launcher.multiply(&matrices, x, 0..n, norm, Planes::Two);
        launcher.finish_heads(&qkv, &w, &spec, &step, layer, kv, rt.rope.cos(0).len())
    }

    fn attention(
        q: CubeTensor,
        spec: AttentionSpec,
        layer: usize,
        kv: &mut KvCache,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, &q, rt.kernels.isa());
        let step = launcher.step(kv, &[], &rt.rope);
        launcher.attend(&q, &spec, &step, layer, kv, rt.rope.positions());
        q
    }

    fn project_add(
        x: CubeTensor,
        a: CubeTensor,
        w: Projection<Self>,
        _eps: f32,
        rt: &mut Runtime,
    ) -> CubeTensor {
        assert!(
            w.norm.weight().is_none(),
            "a norm behind a product reached a device"
        );
        let w = w.matrix;
        let launcher = Launcher::of(&mut rt.launcher, &x, rt.kernels.isa());
        let matrix = [(&w, Finish::Add, (&x, w.rows, 0))];
        launcher.multiply(&matrix, &a, 0..rows(&a), None, Planes::One);
        x
    }

    fn mlp_input(x: &CubeTensor, w: MlpInput<Self>, eps: f32, rt: &mut Runtime) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, x, rt.kernels.isa());
        let (n, ff) = (rows(x), w.gate.rows);
        let out = launcher.tensor(Slot::Inner, [n, ff]);
        let place = (&out, ff, 0);
        let matrices = [
            (&w.gate, Finish::Store, place),
            (&w.up, Finish::Gate, place),
        ];
        let norm = w.norm.weight().map(|weight| (weight, eps));
        launcher.multiply(&matrices, x, 0..n, norm, Planes::One);
        out
    }

    fn head(
        x: CubeTensor,
        rows: Range<usize>,
        w: LmHead<Self>,
        eps: f32,
        rt: &mut Runtime,
    ) -> CubeTensor {
        let launcher = Launcher::of(&mut rt.launcher, &x, rt.kernels.isa());
        let (n, vocab) = (rows.len(), w.exact.rows);
        let out = launcher.tensor(Slot::Logits, [n, vocab]);
        let matrix = [(&w.exact, Finish::Store, (&out, vocab, 0))];
        launcher.multiply(&matrix, &x, rows, Some((&w.norm, eps)), Planes::Two);
        out
    }

    fn read_logits(logits: CubeTensor, best: bool, rt: &mut Runtime) -> Result<Vec<f32>, NoGpu> {
        let launcher = Launcher::of(&mut rt.launcher, &logits, rt.kernels.isa());
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
