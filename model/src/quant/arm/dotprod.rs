//! aarch64 with `sdot` (Cortex-A76 and later: Raspberry Pi 5, RK3588, SA8155P).
//!
//! A few columns go the way of [`super::rows`], with `sdot` in the place of multiplications; many, as tiles.

use super::interleaved::{self, Words};
use super::intrinsics::{int8x16_t, int32x4_t, vdupq_n_s32};
use super::rows::{self, Dot, ROWS, reduce};
use super::tiles::{self as tiles, Part};
use super::unpack::{Rows32, Rows256};
use crate::gguf::GgmlType;
use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::dispatch::Kernels;
use crate::quant::format::activations::{Activations, TILE};
use crate::quant::format::blocks;
use crate::quant::reference::floats;
use bytemuck::cast_slice;
use std::arch::asm;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Dotprod,
    supported: || std::arch::is_aarch64_feature_detected!("dotprod"),
    tiles: true,
    matmul: |ty, w, k, acts, col0, out| {
        // SAFETY: the table is handed out only where `supported` said yes
        unsafe { matmul(ty, w, k, acts, col0, out) }
    },
    matmul_interleaved: Some(|ty, w, k, acts, col0, out| {
        // SAFETY: as above
        unsafe { matmul_interleaved(ty, w, k, acts, col0, out) }
    }),
    ..rows::TABLE
};

/// Fewest wanted columns of a tile that are worth its sixteen elements: by the counts in [`super::tiles`] it costs
/// as much as 9 columns in vector instructions, as 11 in all. To be measured on a board.
const TILE_FROM: usize = 10;

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "neon,dotprod")]
fn matmul(
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let w = crate::quant::wanted(ty, w, k, out);
    let dot = Sdot::new();
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => floats::matmul(ty, w, k, acts, col0, out),
        GgmlType::Q4_0 => matmul_32::<blocks::Q4_0>(dot, w, k, acts, col0, out),
        GgmlType::Q4_1 => matmul_32::<blocks::Q4_1>(dot, w, k, acts, col0, out),
        GgmlType::Q5_0 => matmul_32::<blocks::Q5_0>(dot, w, k, acts, col0, out),
        GgmlType::Q5_1 => matmul_32::<blocks::Q5_1>(dot, w, k, acts, col0, out),
        GgmlType::Q8_0 => matmul_32::<blocks::Q8_0>(dot, w, k, acts, col0, out),
        GgmlType::IQ4_NL => matmul_32::<blocks::Iq4Nl>(dot, w, k, acts, col0, out),
        GgmlType::Q2_K => matmul_256::<blocks::Q2K>(dot, w, k, acts, col0, out),
        GgmlType::Q3_K => matmul_256::<blocks::Q3K>(dot, w, k, acts, col0, out),
        GgmlType::Q4_K => matmul_256::<blocks::Q4K>(dot, w, k, acts, col0, out),
        GgmlType::Q5_K => matmul_256::<blocks::Q5K>(dot, w, k, acts, col0, out),
        GgmlType::Q6_K => matmul_256::<blocks::Q6K>(dot, w, k, acts, col0, out),
        GgmlType::Q8_K => matmul_256::<blocks::Q8K>(dot, w, k, acts, col0, out),
    }
}

/// The same of groups.
#[target_feature(enable = "neon,dotprod")]
fn matmul_interleaved(
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    interleaved::matmul(Sdot::new(), ty, w, k, acts, col0, out);
}

#[target_feature(enable = "neon,dotprod")]
fn matmul_32<B: Rows32>(
    dot: Sdot,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let (w, blocks) = (cast_slice::<u8, B>(w), k / 32);
    for part in parts(col0, out.cols()) {
        if part.tile < acts.tiles() && part.cols >= TILE_FROM {
            tiles::matmul_32(dot, w, blocks, acts, part, out);
        } else {
            rows::matmul_32(
                dot,
                w,
                blocks,
                acts,
                col0,
                part.to..part.to + part.cols,
                out,
            );
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn matmul_256<B: Rows256>(
    dot: Sdot,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let (w, blocks) = (cast_slice::<u8, B>(w), k / 256);
    for part in parts(col0, out.cols()) {
        if part.tile < acts.tiles() && part.cols >= TILE_FROM {
            tiles::matmul_256(dot, w, blocks, acts, part, out);
        } else {
            rows::matmul_256(
                dot,
                w,
                blocks,
                acts,
                col0,
                part.to..part.to + part.cols,
                out,
            );
        }
    }
}

/// Columns `col0..col0 + cols`, cut at the borders of tiles.
fn parts(col0: usize, cols: usize) -> impl Iterator<Item = Part> {
    let mut to = 0;
    std::iter::from_fn(move || {
        let at = col0 + to;
        let part = Part {
            tile: at / TILE,
            lane: at % TILE,
            to,
            cols: (cols - to).min(TILE - at % TILE),
        };
        to += part.cols;
        (part.cols > 0).then_some(part)
    })
}

/// Proof that this machine has `sdot`.
///
/// No closures around its methods: unlike these they need not be inlined where the feature is enabled.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Sdot(());

#[allow(clippy::unused_self, reason = "to have it shows that the machine can")]
impl Sdot {
    #[target_feature(enable = "dotprod")]
    #[inline]
    fn new() -> Self {
        Self(())
    }

    /// Adds to each lane of i32 the four products of its bytes. `vdotq_s32` is not stable on Rust 1.95.
    #[inline(always)]
    fn add(self, mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: registers only; `self` was made where the feature is enabled
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) w, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    /// Adds to each lane of i32 the four products of its bytes of `x` with bytes `4 I..4 I + 4` of `w`.
    #[inline(always)]
    pub(in crate::quant) fn add_by_element<const I: i32>(
        self,
        mut acc: int32x4_t,
        x: int8x16_t,
        w: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: registers only; `self` was made where the feature is enabled
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inout(vreg) acc, in(vreg) x, in(vreg) w,
                const I, options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }
}

impl Dot for Sdot {
    #[inline(always)]
    fn four_32(self, w: [[int8x16_t; 2]; ROWS], x: [int8x16_t; 2], _: i32) -> int32x4_t {
        let mut sums = [vdupq_n_s32(0); ROWS];
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = self.add(self.add(*sum, w[0], x[0]), w[1], x[1]);
        }
        reduce(sums)
    }

    #[inline(always)]
    fn four_16(self, w: [int8x16_t; ROWS], x: int8x16_t, _: i32) -> int32x4_t {
        let mut sums = [vdupq_n_s32(0); ROWS];
        for (sum, w) in sums.iter_mut().zip(w) {
            *sum = self.add(*sum, w, x);
        }
        reduce(sums)
    }
}

impl Words for Sdot {
    #[inline(always)]
    fn run<const N: usize>(self, w: [[int8x16_t; 4]; N], x: [int8x16_t; N], _: i32) -> int32x4_t {
        let mut sum = vdupq_n_s32(0);
        for n in 0..N {
            sum = self.add_by_element::<0>(sum, w[n][0], x[n]);
            sum = self.add_by_element::<1>(sum, w[n][1], x[n]);
            sum = self.add_by_element::<2>(sum, w[n][2], x[n]);
            sum = self.add_by_element::<3>(sum, w[n][3], x[n]);
        }
        sum
    }
}
