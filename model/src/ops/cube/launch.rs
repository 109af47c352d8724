//! Launching the kernels: shapes, grids, and the buffers that they read and write.

use super::buffers::{self, Buffers, Slot};
use super::kernels::arithmetic::{Fma, round_once};
use super::kernels::attention::{Attention, ROWS_AT_ONCE, attend};
use super::kernels::best::{
    COUNT, FOUND, GROUP, LOGITS, ROOM, UNITS as BEST_UNITS, gather, maxima,
};
use super::kernels::embed::{UNITS as EMBED_UNITS, look_up};
use super::kernels::heads::{Heads, finish};
use super::kernels::stored::UNITS as HEAD_UNITS;
use super::pack::{BLOCK, Format};
use super::pages::CubePages;
use super::rows;
use crate::kv::KvCache;
use crate::ops::memory::{Traffic, Widths};
use crate::ops::rope::RopeTable;
use crate::ops::{AttentionInput, AttentionSpec, Matrix};
use crate::quant::Isa;
use burn::backend::{Shape, TensorMetadata};
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::{Handle, ServerError};
use glowplug_firmware_config::limits::CHUNK_TOKENS;
use std::sync::OnceLock;

/// Values of a vector: what a unit loads at once, 16 bytes.
pub(super) const QUAD: usize = 4;

/// Launches kernels on a device, over buffers of its own.
pub(in crate::ops) struct Launcher {
    pub(super) client: Client,
    device: CubeDevice,
    /// The level whose bits the kernels give.
    isa: Isa,
    /// How the device rounds a product and a sum together.
    pub(super) exact: Fma,
    /// How the level does in what is not a product of a matrix.
    pub(super) host: Fma,
    /// Whether units multiply alone: where a processor computes, which is what rounds a product and a sum twice.
    pub(super) alone: bool,
    buffers: Buffers,
    /// The number of the step that was sent last, by [`KvCache::step`].
    step: u64,
    pub(super) traffic: Traffic,
}

