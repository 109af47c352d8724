//! The level of the aarch64 baseline, for boards without `sdot` (Cortex-A53, A72: i.MX8M, Raspberry Pi 4).

use super::smull::Smull;
use super::unpack::{Rows32, Rows256};
use super::{attention, interleaved, rows};
use crate::pool::RowTile;
use crate::quant::format::activations::{self, Quantizer};
use crate::quant::format::kinds::match_format;
use crate::quant::format::kv_rows;
use crate::quant::kernels::{Kernels, Product};
use crate::quant::reference::{delta, floats, scalar};
use crate::quant::{Isa, hadamard_transform};

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Neon,
    supported: || true,
    // plain Rust over fixed-size arrays: NEON is in the target's baseline, so these are compiled to it
    quantizer: Quantizer {
        tiles: None,
        q8: activations::quantize_q8,
        q8k: activations::quantize_q8k,
    },
    matmul,
    matmul_interleaved: Some(|product, out| interleaved::matmul(Smull, product, out)),
    silu_mul: floats::silu_mul::<true>,
    rms_norm: floats::rms_norm::<true>,
    attend: attention::attend,
    encode_kv: kv_rows::encode,
    rotate: hadamard_transform,
    convolve: delta::convolve::<true>,
    delta_rule: delta::delta_rule,
};

/// See [`Kernels::matmul`], which has checked the sizes.
fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_format!(
        product.ty,
        floats => floats::matmul(product, out),
        32 => |B| matmul_32::<B>(product, out),
        256 => |B| matmul_256::<B>(product, out),
        defined 32 => |B| matmul_32::<B>(product, out),
        defined 256 => |B| scalar::matmul_256::<B>(product, out),
    );
}

fn matmul_32<B: Rows32>(product: &Product<'_>, out: &mut RowTile<'_>) {
    rows::matmul_32::<Smull, B>(Smull, product, 0..out.cols(), out);
}

fn matmul_256<B: Rows256>(product: &Product<'_>, out: &mut RowTile<'_>) {
    rows::matmul_256::<Smull, B>(Smull, product, 0..out.cols(), out);
}
