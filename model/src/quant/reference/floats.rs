//! The float helpers, written once over 16 elements.
//!
//! Every function is `inline(always)`: a level wraps it in a function with its target features, and the compiler makes
//! that level's vectors of it. `FMA` says whether `a * b + c` may be fused, which pays only where it is one instruction.

use super::decode::widen_row;
use crate::exp::{exp, mul_add};
use crate::gguf::GgmlType;
use crate::pool::RowTile;
use crate::quant::format::kv_rows::PagedRows;
use crate::quant::kernels::{Heads, Product};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

const LANES: usize = 16;
type Elements = [f32; LANES];

/// Folds the upper half onto the lower one, four times, until one value is left.
#[inline(always)]
fn fold(mut v: Elements, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            v[i] = f(v[i], v[i + n]);
        }
        n /= 2;
    }
    v[0]
}

/// See [`crate::quant::Kernels::silu_mul`], which has checked the sizes.
#[inline(always)]
pub(in crate::quant) fn silu_mul<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<FMA>(-*g)) * u;
    }
}

/// See [`crate::quant::Kernels::rms_norm`], which has checked the sizes.
#[inline(always)]
pub(in crate::quant) fn rms_norm<const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dst: &mut [f32],
) {
    let sum = dot::<FMA>(x, x);
    let inverse = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in dst.iter_mut().zip(x).zip(weight) {
        *y = x * inverse * w;
    }
}

/// The dot product by 16 running sums, folded at the end.
#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a.remainder().iter().zip(b.remainder());
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            acc[i] = mul_add::<FMA>(a[i], b[i], acc[i]);
        }
    }
    for (acc, (a, b)) in acc.iter_mut().zip(tail) {
        *acc = mul_add::<FMA>(*a, *b, *acc);
    }
    fold(acc, |a, b| a + b)
}

/// Values of a head that are widened to f32 at a time.
const PART: usize = 128;

/// See [`crate::quant::Kernels::attend`], which has checked the sizes.
#[inline(always)]
pub(in crate::quant) fn attend<const FMA: bool>(
    heads: &Heads<'_>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let Heads {
        q, k, v, d, scale, ..
    } = *heads;
    let (longest, stride) = (heads.longest(), heads.stride());
    let mut wide = [0.0f32; PART];
    for first in (0..longest).step_by(PAGE_TOKENS) {
        let rows = k.rows(first, d);
        for t in first..longest.min(first + PAGE_TOKENS) {
            for from in (0..d).step_by(PART) {
                let wide = &mut wide[..PART.min(d - from)];
                widen(rows, t - first, from, wide);
                for (i, q) in q.chunks_exact(d).enumerate().skip(heads.blind(t)) {
                    let part = dot::<FMA>(&q[from..][..wide.len()], wide) * scale;
                    let score = &mut scores[i * stride + t];
                    *score = if from == 0 { part } else { *score + part };
                }
            }
        }
    }
    softmax_rows::<FMA>(heads, scores);
    out.fill(0.0);
    for first in (0..longest).step_by(PAGE_TOKENS) {
        let rows = v.rows(first, d);
        for t in first..longest.min(first + PAGE_TOKENS) {
            for from in (0..d).step_by(PART) {
                let wide = &mut wide[..PART.min(d - from)];
                widen(rows, t - first, from, wide);
                for (i, out) in out.chunks_exact_mut(d).enumerate().skip(heads.blind(t)) {
                    let p = scores[i * stride + t];
                    for (o, v) in out[from..][..wide.len()].iter_mut().zip(&*wide) {
                        *o = mul_add::<FMA>(p, *v, *o);
                    }
                }
            }
        }
    }
}

/// Widens row `i` from value `from` on, as many values as `wide` has room for: a whole number of blocks.
#[inline(always)]
fn widen(rows: PagedRows<'_>, i: usize, from: usize, wide: &mut [f32]) {
    let (quants, scales) = rows.row(i);
    let blocks = scales.iter().skip(from / 32);
    match rows.format {
        KvFormat::F16 => widen_row(GgmlType::F16, &quants[2 * from..][..2 * wide.len()], wide),
        KvFormat::Q8_0 => {
            let quants = quants[from..].as_chunks::<32>().0;
            for ((wide, quants), scale) in wide.chunks_exact_mut(32).zip(quants).zip(blocks) {
                let scale = scale.to_f32();
                for (wide, quant) in wide.iter_mut().zip(quants) {
                    *wide = f32::from(*quant as i8) * scale;
                }
            }
        }
        KvFormat::Q4_0 => {
            let quants = quants[from / 2..].as_chunks::<16>().0;
            for ((wide, quants), scale) in wide.chunks_exact_mut(32).zip(quants).zip(blocks) {
                let scale = scale.to_f32();
                let (low, high) = wide.split_at_mut(16);
                for ((low, high), quant) in low.iter_mut().zip(high).zip(quants) {
                    *low = f32::from((quant & 15) as i8 - 8) * scale;
                    *high = f32::from((quant >> 4) as i8 - 8) * scale;
                }
            }
        }
    }
}

