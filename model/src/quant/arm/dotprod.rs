//! The level of aarch64 with `sdot` (Cortex-A76 and later: Raspberry Pi 5, RK3588, SA8155P).
//!
//! Few columns are multiplied by [`super::rows`], with `sdot` in place of multiplications, and many by [`super::tiles`].

use super::interleaved;
use super::neon;
use super::rows;
use super::sdot::Sdot;
use super::tiles::{self, Part};
use super::unpack::{Rows32, Rows256};
use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::format::activations::{self, Quantizer, TILE};
use crate::quant::format::kinds::match_format;
use crate::quant::kernels::{Kernels, Product};
use crate::quant::reference::{floats, scalar};

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Dotprod,
    supported: || std::arch::is_aarch64_feature_detected!("dotprod"),
    quantizer: Quantizer {
        tiles: Some(activations::FOURS),
        ..neon::TABLE.quantizer
    },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has dotprod
    matmul: |product, out| unsafe { matmul(product, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has dotprod
    matmul_interleaved: Some(|product, out| unsafe { matmul_interleaved(product, out) }),
    ..neon::TABLE
};

/// Fewest wanted columns for which a tile is worth its sixteen elements. By the counts in [`super::tiles`] a tile costs as
/// much as 9 columns in vector instructions, and as 11 in all instructions. This is to be measured on a board.
const TILE_FROM: usize = 10;

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "neon,dotprod")]
fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    let dot = Sdot::new();
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        32 => |B| matmul_32::<B>(dot, product, out),
        256 => |B| matmul_256::<B>(dot, product, out),
        defined 32 => |B| rows::matmul_32::<Sdot, B>(dot, product, 0..out.cols(), out),
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}

/// The product of an interleaved matrix; see [`Kernels::matmul`].
#[target_feature(enable = "neon,dotprod")]
fn matmul_interleaved(product: &Product<'_>, out: &mut RowTile<'_>) {
    interleaved::matmul(Sdot::new(), product, out);
}

#[target_feature(enable = "neon,dotprod")]
fn matmul_32<B: Rows32>(dot: Sdot, product: &Product<'_>, out: &mut RowTile<'_>) {
    for part in parts(product.first_column, out.cols()) {
        if part.tile < product.activations.tiles() && part.cols >= TILE_FROM {
            tiles::matmul_32::<B>(dot, product, part, out);
        } else {
            let cols = part.to..part.to + part.cols;
            rows::matmul_32::<Sdot, B>(dot, product, cols, out);
        }
    }
}

#[target_feature(enable = "neon,dotprod")]
fn matmul_256<B: Rows256>(dot: Sdot, product: &Product<'_>, out: &mut RowTile<'_>) {
    for part in parts(product.first_column, out.cols()) {
        if part.tile < product.activations.tiles() && part.cols >= TILE_FROM {
            tiles::matmul_256::<B>(dot, product, part, out);
        } else {
            let cols = part.to..part.to + part.cols;
            rows::matmul_256::<Sdot, B>(dot, product, cols, out);
        }
    }
}

/// The columns `col0..col0 + cols`, cut at the borders of tiles.
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
