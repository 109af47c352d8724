//! The exponential function of the kernels and the sampler: the same bits on every platform, and fast over many values.

/// `a * b + c`, fused where `FMA` is true.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `exp(x)` with a relative error of at most 2e-7 on -87..=88 (tested). Below that range it stays at `exp(-87)`, which is
/// 1.6e-38, and above it at `exp(88)`. NaN stays NaN.
///
/// `x` is cut into `n * ln 2 + r` with `|r| <= ln 2 / 2`; `exp(r)` is the Taylor polynomial of degree 6 with its last
/// terms adjusted as in Cephes `expf`, and `2^n` is made from bits. There is no branch and no call, so the compiler makes
/// vectors of loops over it, and only exactly specified operations, so no platform rounds differently.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits
    const MAGIC: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = mul_add::<FMA>(n, -0.693_359_4, x);
    let r = mul_add::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = mul_add::<FMA>(p, r, c);
    }
    let y = mul_add::<FMA>(p, r * r, r) + 1.0;
    // the integer n sits in the low bits of `shifted`; move it to the exponent
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_within_its_ceiling() {
        let mut worst = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            for got in [exp::<true>(x), exp::<false>(x)] {
                let want = f64::from(x).exp();
                worst = worst.max((f64::from(got) - want).abs() / want);
            }
        }
        assert!(worst <= 2e-7, "{worst}");
        assert!(exp::<true>(f32::NAN).is_nan() && exp::<false>(f32::NAN).is_nan());
        for (x, bound) in [
            (f32::NEG_INFINITY, -87.0),
            (-1e9, -87.0),
            (f32::INFINITY, 88.0),
            (1e9, 88.0),
        ] {
            assert_eq!(exp::<true>(x), exp::<true>(bound));
        }
    }
}
