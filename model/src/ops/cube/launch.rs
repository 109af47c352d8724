//! Launching the kernels: shapes, grids, and the buffers that they read and write.

use super::buffers::{self, Buffers, Slot};
use super::kernels::attention::attend;
use super::kernels::best::{
    COUNT, FOUND, GROUP, LOGITS, ROOM, UNITS as BEST_UNITS, gather, maxima,
};
use super::kernels::embed::{UNITS as EMBED_UNITS, look_up};
use super::kernels::heads::{Heads, UNITS as HEAD_UNITS, finish};
use super::kernels::matmul::{Many, OWN, ROW_UNITS, TILE_ROWS, multiply_many};
use super::kernels::matvec::{Few, Finish, multiply_few};
use super::kernels::norm::{UNITS as NORM_UNITS, rms_norm};
use super::pack::{BLOCK, Format};
use super::pages::CubePages;
use super::rows;
use crate::kv::KvCache;
use crate::ops::memory::{Traffic, Widths};
use crate::ops::rope::RopeTable;
use crate::ops::{AttentionInput, AttentionSpec, Matrix};
use burn::backend::{Shape, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::client::Client;
use cubecl::features::Plane;
use cubecl::prelude::*;
use cubecl::server::{Handle, ServerError};
use glowplug_firmware_config::limits::STEP_TOKENS;
use std::ops::Range;

/// Most columns that are multiplied without a tile: a token of each of a few streams, or a short draft.
const FEW: usize = 4;
/// Columns of a small tile: every stream, with as many tokens of a prompt beside them.
const SOME: usize = 16;
/// Units of a group where planes do not add its sums.
const GROUP_UNITS: usize = 16;
/// Units of a cube that multiplies few columns, at least.
const UNITS: usize = 64;
/// Values of a vector: what a unit loads at once, 16 bytes.
const QUAD: usize = 4;

/// Launches kernels on a device, over buffers of its own.
pub(in crate::ops) struct Launcher {
    client: Client,
    device: CubeDevice,
    /// Units of a plane, where all planes have as many and can add what theirs have.
    pub(super) plane: Option<usize>,
    buffers: Buffers,
    /// The number of the step that was sent last, by [`KvCache::step`].
    step: u64,
    pub(super) traffic: Traffic,
}

impl Launcher {
    /// The launcher of an engine, which is made with its first tensor.
    pub(super) fn of<'a>(launcher: &'a mut Option<Self>, tensor: &CubeTensor) -> &'a mut Self {
        launcher.get_or_insert_with(|| Self::new(tensor.client.clone(), tensor.device.clone()))
    }

    fn new(client: Client, device: CubeDevice) -> Self {
        let hardware = &client.properties().hardware;
        let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
        let adds = least == most && client.features().plane.contains(Plane::Ops);
        Self {
            plane: adds.then_some(most as usize),
            client,
            device,
            buffers: Buffers::default(),
            step: 0,
            traffic: Traffic::default(),
        }
    }

    /// A launcher with all buffers that steps of a model need.
    pub(super) fn for_model(device: CubeDevice, widths: &Widths) -> Self {
        let mut launcher = Self::new(device.client(), device);
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
        assert!(tokens <= STEP_TOKENS, "{tokens} tokens of a step");
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

    /// The RMS norm of some rows of `x`.
    pub(super) fn norm(
        &mut self,
        x: &CubeTensor,
        range: Range<usize>,
        weight: &CubeTensor,
        eps: f32,
    ) -> CubeTensor {
        let cols = x.shape()[1];
        let out = self.tensor(Slot::Normed, [range.len(), cols]);
        self.traffic.launches += 1;
        rms_norm::launch(
            &self.client,
            // the first row is told by the grid, because arguments that differ are a buffer more
            CubeCount::Static(range.len() as u32, 1 + range.start as u32, 1),
            CubeDim::new_1d(NORM_UNITS),
            QUAD,
            quads(x),
            quads(weight),
            quads(&out),
            (cols / QUAD) as u32,
            eps,
        );
        out
    }

    /// Multiplies a matrix with the columns of `x` and puts the product to `out` by `finish`: a tensor, the distance of its
    /// columns, and the place of the first row in a column.
    pub(super) fn multiply(
        &mut self,
        w: &Matrix<CubeBackend>,
        x: &CubeTensor,
        finish: Finish,
        (out, stride, first): (&CubeTensor, usize, usize),
    ) {
        let columns = rows(x);
        assert!(columns <= STEP_TOKENS, "{columns} columns of a step");
        let group_units = self.plane.unwrap_or(GROUP_UNITS);
        let few = Few {
            format: format(w),
            columns: columns.next_power_of_two(),
            // as many sums as fit into registers
            rows: if columns <= 2 { 4 } else { 2 },
            group_units,
            groups: UNITS.div_ceil(group_units),
            plane_sum: self.plane.is_some(),
            finish,
        };
        let many = Many {
            format: format(w),
            columns: if columns <= SOME { SOME } else { STEP_TOKENS },
            finish,
        };
        for (part, rows, blocks) in parts(w) {
            let scalars = [rows, w.cols / BLOCK, stride, first + part].map(|n| n as u32);
            let [count, row_blocks, stride, first] = scalars;
            self.traffic.launches += 1;
            if columns <= FEW {
                multiply_few::launch(
                    &self.client,
                    CubeCount::Static(rows.div_ceil(few.groups * few.rows) as u32, 1, 1),
                    CubeDim::new_2d(few.group_units as u32, few.groups as u32),
                    QUAD,
                    quads(blocks),
                    words(blocks),
                    quads(x),
                    words(out),
                    count,
                    row_blocks,
                    stride,
                    first,
                    few,
                );
            } else {
                multiply_many::launch(
                    &self.client,
                    CubeCount::Static(rows.div_ceil(TILE_ROWS) as u32, 1, 1),
                    CubeDim::new_2d(ROW_UNITS as u32, (many.columns / OWN) as u32),
                    QUAD,
                    quads(blocks),
                    words(blocks),
                    quads(x),
                    words(out),
                    count,
                    row_blocks,
                    stride,
                    first,
                    many,
                );
            }
        }
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
        let heads = heads(spec, pairs, layer, kv);
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
    ) {
        self.traffic.launches += 1;
        attend::launch(
            &self.client,
            CubeCount::Static(spec.heads as u32, rows(q) as u32, 1),
            CubeDim::new_1d(HEAD_UNITS),
            words(q),
            words(step),
            words(CubePages::of(kv, layer)),
            1.0 / (spec.head_dim as f32).sqrt(),
            heads(spec, 0, layer, kv),
        );
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

/// The buffer of a tensor as a kernel takes it, from the first of its values to the last one that has room. All tensors here
/// begin with their buffers, and their values lie one behind the other.
fn words(tensor: &CubeTensor) -> BufferArg {
    whole(tensor, 4)
}

/// [`words`] as vectors of [`QUAD`].
fn quads(tensor: &CubeTensor) -> BufferArg {
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
fn parts(w: &Matrix<CubeBackend>) -> impl Iterator<Item = (usize, usize, &CubeTensor)> {
    let tensors = std::iter::once(&w.blocks).chain(&w.rest.0);
    tensors.enumerate().map(|(part, blocks)| {
        let first = part * w.part_rows;
        (first, w.part_rows.min(w.rows - first), blocks)
    })
}

fn format(w: &Matrix<CubeBackend>) -> Format {
    match Format::of(w.ty) {
        Some(format) => format,
        None => panic!("a matrix in {} reached a device", w.ty),
    }
}

fn heads(spec: &AttentionSpec, pairs: usize, layer: usize, kv: &KvCache) -> Heads {
    Heads::new(spec, pairs, kv.layout().k()[layer], kv.layout().v())
}
