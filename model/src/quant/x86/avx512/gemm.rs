//! The product of many columns: see [`crate::quant::x86::panel`]. Twelve columns are multiplied at a
//! time, a word of the panel by a word of each, which `vpdpbusd` takes from memory and repeats in all elements.

use super::interleaved::every;
use super::rows::dpwssd_every;
use super::unpack::{Block32, Block256, load_64, store_64};
use crate::gguf::GROUP;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::x86::group_scales::Groups;
use crate::quant::x86::panel::{Panel32, Panel256, Sums, every_nth};
use bytemuck::{cast_mut, cast_ref};
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn floats(a: &[f32; GROUP]) -> __m512 {
    _mm512_castsi512_ps(load_64(cast_ref(a)))
}

/// Multiplies as many columns as there are sums, at most twelve.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add_32<B: Block32>(
    panel: &Panel32,
    x: &[Q8Chunk],
    stride: usize,
    sums: &mut [Sums],
) -> usize {
    match sums.len() {
        1 => columns_32::<B, 1>(panel, every_nth(x, stride), sums),
        2 | 3 => columns_32::<B, 2>(panel, every_nth(x, stride), sums),
        4..8 => columns_32::<B, 4>(panel, every_nth(x, stride), sums),
        8..12 => columns_32::<B, 8>(panel, every_nth(x, stride), sums),
        _ => columns_32::<B, 12>(panel, every_nth(x, stride), sums),
    }
}

/// Multiplies as many columns as there are sums, at most twelve.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add_256<B: Block256>(
    panel: &Panel256,
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [Sums],
) -> usize {
    match B::GROUPS {
        Groups::Eight => some_256::<8, true>(panel, x, stride, sums),
        Groups::Sixteen => some_256::<4, true>(panel, x, stride, sums),
        Groups::Signed => some_256::<4, false>(panel, x, stride, sums),
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn some_256<const WORDS: usize, const MINS: bool>(
    panel: &Panel256,
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [Sums],
) -> usize {
    match sums.len() {
        1 => columns_256::<WORDS, MINS, 1>(panel, every_nth(x, stride), sums),
        2 | 3 => columns_256::<WORDS, MINS, 2>(panel, every_nth(x, stride), sums),
        4..8 => columns_256::<WORDS, MINS, 4>(panel, every_nth(x, stride), sums),
        8..12 => columns_256::<WORDS, MINS, 8>(panel, every_nth(x, stride), sums),
        _ => columns_256::<WORDS, MINS, 12>(panel, every_nth(x, stride), sums),
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns_32<B: Block32, const C: usize>(
    panel: &Panel32,
    x: [&Q8Chunk; C],
    sums: &mut [Sums],
) -> usize {
    let mut acc = [_mm512_setzero_ps(); C];
    for c in 0..C {
        acc[c] = floats(&sums[c].0);
    }
    for b in 0..panel.blocks.min(8) {
        let mut dot = [_mm512_setzero_si512(); C];
        if B::OFFSET != 0 {
            for c in 0..C {
                dot[c] = _mm512_set1_epi32(B::OFFSET.wrapping_mul(x[c].sum[b]).wrapping_neg());
            }
        }
        for j in 0..8 {
            let q = load_64(&panel.q[b][j]);
            for c in 0..C {
                let x: &[[[u8; 4]; 8]; 8] = cast_ref(&x[c].q);
                dot[c] = _mm512_dpbusd_epi32(dot[c], q, every(x[b][j]));
            }
        }
        let (d, m) = (floats(&panel.d[b]), floats(&panel.m[b]));
        for c in 0..C {
            let scale = _mm512_mul_ps(d, _mm512_set1_ps(x[c].scale[b]));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[c]), scale, acc[c]);
            if B::HAS_MIN {
                acc[c] = _mm512_fmadd_ps(m, _mm512_set1_ps(x[c].scaled_sum[b]), acc[c]);
            }
        }
    }
    for c in 0..C {
        store_64(cast_mut(&mut sums[c].0), _mm512_castps_si512(acc[c]));
    }
    C
}

/// The columns of groups of `WORDS` words, which have mins or an offset.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns_256<const WORDS: usize, const MINS: bool, const C: usize>(
    panel: &Panel256,
    x: [&Q8kChunk; C],
    sums: &mut [Sums],
) -> usize {
    let mut sum = [_mm512_setzero_si512(); C];
    if !MINS {
        add_pairs::<WORDS, C>(panel, &x, &mut sum);
    }
    for g in 0..64 / WORDS {
        let mut dot = [_mm512_setzero_si512(); C];
        let q = &panel.q.as_flattened().as_chunks::<WORDS>().0[g];
        for j in 0..WORDS {
            let q = load_64(&q[j]);
            for c in 0..C {
                let x: &[[u8; 4]; 64] = cast_ref(&x[c].q);
                dot[c] = _mm512_dpbusd_epi32(dot[c], q, every(x.as_chunks::<WORDS>().0[g][j]));
            }
        }
        let scale = load_64(&panel.scales[g]);
        for c in 0..C {
            sum[c] = _mm512_add_epi32(sum[c], _mm512_mullo_epi32(dot[c], scale));
        }
    }
    let mut mins = [_mm512_setzero_si512(); C];
    if MINS {
        add_pairs::<WORDS, C>(panel, &x, &mut mins);
    }
    let (d, dmin) = (floats(&panel.d), floats(&panel.dmin));
    for c in 0..C {
        let scale = _mm512_set1_ps(x[c].scale);
        let mut acc = floats(&sums[c].0);
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[c]), _mm512_mul_ps(d, scale), acc);
        if MINS {
            let scale = _mm512_mul_ps(dmin, scale);
            acc = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins[c]), scale, acc);
        }
        store_64(cast_mut(&mut sums[c].0), _mm512_castps_si512(acc));
    }
    C
}

/// Adds the products of the panel's pairs and the sums of activations that they belong to.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_pairs<const WORDS: usize, const C: usize>(
    panel: &Panel256,
    x: &[&Q8kChunk; C],
    sum: &mut [__m512i; C],
) {
    for i in 0..32 / WORDS {
        let pairs = load_64(&panel.pairs[i]);
        for c in 0..C {
            let (x16, x32): (&[[u8; 4]; 8], &[[u8; 4]; 4]) =
                (cast_ref(&x[c].sums), cast_ref(&x[c].sums32));
            let x = if WORDS == 8 { &x32[i] } else { &x16[i] };
            sum[c] = dpwssd_every(sum[c], pairs, x);
        }
    }
}
