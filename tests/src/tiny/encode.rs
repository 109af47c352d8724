//! Random weights in every storage type. The simple formats are really encoded, after the layouts in ggml's `ggml-common.h`. The
//! others are filled with random bits under scales that give values of the size that was asked for.

use crate::SplitMix;
use glowplug_model::gguf::GgmlType;
use half::{bf16, f16};

/// Gives `n` random weights, nearly uniform, with a standard deviation of about `std`.
///
/// # Panics
/// If `n` is not a whole number of blocks.
pub(crate) fn random(ty: GgmlType, n: usize, std: f32, rng: &mut SplitMix) -> Vec<u8> {
    assert!(n.is_multiple_of(ty.block_len()), "{n} values of {ty}");
    let (blocks, distinct) = (n / ty.block_len(), DISTINCT / ty.block_len());
    let mut out: Vec<u8> = (0..blocks.min(distinct))
        .flat_map(|_| block(ty, std, rng))
        .collect();
    let bytes = blocks * ty.block_bytes();
    while out.len() < bytes {
        out.extend_from_within(..out.len().min(bytes - out.len()));
    }
    out
}

/// After so many values the same ones follow, so that a file of a gigabyte is made in a second.
const DISTINCT: usize = 1 << 20;

/// One block of random values with the standard deviation `std`.
fn block(ty: GgmlType, std: f32, rng: &mut SplitMix) -> Vec<u8> {
    // uniform in -w..w has a standard deviation of w / sqrt(3)
    let mut values = || -> Vec<f32> {
        (0..ty.block_len())
            .map(|_| rng.signed() * std * 3f32.sqrt())
            .collect()
    };
    match ty {
        GgmlType::F32 => values()[0].to_le_bytes().to_vec(),
        GgmlType::F16 => f16::from_f32(values()[0]).to_le_bytes().to_vec(),
        GgmlType::BF16 => bf16::from_f32(values()[0]).to_le_bytes().to_vec(),
        GgmlType::Q4_0 => symmetric(&values(), 4),
        GgmlType::Q5_0 => symmetric(&values(), 5),
        GgmlType::Q4_1 => affine(&values(), 4),
        GgmlType::Q5_1 => affine(&values(), 5),
        GgmlType::Q8_0 => q8_0(&values()),
        GgmlType::Q8_K => q8_k(&values()),
        // random bits: where the f16 scales stand, and what they have to be for `std`; a format with minima has them
        // so large that the mean is about 0
        GgmlType::Q2_K => bits(ty, &[(80, std / 11.0), (82, 1.5 * std / 11.0)], rng),
        GgmlType::Q3_K => bits(ty, &[(108, std / 43.0)], rng),
        GgmlType::Q4_K => bits(ty, &[(0, std / 200.0), (2, 7.5 * std / 200.0)], rng),
        GgmlType::Q5_K => bits(ty, &[(0, std / 400.0), (2, 15.5 * std / 400.0)], rng),
        GgmlType::Q6_K => bits(ty, &[(208, std / 1360.0)], rng),
        GgmlType::IQ2_XXS | GgmlType::IQ2_XS => bits(ty, &[(0, std / 55.0)], rng),
        GgmlType::IQ3_XXS => bits(ty, &[(0, std / 142.0)], rng),
        GgmlType::IQ1_S => bits(ty, &[(0, std / 7.2)], rng),
        GgmlType::IQ4_NL => bits(ty, &[(0, std / 73.0)], rng),
        GgmlType::IQ3_S => bits(ty, &[(0, std / 140.0)], rng),
        GgmlType::IQ2_S => bits(ty, &[(0, std / 56.0)], rng),
        GgmlType::IQ1_M => iq1_m(std / 7.2, rng),
        GgmlType::IQ4_XS => bits(ty, &[(0, std / 1350.0)], rng),
        GgmlType::TQ1_0 => bits(ty, &[(52, std / 0.82)], rng),
        GgmlType::TQ2_0 => ternary(ty, (64, std / 0.82), rng),
        GgmlType::Q1_0 => bits(ty, &[(0, std)], rng),
        GgmlType::Q2_0 => ternary(ty, (0, std / 0.82), rng),
        // the power of two that is nearest, and one of eight steps between two powers
        GgmlType::MXFP4 => bytes(ty, 1, (std / 6.0).log2().round() as i32 + 128, rng),
        GgmlType::NVFP4 => bytes(ty, 4, (8.0 * (std / 6.0).log2()).round() as i32 + 64, rng),
    }
}

