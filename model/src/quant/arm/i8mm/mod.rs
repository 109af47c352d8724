//! The level of aarch64 with `smmla` (Armv8.6: Cortex-A510, A710 and A720, Neoverse V1 and N2).
//!
//! `smmla` multiplies two rows with two columns. Weights are unpacked once for all columns of a chunk ([`opened`]), in
//! either layout ([`rows`], [`groups`]), and everything else is one kernel ([`product`]). A few columns are multiplied as
//! [`super::dotprod`] does.

mod groups;
mod opened;
mod pairs;
mod product;
mod rows;
mod smmla;

use super::dotprod;
use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::format::activations::Quantizer;
use crate::quant::format::kinds::{ActKind, act_kind, match_format, match_interleaved};
use crate::quant::kernels::{Kernels, Product};
use crate::quant::reference::{floats, scalar};
use groups::Groups;
use product::multiply;
use rows::Lines;

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::I8mm,
    supported: || (dotprod::TABLE.supported)() && std::arch::is_aarch64_feature_detected!("i8mm"),
    quantizer: Quantizer {
        tiles: Some(pairs::TILES),
        ..dotprod::TABLE.quantizer
    },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has dotprod and i8mm
    matmul: |product, out| unsafe { matmul(product, out) },
    // SAFETY: the table is handed out only where `supported` is true, so the machine has dotprod and i8mm
    matmul_interleaved: Some(|product, out| unsafe { matmul_interleaved(product, out) }),
    ..dotprod::TABLE
};

/// Whether there are too few columns to unpack for: with fewer, `sdot` takes fewer instructions. By the counts of whole
/// products in `model/ARCHITECTURE.md`; this is to be measured on a board.
fn few(product: &Product<'_>, out: &RowTile<'_>) -> bool {
    let from = match act_kind(product.ty) {
        ActKind::Q8K => pairs::COLUMNS,
        _ => 4,
    };
    out.cols() < from
}

/// See [`Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "neon,dotprod,i8mm")]
fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    if few(product, out) {
        return (dotprod::TABLE.matmul)(product, out);
    }
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        32 => |B| multiply(&Lines::<B>::new(product, out.rows()), product, out),
        256 => |B| multiply(&Lines::<B>::new(product, out.rows()), product, out),
        defined 32 => |_B| (dotprod::TABLE.matmul)(product, out),
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}

/// The product of an interleaved matrix; see [`Kernels::matmul`].
#[target_feature(enable = "neon,dotprod,i8mm")]
fn matmul_interleaved(product: &Product<'_>, out: &mut RowTile<'_>) {
    if few(product, out) {
        return super::interleaved::matmul(super::sdot::Sdot::new(), product, out);
    }
    match_interleaved!(product.ty, |B| multiply(
        &Groups::<B>::new(product, out.rows()),
        product,
        out
    ));
}