/// A score this far below the maximum gets no weight. It would not show in a sum of f32, and arithmetic on a weight
/// below the normal floats costs a hundred times as much as on any other.
const NO_WEIGHT: f32 = -60.0;

/// Replaces the scores of every query by their softmax.
#[inline(always)]
pub(in crate::quant) fn softmax_rows<const FMA: bool>(heads: &Heads<'_>, scores: &mut [f32]) {
    for (i, row) in scores.chunks_exact_mut(heads.stride()).enumerate() {
        softmax::<FMA>(&mut row[..heads.sees(i, 0, usize::MAX)]);
    }
}

/// Replaces the scores by their softmax; the maximum is subtracted first.
#[inline(always)]
fn softmax<const FMA: bool>(scores: &mut [f32]) {
    let mut max = [f32::NEG_INFINITY; LANES];
    let greatest = |m: &mut f32, s: &f32| *m = if *s > *m { *s } else { *m };
    let (parts, rest) = scores.as_chunks::<LANES>();
    for part in parts {
        max.iter_mut().zip(part).for_each(|(m, s)| greatest(m, s));
    }
    max.iter_mut().zip(rest).for_each(|(m, s)| greatest(m, s));
    let max = fold(max, f32::max);
    let mut sum = [0.0; LANES];
    let weigh = |sum: &mut f32, s: &mut f32| {
        let below = *s - max;
        *s = if below < NO_WEIGHT {
            0.0
        } else {
            exp::<FMA>(below)
        };
        *sum += *s;
    };
    let (parts, rest) = scores.as_chunks_mut::<LANES>();
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, s)| weigh(sum, s));
    }
    sum.iter_mut().zip(rest).for_each(|(sum, s)| weigh(sum, s));
    let inverse = 1.0 / fold(sum, |a, b| a + b);
    for s in scores {
        *s *= inverse;
    }
}

/// Values of a row that are widened at a time.
const WIDE: usize = 1024;
/// Columns that share one widening.
const COLUMNS: usize = 16;

/// See [`crate::quant::Kernels::matmul`]: the product of F32, F16 and BF16 weights. It is never fused, so that every level
/// computes the same.
#[inline(always)]
pub(in crate::quant) fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    let Product {
        ty,
        k,
        activations: acts,
        first_column: col0,
        ..
    } = *product;
    let w = product.rows(out.rows());
    let mut wide = [0.0f32; WIDE];
    let bytes = ty.block_bytes();
    for first in (0..out.cols()).step_by(COLUMNS) {
        let cols = COLUMNS.min(out.cols() - first);
        for (r, row) in w.chunks_exact(k * bytes).enumerate() {
            let mut acc = [[0.0; LANES]; COLUMNS];
            for (part, row) in row.chunks(WIDE * bytes).enumerate() {
                let wide = &mut wide[..row.len() / bytes];
                widen_row(ty, row, wide);
                for (c, acc) in acc[..cols].iter_mut().enumerate() {
                    let x = &acts.f32(col0 + first + c)[part * WIDE..][..wide.len()];
                    accumulate(acc, wide, x);
                }
            }
            for (c, acc) in acc[..cols].iter().enumerate() {
                out.column(first + c)[r] = fold(*acc, |a, b| a + b);
            }
        }
    }
}

/// Adds products to the 16 running sums, each multiplied first and then added.
#[inline(always)]
fn accumulate(acc: &mut Elements, a: &[f32], b: &[f32]) {
    let mut sums = *acc;
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a.remainder().iter().zip(b.remainder());
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(tail) {
        *sum += a * b;
    }
    *acc = sums;
}

#[cfg(test)]
mod tests {
    use super::softmax;

    #[test]
    fn weights_are_normal_or_none() {
        let mut scores: Vec<f32> = (0..4096).map(|i| i as f32 * -0.03).collect();
        softmax::<true>(&mut scores);
        assert!(scores.iter().all(|w| *w == 0.0 || w.is_normal()));
        assert!(scores[1999] > 0.0 && scores[2001] == 0.0);
        let mut odd = [0.0, f32::NAN, -100.0];
        softmax::<true>(&mut odd);
        assert!(odd[1].is_nan());
    }
}
