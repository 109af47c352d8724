//! Quantised columns: what they stand for, and that a buffer is used again.

use super::*;

/// A buffer that was filled before, larger or in another form, leaves nothing behind.
#[test]
fn activations_are_reused() {
    let pool = Pool::new(1).unwrap();
    for kernels in levels() {
        let mut random = Random(5);
        let mut acts = Activations::new();
        for (ty, k, cols) in [
            (Q8_0, 512, 40),
            (Q4_K, 512, 20),
            (Q8_0, 32, 9),
            (Q4_1, 96, 17),
            (F16, 5, 3),
            (Q6_K, 256, 8),
        ] {
            let w = weights(ty, 4, k, Fill::Random, &mut random);
            let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
            kernels.quantize(act_kind(ty), &x, k, &mut acts, &pool, 1);
            assert_eq!(acts.cols(), cols);
            let mut out = vec![f32::NAN; 4 * cols];
            multiply(
                kernels,
                (ty, Layout::Rows),
                &w,
                k,
                &acts,
                0,
                &mut RowTile::new(&mut out, 4),
            );
            assert_eq!(
                bits(&out),
                bits(&matmul(kernels, ty, &w, 4, k, &x)),
                "{} {ty}",
                kernels.isa()
            );
        }
    }
}

#[test]
fn a_second_plane_is_what_the_first_left_over() {
    let pool = Pool::new(2).unwrap();
    let (cols, mut random) = (3, Random(8));
    for kernels in levels() {
        for (ty, k) in [(Q8_0, 96), (Q4_K, 512), (F16, 5)] {
            let x: Vec<f32> = (0..cols * k).map(|_| random.unit()).collect();
            let values = |acts: &Activations| {
                let mut values = vec![f32::NAN; acts.cols() * k];
                for (c, values) in values.chunks_exact_mut(k).enumerate() {
                    acts.dequantize(c, values);
                }
                values
            };
            let first = values(&quantized(kernels, ty, &x, k));
            let rest: Vec<f32> = x.iter().zip(&first).map(|(x, first)| x - first).collect();
            let second = values(&quantized(kernels, ty, &rest, k));
            let mut acts = Activations::new();
            kernels.quantize_twice(act_kind(ty), &x, k, &mut acts, &pool, 2);
            let want = [first, second].concat();
            assert_eq!(bits(&values(&acts)), bits(&want), "{} {ty}", kernels.isa());
        }
    }
}

#[test]
fn activations_are_rounded_to_nearest() {
    let mut random = Random(6);
    let mut x: Vec<f32> = (0..512).map(|_| random.unit()).collect();
    x[3] = -2.0;
    x[300] = 3.0;
    x[480..].fill(0.0);
    for kernels in levels() {
        let acts = quantized(kernels, Q8_0, &x, 512);
        for (i, x) in x.iter().enumerate() {
            let chunk = &acts.q8(0)[i / 256];
            let (q, scale) = (chunk.q[i % 256], chunk.scale[i % 256 / 32]);
            assert!(
                (f32::from(q) * scale - x).abs() <= scale * 0.500_01,
                "{i}: {q} * {scale} for {x}"
            );
        }
        assert_eq!(
            (acts.q8(0)[0].q[3], acts.q8(0)[0].scale[0]),
            (-127, 2.0 / 127.0)
        );
        assert_eq!((acts.q8(0)[1].q[250], acts.q8(0)[1].scale[7]), (0, 0.0));
        let acts = quantized(kernels, Q4_K, &x, 512);
        for (i, x) in x.iter().enumerate() {
            let chunk = &acts.q8k(0)[i / 256];
            assert!(
                (f32::from(chunk.q[i % 256]) * chunk.scale - x).abs() <= chunk.scale * 0.500_01
            );
        }
        for chunk in acts.q8k(0) {
            let sum = |q: &[i8]| q.iter().map(|&q| i16::from(q)).sum::<i16>();
            assert!(chunk.q.chunks(16).map(sum).eq(chunk.sums));
            assert!(chunk.q.chunks(32).map(sum).eq(chunk.sums32));
        }
        // what is not a number stays visible
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for ty in [Q4_0, Q4_1, Q4_K, Q6_K, F16] {
                let mut x = x.clone();
                x[7] = bad;
                let w = weights(ty, 1, 512, Fill::Random, &mut random);
                assert!(
                    !matmul(kernels, ty, &w, 1, 512, &x)[0].is_finite(),
                    "{} {ty} {bad}",
                    kernels.isa()
                );
            }
        }
    }
}
