//! The definition: what every type means, and the dot product that every other level must reproduce bit for bit.

use super::floats;
use crate::gguf::GgmlType;
use crate::pool::RowTile;
use crate::quant::Isa;
use crate::quant::dispatch::Kernels;
use crate::quant::format::activations;
use crate::quant::format::activations::{Activations, Q8Chunk, Q8kChunk};
use crate::quant::format::blocks::{self, IQ4_NL_VALUES, q3k_scales, scales_and_mins};
use bytemuck::{Pod, cast_slice};

pub(in crate::quant) static TABLE: Kernels = Kernels {
    isa: Isa::Scalar,
    supported: || true,
    tiles: false,
    quantize_q8: activations::quantize_q8,
    quantize_q8k: activations::quantize_q8k,
    matmul,
    matmul_interleaved: None,
    silu_mul: floats::silu_mul::<false>,
    rms_norm: floats::rms_norm::<false>,
    attend: floats::attend::<false>,
};

/// 32 weights: `w = d * q + m`.
pub(crate) struct Values32 {
    pub(crate) q: [i8; 32],
    pub(crate) d: f32,
    pub(crate) m: f32,
}

/// 256 weights in 16 groups of 16: `w = d * scale * q - dmin * min`.
pub(crate) struct Values256 {
    pub(crate) q: [i8; 256],
    pub(crate) scale: [i16; 16],
    pub(crate) min: [i16; 16],
    pub(crate) d: f32,
    pub(crate) dmin: f32,
}

/// A block of 32 weights.
pub(crate) trait Block32: Pod {
    /// `m` is not always zero
    const HAS_MIN: bool;
    /// its values
    fn decode(&self) -> Values32;
}

/// A block of 256 weights.
pub(crate) trait Block256: Pod {
    /// `dmin` is not always zero
    const HAS_MIN: bool;
    /// its values
    fn decode(&self) -> Values256;
}

/// Low nibbles first, then the high ones; bit `j` of `high` is bit 4 of value `j`.
#[inline(always)]
fn nibbles(qs: &[u8; 16], high: u32) -> [u8; 32] {
    std::array::from_fn(|j| {
        let low = (qs[j % 16] >> (4 * (j / 16))) & 0x0f;
        low | ((((high >> j) & 1) << 4) as u8)
    })
}

macro_rules! block32 {
    ($block:ident, $has_min:literal, |$b:ident| $q:expr, $m:expr) => {
        impl Block32 for blocks::$block {
            const HAS_MIN: bool = $has_min;
            #[inline(always)]
            fn decode(&self) -> Values32 {
                let $b = self;
                Values32 {
                    q: $q,
                    d: $b.d.to_f32(),
                    m: $m,
                }
            }
        }
    };
}
block32!(Q4_0, false, |b| nibbles(&b.qs, 0).map(|q| q as i8 - 8), 0.0);
block32!(
    Q4_1,
    true,
    |b| nibbles(&b.qs, 0).map(|q| q as i8),
    b.m.to_f32()
);
block32!(
    Q5_0,
    false,
    |b| nibbles(&b.qs, u32::from_le_bytes(b.qh)).map(|q| q as i8 - 16),
    0.0
);
block32!(
    Q5_1,
    true,
    |b| nibbles(&b.qs, u32::from_le_bytes(b.qh)).map(|q| q as i8),
    b.m.to_f32()
);
block32!(Q8_0, false, |b| b.qs, 0.0);
block32!(
    Iq4Nl,
    false,
    |b| nibbles(&b.qs, 0).map(|q| IQ4_NL_VALUES[usize::from(q)]),
    0.0
);

