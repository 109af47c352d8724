//! Quantised blocks and the int8 kernels over them: one table per ISA level, chosen once at run time.
//!
//! A weight matrix is `rows` rows of `k` values in GGUF blocks, row after row. Activations are quantised once per
//! layer input: to 32-blocks (`Q8`, for Q4_0/Q4_1/Q5_0/Q5_1/Q8_0/IQ4_NL) or 256-blocks (`Q8K`, for the K-quants).
//! A kernel computes `out[c][r] = dot(w[r], x[c])` for a tile of rows and any number of columns.
//!
//! # One definition of the result
//!
//! Every kernel of every level computes the same number for a (row, column), so tiling, threads and the number of
//! columns never change it. The definition is written in `scalar`:
//!
//! * within a block everything is integer and exact (int8 × int8, block scales included, in int32);
//! * per block, in the order of the row, `acc = fma(isum as f32, d * dx, acc)`; a type with a minimum then adds
//!   `acc = fma(msum as f32, -(dmin * dx), acc)` (K-quants) or `acc = fma(m, dx * xsum, acc)` (Q4_1, Q5_1);
//! * F32, F16 and BF16: 16 running sums (value `i` goes to sum `i % 16`, multiply then add), folded in halves.
//!
//! The float helpers (`silu_mul`, `rms_norm`, `attend`) may differ between levels in the last bits.

#[cfg(target_arch = "aarch64")]
mod arm;
mod dispatch;
mod format;
mod hadamard;
mod reference;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use dispatch::{Kernels, UnsupportedIsa};
pub use format::activations::Activations;
pub use format::kv_rows::Paged;
pub use hadamard::hadamard_transform;
pub use reference::requantize::to_q4_0;

use crate::gguf::GgmlType;
use crate::pool::RowTile;
use std::fmt;
use std::str::FromStr;

/// An instruction-set level, by its name in `GLOWPLUG_ISA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// `scalar`: the definition, on any machine
    Scalar,
    /// `avx2`: x86-64 with AVX2, FMA and F16C
    Avx2,
    /// `avx512vnni`: x86-64 with AVX-512 F, BW, VL, DQ and VNNI
    Avx512Vnni,
    /// `neon`: the aarch64 baseline
    Neon,
    /// `dotprod`: aarch64 with `sdot`
    Dotprod,
}

impl Isa {
    /// Every level, of every architecture.
    pub const ALL: [Self; 5] = [
        Self::Scalar,
        Self::Avx2,
        Self::Avx512Vnni,
        Self::Neon,
        Self::Dotprod,
    ];

    /// The name in `GLOWPLUG_ISA`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

/// Not the name of a level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{0}`: scalar, avx2, avx512vnni, neon or dotprod")]
pub struct UnknownIsa(pub String);

/// How a weight type wants its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActKind {
    /// plain f32 (F32, F16, BF16 weights)
    F32,
    /// blocks of 32: f32 scale, 32 i8, their i32 sum
    Q8,
    /// blocks of 256: f32 scale, 256 i8, 16 i16 sums of 16
    Q8K,
}

/// How a type wants its activations.
pub fn act_kind(ty: GgmlType) -> ActKind {
    match ty.block_len() {
        1 => ActKind::F32,
        32 => ActKind::Q8,
        _ => ActKind::Q8K,
    }
}

/// Bytes of one row of `k` values; None if `k` is not a whole number of blocks (or the product overflows).
pub fn row_bytes(ty: GgmlType, k: usize) -> Option<usize> {
    k.is_multiple_of(ty.block_len())
        .then(|| (k / ty.block_len()).checked_mul(ty.block_bytes()))
        .flatten()
}

/// Of the bytes given to [`Kernels::matmul`] those of the rows that are wanted.
#[inline(always)]
fn wanted<'a>(ty: GgmlType, w: &'a [u8], k: usize, out: &RowTile<'_>) -> &'a [u8] {
    &w[..k / ty.block_len() * ty.block_bytes() * out.rows()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
