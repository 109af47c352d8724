//! What the host steps work with besides tensors: threads, kernels, angles, and buffers reused from step to step.

use super::rope::RopeTable;
use crate::gguf::GgmlType;
use crate::pool::Pool;
use crate::quant::{ActKind, Activations, Kernels, act_kind};

/// One per engine; not shared.
pub struct Runtime {
    /// persistent worker threads
    pub pool: Pool,
    /// the function table of the chosen instruction set
    pub kernels: &'static Kernels,
    /// threads of the pool that the next steps use (prefill and decode differ)
    pub threads: usize,
    /// rotation angles
    pub rope: RopeTable,
    pub(super) inputs: LayerInput,
    pub(super) qkv: Vec<f32>,
}

impl Runtime {
    /// With empty buffers: they grow with the first and largest step and stay.
    #[must_use]
    pub fn new(pool: Pool, kernels: &'static Kernels, rope: RopeTable) -> Self {
        let threads = pool.threads();
        Self {
            pool,
            kernels,
            threads,
            rope,
            inputs: LayerInput::default(),
            qkv: Vec::new(),
        }
    }
}

/// One layer input: its normed columns and the quantised forms that the layer's matrices ask for.
#[derive(Default)]
pub(super) struct LayerInput {
    pub(super) normed: Vec<f32>,
    f32: Activations,
    q8: Activations,
    q8k: Activations,
}

impl LayerInput {
    /// RMS norm of every column of `x` (`[n][k]`) into `normed`.
    pub(super) fn norm(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        threads: usize,
        x: &[f32],
        weight: &[f32],
        eps: f32,
    ) {
        let k = weight.len();
        self.normed.resize(x.len(), 0.0);
        pool.run_chunks(threads, &mut self.normed, k, &|column, out| {
            kernels.rms_norm(&x[column * k..][..k], weight, eps, out);
        });
    }

    /// Quantises `normed` once per form that one of `types` needs.
    pub(super) fn quantize_normed(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        threads: usize,
        k: usize,
        types: &[GgmlType],
    ) {
        let normed = std::mem::take(&mut self.normed);
        self.quantize(kernels, pool, threads, &normed, k, types);
        self.normed = normed;
    }

    /// Quantises `x` (`[n][k]`) once per form that one of `types` needs.
    pub(super) fn quantize(
        &mut self,
        kernels: &Kernels,
        pool: &Pool,
        threads: usize,
        x: &[f32],
        k: usize,
        types: &[GgmlType],
    ) {
        for kind in [ActKind::F32, ActKind::Q8, ActKind::Q8K] {
            if types.iter().any(|&ty| act_kind(ty) == kind) {
                kernels.quantize(kind, x, k, self.of_mut(kind), pool, threads);
            }
        }
    }

    /// The form for matrices of this type.
    pub(super) fn of(&self, ty: GgmlType) -> &Activations {
        match act_kind(ty) {
            ActKind::F32 => &self.f32,
            ActKind::Q8 => &self.q8,
            ActKind::Q8K => &self.q8k,
        }
    }

    fn of_mut(&mut self, kind: ActKind) -> &mut Activations {
        match kind {
            ActKind::F32 => &mut self.f32,
            ActKind::Q8 => &mut self.q8,
            ActKind::Q8K => &mut self.q8k,
        }
    }
}
