//! The table of block formats, and the form in which each wants its activations.

use crate::gguf::GgmlType;

/// The form in which a weight type wants its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActKind {
    /// Plain f32, for F32, F16 and BF16 weights.
    F32,
    /// Blocks of 32 int8, each with an f32 scale and the int32 sum of its values.
    Q8,
    /// Blocks of 256 int8, each with an f32 scale and the int16 sums of every 16 values.
    Q8K,
}

/// The form in which weights of type `ty` want their activations.
pub fn act_kind(ty: GgmlType) -> ActKind {
    match ty.block_len() {
        1 => ActKind::F32,
        32 | 64 | 128 => ActKind::Q8,
        _ => ActKind::Q8K,
    }
}

/// Bytes of one row of `k` values, or `None` if `k` is not a whole number of blocks or the product overflows.
pub fn row_bytes(ty: GgmlType, k: usize) -> Option<usize> {
    k.is_multiple_of(ty.block_len())
        .then(|| (k / ty.block_len()).checked_mul(ty.block_bytes()))
        .flatten()
}

/// Picks by format. This is the only table of formats in the kernels: the definition and every level read it.
///
/// The float types take the expression after `floats`. A block type takes the one after `32` or `256`, the number of
/// values in its blocks or, for 32, in their parts, and there `B` is its struct in [`super::blocks`]. A format that has a
/// definition but no kernels takes the one after `defined` instead, as does one that does not fit all of them; where those are not
/// given, it is treated like the others of its size.
///
/// A new format is one line here. It begins as `defined`, which every level can compute, and moves to the others when
/// each level has a kernel for it.
macro_rules! match_format {
    (
        $ty:expr,
        floats => $floats:expr,
        32 => |$B32:ident| $of_32:expr,
        256 => |$B256:ident| $of_256:expr $(,)?
    ) => {
        match_format!(
            $ty,
            floats => $floats,
            32 => |$B32| $of_32,
            256 => |$B256| $of_256,
            defined 32 => |$B32| $of_32,
            defined 256 => |$B256| $of_256,
        )
    };
    (
        $ty:expr,
        floats => $floats:expr,
        32 => |$B32:ident| $of_32:expr,
        256 => |$B256:ident| $of_256:expr,
        defined 32 => |$D32:ident| $defined_32:expr,
        defined 256 => |$D256:ident| $defined_256:expr $(,)?
    ) => {{
        type Ty = $crate::gguf::GgmlType;
        match $ty {
            Ty::F32 | Ty::F16 | Ty::BF16 => $floats,
            Ty::Q4_0 => { type $B32 = $crate::quant::format::blocks::Q4_0; $of_32 }
            Ty::Q4_1 => { type $B32 = $crate::quant::format::blocks::Q4_1; $of_32 }
            Ty::Q5_0 => { type $B32 = $crate::quant::format::blocks::Q5_0; $of_32 }
            Ty::Q5_1 => { type $B32 = $crate::quant::format::blocks::Q5_1; $of_32 }
            Ty::Q8_0 => { type $B32 = $crate::quant::format::blocks::Q8_0; $of_32 }
            Ty::IQ4_NL => { type $B32 = $crate::quant::format::blocks::Iq4Nl; $of_32 }
            Ty::MXFP4 => { type $B32 = $crate::quant::format::blocks::Mxfp4; $of_32 }
            Ty::Q1_0 => { type $B32 = $crate::quant::format::blocks::Q1_0; $of_32 }
            Ty::Q2_0 => { type $B32 = $crate::quant::format::blocks::Q2_0; $of_32 }
            Ty::Q2_K => { type $B256 = $crate::quant::format::blocks::Q2K; $of_256 }
            Ty::Q3_K => { type $B256 = $crate::quant::format::blocks::Q3K; $of_256 }
            Ty::Q4_K => { type $B256 = $crate::quant::format::blocks::Q4K; $of_256 }
            Ty::Q5_K => { type $B256 = $crate::quant::format::blocks::Q5K; $of_256 }
            Ty::Q6_K => { type $B256 = $crate::quant::format::blocks::Q6K; $of_256 }
            Ty::IQ2_XXS => { type $B256 = $crate::quant::format::blocks::Iq2Xxs; $of_256 }
            Ty::IQ2_XS => { type $B256 = $crate::quant::format::blocks::Iq2Xs; $of_256 }
            Ty::IQ3_XXS => { type $B256 = $crate::quant::format::blocks::Iq3Xxs; $of_256 }
            Ty::IQ1_S => { type $B256 = $crate::quant::format::blocks::Iq1S; $of_256 }
            Ty::IQ3_S => { type $B256 = $crate::quant::format::blocks::Iq3S; $of_256 }
            Ty::IQ2_S => { type $B256 = $crate::quant::format::blocks::Iq2S; $of_256 }
            Ty::IQ1_M => { type $B256 = $crate::quant::format::blocks::Iq1M; $of_256 }
            Ty::IQ4_XS => { type $B256 = $crate::quant::format::blocks::Iq4Xs; $of_256 }
            Ty::TQ1_0 => { type $B256 = $crate::quant::format::blocks::Tq1_0; $of_256 }
            Ty::TQ2_0 => { type $B256 = $crate::quant::format::blocks::Tq2_0; $of_256 }
            // its two scales for 32 values fit only the kernels for rows
            Ty::NVFP4 => { type $D32 = $crate::quant::format::blocks::Nvfp4; $defined_32 }
            // no file stores weights in it, so no level has a kernel for it
            Ty::Q8_K => { type $D256 = $crate::quant::format::blocks::Q8K; $defined_256 }
        }
    }};
}
pub(in crate::quant) use match_format;

