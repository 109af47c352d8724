//! Attention of the query heads of one KV head: four positions at a time, widened to f32 once for all queries, and each load
//! shared by two of them. Halves are widened by `fcvtl`, which is in the baseline; the crate `half` would convert in
//! software on a core without `fp16`.
//!
//! That is eight multiplications of four elements for every six loads, where a plain dot product has one for two.

use super::intrinsics::*;
use crate::quant::Paged;
use crate::quant::format::blocks::Half;
use crate::quant::format::kv_rows::PagedRows;
use crate::quant::kernels::Heads;
use crate::quant::reference::floats;
use bytemuck::{cast, cast_ref};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::ops::Range;

/// Positions at a time. They are of one page.
const ROWS: usize = 4;
const _: () = assert!(PAGE_TOKENS.is_multiple_of(ROWS));
/// The longest head for which the widened rows have room.
const MAX_HEAD: usize = 256;

type Wide = [[[f32; 4]; MAX_HEAD / 4]; ROWS];

/// See [`crate::quant::Kernels::attend`], which has checked the sizes.
pub(in crate::quant) fn attend(heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
    let Heads {
        q, k, v, d, scale, ..
    } = *heads;
    if d > MAX_HEAD || !d.is_multiple_of(4) {
        return floats::attend::<true>(heads, scores, out);
    }
    let stride = heads.stride();
    blocks(heads, k, |wide, queries, rows| {
        let q = &q[queries.start * d..queries.end * d];
        let scores = &mut scores[queries.start * stride..queries.end * stride];
        for (q, scores) in q.chunks(2 * d).zip(scores.chunks_mut(2 * stride)) {
            let dots = if q.len() == d {
                [dots([q], wide)[0]; 2]
            } else {
                dots([&q[..d], &q[d..]], wide)
            };
            for (scores, dots) in scores.chunks_exact_mut(stride).zip(dots) {
                let dots = to_array(vmulq_n_f32(dots, scale));
                scores[rows.clone()].copy_from_slice(&dots[..rows.len()]);
            }
        }
    });
    floats::softmax_rows::<true>(heads, scores);
    out.fill(0.0);
    blocks(heads, v, |wide, queries, rows| {
        let out = &mut out[queries.start * d..queries.end * d];
        let scores = &scores[queries.start * stride..queries.end * stride];
        for (out, scores) in out.chunks_mut(2 * d).zip(scores.chunks(2 * stride)) {
            // a position past the end is a repeated one, and its weight is 0
            let mut weights = [[0.0; ROWS]; 2];
            for (weights, scores) in weights.iter_mut().zip(scores.chunks_exact(stride)) {
                weights[..rows.len()].copy_from_slice(&scores[rows.clone()]);
            }
            match out.split_at_mut_checked(d) {
                Some((a, b)) if b.len() == d => add([a, b], weights, wide),
                _ => add([out], [weights[0]], wide),
            }
        }
    });
}

/// Calls `block` with every four rows, widened, the queries that look at them, and their positions. The queries are all of
/// them where all look at all four, and otherwise those of one position with the rows up to it: a weight of 0 does not take a
/// row out that is not finite.
#[inline(always)]
fn blocks(
    heads: &Heads<'_>,
    rows: Paged<'_>,
    mut block: impl FnMut(&Wide, Range<usize>, Range<usize>),
) {
    let mut wide: Wide = [[[0.0; 4]; MAX_HEAD / 4]; ROWS];
    let shared = heads.len / ROWS * ROWS;
    for t in (0..shared).step_by(ROWS) {
        widen(&mut wide, rows.rows(t, heads.d), ROWS);
        block(&wide, 0..heads.queries(), t..t + ROWS);
    }
    let positions = (0..heads.queries()).step_by(heads.group);
    for (first, len) in positions.zip(heads.len..) {
        for t in (shared..len).step_by(ROWS) {
            widen(&mut wide, rows.rows(t, heads.d), len - t);
            block(&wide, first..first + heads.group, t..len.min(t + ROWS));
        }
    }
}

/// Widens the first four of `n` rows to f32, with the last one repeated where there are fewer.
#[inline(always)]
fn widen(wide: &mut Wide, rows: PagedRows<'_>, n: usize) {
    for (r, wide) in wide.iter_mut().enumerate() {
        let (quants, scales) = rows.row(r.min(n - 1));
        let blocks = wide.as_chunks_mut().0.iter_mut().zip(scales);
        match rows.format {
            KvFormat::F16 => {
                for (wide, halves) in wide.iter_mut().zip(quants.as_chunks::<8>().0) {
                    *wide = to_array(widen_f16(load_u16(&cast(*halves))));
                }
            }
            KvFormat::Q8_0 => {
                for ((wide, scale), quants) in blocks.zip(quants.as_chunks::<32>().0) {
                    let [low, high] = cast_ref(quants);
                    widen_block(wide, [load_s8(low), load_s8(high)], *scale);
                }
            }
            KvFormat::Q4_0 => {
                let eight = vdupq_n_u8(8);
                for ((wide, scale), quants) in blocks.zip(quants.as_chunks().0) {
                    let quants = load_u8(quants);
                    let low = vsubq_u8(vandq_u8(quants, vdupq_n_u8(15)), eight);
                    let high = vsubq_u8(vshrq_n_u8::<4>(quants), eight);
                    let quants = [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)];
                    widen_block(wide, quants, *scale);
                }
            }
        }
    }
}

/// Multiplies 32 signed bytes by their scale.
#[inline(always)]
fn widen_block(wide: &mut [[f32; 4]; 8], quants: [int8x16_t; 2], scale: Half) {
    let scale = widen_f16(vdup_n_u16(scale.bits()));
    for (wide, quants) in wide.as_chunks_mut::<4>().0.iter_mut().zip(quants) {
        let (low, high) = (vmovl_s8(vget_low_s8(quants)), vmovl_high_s8(quants));
        let quarters = [
            vmovl_s16(vget_low_s16(low)),
            vmovl_high_s16(low),
            vmovl_s16(vget_low_s16(high)),
            vmovl_high_s16(high),
        ];
        for (wide, quarter) in wide.iter_mut().zip(quarters) {
            *wide = to_array(vmulq_f32(vcvtq_f32_s32(quarter), scale));
        }
    }
}

/// The dot products of each of `H` queries with the four rows.
#[allow(
    clippy::needless_range_loop,
    reason = "the rows and the heads go in step"
)]
#[inline(always)]
fn dots<const H: usize>(q: [&[f32]; H], wide: &Wide) -> [float32x4_t; H] {
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

/// Adds to each of `H` results the four rows, each multiplied by its weight.
#[allow(
    clippy::needless_range_loop,
    reason = "the rows and the heads go in step"
)]
#[inline(always)]
fn add<const H: usize>(mut out: [&mut [f32]; H], weights: [[f32; ROWS]; H], wide: &Wide) {
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
