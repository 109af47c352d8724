//! The exponentials of the sampler over a whole vocabulary.

/// `e^x` for x ≤ 0, and 0 below -87, where f32 has no normal numbers left. NaN becomes 0 as well.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    if x >= -87.0 {
        crate::exp::exp::<false>(x)
    } else {
        0.0
    }
}

/// The sum of `e^(l - max)` over a row, in the order of the row.
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
