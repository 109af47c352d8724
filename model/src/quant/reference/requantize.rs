//! Requantising a matrix to four bits. A requantised head only has to find the tokens whose logits are worth computing
//! exactly.

use super::decode;
use crate::gguf::GgmlType;
use crate::quant::format::blocks::{Half, Q4_0};
use crate::quant::format::kinds::row_bytes;

/// Requantises rows of type `ty` to Q4_0 by the rule of ggml's `quantize_row_q4_0_ref`: the value furthest from zero
/// becomes -8.
///
/// # Shapes
/// `rows` and `out` hold the same number of values, a whole number of blocks in either format; so a row may not end
/// within a block of either.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn to_q4_0(ty: GgmlType, rows: &[u8], out: &mut [u8]) {
    const MOST: usize = 256;
    let len = ty.block_len().max(32);
    let (bytes, blocks) = (row_bytes(ty, len).unwrap_or_default(), len / 32);
    let (out, rest) = out.as_chunks_mut::<{ size_of::<Q4_0>() }>();
    assert!(
        rest.is_empty() && len <= MOST && rows.len() == out.len() / blocks * bytes,
        "{} bytes of {ty} to {} blocks of Q4_0",
        rows.len(),
        out.len()
    );
    let mut values = [0.0; MOST];
    for (rows, out) in rows.chunks_exact(bytes).zip(out.chunks_exact_mut(blocks)) {
        decode::dequantize_row(ty, rows, &mut values[..len]);
        for (values, out) in values.as_chunks::<32>().0.iter().zip(out) {
            *out = bytemuck::cast(block(values));
        }
    }
}

fn block(values: &[f32; 32]) -> Q4_0 {
    let furthest = values
        .iter()
        .fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let d = Half::from_f32(furthest / -8.0);
    let by = match d.to_f32() {
        0.0 => 0.0,
        d => 1.0 / d,
    };
    let q = |v: f32| (v * by + 8.5).clamp(0.0, 15.0) as u8;
    Q4_0 {
        d,
        qs: std::array::from_fn(|j| q(values[j]) | q(values[j + 16]) << 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_within_a_step() {
        for ty in GgmlType::ALL {
            let bytes = row_bytes(ty, 512).unwrap_or_default();
            // halves whose exponents are small, so that none is infinite
            let rows: Vec<u8> = (0..bytes).map(|i| (i * 37 % 61) as u8).collect();
            let mut exact = [0.0; 512];
            decode::dequantize_row(ty, &rows, &mut exact);
            let mut out = [0; 512 / 32 * size_of::<Q4_0>()];
            to_q4_0(ty, &rows, &mut out);
            let mut low = [0.0; 512];
            decode::dequantize_row(GgmlType::Q4_0, &out, &mut low);
            for (exact, low) in exact
                .as_chunks::<32>()
                .0
                .iter()
                .zip(low.as_chunks::<32>().0)
            {
                let most = exact.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (e, c) in exact.iter().zip(low) {
                    // of the other sign than the furthest there is no 8: up to a whole step there
                    assert!((e - c).abs() <= most / 8.0 * 1.01 + 1e-7, "{ty}: {e} {c}");
                }
            }
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        let mut out = [1; 18];
        to_q4_0(GgmlType::F32, &[0; 128], &mut out);
        let mut values = [1.0; 32];
        decode::dequantize_row(GgmlType::Q4_0, &out, &mut values);
        assert_eq!(values, [0.0; 32]);
    }

    #[test]
    #[should_panic(expected = "to 2 blocks of Q4_0")]
    fn sizes_that_do_not_fit_are_refused() {
        to_q4_0(GgmlType::F32, &[0; 128], &mut [0; 36]);
    }
}
