//! Launching the kernels: shapes, grids, and the tensors that they write.

use super::kernels::attention::attend;
use super::kernels::best::{GROUP, ROOM, UNITS as BEST_UNITS, gather, maxima};
use super::kernels::embed::{UNITS as EMBED_UNITS, look_up};
use super::kernels::heads::{Heads, UNITS as HEAD_UNITS, finish};
use super::kernels::matmul::{Many, TILE_COLUMNS, TILE_ROWS, UNITS as TILE_UNITS, multiply_many};
use super::kernels::matvec::{Few, multiply_few};
use super::kernels::quantize::{Planes, UNITS as QUANTIZE_UNITS, quantize, silu_mul};
use super::memory;
use super::pack::{BLOCK, Format};
use super::pages::CubePages;
use super::rows;
use crate::kv::KvCache;
use crate::ops::{AttentionInput, AttentionSpec, Matrix};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use cubecl::client::Client;
use cubecl::features::Plane;
use cubecl::prelude::*;
use cubecl::server::ServerError;

/// Most columns that are multiplied one by one, not as a tile: every stream, or a draft.
const FEW: usize = 8;
/// Units of a group where planes do not add its sums.
const LANES: usize = 32;
/// Units of a cube that multiplies few columns, at least.
const UNITS: usize = 64;

/// The quantised columns of a layer input.
pub(super) struct Columns {
    quants: CubeTensor,
    scales: CubeTensor,
    /// How many columns there are, of each plane.
    pub(super) count: usize,
    planes: usize,
}

/// Launches kernels on the device of a tensor.
pub(super) struct Launcher {
    client: Client,
    device: CubeDevice,
    /// Units of a plane, where all planes have as many and can add what theirs have.
    pub(super) plane: Option<usize>,
}

impl Launcher {
    pub(super) fn of(tensor: &CubeTensor) -> Self {
        Self::new(tensor.client.clone(), tensor.device.clone())
    }

    fn new(client: Client, device: CubeDevice) -> Self {
        let hardware = &client.properties().hardware;
        let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
        let adds = least == most && client.features().plane.contains(Plane::Ops);
        Self {
            plane: adds.then_some(most as usize),
            client,
            device,
        }
    }

    /// A tensor of `[rows, cols]` that a kernel is to write.
    pub(super) fn floats(&self, rows: usize, cols: usize) -> CubeTensor {
        memory::empty(&self.client, &self.device, [rows, cols], DType::F32)
    }

    pub(super) fn embed(
        &self,
        table: &Matrix<CubeBackend>,
        step: &CubeTensor,
        tokens: usize,
    ) -> CubeTensor {
        let out = self.floats(tokens, table.cols);
        look_up::launch(
            &self.client,
            CubeCount::Static(tokens as u32, 1, 1),
            CubeDim::new_1d(EMBED_UNITS),
            buffer(&table.blocks),
            buffer(step),
            buffer(&out),
            table.rows as u32,
            (table.cols / BLOCK) as u32,
            format(table),
        );
        out
    }

    /// Quantises the columns of `x`, which are normed before if there is a weight for it.
    pub(super) fn quantize(
        &self,
        x: &CubeTensor,
        norm: Option<(&CubeTensor, f32)>,
        planes: Planes,
    ) -> Columns {
        let (count, blocks) = (rows(x), x.shape()[1] / BLOCK);
        let planes = planes as usize;
        let shape = [planes * count, 8 * blocks];
        let quants = memory::empty(&self.client, &self.device, shape, DType::I32);
        let scales = self.floats(planes * count, 2 * blocks);
        let (weight, eps) = norm.unwrap_or((x, 0.0));
        quantize::launch(
            &self.client,
            CubeCount::Static(count as u32, 1, 1),
            CubeDim::new_1d(QUANTIZE_UNITS),
            buffer(x),
            buffer(weight),
            buffer(&quants),
            buffer(&scales),
            blocks as u32,
            count as u32,
            eps,
            planes as u32,
            norm.is_some(),
        );
        Columns {
            quants,
            scales,
            count,
            planes,
        }
    }

    /// Multiplies a matrix with columns, adds `add` if there is one, and writes to `out`: a tensor, the distance of its
    /// columns, and the place of the first row in a column.
    pub(super) fn multiply(
        &self,
        w: &Matrix<CubeBackend>,
        x: &Columns,
        add: Option<&CubeTensor>,
        (out, stride, first): (&CubeTensor, usize, usize),
    ) {
        let blocks = w.cols / BLOCK;
        let added = buffer(add.unwrap_or(&x.scales));
        if x.count <= FEW {
            let lanes = self.plane.unwrap_or(LANES);
            let few = Few {
                format: format(w),
                columns: x.count,
                planes: x.planes,
                // as many sums as fit into registers
                rows: if x.count <= 4 { 4 } else { 2 },
                lanes,
                groups: UNITS.div_ceil(lanes),
                plane_sum: self.plane.is_some(),
                add: add.is_some(),
            };
            multiply_few::launch(
                &self.client,
                CubeCount::Static(w.rows.div_ceil(few.groups * few.rows) as u32, 1, 1),
                CubeDim::new_2d(lanes as u32, few.groups as u32),
                buffer(&w.blocks),
                buffer(&x.quants),
                buffer(&x.scales),
                added,
                buffer(out),
                w.rows as u32,
                blocks as u32,
                stride as u32,
                first as u32,
                few,
            );
        } else {
            let many = Many {
                format: format(w),
                planes: x.planes,
                add: add.is_some(),
            };
            let tiles = (
                w.rows.div_ceil(TILE_ROWS) as u32,
                x.count.div_ceil(TILE_COLUMNS) as u32,
            );
            multiply_many::launch(
                &self.client,
                CubeCount::Static(tiles.0, tiles.1, 1),
                CubeDim::new_2d(TILE_UNITS.0 as u32, TILE_UNITS.1 as u32),
                buffer(&w.blocks),
                buffer(&x.quants),
                buffer(&x.scales),
                added,
                buffer(out),
                w.rows as u32,
                blocks as u32,
                x.count as u32,
                stride as u32,
                first as u32,
                many,
            );
        }
    }

