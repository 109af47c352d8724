//! The exponential of the sampler: the same bits on every platform, and fast over a whole
//! vocabulary.

/// e^x for x ≤ 0, within 2 units in the last place; 0 below -87 (where f32 has no normal numbers
/// left).
///
/// x is cut into n·ln 2 + r with |r| ≤ ln 2 / 2, e^r is a polynomial (Taylor's to degree 6 with the
/// last terms fitted; coefficients from Cephes, `expf.c`), and 2^n is made from bits. No branch and
/// no call, so the compiler makes vectors of loops over it; only exactly specified operations, so
/// no platform rounds otherwise.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x >= -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e_r = p * r * r + r + 1.0;
    let two_n = f32::from_bits(
        rounded
            .to_bits()
            .wrapping_sub(ROUND.to_bits())
            .wrapping_add(127)
            << 23,
    );
    if x >= -87.0 { e_r * two_n } else { 0.0 }
}

/// Σ e^(l - max) over a row, in the order of the row.
pub(super) fn sum_exp(logits: &[f32], max: f32) -> f64 {
    const LANES: usize = 16;
    let mut total = 0.0;
    for block in logits.chunks(1024) {
        // sums, because a sum in the strict order is not a vector
        let mut sums = [0.0f32; LANES];
        let whole = block.chunks_exact(LANES);
        let rest: f32 = whole.remainder().iter().map(|l| exp(l - max)).sum();
        for chunk in whole {
            for (lane, l) in sums.iter_mut().zip(chunk) {
                *lane += exp(l - max);
            }
        }
        total += f64::from(sums.iter().sum::<f32>() + rest);
    }
    total
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn is_the_exponential() {
        let mut worst = 0.0f64;
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
    }

    #[test]
    fn ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        for x in [-87.5, -1e9, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(exp(x), 0.0, "{x}");
        }
    }

    #[test]
    fn the_sum_is_the_sum() {
        let logits: Vec<f32> = (0..5003)
            .map(|i| -((i * 7919) % 1000) as f32 / 50.0)
            .collect();
        let exact: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        assert!((sum_exp(&logits, 0.0) / exact - 1.0).abs() < 1e-6);
    }
}