/// Gives random bits with f16 values at the given offsets.
fn bits(ty: GgmlType, scales: &[(usize, f32)], rng: &mut SplitMix) -> Vec<u8> {
    let mut out: Vec<u8> = (0..ty.block_bytes())
        .map(|_| rng.next_u64() as u8)
        .collect();
    for &(at, scale) in scales {
        out[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    }
    out
}

/// Gives random bits of IQ1_M, in which the nibbles of the f16 scale are apart.
fn iq1_m(scale: f32, rng: &mut SplitMix) -> Vec<u8> {
    let mut out = bits(GgmlType::IQ1_M, &[], rng);
    let scale = f16::from_f32(scale).to_bits();
    for (i, at) in [49, 51, 53, 55].into_iter().enumerate() {
        out[at] = out[at] & 15 | ((scale >> (4 * i)) as u8) << 4;
    }
    out
}

/// Gives random codes of two bits from 0 to 2, as files of ternary networks have them, and the scale.
fn ternary(ty: GgmlType, (at, scale): (usize, f32), rng: &mut SplitMix) -> Vec<u8> {
    let mut out: Vec<u8> = (0..ty.block_bytes())
        .map(|_| (0..4).fold(0, |byte, _| byte << 2 | (rng.next_u64() % 3) as u8))
        .collect();
    out[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    out
}

/// Gives random bits behind some scales of one byte each.
fn bytes(ty: GgmlType, scales: usize, scale: i32, rng: &mut SplitMix) -> Vec<u8> {
    let mut out = bits(ty, &[], rng);
    out[..scales].fill(scale.clamp(1, 126) as u8);
    out
}

/// Encodes Q4_0 and Q5_0: `d * (q - 2^(b-1))`, with the value of largest magnitude on the lowest code.
fn symmetric(values: &[f32], bits: u32) -> Vec<u8> {
    let half = (1 << (bits - 1)) as f32;
    let peak = values
        .iter()
        .copied()
        .fold(0f32, |m, v| if v.abs() > m.abs() { v } else { m });
    let d = peak / -half;
    let codes = codes(values, d, |v| v + half, bits);
    [&f16::from_f32(d).to_le_bytes()[..], &packed(&codes, bits)].concat()
}

/// Encodes Q4_1 and Q5_1: `d * q + m`.
fn affine(values: &[f32], bits: u32) -> Vec<u8> {
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (max - min) / ((1 << bits) - 1) as f32;
    let codes = codes(values, d, |v| v - min / d, bits);
    [
        &f16::from_f32(d).to_le_bytes()[..],
        &f16::from_f32(min).to_le_bytes(),
        &packed(&codes, bits),
    ]
    .concat()
}

/// The nearest codes of `values / d`, moved by `shift`. All of them are 0 if `d` is.
fn codes(values: &[f32], d: f32, shift: impl Fn(f32) -> f32, bits: u32) -> Vec<u8> {
    let top = ((1 << bits) - 1) as f32;
    let code = |v: f32| {
        if d == 0.0 {
            0.0
        } else {
            shift(v / d).round().clamp(0.0, top)
        }
    };
    values.iter().map(|&v| code(v) as u8).collect()
}

/// Packs 32 codes: first their fifth bits, bit `i` for code `i`, and then nibbles, code `i` low and code `i + 16` high in byte `i`.
fn packed(codes: &[u8], bits: u32) -> Vec<u8> {
    let fifth = codes
        .iter()
        .rev()
        .fold(0u32, |word, &c| word << 1 | u32::from(c >> 4));
    let high = if bits == 5 {
        fifth.to_le_bytes().to_vec()
    } else {
        Vec::new()
    };
    let nibbles = (0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4);
    high.into_iter().chain(nibbles).collect()
}

/// Encodes Q8_0: `d * q` with an f16 `d`.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let (d, q) = int8(values);
    f16::from_f32(d)
        .to_le_bytes()
        .into_iter()
        .chain(q.iter().map(|&q| q as u8))
        .collect()
}

/// Encodes Q8_K: `d * q` with an f32 `d`, and the sums of every 16 codes.
fn q8_k(values: &[f32]) -> Vec<u8> {
    let (d, q) = int8(values);
    let sums = q
        .chunks(16)
        .map(|c| c.iter().map(|&q| i16::from(q)).sum::<i16>());
    d.to_le_bytes()
        .into_iter()
        .chain(q.iter().map(|&q| q as u8))
        .chain(sums.flat_map(i16::to_le_bytes))
        .collect()
}

fn int8(values: &[f32]) -> (f32, Vec<i8>) {
    let d = values.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
    let code = |v: &f32| if d == 0.0 { 0 } else { (v / d).round() as i8 };
    (d, values.iter().map(code).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use glowplug_model::quant::{Isa, Kernels};

    fn decode(ty: GgmlType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
        Kernels::detect(Some(Isa::Scalar))
            .unwrap()
            .dequantize_row(ty, bytes, &mut out);
        out
    }

    #[test]
    fn every_type_has_the_size_that_was_asked_for() {
        for ty in GgmlType::ALL {
            let n = 64 * 256;
            let bytes = random(ty, n, 0.05, &mut SplitMix::new(7, ty.name()));
            assert_eq!(bytes.len(), n / ty.block_len() * ty.block_bytes());
            let values = decode(ty, &bytes);
            let mean = values.iter().sum::<f32>() / n as f32;
            let std = (values.iter().map(|v| v * v).sum::<f32>() / n as f32 - mean * mean).sqrt();
            assert!(
                mean.abs() < 0.02 && (0.03..0.08).contains(&std),
                "{ty}: mean {mean}, std {std}"
            );
        }
    }

    #[test]
    fn the_real_encoders_come_back_within_a_step() {
        let mut rng = SplitMix::new(3, "values");
        let values: Vec<f32> = (0..256).map(|_| rng.signed()).collect();
        let step = |steps: f32| 1.0 / steps + 0.01;
        for (ty, bytes, error) in [
            (
                GgmlType::Q4_0,
                values
                    .chunks(32)
                    .flat_map(|v| symmetric(v, 4))
                    .collect::<Vec<u8>>(),
                step(8.0),
            ),
            (
                GgmlType::Q5_0,
                values.chunks(32).flat_map(|v| symmetric(v, 5)).collect(),
                step(16.0),
            ),
            (
                GgmlType::Q4_1,
                values.chunks(32).flat_map(|v| affine(v, 4)).collect(),
                step(15.0),
            ),
            (
                GgmlType::Q5_1,
                values.chunks(32).flat_map(|v| affine(v, 5)).collect(),
                step(31.0),
            ),
            (
                GgmlType::Q8_0,
                values.chunks(32).flat_map(q8_0).collect(),
                step(254.0),
            ),
            (GgmlType::Q8_K, q8_k(&values), step(254.0)),
        ] {
            for (i, (got, want)) in decode(ty, &bytes).iter().zip(&values).enumerate() {
                assert!(
                    (got - want).abs() <= error,
                    "{ty}, value {i}: {got} for {want}"
                );
            }
        }
    }

    #[test]
    fn a_block_of_zeros_is_zeros() {
        for (ty, bytes) in [
            (GgmlType::Q4_0, symmetric(&[0.0; 32], 4)),
            (GgmlType::Q5_1, affine(&[0.0; 32], 5)),
            (GgmlType::Q8_0, q8_0(&[0.0; 32])),
        ] {
            assert!(decode(ty, &bytes).iter().all(|&v| v == 0.0), "{ty}");
        }
    }
}
