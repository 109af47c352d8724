//! The float helpers of every level against f64.

use super::{Random, levels};

/// `exp`, through silu: `silu(-x) * 1 = -x / (1 + exp(x))`, against f64.
#[test]
fn silu_is_within_its_ceiling() {
    for kernels in levels() {
        for step in [0.37f32, 0.011, 0.000_9] {
            let x: Vec<f32> = (-3000..3000)
                .map(|i| (i as f32 * step).clamp(-86.0, 87.0))
                .collect();
            let up: Vec<f32> = (0..x.len()).map(|i| 0.5 + (i % 7) as f32).collect();
            let mut got = x.clone();
            kernels.silu_mul(&mut got, &up);
            for ((got, x), up) in got.iter().zip(&x).zip(&up) {
                let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp()) * f64::from(*up);
                assert!(
                    (f64::from(*got) - want).abs() <= 4e-7 * want.abs(),
                    "{} {x} {up}: {got} {want}",
                    kernels.isa()
                );
            }
        }
        let mut odd = [f32::NAN, 200.0, -200.0, 0.0, -0.0, f32::INFINITY];
        kernels.silu_mul(&mut odd, &[2.0; 6]);
        assert!(
            odd[0].is_nan() && odd[1] == 400.0 && (-1e-30..=0.0).contains(&odd[2]),
            "{odd:?}"
        );
        assert!(
            odd[3] == 0.0 && odd[4] == 0.0 && odd[5] == f32::INFINITY,
            "{odd:?}"
        );
    }
}

#[test]
fn rms_norm_is_within_its_ceiling() {
    let mut random = Random(7);
    for kernels in levels() {
        for n in [1, 15, 16, 17, 576, 1536, 1537] {
            let x: Vec<f32> = (0..n).map(|_| random.unit() * 30.0).collect();
            let w: Vec<f32> = (0..n).map(|_| random.unit()).collect();
            let mut got = vec![0.0; n];
            kernels.rms_norm(&x, &w, 1e-5, &mut got);
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let want = f64::from(x[i]) * f64::from(w[i]) / (mean + 1e-5f32 as f64).sqrt();
                assert!(
                    (f64::from(got[i]) - want).abs() <= 1e-6 * want.abs(),
                    "{} {n} {i}",
                    kernels.isa()
                );
            }
        }
    }
}

/// Against f64, at every head size and length around the blocks, with rows longer than a head and large scores.
#[test]
fn attention_is_within_its_ceiling() {
    let mut random = Random(8);
    for kernels in levels() {
        for (d, g) in [
            (64, 3),
            (80, 2),
            (96, 1),
            (128, 6),
            (256, 2),
            (7, 2),
            (1, 1),
        ] {
            for len in [1, 2, 15, 16, 17, 31, 33, 100] {
                let stride = d + 5;
                let cache = |random: &mut Random| -> Vec<u16> {
                    (0..(len - 1) * stride + d)
                        .map(|_| half::f16::from_f32(random.unit() * 4.0).to_bits())
                        .collect()
                };
                let (k, v) = (cache(&mut random), cache(&mut random));
                let q: Vec<f32> = (0..g * d).map(|_| random.unit() * 3.0).collect();
                let (mut scores, mut out) = (vec![f32::NAN; g * len + 3], vec![f32::NAN; g * d]);
                kernels.attend(&q, &k, &v, d, stride, len, 0.25, &mut scores, &mut out);
                let value = |c: &[u16], t: usize, i: usize| {
                    half::f16::from_bits(c[t * stride + i]).to_f64()
                };
                for h in 0..g {
                    let dot = |t| {
                        (0..d)
                            .map(|i| f64::from(q[h * d + i]) * value(&k, t, i))
                            .sum::<f64>()
                            * 0.25
                    };
                    let s: Vec<f64> = (0..len).map(dot).collect();
                    let max = s.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = s.iter().map(|s| (s - max).exp()).sum();
                    for i in 0..d {
                        let want: f64 = (0..len)
                            .map(|t| (s[t] - max).exp() / sum * value(&v, t, i))
                            .sum();
                        let got = f64::from(out[h * d + i]);
                        assert!(
                            (got - want).abs() <= 2e-5,
                            "{} d {d} len {len} head {h}: {got} {want}",
                            kernels.isa()
                        );
                    }
                }
                assert!(
                    scores[g * len..].iter().all(|s| s.is_nan()),
                    "wrote past the scores"
                );
            }
        }
    }
}

#[test]
fn halves_are_rounded_to_even() {
    for kernels in levels() {
        let src = [
            1.0,
            -2.0,
            65504.0,
            65520.0,
            1.000_488_3,
            1.001_464_8,
            5.9e-8,
            2.9e-8,
            0.0,
            f32::NAN,
            3.0,
        ];
        let mut dst = [0u16; 11];
        kernels.to_f16(&src, &mut dst);
        assert_eq!(
            dst[..9],
            [0x3c00, 0xc000, 0x7bff, 0x7c00, 0x3c00, 0x3c02, 1, 0, 0]
        );
        assert!(half::f16::from_bits(dst[9]).is_nan() && dst[10] == 0x4200);
    }
}
