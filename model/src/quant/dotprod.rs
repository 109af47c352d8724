//! aarch64 with `sdot` (Cortex-A76 and later: Raspberry Pi 5, RK3588, SA8155P).

use super::Isa;
use super::activations::Activations;
use super::dispatch::Kernels;
use super::neon::{self, Dot, ROWS, reduce};
use super::neon_ops::{int8x16_t, int32x4_t, vdupq_n_s32};
use crate::gguf::GgmlType;
use crate::pool::RowTile;
use std::arch::asm;

pub(super) static TABLE: Kernels = Kernels {
    isa: Isa::Dotprod,
    supported: || std::arch::is_aarch64_feature_detected!("dotprod"),
    tiles: false,
    matmul: |ty, w, k, acts, col0, out| {
        // SAFETY: the table is handed out only where `supported` said yes
        unsafe { matmul(ty, w, k, acts, col0, out) }
    },
    ..neon::TABLE
};

#[target_feature(enable = "neon,dotprod")]
fn matmul(
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    neon::matmul(Sdot::new(), ty, w, k, acts, col0, out);
}

/// Proof that this machine has `sdot`.
#[derive(Clone, Copy)]
struct Sdot(());

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
}

// no closures around `add`: unlike these functions they need not be inlined where the feature is enabled
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
