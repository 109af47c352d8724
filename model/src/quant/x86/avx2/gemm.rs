//! The product of many columns: see [`crate::quant::x86::panel`]. Four columns are multiplied at a time, and the two halves of
//! the sixteen rows with them where their sums fit the registers.
//!
//! On Zen 4 `vpmaddubsw`, `vpmaddwd` and instructions for floats wait for the same two ports, and additions for these and two
//! more. By 256 weights, eight rows and one column of Q4_K those are 64 + 8 + 4 + 4, for 2,048 products.

use super::dot::{Dot, run};
use super::interleaved::{every, half};
use super::unpack::{Block32, Block256, signs};
use crate::gguf::GROUP;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::x86::group_scales::Groups;
use crate::quant::x86::panel::{Panel32, Panel256, Sums, every_nth};
use bytemuck::{cast_mut, cast_ref};
use std::arch::x86_64::*;

/// Half `at` of sixteen numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats(a: &[f32; GROUP], at: usize) -> __m256 {
    _mm256_castsi256_ps(half(cast_ref(a), at))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn set_floats(a: &mut [f32; GROUP], at: usize, v: __m256) {
    let halves: &mut [[f32; 8]; 2] = cast_mut(a);
    // SAFETY: the array has the 32 bytes that are stored
    unsafe { _mm256_storeu_ps(halves[at].as_mut_ptr(), v) };
}

/// Multiplies as many columns as there are sums, at most four.
///
/// # Safety
/// The machine has the features of `D`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_32<B: Block32, D: Dot>(
    panel: &Panel32,
    x: &[Q8Chunk],
    stride: usize,
    sums: &mut [Sums],
) -> usize {
    // SAFETY: the caller vouches for the features of `D`
    unsafe {
        match sums.len() {
            1 => columns_32::<B, D, 1>(panel, every_nth(x, stride), sums),
            2 | 3 => columns_32::<B, D, 2>(panel, every_nth(x, stride), sums),
            _ => columns_32::<B, D, 4>(panel, every_nth(x, stride), sums),
        }
    }
}

