//! What both kernels of attention need to walk over pages: the size of a block of positions, loads and stores, and asking
//! for the next block ahead.

use crate::quant::Paged;
use crate::quant::kernels::Heads;
use crate::quant::x86::avx512::rows::prefetch;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::arch::x86_64::*;

/// Positions at a time: as many as a vector has elements. They are of one page.
pub(super) const BLOCK: usize = 16;
const _: () = assert!(PAGE_TOKENS.is_multiple_of(BLOCK));
/// Bytes of a line of the cache. A block of rows is a whole number of them.
const LINE: usize = 64;

/// A block of rows that is read soon. It is asked for in parts, because a core stops when it is asked for more lines at once
/// than it can wait for.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a> {
    quants: &'a [u8],
    /// Bytes of a part.
    part: usize,
}

impl<'a> Ahead<'a> {
    /// Nothing is asked for ahead.
    pub(super) const NONE: Self = Self {
        quants: &[],
        part: 0,
    };

    /// The block that begins at position `first`, if anybody looks at it, in `parts` parts. Asks for its scales.
    #[inline(always)]
    pub(super) fn new(heads: &Heads<'a>, paged: Paged<'a>, first: usize, parts: usize) -> Self {
        if first >= heads.longest() {
            return Self::NONE;
        }
        let (quants, scales) = paged.rows(first, heads.d).first(BLOCK);
        prefetch(Some(scales));
        let part = (quants.len() / LINE).div_ceil(parts) * LINE;
        Self { quants, part }
    }

    /// Asks for a part of the rows; those behind the last one are empty.
    #[inline(always)]
    pub(super) fn ask(&self, part: usize) {
        let from = self.quants.len().min(part * self.part);
        let to = self.quants.len().min(from + self.part);
        prefetch(Some(&self.quants[from..to]));
    }
}

/// Loads the first `16 * N` values.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load<const N: usize>(a: &[f32]) -> [__m512; N] {
    let mut v = [_mm512_setzero_ps(); N];
    for (v, a) in v.iter_mut().zip(a.as_chunks::<16>().0) {
        *v = load_one(a);
    }
    v
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_one(a: &[f32; 16]) -> __m512 {
    // SAFETY: the array has the 64 bytes that are loaded
    unsafe { _mm512_loadu_ps(a.as_ptr()) }
}

/// Stores as many elements as `dst` has values, 1 to 16.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn store_first(dst: &mut [f32], v: __m512) {
    assert!((1..=BLOCK).contains(&dst.len()), "{} of {BLOCK}", dst.len());
    let mask = 0xffff >> (BLOCK - dst.len());
    // SAFETY: the mask has as many ones as the slice has elements, so nothing past its end is written
    unsafe { _mm512_mask_storeu_ps(dst.as_mut_ptr(), mask, v) };
}