macro_rules! block256 {
    ($block:ident, $has_min:literal, |$b:ident| $values:expr) => {
        impl Block256 for blocks::$block {
            const HAS_MIN: bool = $has_min;
            #[inline(always)]
            fn decode(&self) -> Values256 {
                let $b = self;
                $values
            }
        }
    };
}
block256!(Q2K, true, |b| Values256 {
    q: std::array::from_fn(|i| two_bits(&b.qs, i) as i8),
    scale: b.scales.map(|s| i16::from(s & 15)),
    min: b.scales.map(|s| i16::from(s >> 4)),
    d: b.d.to_f32(),
    dmin: b.dmin.to_f32(),
});
block256!(Q3K, false, |b| Values256 {
    q: std::array::from_fn(|i| {
        let high = (b.hmask[i % 32] >> (i / 32)) & 1;
        (two_bits(&b.qs, i) | (high << 2)) as i8 - 4
    }),
    scale: q3k_scales(&b.scales).map(|s| i16::from(s) - 32),
    min: [0; 16],
    d: b.d.to_f32(),
    dmin: 0.0,
});
block256!(Q4K, true, |b| {
    let (scales, mins) = scales_and_mins(&b.scales);
    Values256 {
        q: std::array::from_fn(|i| four_bits(&b.qs, i) as i8),
        scale: doubled(scales),
        min: doubled(mins),
        d: b.d.to_f32(),
        dmin: b.dmin.to_f32(),
    }
});
block256!(Q5K, true, |b| {
    let (scales, mins) = scales_and_mins(&b.scales);
    Values256 {
        q: std::array::from_fn(|i| {
            let high = (b.qh[i % 32] >> (i / 32)) & 1;
            (four_bits(&b.qs, i) | (high << 4)) as i8
        }),
        scale: doubled(scales),
        min: doubled(mins),
        d: b.d.to_f32(),
        dmin: b.dmin.to_f32(),
    }
});
block256!(Q6K, false, |b| Values256 {
    q: std::array::from_fn(|i| {
        let (half, j) = (i / 128, i % 128);
        let low = (b.ql[64 * half + j % 64] >> (4 * (j / 64))) & 0x0f;
        let high = (b.qh[32 * half + j % 32] >> (2 * (j / 32))) & 3;
        (low | (high << 4)) as i8 - 32
    }),
    scale: b.scales.map(i16::from),
    min: [0; 16],
    d: b.d.to_f32(),
    dmin: 0.0,
});
block256!(Q8K, false, |b| Values256 {
    q: b.qs,
    scale: [1; 16],
    min: [0; 16],
    d: f32::from_le_bytes(b.d),
    dmin: 0.0,
});

/// Value `i` of the 2-bit layout of Q2_K and Q3_K.
#[inline(always)]
fn two_bits(qs: &[u8; 64], i: usize) -> u8 {
    (qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3
}

/// Value `i` of the 4-bit layout of Q4_K and Q5_K.
#[inline(always)]
fn four_bits(qs: &[u8; 128], i: usize) -> u8 {
    (qs[32 * (i / 64) + i % 32] >> (4 * (i % 64 / 32))) & 0x0f
}

/// Eight bytes, each for two groups of 16.
#[inline(always)]
fn doubled(bytes: u64) -> [i16; 16] {
    std::array::from_fn(|g| i16::from(bytes.to_le_bytes()[g / 2]))
}

/// `dst = row`, dequantised with ggml's own order of operations; `row` is `row_bytes(ty, dst.len())` long (checked by
/// the caller, [`Kernels::dequantize_row`]).
pub(in crate::quant) fn dequantize_row(ty: GgmlType, row: &[u8], dst: &mut [f32]) {
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => floats::widen_row(ty, row, dst),
        GgmlType::Q4_0 => dequantize_32::<blocks::Q4_0>(row, dst),
        GgmlType::Q4_1 => dequantize_32::<blocks::Q4_1>(row, dst),
        GgmlType::Q5_0 => dequantize_32::<blocks::Q5_0>(row, dst),
        GgmlType::Q5_1 => dequantize_32::<blocks::Q5_1>(row, dst),
        GgmlType::Q8_0 => dequantize_32::<blocks::Q8_0>(row, dst),
        GgmlType::IQ4_NL => dequantize_32::<blocks::Iq4Nl>(row, dst),
        GgmlType::Q2_K => dequantize_256::<blocks::Q2K>(row, dst),
        GgmlType::Q3_K => dequantize_256::<blocks::Q3K>(row, dst),
        GgmlType::Q4_K => dequantize_256::<blocks::Q4K>(row, dst),
        GgmlType::Q5_K => dequantize_256::<blocks::Q5K>(row, dst),
        GgmlType::Q6_K => dequantize_256::<blocks::Q6K>(row, dst),
        GgmlType::Q8_K => dequantize_256::<blocks::Q8K>(row, dst),
    }
}

fn dequantize_32<B: Block32>(row: &[u8], dst: &mut [f32]) {
    for (block, dst) in cast_slice::<u8, B>(row)
        .iter()
        .zip(dst.chunks_exact_mut(32))
    {
        let v = block.decode();
        for (y, q) in dst.iter_mut().zip(v.q) {
            *y = f32::from(q) * v.d;
            if B::HAS_MIN {
                *y += v.m;
            }
        }
    }
}

fn dequantize_256<B: Block256>(row: &[u8], dst: &mut [f32]) {
    for (block, dst) in cast_slice::<u8, B>(row)
        .iter()
        .zip(dst.chunks_exact_mut(256))
    {
        let v = block.decode();
        for (g, (dst, q)) in dst
            .chunks_exact_mut(16)
            .zip(v.q.chunks_exact(16))
            .enumerate()
        {
            let scale = v.d * f32::from(v.scale[g]);
            let min = v.dmin * f32::from(v.min[g]);
            for (y, &q) in dst.iter_mut().zip(q) {
                *y = scale * f32::from(q);
                if B::HAS_MIN {
                    *y -= min;
                }
            }
        }
    }
}