impl Launcher {
    /// The launcher of an engine, which is made with its first tensor.
    pub(super) fn of<'a>(
        launcher: &'a mut Option<Self>,
        tensor: &CubeTensor,
        isa: Isa,
    ) -> &'a mut Self {
        launcher.get_or_insert_with(|| Self::new(tensor.device.clone(), isa))
    }

    fn new(device: CubeDevice, isa: Isa) -> Self {
        let client = device.client();
        let exact = fma(&client, &device);
        Self {
            host: if isa == Isa::Scalar {
                Fma::Twice
            } else {
                exact
            },
            alone: exact != Fma::Once,
            isa,
            exact,
            client,
            device,
            buffers: Buffers::default(),
            step: 0,
            traffic: Traffic::default(),
        }
    }

    /// A launcher with all buffers that steps of a model need.
    pub(super) fn for_model(device: CubeDevice, widths: &Widths, isa: Isa) -> Self {
        let mut launcher = Self::new(device, isa);
        for (slot, values) in buffers::lengths(widths) {
            launcher.tensor(slot, [1, values]);
        }
        launcher
    }

    /// A tensor of `[rows, cols]` that a kernel is to write.
    pub(super) fn tensor(&mut self, slot: Slot, shape: [usize; 2]) -> CubeTensor {
        self.buffers.tensor(&self.client, &self.device, slot, shape)
    }

    /// Sends what [`KvCache::begin`] has set and the `tokens`, unless that was done. The first op of a step knows the tokens.
    pub(super) fn step(&mut self, kv: &KvCache, tokens: &[u32], rope: &RopeTable) -> CubeTensor {
        if self.step == kv.step() {
            return self.tensor(Slot::Step, [1, 1]);
        }
        self.step = kv.step();
        let words = buffers::words(kv, tokens, rope);
        let step = self.tensor(Slot::Step, [1, words.len()]);
        buffers::write(&step, words);
        self.traffic.uploads += 1;
        step
    }

    pub(super) fn embed(
        &mut self,
        table: &Matrix<CubeBackend>,
        step: &CubeTensor,
        tokens: usize,
    ) -> CubeTensor {
        assert!(tokens <= CHUNK_TOKENS, "{tokens} tokens of a step");
        let out = self.tensor(Slot::Hidden, [tokens, table.cols]);
        for (first, rows, blocks) in parts(table) {
            self.traffic.launches += 1;
            look_up::launch(
                &self.client,
                CubeCount::Static(tokens as u32, 1, 1),
                CubeDim::new_1d(EMBED_UNITS),
                QUAD,
                quads(blocks),
                words(blocks),
                words(step),
                quads(&out),
                rows as u32,
                first as u32,
                (table.cols / BLOCK) as u32,
                format(table),
            );
        }
        out
    }

    /// Makes heads of `qkv`: gives q, and writes keys and values to their pages.
    #[allow(
        clippy::too_many_arguments,
        reason = "what the heads of a layer are made of"
    )]
    pub(super) fn finish_heads(
        &mut self,
        qkv: &CubeTensor,
        w: &AttentionInput<CubeBackend>,
        spec: &AttentionSpec,
        step: &CubeTensor,
        layer: usize,
        kv: &KvCache,
        pairs: usize,
    ) -> CubeTensor {
        let n = rows(qkv);
        let heads = self.heads(spec, pairs, layer, kv);
        let q = self.tensor(Slot::Queries, [n, spec.heads * spec.head_dim]);
        let all = (spec.heads + 2 * spec.kv_heads) as u32;
        let at_once = if heads.rows_share_words() { 1 } else { n };
        self.traffic.launches += 1;
        finish::launch(
            &self.client,
            CubeCount::Static(all, at_once as u32, 1),
            CubeDim::new_1d(HEAD_UNITS),
            words(qkv),
            words(&w.bias),
            words(&w.q_norm),
            words(&w.k_norm),
            words(step),
            words(&q),
            words(CubePages::of(kv, layer)),
            spec.eps,
            heads,
        );
        q
    }

    /// Puts what the queries of `q` find in the cache in their place.
    pub(super) fn attend(
        &mut self,
        q: &CubeTensor,
        spec: &AttentionSpec,
        step: &CubeTensor,
        layer: usize,
        kv: &KvCache,
        positions: usize,
    ) {
        let n = rows(q);
        let attention = Attention::new(self.heads(spec, 0, layer, kv), self.isa);
        let at_once = n.min(ROWS_AT_ONCE);
        let scores = self.tensor(Slot::Scores, [ROWS_AT_ONCE * spec.heads, positions]);
        self.traffic.launches += 1;
        attend::launch(
            &self.client,
            CubeCount::Static(spec.heads as u32, at_once as u32, 1),
            CubeDim::new_1d(HEAD_UNITS),
            words(q),
            words(step),
            words(CubePages::of(kv, layer)),
            words(&scores),
            1.0 / (spec.head_dim as f32).sqrt(),
            positions as u32,
            attention,
        );
    }

    fn heads(&self, spec: &AttentionSpec, pairs: usize, layer: usize, kv: &KvCache) -> Heads {
        let formats = (kv.layout().k()[layer], kv.layout().v());
        Heads::new(spec, pairs, formats, (self.exact, self.host))
    }

    /// Reads the highest logits of each row of `[rows, vocab]`, in whole groups; the others are -inf.
    pub(super) fn best(&mut self, logits: &CubeTensor) -> Result<Vec<f32>, ServerError> {
        let (n, vocab) = (rows(logits), logits.shape()[1]);
        let groups = vocab.div_ceil(GROUP);
        let keys = self.tensor(Slot::Keys, [n, groups]);
        let found = self.tensor(Slot::Best, [n, FOUND]);
        self.traffic.launches += 2;
        maxima::launch(
            &self.client,
            CubeCount::Static(groups.div_ceil(BEST_UNITS as usize) as u32, n as u32, 1),
            CubeDim::new_1d(BEST_UNITS),
            words(logits),
            words(&keys),
            vocab as u32,
            groups as u32,
        );
        gather::launch(
            &self.client,
            CubeCount::Static(n as u32, 1, 1),
            CubeDim::new_1d(BEST_UNITS),
            words(logits),
            words(&keys),
            words(&found),
            vocab as u32,
            groups as u32,
        );
        let read = self.read(found.handle)?;
        let read = read.as_chunks::<4>().0;
        let mut all = vec![f32::NEG_INFINITY; n * vocab];
        for (found, all) in read.chunks_exact(FOUND).zip(all.chunks_exact_mut(vocab)) {
            let number = |at: usize| u32::from_le_bytes(found[at]) as usize;
            for place in 0..number(COUNT).min(ROOM) {
                let logits = &found[LOGITS + place * GROUP..][..GROUP];
                let group = all.iter_mut().skip(number(place) * GROUP);
                for (logit, read) in group.zip(logits) {
                    *logit = f32::from_le_bytes(*read);
                }
            }
        }
        Ok(all)
    }

    /// Reads all logits of `[rows, vocab]`.
    pub(super) fn all(&mut self, logits: &CubeTensor) -> Result<Vec<f32>, ServerError> {
        let read = self.read(logits.handle.clone())?;
        let values = read.as_chunks::<4>().0.iter();
        Ok(values.map(|value| f32::from_le_bytes(*value)).collect())
    }

    /// Reads a buffer back, when all that was sent before is done: the only time that a step waits for the device.
    fn read(&mut self, handle: Handle) -> Result<cubecl::bytes::Bytes, ServerError> {
        self.traffic.reads += 1;
        self.traffic.read_bytes += handle.size_in_used();
        self.client.read_one(handle)
    }
}

