//! The kernels of gated delta nets: each level against the scalar one, and that against sums in f64.

use super::{Random, levels, scalar};
use crate::quant::{DeltaRule, Kernels, STATE_COLUMNS, TAPS};

/// Columns of tokens, each with more in them than one head needs.
fn rule(columns: &[f32], d: usize) -> DeltaRule<'_> {
    DeltaRule {
        columns,
        width: 3 * d + 7,
        q: 3,
        k: d + 4,
        v: 2 * d + 5,
        decay: 1,
        beta: 3 * d + 6,
        d,
    }
}

/// Keys and queries of the length 1, and decays and betas from 0 to 1.
fn columns(random: &mut Random, d: usize, tokens: usize) -> Vec<f32> {
    let mut columns = Vec::new();
    for _ in 0..tokens {
        let mut column: Vec<f32> = (0..3 * d + 7).map(|_| random.unit()).collect();
        let rule = rule(&[], d);
        for first in [rule.q, rule.k] {
            let head = &mut column[first..first + d];
            let length = head.iter().map(|v| v * v).sum::<f32>().sqrt();
            head.iter_mut().for_each(|v| *v /= length);
        }
        for at in [rule.decay, rule.beta] {
            column[at] = column[at].abs();
        }
        columns.extend(column);
    }
    columns
}

#[test]
fn the_delta_rule_has_the_same_bits_on_every_level_and_in_any_chunk() {
    let mut random = Random(5);
    for d in [32, 64, 96, 128] {
        for tokens in [1, 2, 9] {
            let columns = columns(&mut random, d, tokens);
            let rule = rule(&columns, d);
            let first: Vec<f32> = (0..d * d).map(|_| random.unit()).collect();
            let run = |kernels: &Kernels| {
                let (mut state, mut out) = (first.clone(), vec![f32::NAN; tokens * d]);
                kernels.delta_rule(&rule, &mut state, &mut out);
                (state, out)
            };
            let (state, out) = run(&scalar::TABLE);
            for kernels in levels() {
                assert!(
                    run(kernels) == (state.clone(), out.clone()),
                    "{}",
                    kernels.isa()
                );
                let (mut own, mut alone) = (first.clone(), vec![f32::NAN; tokens * d]);
                for (column, out) in columns.chunks(rule.width).zip(alone.chunks_mut(d)) {
                    let rule = DeltaRule {
                        columns: column,
                        ..rule
                    };
                    kernels.delta_rule(&rule, &mut own, out);
                }
                assert!(
                    (own, alone) == (state.clone(), out.clone()),
                    "{}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn the_delta_rule_is_what_its_definition_says() {
    let (d, tokens) = (64, 40);
    let columns = columns(&mut Random(6), d, tokens);
    let rule = rule(&columns, d);
    let (mut state, mut out) = (vec![0.0; d * d], vec![f32::NAN; tokens * d]);
    scalar::TABLE.delta_rule(&rule, &mut state, &mut out);
    // row by row, a row for each value of a key
    let mut matrix = vec![vec![0.0f64; d]; d];
    for (column, out) in columns.chunks(rule.width).zip(out.chunks(d)) {
        let value = |at: usize| f64::from(column[at]);
        for (j, out) in out.iter().enumerate() {
            let decayed = |matrix: &[Vec<f64>], i: usize| matrix[i][j] * value(rule.decay);
            let known: f64 = (0..d)
                .map(|i| value(rule.k + i) * decayed(&matrix, i))
                .sum();
            let change = (value(rule.v + j) - known) * value(rule.beta);
            for i in 0..d {
                matrix[i][j] = decayed(&matrix, i) + value(rule.k + i) * change;
            }
            let want: f64 = (0..d).map(|i| value(rule.q + i) * matrix[i][j]).sum();
            assert!((f64::from(*out) - want).abs() < 1e-5, "{out} {want}");
        }
    }
    for (i, row) in matrix.iter().enumerate() {
        for (j, want) in row.iter().enumerate() {
            let at = (j / STATE_COLUMNS * d + i) * STATE_COLUMNS + j % STATE_COLUMNS;
            assert!((f64::from(state[at]) - want).abs() < 1e-5);
        }
    }
}

#[test]
fn a_convolution_is_what_its_definition_says_at_odd_lengths() {
    let mut random = Random(7);
    for len in [1, 7, 16, 33, 100] {
        let mut four =
            || [(); TAPS].map(|()| (0..len).map(|_| 4.0 * random.unit()).collect::<Vec<_>>());
        let (columns, weights) = (four(), four());
        for kernels in levels() {
            let mut out = vec![f32::NAN; len];
            kernels.convolve(
                columns.each_ref().map(|v| &v[..]),
                weights.each_ref().map(|v| &v[..]),
                &mut out,
            );
            for (i, out) in out.iter().enumerate() {
                let products = columns.iter().zip(&weights);
                let sum: f64 = products
                    .map(|(c, w)| f64::from(c[i]) * f64::from(w[i]))
                    .sum();
                let want = sum / (1.0 + (-sum).exp());
                assert!(
                    (f64::from(*out) - want).abs() < 4e-5 * want.abs().max(1.0),
                    "{} {out} {want}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
#[should_panic(
    expected = "delta_rule: 103 values in columns of 103, heads of 32, a state of 1023, a result of 32"
)]
fn a_state_that_is_too_short_is_refused() {
    let columns = vec![0.0; 103];
    scalar::TABLE.delta_rule(&rule(&columns, 32), &mut [0.0; 1023], &mut [0.0; 32]);
}

#[test]
#[should_panic(expected = "convolve: 3 and 4 values")]
fn columns_of_another_length_are_refused() {
    let four = [&[0.0; 4][..]; TAPS];
    scalar::TABLE.convolve([four[0], four[1], four[2], &[0.0; 3]], four, &mut [0.0; 4]);
}
