//! Multiplying by `sdot`: what the dotprod level multiplies with.

use super::interleaved::Words;
use super::intrinsics::{int8x16_t, int32x4_t, vdupq_n_s32};
use super::rows::{Dot, reduce};
use super::unpack::ROWS;
use std::arch::asm;

/// Proof that this machine has `sdot`.
///
/// Do not call its methods from closures: unlike the methods, those need not be inlined where the feature is enabled.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Sdot(());

#[allow(
    clippy::unused_self,
    reason = "having it proves that the machine has the instruction"
)]
impl Sdot {
    #[target_feature(enable = "dotprod")]
    #[inline]
    pub(in crate::quant) fn new() -> Self {
        Self(())
    }

    /// Adds to each lane of int32 the four products of its bytes. `vdotq_s32` is not stable on Rust 1.95.
    #[inline(always)]
    fn add(self, mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the instruction works on registers only, and `self` exists only where `new` was called with dotprod
        unsafe {
            asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) w, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
        }
        acc
    }

    /// Adds to each lane of int32 the four products of its bytes of `x` with bytes `4 I..4 I + 4` of `w`.
    #[inline(always)]
    pub(in crate::quant) fn add_by_element<const I: i32>(
        self,
        mut acc: int32x4_t,
        x: int8x16_t,
        w: int8x16_t,
    ) -> int32x4_t {
        // SAFETY: the instruction works on registers only, and `self` exists only where `new` was called with dotprod
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
