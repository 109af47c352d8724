//! Attention on NEON: four positions of the cache at a time, their halves widened by `fcvtl` (in the baseline, where
//! the software conversion of the crate `half` would serve a core without `fp16`), each load shared by two heads.
//!
//! Eight multiplications of four lanes for every six loads; a plain dot product has one for two.

use super::dispatch::Heads;
use super::lanes;
use super::neon_ops::*;

/// Positions at a time.
const ROWS: usize = 4;
/// Longest head for which the widened rows have room.
const MAX_HEAD: usize = 256;

type Rows = [[[f32; 4]; MAX_HEAD / 4]; ROWS];

/// See [`super::Kernels::attend`], which has checked the sizes.
pub(super) fn attend(heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
    let Heads {
        q,
        k,
        v,
        d,
        stride,
        len,
        scale,
    } = *heads;
    if d > MAX_HEAD || !d.is_multiple_of(4) {
        return lanes::attend::<true>(heads, scores, out);
    }
    let scores = &mut scores[..q.len() / d * len];
    let mut wide: Rows = [[[0.0; 4]; MAX_HEAD / 4]; ROWS];
    for t in (0..len).step_by(ROWS) {
        widen(&mut wide, k, d, stride, t, len);
        let there = ROWS.min(len - t);
        for (q, scores) in q.chunks(2 * d).zip(scores.chunks_mut(2 * len)) {
            let dots = if q.len() == d {
                [dots([q], &wide)[0]; 2]
            } else {
                dots([&q[..d], &q[d..]], &wide)
            };
            for (scores, dots) in scores.chunks_exact_mut(len).zip(dots) {
                let dots = to_array(vmulq_n_f32(dots, scale));
                scores[t..][..there].copy_from_slice(&dots[..there]);
            }
        }
    }
    for scores in scores.chunks_exact_mut(len) {
        lanes::softmax::<true>(scores);
    }
    out.fill(0.0);
    for t in (0..len).step_by(ROWS) {
        widen(&mut wide, v, d, stride, t, len);
        let there = ROWS.min(len - t);
        for (out, scores) in out.chunks_mut(2 * d).zip(scores.chunks(2 * len)) {
            // a position past the end is a repeated one with no weight
            let mut weights = [[0.0; ROWS]; 2];
            for (weights, scores) in weights.iter_mut().zip(scores.chunks_exact(len)) {
                weights[..there].copy_from_slice(&scores[t..][..there]);
            }
            match out.split_at_mut_checked(d) {
                Some((a, b)) if b.len() == d => add([a, b], weights, &wide),
                _ => add([out], [weights[0]], &wide),
            }
        }
    }
}

/// Positions `t..t + 4` of a cache, the last one again past the end.
#[inline(always)]
fn widen(wide: &mut Rows, cache: &[u16], d: usize, stride: usize, t: usize, len: usize) {
    for (r, wide) in wide.iter_mut().enumerate() {
        let row = &cache[(t + r).min(len - 1) * stride..][..d];
        for (wide, bits) in wide.iter_mut().zip(row.as_chunks().0) {
            *wide = to_array(widen_f16(load_u16(bits)));
        }
    }
}

/// For each of `H` heads its dot products with the four rows.
#[allow(
    clippy::needless_range_loop,
    reason = "the rows and the heads go in step"
)]
#[inline(always)]
fn dots<const H: usize>(q: [&[f32]; H], wide: &Rows) -> [float32x4_t; H] {
    let mut acc = [[vdupq_n_f32(0.0); ROWS]; H];
    for i in 0..(q[0].len() / 4).min(MAX_HEAD / 4) {
        let k = each([0, 1, 2, 3], |r: usize| load_f32(&wide[r][i]));
        for (acc, q) in acc.iter_mut().zip(&q) {
            let q = load_f32(&q.as_chunks().0[i]);
            for (acc, k) in acc.iter_mut().zip(k) {
                *acc = vfmaq_f32(*acc, q, k);
            }
        }
    }
    let mut dots = [vdupq_n_f32(0.0); H];
    for (dots, acc) in dots.iter_mut().zip(acc) {
        *dots = vpaddq_f32(vpaddq_f32(acc[0], acc[1]), vpaddq_f32(acc[2], acc[3]));
    }
    dots
}

/// Adds to each of `H` heads the four rows, each times its weight.
#[allow(
    clippy::needless_range_loop,
    reason = "the rows and the heads go in step"
)]
#[inline(always)]
fn add<const H: usize>(mut out: [&mut [f32]; H], weights: [[f32; ROWS]; H], wide: &Rows) {
    for i in 0..(out[0].len() / 4).min(MAX_HEAD / 4) {
        let v = each([0, 1, 2, 3], |r: usize| load_f32(&wide[r][i]));
        for (out, weights) in out.iter_mut().zip(&weights) {
            let out = &mut out.as_chunks_mut().0[i];
            let mut sum = load_f32(out);
            for (v, weight) in v.into_iter().zip(weights) {
                sum = vfmaq_n_f32(sum, v, *weight);
            }
            *out = to_array(sum);
        }
    }
}
