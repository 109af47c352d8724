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

/// Asks for the rows of the block that begins at position `first`, a part of them in each of `parts` calls, because a core
/// stops when it is asked for more lines at once than it can wait for.
#[inline(always)]
pub(super) fn ask_ahead(
    paged: Paged<'_>,
    first: usize,
    (part, parts): (usize, usize),
    heads: &Heads<'_>,
) {
    if first < heads.len {
        let (quants, scales) = paged.rows(first, heads.d).first(BLOCK);
        let size = quants.len().div_ceil(parts);
        prefetch(quants.chunks(size).nth(part));
        if part == 0 {
            prefetch(Some(scales));
        }
    }
}

/// Loads the first `16 * N` values.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load<const N: usize>(a: &[f32]) -> [__m512; N] {
    let mut v = [_mm512_setzero_ps(); N];
    for (v, a) in v.iter_mut().zip(a.as_chunks::<16>().0) {
        // SAFETY: the array has the 64 bytes that are loaded
        *v = unsafe { _mm512_loadu_ps(a.as_ptr()) };
    }
    v
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
