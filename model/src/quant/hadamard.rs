//! The rotation that queries and keys go through before keys are stored in few bits.
//!
//! One scale serves 32 values, so one large value costs the others their precision, and keys have large ones: the bias of
//! some layers of Qwen2 is a hundred times the rest. Rotating queries and keys by the same orthogonal matrix leaves
//! `q . k` as it is and spreads what is large over the whole head. QuaRot (arXiv 2404.00456) and TurboQuant (arXiv
//! 2504.19874) do the same.

/// Multiplies `head` by the normalised Hadamard matrix, in parts of the largest power of two that divides its length. The
/// transform is its own inverse. It is inlined into every level, so that it is compiled for the level's vectors.
#[inline(always)]
pub fn hadamard_transform(head: &mut [f32]) {
    let part = 1 << head.len().trailing_zeros();
    let scale = 1.0 / (part as f32).sqrt();
    for part in head.chunks_exact_mut(part) {
        let mut half = 1;
        if part.len() >= 8 {
            for eight in part.as_chunks_mut().0 {
                butterflies::<1>(eight);
                butterflies::<2>(eight);
                butterflies::<4>(eight);
            }
            half = 8;
        }
        while half < part.len() {
            for pair in part.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for value in part {
            *value *= scale;
        }
    }
}

/// The sums and differences of values that lie `HALF` apart, in the order and of the bits of the loop for longer distances, of which the
/// compiler makes no vectors where they are shorter than these.
#[inline(always)]
fn butterflies<const HALF: usize>(values: &mut [f32; 8]) {
    let from = *values;
    for i in 0..8 {
        values[i] = if i & HALF == 0 {
            from[i] + from[i ^ HALF]
        } else {
            from[i ^ HALF] - from[i]
        };
    }
}

#[cfg(test)]
mod tests {
    use super::hadamard_transform;

    #[test]
    fn it_undoes_itself_and_keeps_products() {
        for d in [1, 7, 32, 64, 80, 96, 128, 256] {
            let a: Vec<f32> = (0..d)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0)
                .collect();
            let b: Vec<f32> = (0..d)
                .map(|i| ((i * 53 % 89) as f32 - 44.0) / 22.0)
                .collect();
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let (mut ta, mut tb) = (a.clone(), b.clone());
            hadamard_transform(&mut ta);
            hadamard_transform(&mut tb);
            assert!((product(&a, &b) - product(&ta, &tb)).abs() < 1e-4 * d as f32);
            hadamard_transform(&mut ta);
            assert!(a.iter().zip(&ta).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn one_large_value_becomes_many_small_ones() {
        let mut head = [0.0f32; 128];
        head[5] = 354.0;
        hadamard_transform(&mut head);
        let largest = head.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!((largest - 354.0 / 128f32.sqrt()).abs() < 1e-3, "{largest}");
    }
}
