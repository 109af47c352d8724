//! Quantised blocks and the int8 kernels over them: one function table per instruction-set level, chosen once at run time.
//!
//! A weight matrix is `rows` rows of `k` values in GGUF blocks, row after row. Activations are quantised once per
//! layer input: to blocks of 32 (`Q8`, for weights in blocks of 32, 64 and 128) or of 256 (`Q8K`, for those of 256).
//! A kernel computes `out[c][r] = dot(w[r], x[c])` for a tile of rows and any number of columns.
//!
//! From the bottom up: `format` says how numbers lie in memory, `kernels` is the contract of a level, `reference` is the
//! definition and the scalar level, `arm` and `x86` are the levels of the processors, and `levels` chooses one.
//!
//! # One definition of the result
//!
//! Every kernel of every level computes the same number for a (row, column), so tiling, threads and the number of
//! columns never change it. The definition is written in `reference::scalar`:
//!
//! * within a block everything is integer and exact (int8 × int8, block scales included, in int32);
//! * per block, or per 32 values of a block of 64 or 128, in the order of the row, `acc = fma(isum as f32, d * dx, acc)`; a type
//!   with a minimum then adds `acc = fma(msum as f32, -(dmin * dx), acc)` (K-quants) or `acc = fma(m, dx * xsum, acc)` (Q4_1,
//!   Q5_1);
//! * NVFP4, whose scales are for 16 values, does that once for every 16;
//! * fractions are whole numbers times a power of two, which is multiplied into `d`, exactly: of IQ1 `(2 s + 1) (8 g ± 1)` and 1/8 for
//!   `(2 s + 1) (g ± 0.125)`, of IQ2 `(2 s + 1) g` and 1/8 for `(0.5 + s) 0.25 g`, of IQ3_XXS `(2 s + 1) (g / 2)` and 1/2;
//! * F32, F16 and BF16 use 16 running sums (value `i` goes to sum `i % 16`, multiply then add), folded in halves.
//!
//! The float helpers (`silu_mul`, `rms_norm`, `attend`, `convolve`) may differ between levels in the last bits.

#[cfg(target_arch = "aarch64")]
mod arm;
mod format;
mod hadamard;
mod kernels;
mod levels;
mod reference;
mod speed;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use format::activations::Activations;
pub use format::kinds::{ActKind, act_kind, row_bytes};
pub use format::kv_rows::{Paged, place_kv};
pub use hadamard::hadamard_transform;
pub use kernels::{DeltaRule, Heads, Kernels, Product, STATE_COLUMNS, TAPS};
pub use levels::UnsupportedIsa;
#[cfg(feature = "wgpu")]
pub(crate) use reference::decode::{Decoded, decode_row};
pub use reference::requantize::to_q4_0;
pub use speed::Speed;

use std::fmt;
use std::str::FromStr;

/// An instruction-set level, by its name in `GLOWPLUG_ISA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// `scalar`: the definition in plain Rust, for any machine.
    Scalar,
    /// `avx2`: x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// `avxvnni`: x86-64 with AVX2, FMA, F16C and 256 bits of VNNI.
    AvxVnni,
    /// `avx512vnni`: x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
    /// `neon`: the aarch64 baseline.
    Neon,
    /// `dotprod`: aarch64 with the `sdot` instruction.
    Dotprod,
    /// `i8mm`: aarch64 with the `smmla` instruction.
    I8mm,
}

impl Isa {
    /// Every level of every architecture.
    pub const ALL: [Self; 7] = [
        Self::Scalar,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Neon,
        Self::Dotprod,
        Self::I8mm,
    ];

    /// The level's name in `GLOWPLUG_ISA`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Neon => "neon",
            Self::Dotprod => "dotprod",
            Self::I8mm => "i8mm",
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

/// The text that is not the name of a level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set `{0}`: scalar, avx2, avxvnni, avx512vnni, neon, dotprod or i8mm")]
pub struct UnknownIsa(pub String);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