/// Multiplies as many columns as there are sums, at most four.
///
/// # Safety
/// The machine has the features of `D`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add_256<B: Block256, D: Dot>(
    panel: &Panel256,
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [Sums],
) -> usize {
    // SAFETY: the caller vouches for the features of `D`
    unsafe {
        match (B::GROUPS, B::MAX) {
            (Groups::Eight, ..16) => some_256::<D, 8, 8, true, 2>(panel, x, stride, sums),
            (Groups::Eight, _) => some_256::<D, 8, 4, true, 2>(panel, x, stride, sums),
            (Groups::Sixteen, _) => some_256::<D, 4, 4, true, 2>(panel, x, stride, sums),
            (Groups::Signed, ..32) => some_256::<D, 4, 4, false, 2>(panel, x, stride, sums),
            (Groups::Signed, ..64) => some_256::<D, 4, 2, false, 1>(panel, x, stride, sums),
            (Groups::Signed, _) => some_256::<D, 4, 1, false, 1>(panel, x, stride, sums),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_256<
    D: Dot,
    const WORDS: usize,
    const RUN: usize,
    const MINS: bool,
    const V: usize,
>(
    panel: &Panel256,
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [Sums],
) -> usize {
    // SAFETY: the caller vouches for the features of `D`
    unsafe {
        match sums.len() {
            1 => columns_256::<D, WORDS, RUN, MINS, V, 1>(panel, every_nth(x, stride), sums),
            2 | 3 => columns_256::<D, WORDS, RUN, MINS, V, 2>(panel, every_nth(x, stride), sums),
            _ => columns_256::<D, WORDS, RUN, MINS, V, 4>(panel, every_nth(x, stride), sums),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns_32<B: Block32, D: Dot, const C: usize>(
    panel: &Panel32,
    x: [&Q8Chunk; C],
    sums: &mut [Sums],
) -> usize {
    for b in 0..panel.blocks.min(8) {
        for at in 0..2 {
            let (mut some, mut sum) = ([_mm256_setzero_si256(); C], [_mm256_setzero_si256(); C]);
            if B::OFFSET != 0 {
                for c in 0..C {
                    sum[c] = _mm256_set1_epi32(B::OFFSET.wrapping_mul(x[c].sum[b]).wrapping_neg());
                }
            }
            for j in 0..8 {
                let w = half(&panel.q[b][j], at);
                for c in 0..C {
                    let x: &[[[u8; 4]; 8]; 8] = cast_ref(&x[c].q);
                    let (w, x) = signs(B::SIGNED, w, every(x[b][j]));
                    let words = run::<D>(B::WORDS, 8);
                    if j % words == 0 {
                        some[c] = _mm256_setzero_si256();
                    }
                    // SAFETY: the caller vouches for the features of `D`
                    unsafe {
                        some[c] = if D::NARROW && j % words != 0 {
                            more_in_order(some[c], w, x)
                        } else {
                            D::more(some[c], w, x)
                        };
                        if (j + 1) % words == 0 {
                            sum[c] = D::whole(sum[c], some[c]);
                        }
                    }
                }
            }
            let (d, m) = (floats(&panel.d[b], at), floats(&panel.m[b], at));
            for c in 0..C {
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(x[c].scale[b]));
                let mut acc = floats(&sums[c].0, at);
                acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[c]), scale, acc);
                if B::HAS_MIN {
                    acc = _mm256_fmadd_ps(m, _mm256_set1_ps(x[c].scaled_sum[b]), acc);
                }
                set_floats(&mut sums[c].0, at, acc);
            }
        }
    }
    C
}

/// AVX2's [`Dot::more`] as two instructions that stay together. The compiler would add the products to each other first, for a shorter
/// latency that nobody waits for here: Q4_1 went from 46 to 90 GMAC/s at 64 columns (Zen 4).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn more_in_order(mut sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the instructions work on registers only, and this function is compiled with avx2
    unsafe {
        std::arch::asm!("vpmaddubsw {1}, {2}, {3}", "vpaddw {0}, {0}, {1}", inout(ymm_reg) sum, out(ymm_reg) _,
            in(ymm_reg) w, in(ymm_reg) x, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// The columns of groups of `WORDS` words, which have mins or an offset. Products of `RUN` words may be added in int16, which is one
/// of signed bytes, and `V` halves are multiplied at a time.
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns_256<
    D: Dot,
    const WORDS: usize,
    const RUN: usize,
    const MINS: bool,
    const V: usize,
    const C: usize,
>(
    panel: &Panel256,
    x: [&Q8kChunk; C],
    sums: &mut [Sums],
) -> usize {
    for at in (0..2).step_by(V) {
        let mut sum = [[_mm256_setzero_si256(); C]; V];
        for g in 0..64 / WORDS {
            let q = &panel.q.as_flattened().as_chunks::<WORDS>().0[g];
            let mut some = [[_mm256_setzero_si256(); C]; V];
            for j in 0..WORDS {
                for c in 0..C {
                    let x: &[[u8; 4]; 64] = cast_ref(&x[c].q);
                    let x = every(x.as_chunks::<WORDS>().0[g][j]);
                    for v in 0..V {
                        let (w, x) = signs(RUN == 1, half(&q[j], at + v), x);
                        // SAFETY: the caller vouches for the features of `D`
                        some[v][c] = unsafe { D::more(some[v][c], w, x) };
                    }
                }
                if (j + 1) % run::<D>(RUN, WORDS) == 0 {
                    for v in 0..V {
                        let scale = half(&panel.scales[g], at + v);
                        for c in 0..C {
                            // SAFETY: the caller vouches for the features of `D`
                            sum[v][c] = unsafe { D::scaled(sum[v][c], some[v][c], scale) };
                            some[v][c] = _mm256_setzero_si256();
                        }
                    }
                }
            }
        }
        for v in 0..V {
            let mut extra = [_mm256_setzero_si256(); C];
            for i in 0..32 / WORDS {
                let pair = half(&panel.pairs[i], at + v);
                for c in 0..C {
                    let (x16, x32): (&[[u8; 4]; 8], &[[u8; 4]; 4]) =
                        (cast_ref(&x[c].sums), cast_ref(&x[c].sums32));
                    let x = if WORDS == 8 { x32[i] } else { x16[i] };
                    // SAFETY: the caller vouches for the features of `D`
                    extra[c] = unsafe { D::pairs(extra[c], pair, every(x)) };
                }
            }
            let (d, dmin) = (floats(&panel.d, at + v), floats(&panel.dmin, at + v));
            for c in 0..C {
                let scale = _mm256_set1_ps(x[c].scale);
                let mut acc = floats(&sums[c].0, at + v);
                if MINS {
                    let whole = _mm256_cvtepi32_ps(sum[v][c]);
                    acc = _mm256_fmadd_ps(whole, _mm256_mul_ps(d, scale), acc);
                    let scale = _mm256_mul_ps(dmin, scale);
                    acc = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(extra[c]), scale, acc);
                } else {
                    let whole = _mm256_cvtepi32_ps(_mm256_add_epi32(sum[v][c], extra[c]));
                    acc = _mm256_fmadd_ps(whole, _mm256_mul_ps(d, scale), acc);
                }
                set_floats(&mut sums[c].0, at + v, acc);
            }
        }
    }
    C
}
