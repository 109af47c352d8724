//! The two kernels of gated delta nets, written once for every level: each wraps them in a function with its target features, and
//! the compiler makes that level's vectors of them.

use crate::exp::exp;
use crate::quant::kernels::{DeltaRule, STATE_COLUMNS, TAPS};

/// See [`crate::quant::Kernels::convolve`], which has checked the sizes.
#[inline(always)]
pub(in crate::quant) fn convolve<const FMA: bool>(
    columns: [&[f32]; TAPS],
    weights: [&[f32]; TAPS],
    out: &mut [f32],
) {
    let n = out.len();
    let ([a, b, c, d], [w, x, y, z]) = (columns.map(|v| &v[..n]), weights.map(|v| &v[..n]));
    for (i, out) in out.iter_mut().enumerate() {
        let sum = w[i] * a[i] + x[i] * b[i] + y[i] * c[i] + z[i] * d[i];
        *out = sum / (1.0 + exp::<FMA>(-sum));
    }
}

/// See [`crate::quant::Kernels::delta_rule`], which has checked the sizes. Columns of the matrix do not know of each other, so that
/// vectors go along them, sums are made row by row in the order of the rows, and nothing is ever fused: that is how every level
/// gives the same bits. [`STATE_COLUMNS`] of them, 16 KB where keys have 128 values, stay in L1 for all tokens.
#[inline(always)]
pub(in crate::quant) fn delta_rule(rule: &DeltaRule<'_>, state: &mut [f32], out: &mut [f32]) {
    let d = rule.d;
    for (part, state) in state.chunks_exact_mut(d * STATE_COLUMNS).enumerate() {
        let rows = state.as_chunks_mut::<STATE_COLUMNS>().0;
        let tokens = rule.columns.chunks_exact(rule.width);
        for (token, out) in tokens.zip(out.chunks_exact_mut(d)) {
            let (q, k) = (&token[rule.q..][..d], &token[rule.k..][..d]);
            let v = &token[rule.v + part * STATE_COLUMNS..][..STATE_COLUMNS];
            let (decay, beta) = (token[rule.decay], token[rule.beta]);
            let mut known = [0.0; STATE_COLUMNS];
            for (row, k) in rows.iter_mut().zip(k) {
                for (s, known) in row.iter_mut().zip(&mut known) {
                    *s *= decay;
                    *known += k * *s;
                }
            }
            let mut change = [0.0; STATE_COLUMNS];
            for ((change, v), known) in change.iter_mut().zip(v).zip(&known) {
                *change = (v - known) * beta;
            }
            let mut sum = [0.0; STATE_COLUMNS];
            for ((row, k), q) in rows.iter_mut().zip(k).zip(q) {
                for ((s, change), sum) in row.iter_mut().zip(&change).zip(&mut sum) {
                    *s += k * change;
                    *sum += q * *s;
                }
            }
            out[part * STATE_COLUMNS..][..STATE_COLUMNS].copy_from_slice(&sum);
        }
    }
}