    /// Makes heads of `qkv`: gives q, and writes keys and values to their pages.
    #[allow(
        clippy::too_many_arguments,
        reason = "what the heads of a layer are made of"
    )]
    pub(super) fn finish_heads(
        &self,
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
        let arena = CubePages::of(kv);
        let q = self.floats(n, spec.heads * spec.head_dim);
        let all = (spec.heads + 2 * spec.kv_heads) as u32;
        let at_once = if heads.rows_share_words() { 1 } else { n };
        finish::launch(
            &self.client,
            CubeCount::Static(all, at_once as u32, 1),
            CubeDim::new_1d(HEAD_UNITS),
            buffer(qkv),
            buffer(&w.bias),
            buffer(&w.q_norm),
            buffer(&w.k_norm),
            buffer(step),
            buffer(&q),
            buffer(arena),
            n as u32,
            (kv.layout().page_bytes() / 4) as u32,
            (kv.layout().k_offset(layer, 0) / 4) as u32,
            (kv.layout().v_offset(layer, 0) / 4) as u32,
            spec.eps,
            heads,
        );
        q
    }

    pub(super) fn attend(
        &self,
        q: &CubeTensor,
        spec: &AttentionSpec,
        step: &CubeTensor,
        layer: usize,
        kv: &KvCache,
    ) -> CubeTensor {
        let n = rows(q);
        let out = self.floats(n, spec.heads * spec.head_dim);
        attend::launch(
            &self.client,
            CubeCount::Static(spec.heads as u32, n as u32, 1),
            CubeDim::new_1d(HEAD_UNITS),
            buffer(q),
            buffer(step),
            buffer(CubePages::of(kv)),
            buffer(&out),
            (kv.layout().page_bytes() / 4) as u32,
            (kv.layout().k_offset(layer, 0) / 4) as u32,
            (kv.layout().v_offset(layer, 0) / 4) as u32,
            1.0 / (spec.head_dim as f32).sqrt(),
            heads(spec, 0, layer, kv),
        );
        out
    }

    /// Reads the highest logits of each row of `[rows, vocab]`, in whole groups; the others are -inf.
    pub(super) fn best(&self, logits: &CubeTensor) -> Result<Vec<f32>, ServerError> {
        let (n, vocab) = (rows(logits), logits.shape()[1]);
        let groups = vocab.div_ceil(GROUP);
        let make =
            |rows, cols, dtype| memory::empty(&self.client, &self.device, [rows, cols], dtype);
        let keys = make(n, groups, DType::U32);
        let numbers = make(n, ROOM + 1, DType::U32);
        let values = make(n * ROOM, GROUP, DType::F32);
        maxima::launch(
            &self.client,
            CubeCount::Static(groups.div_ceil(BEST_UNITS as usize) as u32, n as u32, 1),
            CubeDim::new_1d(BEST_UNITS),
            buffer(logits),
            buffer(&keys),
            vocab as u32,
            groups as u32,
        );
        gather::launch(
            &self.client,
            CubeCount::Static(n as u32, 1, 1),
            CubeDim::new_1d(BEST_UNITS),
            buffer(logits),
            buffer(&keys),
            buffer(&numbers),
            buffer(&values),
            vocab as u32,
            groups as u32,
        );
        let read = self.client.read(vec![numbers.handle, values.handle])?;
        let number = |at: usize| u32::from_le_bytes(word(&read[0], at)) as usize;
        let mut all = vec![f32::NEG_INFINITY; n * vocab];
        for (row, all) in all.chunks_exact_mut(vocab).enumerate() {
            for place in 0..number(row * (ROOM + 1) + ROOM).min(ROOM) {
                let first = number(row * (ROOM + 1) + place) * GROUP;
                for (i, logit) in all.iter_mut().skip(first).take(GROUP).enumerate() {
                    let at = (row * ROOM + place) * GROUP + i;
                    *logit = f32::from_le_bytes(word(&read[1], at));
                }
            }
        }
        Ok(all)
    }

    /// `gate = silu(gate) * up`.
    pub(super) fn silu_mul(&self, gate: &CubeTensor, up: &CubeTensor) {
        let values = gate.shape().num_elements();
        silu_mul::launch(
            &self.client,
            CubeCount::Static(values.div_ceil(UNITS) as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            buffer(gate),
            buffer(up),
        );
    }
}

/// The bytes of a value of four bytes.
fn word(bytes: &[u8], at: usize) -> [u8; 4] {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[4 * at..][..4]);
    word
}

/// A tensor as a kernel takes it. Activations and weights are never views, so their values lie one behind the other.
fn buffer(tensor: &CubeTensor) -> BufferArg {
    debug_assert!(tensor.is_contiguous(), "a view reached a kernel");
    tensor.clone().into_buffer_arg()
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
