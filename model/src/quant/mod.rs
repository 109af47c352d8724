//! Quantised blocks and the int8 kernels over them: one table per ISA level, chosen once at run time.
//!
//! A weight matrix is `rows` rows of `k` values in GGUF blocks, row after row. Activations are quantised once per
//! layer input: to 32-blocks (`Q8`, for F*/Q4_0/Q4_1/Q5_0/Q5_1/Q8_0/IQ4_NL) or 256-blocks (`Q8K`, for the K-quants).
//! A kernel computes `out[c][r] = dot(w[r], x[c])` for a tile of rows and any number of columns, and each (r, c) is
//! bit-identical whatever the tiling.

use crate::gguf::GgmlType;
use crate::pool::RowTile;

/// SKELETON. An instruction-set level; `Ord` is not preference. `GLOWPLUG_ISA` names: scalar avx2 avx512vnni neon dotprod
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa { /** the definition */ Scalar, /** AVX2 + FMA + F16C */ Avx2, /** AVX-512 F/BW/VL/DQ/VNNI */ Avx512Vnni, /** aarch64 baseline */ Neon, /** + sdot */ Dotprod }

/// How a weight type wants its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActKind { /** plain f32 (F32, F16, BF16 weights) */ F32, /** blocks of 32: f32 scale, i8 x 32, i32 sum */ Q8, /** blocks of 256: f32 scale, i8 x 256, 16 i16 sums of 16 */ Q8K }

/// Quantised columns of one layer input, reused from step to step. Layout is the quant module's own business
/// (ISA kernels may want the values permuted), so it is filled and read only through `Kernels`.
pub struct Activations;

impl Activations {
    /// an empty one; it grows to the largest (k, cols) it was filled with
    pub fn new() -> Self { todo!() }
    /// columns filled
    pub fn cols(&self) -> usize { todo!() }
}

/// The function table of one ISA level.
pub struct Kernels;

impl Kernels {
    /// Best level of this machine, or the one forced (Err names it if this machine cannot run it).
    pub fn detect(_forced: Option<Isa>) -> Result<&'static Kernels, UnsupportedIsa> { todo!() }
    /// which level
    pub fn isa(&self) -> Isa { todo!() }
    /// Fills `acts` with `x` (`cols` columns of `k` f32, column after column) in the form `kind`, on `threads` of `pool`.
    pub fn quantize(&self, _kind: ActKind, _x: &[f32], _k: usize, _acts: &mut Activations, _pool: &crate::pool::Pool, _threads: usize) { todo!() }
    /// `out.column(c)[r] = dot(row r of w, column col0 + c of acts)`; `w.len() == out.rows() * row_bytes(ty, k)`. Asserts all sizes.
    pub fn matmul(&self, _ty: GgmlType, _w: &[u8], _k: usize, _acts: &Activations, _col0: usize, _out: &mut RowTile<'_>) { todo!() }
    /// `dst = dequantised row` for embedding look-ups; `dst.len() == k`
    pub fn dequantize_row(&self, _ty: GgmlType, _row: &[u8], _dst: &mut [f32]) { todo!() }
    /// `gate[i] = silu(gate[i]) * up[i]`
    pub fn silu_mul(&self, _gate: &mut [f32], _up: &[f32]) { todo!() }
    /// `dst = x * weight / sqrt(mean(x^2) + eps)`
    pub fn rms_norm(&self, _x: &[f32], _weight: &[f32], _eps: f32, _dst: &mut [f32]) { todo!() }
    /// Attention of `g` query heads that share one KV head, one position: `q` is `[g][d]`, `k` and `v` are f16 bits
    /// `[len][stride]` of which the first `d` of each row count; `scores` is scratch of `g * len`;
    /// `out` is `[g][d]`: softmax(q.k * scale) . v, max-subtracted, f32 accumulation.
    pub fn attend(&self, _q: &[f32], _k: &[u16], _v: &[u16], _d: usize, _stride: usize, _len: usize, _scale: f32, _scores: &mut [f32], _out: &mut [f32]) { todo!() }
    /// f32 to f16 bits, round to nearest even (KV write)
    pub fn to_f16(&self, _src: &[f32], _dst: &mut [u16]) { todo!() }
}

/// how a type wants its activations
pub fn act_kind(_ty: GgmlType) -> ActKind { todo!() }
/// bytes of one row of `k` values; None if `k` is not a whole number of blocks
pub fn row_bytes(_ty: GgmlType, _k: usize) -> Option<usize> { todo!() }

/// The forced level cannot run here.
#[derive(Debug, thiserror::Error)]
#[error("instruction set `{0:?}` is not available on this machine")]
pub struct UnsupportedIsa(pub Isa);