/// Whether every level but the scalar one has a kernel for this type.
pub(in crate::quant) fn has_kernels(ty: GgmlType) -> bool {
    match_format!(
        ty,
        floats => true,
        32 => |_B| true,
        256 => |_B| true,
        // for rows alone
        defined 32 => |_B| true,
        defined 256 => |_B| false,
    )
}

/// Picks by format among those that [`crate::gguf::Layout::Interleaved16`] exists for: `B` is the struct of sixteen
/// interleaved blocks in [`super::interleaved`]. Any other type picks nothing; [`crate::quant::Kernels::matmul`] has
/// refused it before.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! match_interleaved {
    ($ty:expr, |$B:ident| $use:expr) => {{
        type Ty = $crate::gguf::GgmlType;
        match $ty {
            Ty::Q4_0 => {
                type $B = $crate::quant::format::interleaved::Q4_0;
                $use
            }
            Ty::Q4_1 => {
                type $B = $crate::quant::format::interleaved::Q4_1;
                $use
            }
            Ty::Q5_0 => {
                type $B = $crate::quant::format::interleaved::Q5_0;
                $use
            }
            Ty::Q8_0 => {
                type $B = $crate::quant::format::interleaved::Q8_0;
                $use
            }
            Ty::Q4_K => {
                type $B = $crate::quant::format::interleaved::Q4K;
                $use
            }
            Ty::Q5_K => {
                type $B = $crate::quant::format::interleaved::Q5K;
                $use
            }
            Ty::Q6_K => {
                type $B = $crate::quant::format::interleaved::Q6K;
                $use
            }
            Ty::IQ4_XS => {
                type $B = $crate::quant::format::interleaved::Iq4Xs;
                $use
            }
            Ty::MXFP4 => {
                type $B = $crate::quant::format::interleaved::Mxfp4;
                $use
            }
            Ty::Q1_0 => {
                type $B = $crate::quant::format::interleaved::Q1_0;
                $use
            }
            Ty::Q2_0 => {
                type $B = $crate::quant::format::interleaved::Q2_0;
                $use
            }
            _ => {}
        }
    }};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(in crate::quant) use match_interleaved;