/// How a device rounds a product and a sum together, which nothing tells but a product that needs more than f32 has.
fn fma(client: &Client, device: &CubeDevice) -> Fma {
    static FOUND: OnceLock<Fma> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let numbers = buffers::empty(client, device, [1, 3], DType::F32);
        let out = buffers::empty(client, device, [1, 1], DType::F32);
        let number = 1.0 + 1.0 / 4096.0;
        let bits = [number, number, -1.0 - 2.0 / 4096.0].map(f32::to_bits);
        buffers::write(&numbers, bits.to_vec());
        let one = CubeCount::Static(1, 1, 1);
        round_once::launch(
            client,
            one,
            CubeDim::new_1d(1),
            words(&numbers),
            words(&out),
        );
        // a device that does not answer is found out by the next step
        let read = client.read_one(out.handle.clone());
        if read.is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            Fma::Once
        } else {
            Fma::Composed
        }
    })
}

/// The buffer of a tensor as a kernel takes it, from the first of its values to the last one that has room. All tensors here
/// begin with their buffers, and their values lie one behind the other.
pub(super) fn words(tensor: &CubeTensor) -> BufferArg {
    whole(tensor, 4)
}

/// [`words`] as vectors of [`QUAD`].
pub(super) fn quads(tensor: &CubeTensor) -> BufferArg {
    whole(tensor, 4 * QUAD as u64)
}

fn whole(tensor: &CubeTensor, element: u64) -> BufferArg {
    debug_assert!(
        tensor.is_contiguous() && tensor.handle.offset_start.unwrap_or(0) == 0,
        "a view reached a kernel"
    );
    let mut handle = tensor.handle.clone();
    handle.offset_end = None;
    let shape = Shape::from(vec![(handle.size() / element) as usize]);
    let (client, device) = (tensor.client.clone(), tensor.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, tensor.dtype).into_buffer_arg()
}

/// The buffers of a matrix, each with its first row and how many it has.
pub(super) fn parts(w: &Matrix<CubeBackend>) -> impl Iterator<Item = (usize, usize, &CubeTensor)> {
    let tensors = std::iter::once(&w.blocks).chain(&w.rest.0);
    tensors.enumerate().map(|(part, blocks)| {
        let first = part * w.part_rows;
        (first, w.part_rows.min(w.rows - first), blocks)
    })
}

pub(super) fn format(w: &Matrix<CubeBackend>) -> Format {
    match Format::of(w.ty) {
        Some(format) => format,
        None => panic!("a matrix in {} reached a device", w.ty),
    }
}
