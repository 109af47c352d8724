//! The product of many columns: see [`crate::quant::x86::panel`]. Six columns are multiplied by the panels of 32 rows at a time, a
//! word of both panels by a word of each column.
//!
//! Zen 5 and Intel's cores load two vectors and multiply two in a cycle. Twelve columns by one panel need thirteen loads for twelve
//! products, because each word of a column is one; here a column's word serves both panels, and eight loads do.
//!
//! Multiplications wait for the same two ports, and scaling a group's sums (`vpmulld`) is one in nine of Q4_K's and one in five of
//! Q6_K's. Where the sums of two groups fit int16, which the largest sum of their activations' magnitudes tells, they share an
//! element and `vpdpwssd` scales both. They do if the magnitudes of every sixteen activations, of 127 at most, are on average no larger
//! than 68 (Q4_K), 63 (Q6_K), 33 (Q5_K) or 15 (IQ4_XS): nearly always for Q4_K, in seven of ten calls for Q6_K (1.5B).

use super::interleaved::{every, less, scaled};
use super::rows::{dpwssd, dpwssd_every};
use super::unpack::{Block32, Block256, load_32, load_64, store_64};
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

/// Multiplies as many columns as there are sums, at most six.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add_32<B: Block32>(
    panels: &[Panel32; 2],
    x: &[Q8Chunk],
    stride: usize,
    sums: &mut [[Sums; 2]],
) -> usize {
    match sums.len() {
        1 => columns_32::<B, 1>(panels, every_nth(x, stride), sums),
        2 | 3 => columns_32::<B, 2>(panels, every_nth(x, stride), sums),
        4 | 5 | 8 => columns_32::<B, 4>(panels, every_nth(x, stride), sums),
        _ => columns_32::<B, 6>(panels, every_nth(x, stride), sums),
    }
}

