//! Multiplying by `smmla`: what the i8mm level multiplies with.

use crate::quant::arm::intrinsics::{int8x16_t, int32x4_t};
use std::arch::asm;

/// Proof that this machine has `smmla`.
///
/// Do not call its method from closures: unlike the method, those need not be inlined where the feature is enabled.
#[derive(Clone, Copy)]
pub(super) struct Smmla(());

impl Smmla {
    #[target_feature(enable = "i8mm")]
    #[inline]
    pub(super) fn new() -> Self {
        Self(())
    }

    /// Adds the products of two columns and two rows, each of eight values: element `2 c + r` is column `c` with row `r`.
    /// `vmmlaq_s32` is not stable on Rust 1.95.
    #[allow(
        clippy::unused_self,
        reason = "having it proves that the machine has the instruction"
    )]
    #[inline(always)]
    pub(super) fn add(self, mut acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the instruction works on registers only, and `self` exists only where `new` was called with i8mm
        unsafe {
            asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) x, in(vreg) w,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }
}
