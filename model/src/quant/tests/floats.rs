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