/// Multiplies as many columns as there are sums, at most six.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn add_256<B: Block256>(
    panels: &[Panel256; 2],
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [[Sums; 2]],
) -> usize {
    match B::GROUPS {
        Groups::Eight => some_256::<B, 8>(panels, x, stride, sums),
        Groups::Sixteen | Groups::Signed => some_256::<B, 4>(panels, x, stride, sums),
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn some_256<B: Block256, const WORDS: usize>(
    panels: &[Panel256; 2],
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [[Sums; 2]],
) -> usize {
    match sums.len() {
        1 => checked_256::<B, WORDS, 1>(panels, x, stride, sums),
        2 | 3 => checked_256::<B, WORDS, 2>(panels, x, stride, sums),
        4 | 5 | 8 => checked_256::<B, WORDS, 4>(panels, x, stride, sums),
        _ => checked_256::<B, WORDS, 6>(panels, x, stride, sums),
    }
}

/// Multiplies `C` columns, after looking whether the sums of a group's products fit int16.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn checked_256<B: Block256, const WORDS: usize, const C: usize>(
    panels: &[Panel256; 2],
    x: &[Q8kChunk],
    stride: usize,
    sums: &mut [[Sums; 2]],
) -> usize {
    let (x, next) = (every_nth(x, stride), C * stride * size_of::<Q8kChunk>());
    // of a weight, for each sixteen of them in a group
    let largest = B::OFFSET.max(B::MAX - B::OFFSET) * WORDS as i32 / 4;
    let fits = |x: &&Q8kChunk| i32::from(x.largest) * largest <= i32::from(i16::MAX);
    if x.iter().all(fits) {
        columns_256::<B, WORDS, C, true>(panels, x, next, sums)
    } else {
        columns_256::<B, WORDS, C, false>(panels, x, next, sums)
    }
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns_32<B: Block32, const C: usize>(
    panels: &[Panel32; 2],
    x: [&Q8Chunk; C],
    sums: &mut [[Sums; 2]],
) -> usize {
    let mut acc = [[_mm512_setzero_ps(); 2]; C];
    for c in 0..C {
        for p in 0..2 {
            acc[c][p] = floats(&sums[c][p].0);
        }
    }
    for b in 0..panels[0].blocks.min(8) {
        let mut dot = [[_mm512_setzero_si512(); 2]; C];
        if B::OFFSET != 0 {
            for c in 0..C {
                let offset = B::OFFSET.wrapping_mul(x[c].sum[b]).wrapping_neg();
                dot[c] = [_mm512_set1_epi32(offset); 2];
            }
        }
        for j in 0..8 {
            let q = [load_64(&panels[0].q[b][j]), load_64(&panels[1].q[b][j])];
            for c in 0..C {
                let x: &[[[u8; 4]; 8]; 8] = cast_ref(&x[c].q);
                let word = every(x[b][j]);
                for p in 0..2 {
                    dot[c][p] = _mm512_dpbusd_epi32(dot[c][p], q[p], word);
                }
            }
        }
        for c in 0..C {
            let (scale, sum) = (x[c].scale[b], x[c].scaled_sum[b]);
            for p in 0..2 {
                acc[c][p] = scaled(acc[c][p], dot[c][p], floats(&panels[p].d[b]), scale);
                if B::HAS_MIN {
                    let m = floats(&panels[p].m[b]);
                    acc[c][p] = _mm512_fmadd_ps(m, _mm512_set1_ps(sum), acc[c][p]);
                }
            }
        }
    }
    for c in 0..C {
        for p in 0..2 {
            store_64(cast_mut(&mut sums[c][p].0), _mm512_castps_si512(acc[c][p]));
        }
    }
    C
}

/// Adds the products of group `$g` to `$dot`. Of a function the compiler would make calls, with all sums in memory.
macro_rules! multiply {
    ($panels:ident, $x:ident, $g:expr, $dot:ident) => {
        for j in 0..WORDS {
            let q = |p: usize| load_64(&$panels[p].q.as_flattened().as_chunks::<WORDS>().0[$g][j]);
            let q = [q(0), q(1)];
            for c in 0..C {
                let x: &[[u8; 4]; 64] = cast_ref(&$x[c].q);
                let word = every(x.as_chunks::<WORDS>().0[$g][j]);
                for p in 0..2 {
                    $dot[c][p] = _mm512_dpbusd_epi32($dot[c][p], q[p], word);
                }
            }
        }
    };
}

/// Multiplies `C` columns, of groups of `WORDS` words, two groups after each other. If the sums are `NARROW`, both share an int32. The
/// columns that come next lie `next` bytes behind these.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns_256<B: Block256, const WORDS: usize, const C: usize, const NARROW: bool>(
    panels: &[Panel256; 2],
    x: [&Q8kChunk; C],
    next: usize,
    sums: &mut [[Sums; 2]],
) -> usize {
    // half an int16 more than the lower of two sums, so that nothing is borrowed from the upper one
    let half = _mm512_set1_epi32(if NARROW { 0x8000 } else { 0 });
    // what each group's sum begins with, and half an int16 in the even ones
    let mut begin = [[0i32; 16]; C];
    if B::OFFSET != 0 {
        for c in 0..C {
            let sums = _mm512_cvtepi16_epi32(load_32(cast_ref(&x[c].sums)));
            let offset = _mm512_mullo_epi32(sums, _mm512_set1_epi32(-B::OFFSET));
            let offset = _mm512_mask_add_epi32(offset, 0x5555, offset, half);
            store_64(cast_mut(&mut begin[c]), offset);
        }
    }
    let first = |c: usize, g: usize| match (B::OFFSET, g % 2) {
        (0, 0) => half,
        (0, _) => _mm512_setzero_si512(),
        _ => _mm512_set1_epi32(begin[c][g]),
    };
    let mut sum = [[_mm512_setzero_si512(); 2]; C];
    for pair in 0..32 / WORDS {
        let (even, odd) = (2 * pair, 2 * pair + 1);
        if (even * WORDS).is_multiple_of(16) {
            for c in 0..C {
                let line = x[c].q.as_ptr().wrapping_add(next + 4 * WORDS * even);
                _mm_prefetch::<_MM_HINT_T0>(line);
            }
        }
        let mut dot = [[_mm512_setzero_si512(); 2]; C];
        for c in 0..C {
            dot[c] = [first(c, odd); 2];
        }
        multiply!(panels, x, odd, dot);
        let scales = [0, 1].map(|p: usize| load_64(&panels[p].scales[pair]));
        for c in 0..C {
            let begin = first(c, even);
            for p in 0..2 {
                if NARROW {
                    dot[c][p] = _mm512_add_epi32(_mm512_slli_epi32::<16>(dot[c][p]), begin);
                } else {
                    let scale = _mm512_srai_epi32::<16>(scales[p]);
                    let scaled = _mm512_mullo_epi32(dot[c][p], scale);
                    sum[c][p] = _mm512_add_epi32(sum[c][p], scaled);
                    dot[c][p] = begin;
                }
            }
        }
        multiply!(panels, x, even, dot);
        for c in 0..C {
            for p in 0..2 {
                sum[c][p] = if NARROW {
                    dpwssd(sum[c][p], _mm512_xor_si512(dot[c][p], half), scales[p])
                } else {
                    let scale = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(scales[p]));
                    _mm512_add_epi32(sum[c][p], _mm512_mullo_epi32(dot[c][p], scale))
                };
            }
        }
    }
    let mins = B::GROUPS != Groups::Signed;
    let mut less_sum = [[_mm512_setzero_si512(); 2]; C];
    if mins {
        for i in 0..32 / WORDS {
            for p in 0..2 {
                let pairs = load_64(&panels[p].pairs[i]);
                for c in 0..C {
                    let (x16, x32): (&[[u8; 4]; 8], &[[u8; 4]; 4]) =
                        (cast_ref(&x[c].sums), cast_ref(&x[c].sums32));
                    let x = if WORDS == 8 { &x32[i] } else { &x16[i] };
                    less_sum[c][p] = dpwssd_every(less_sum[c][p], pairs, x);
                }
            }
        }
    }
    for c in 0..C {
        for p in 0..2 {
            let mut acc = floats(&sums[c][p].0);
            acc = scaled(acc, sum[c][p], floats(&panels[p].d), x[c].scale);
            if mins {
                acc = less(acc, less_sum[c][p], floats(&panels[p].dmin), x[c].scale);
            }
            store_64(cast_mut(&mut sums[c][p].0), _mm512_castps_si512(acc));
        }
    }
    C
}