/// Columns that share one decoding of a block.
const COLUMNS: usize = 16;

/// See [`Kernels::matmul`], which has checked the sizes.
fn matmul(
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let w = crate::quant::wanted(ty, w, k, out);
    match ty {
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 => floats::matmul(ty, w, k, acts, col0, out),
        GgmlType::Q4_0 => matmul_32::<blocks::Q4_0>(w, k, acts, col0, out),
        GgmlType::Q4_1 => matmul_32::<blocks::Q4_1>(w, k, acts, col0, out),
        GgmlType::Q5_0 => matmul_32::<blocks::Q5_0>(w, k, acts, col0, out),
        GgmlType::Q5_1 => matmul_32::<blocks::Q5_1>(w, k, acts, col0, out),
        GgmlType::Q8_0 => matmul_32::<blocks::Q8_0>(w, k, acts, col0, out),
        GgmlType::IQ4_NL => matmul_32::<blocks::Iq4Nl>(w, k, acts, col0, out),
        GgmlType::Q2_K => matmul_256::<blocks::Q2K>(w, k, acts, col0, out),
        GgmlType::Q3_K => matmul_256::<blocks::Q3K>(w, k, acts, col0, out),
        GgmlType::Q4_K => matmul_256::<blocks::Q4K>(w, k, acts, col0, out),
        GgmlType::Q5_K => matmul_256::<blocks::Q5K>(w, k, acts, col0, out),
        GgmlType::Q6_K => matmul_256::<blocks::Q6K>(w, k, acts, col0, out),
        GgmlType::Q8_K => matmul_256::<blocks::Q8K>(w, k, acts, col0, out),
    }
}

fn matmul_32<B: Block32>(
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let blocks = k / 32;
    for first in (0..out.cols()).step_by(COLUMNS) {
        let cols = COLUMNS.min(out.cols() - first);
        let x: [&[Q8Chunk]; COLUMNS] =
            std::array::from_fn(|c| acts.q8(col0 + first + c.min(cols - 1)));
        for (r, row) in cast_slice::<u8, B>(w).chunks_exact(blocks).enumerate() {
            let mut acc = [0.0f32; COLUMNS];
            for (b, block) in row.iter().enumerate() {
                let v = block.decode();
                for (acc, x) in acc.iter_mut().zip(&x[..cols]) {
                    let (x, i) = (&x[b / 8], b % 8);
                    *acc = (dot(&v.q, &x.q[32 * i..][..32]) as f32).mul_add(v.d * x.scale[i], *acc);
                    if B::HAS_MIN {
                        *acc = v.m.mul_add(x.scaled_sum[i], *acc);
                    }
                }
            }
            for (c, acc) in acc[..cols].iter().enumerate() {
                out.column(first + c)[r] = *acc;
            }
        }
    }
}

/// Inlined where a level has nothing better, so that it is compiled for its vectors.
#[inline(always)]
pub(in crate::quant) fn matmul_256<B: Block256>(
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let blocks = k / 256;
    for first in (0..out.cols()).step_by(COLUMNS) {
        let cols = COLUMNS.min(out.cols() - first);
        let x: [&[Q8kChunk]; COLUMNS] =
            std::array::from_fn(|c| acts.q8k(col0 + first + c.min(cols - 1)));
        for (r, row) in cast_slice::<u8, B>(w).chunks_exact(blocks).enumerate() {
            let mut acc = [0.0f32; COLUMNS];
            for (b, block) in row.iter().enumerate() {
                let v = block.decode();
                for (acc, x) in acc.iter_mut().zip(&x[..cols]) {
                    let x = &x[b];
                    let (mut sum, mut min_sum) = (0, 0);
                    for g in 0..16 {
                        sum +=
                            i32::from(v.scale[g]) * dot(&v.q[16 * g..][..16], &x.q[16 * g..][..16]);
                        min_sum += i32::from(v.min[g]) * i32::from(x.sums[g]);
                    }
                    *acc = (sum as f32).mul_add(v.d * x.scale, *acc);
                    if B::HAS_MIN {
                        *acc = (min_sum as f32).mul_add(-(v.dmin * x.scale), *acc);
                    }
                }
            }
            for (c, acc) in acc[..cols].iter().enumerate() {
                out.column(first + c)[r] = *acc;
            }
        }
    }
}

/// At most 32 products of at most 128 * 127: no overflow.
#[inline(always)]
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).fold(0i32, |s, (&a, &b)| {
        s.wrapping_add(i32::from(a).wrapping_mul(i32::from(b)))
    })
}
