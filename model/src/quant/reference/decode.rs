//! The definition of the formats: what the bytes of every block mean.

use crate::gguf::GgmlType;
use crate::quant::format::blocks::{
    self, FP4_VALUES, IQ4_NL_VALUES, e8m0, iq4xs_scales, q3k_scales, scales_and_mins, ue4m3,
};
use crate::quant::format::grids::OnGrid;
use crate::quant::format::kinds::match_format;
use bytemuck::{Pod, cast_slice};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// 32 weights: `w = d * q + m`, with `d[0]` for the first sixteen and `d[1]` for the others.
pub(crate) struct Values32 {
    pub(crate) q: [i8; 32],
    pub(crate) d: [f32; 2],
    pub(crate) m: f32,
}

/// The 256 weights of a block, in 16 groups of 16: `w = d * scale * q - dmin * min`.
pub(crate) struct Values256 {
    pub(crate) q: [i8; 256],
    pub(crate) scale: [i16; 16],
    pub(crate) min: [i16; 16],
    pub(crate) d: f32,
    pub(crate) dmin: f32,
}

/// The definition of a format with 32 weights in a block, or with some parts of 32.
pub(crate) trait Block32: Pod {
    /// How many parts of 32 weights a block has: 1, 2 or 4.
    const PARTS: usize = 1;
    /// Whether `m` may be other than zero.
    const HAS_MIN: bool;
    /// Whether the second scale may be another than the first.
    const TWO_SCALES: bool = false;
    /// Decodes one of the parts.
    fn decode(&self, part: usize) -> Values32;
    /// The scales of one of the parts, as [`Values32`] has them.
    #[inline(always)]
    fn scales(&self, part: usize) -> [f32; 2] {
        self.decode(part).d
    }
}

/// The definition of a format with 256 weights in a block.
pub(crate) trait Block256: Pod {
    /// Whether `dmin` may be other than zero.
    const HAS_MIN: bool;
    fn decode(&self) -> Values256;
}

// The loops below go over whole arrays of bytes with one shift for all, so that a compiler can make vectors of them. They
// are the scalar level's way to unpack, and all that a processor without a level of its own has.

/// The values of nibbles: the low ones first, then the high ones.
#[inline(always)]
fn nibbles(qs: &[u8; 16]) -> [i8; 32] {
    let mut q = [0; 32];
    let (low, high) = q.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(qs) {
        *low = (byte & 0x0f) as i8;
        *high = (byte >> 4) as i8;
    }
    q
}

/// The values of nibbles, with bit `j` of `qh` as bit 4 of value `j`.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [i8; 32] {
    let mut q = nibbles(qs);
    for (q, byte) in q.as_chunks_mut::<8>().0.iter_mut().zip(qh) {
        for (i, q) in q.iter_mut().enumerate() {
            *q |= if byte & (1 << i) == 0 { 0 } else { 16 };
        }
    }
    q
}

/// The values less `offset`, which is no more than they can hold.
#[inline(always)]
fn less<const N: usize>(mut q: [i8; N], offset: i8) -> [i8; N] {
    for q in &mut q {
        *q = q.wrapping_sub(offset);
    }
    q
}

macro_rules! block32 {
    ($block:ident, $has_min:literal, |$b:ident| $q:expr, $m:expr) => {
        impl Block32 for blocks::$block {
            const HAS_MIN: bool = $has_min;
            #[inline(always)]
            fn decode(&self, _: usize) -> Values32 {
                let $b = self;
                Values32 {
                    q: $q,
                    d: [$b.d.to_f32(); 2],
                    m: $m,
                }
            }
        }
    };
}
block32!(Q4_0, false, |b| less(nibbles(&b.qs), 8), 0.0);
block32!(Q4_1, true, |b| nibbles(&b.qs), b.m.to_f32());
block32!(Q5_0, false, |b| less(five_bits(&b.qs, b.qh), 16), 0.0);
block32!(Q5_1, true, |b| five_bits(&b.qs, b.qh), b.m.to_f32());
block32!(Q8_0, false, |b| b.qs, 0.0);
block32!(
    Iq4Nl,
    false,
    |b| nibbles(&b.qs).map(|q| IQ4_NL_VALUES[q as usize]),
    0.0
);

impl Block32 for blocks::Mxfp4 {
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn decode(&self, _: usize) -> Values32 {
        Values32 {
            q: nibbles(&self.qs).map(|q| FP4_VALUES[q as usize]),
            d: [e8m0(self.e); 2],
            m: 0.0,
        }
    }
}

impl Block32 for blocks::Nvfp4 {
    const PARTS: usize = 2;
    const HAS_MIN: bool = false;
    const TWO_SCALES: bool = true;
    #[inline(always)]
    fn decode(&self, part: usize) -> Values32 {
        let mut q = [0; 32];
        let groups = q.as_chunks_mut::<16>().0.iter_mut();
        for (q, qs) in groups.zip(&self.qs[2 * part..][..2]) {
            let (low, high) = q.split_at_mut(8);
            for ((low, high), byte) in low.iter_mut().zip(high).zip(qs) {
                *low = FP4_VALUES[usize::from(byte & 0x0f)];
                *high = FP4_VALUES[usize::from(byte >> 4)];
            }
        }
        Values32 {
            q,
            d: self.scales(part),
            m: 0.0,
        }
    }
    #[inline(always)]
    fn scales(&self, part: usize) -> [f32; 2] {
        [ue4m3(self.d[2 * part]), ue4m3(self.d[2 * part + 1])]
    }
}

impl Block32 for blocks::Q1_0 {
    const PARTS: usize = 4;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn decode(&self, part: usize) -> Values32 {
        let mut q = [0; 32];
        for (q, byte) in q.as_chunks_mut::<8>().0.iter_mut().zip(self.qs[part]) {
            for (k, q) in q.iter_mut().enumerate() {
                *q = if byte & (1 << k) == 0 { -1 } else { 1 };
            }
        }
        Values32 {
            q,
            d: [self.d.to_f32(); 2],
            m: 0.0,
        }
    }
}

impl Block32 for blocks::Q2_0 {
    const PARTS: usize = 2;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn decode(&self, part: usize) -> Values32 {
        let mut q = [0; 32];
        for (q, byte) in q.as_chunks_mut::<4>().0.iter_mut().zip(self.qs[part]) {
            for (k, q) in q.iter_mut().enumerate() {
                *q = (byte >> (2 * k) & 3) as i8 - 1;
            }
        }
        Values32 {
            q,
            d: [self.d.to_f32(); 2],
            m: 0.0,
        }
    }
}

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
    q: two_bits(&b.qs),
    scale: b.scales.map(|s| i16::from(s & 15)),
    min: b.scales.map(|s| i16::from(s >> 4)),
    d: b.d.to_f32(),
    dmin: b.dmin.to_f32(),
});
block256!(Q3K, false, |b| Values256 {
    q: less(with_bit(two_bits(&b.qs), &b.hmask, 2), 4),
    scale: q3k_scales(&b.scales).map(|s| i16::from(s) - 32),
    min: [0; 16],
    d: b.d.to_f32(),
    dmin: 0.0,
});
block256!(Q4K, true, |b| {
    let (scales, mins) = scales_and_mins(&b.scales);
    Values256 {
        q: four_bits(&b.qs),
        scale: doubled(scales),
        min: doubled(mins),
        d: b.d.to_f32(),
        dmin: b.dmin.to_f32(),
    }
});
block256!(Q5K, true, |b| {
    let (scales, mins) = scales_and_mins(&b.scales);
    Values256 {
        q: with_bit(four_bits(&b.qs), &b.qh, 4),
        scale: doubled(scales),
        min: doubled(mins),
        d: b.d.to_f32(),
        dmin: b.dmin.to_f32(),
    }
});
block256!(Q6K, false, |b| Values256 {
    q: less(six_bits(&b.ql, &b.qh), 32),
    scale: b.scales.map(i16::from),
    min: [0; 16],
    d: b.d.to_f32(),
    dmin: 0.0,
});
block256!(Iq4Xs, false, |b| Values256 {
    q: iq4_values(&b.qs),
    scale: std::array::from_fn(|g| i16::from(iq4xs_scales(b.scales_l, b.scales_h)[g / 2])),
    min: [0; 16],
    d: b.d.to_f32(),
    dmin: 0.0,
});
block256!(Tq1_0, false, |b| unscaled(base_3(&b.qs, &b.qh), b.d));
block256!(Tq2_0, false, |b| unscaled(less(two_bits(&b.qs), 1), b.d));
block256!(Q8K, false, |b| Values256 {
    q: b.qs,
    scale: [1; 16],
    min: [0; 16],
    d: f32::from_le_bytes(b.d),
    dmin: 0.0,
});

impl<B: OnGrid> Block256 for B {
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn decode(&self) -> Values256 {
        Values256 {
            q: self.values(),
            scale: self.scales().map(i16::from),
            min: [0; 16],
            d: self.d().to_f32() * B::FACTOR,
            dmin: 0.0,
        }
    }
}

/// Puts bits `from..` of each byte, cut by `mask`, into the values from bit `to` on.
#[inline(always)]
fn add_bits(q: &mut [i8; 32], bytes: &[u8; 32], from: usize, mask: u8, to: usize) {
    for (q, byte) in q.iter_mut().zip(bytes) {
        *q |= (((byte >> from) & mask) << to) as i8;
    }
}

/// The 2-bit layout of Q2_K and Q3_K.
#[inline(always)]
fn two_bits(qs: &[u8; 64]) -> [i8; 256] {
    let mut q = [0; 256];
    for (i, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
        add_bits(q, &qs.as_chunks().0[i / 4], 2 * (i % 4), 3, 0);
    }
    q
}

/// The 4-bit layout of Q4_K and Q5_K.
#[inline(always)]
fn four_bits(qs: &[u8; 128]) -> [i8; 256] {
    let mut q = [0; 256];
    for (i, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
        add_bits(q, &qs.as_chunks().0[i / 2], 4 * (i % 2), 15, 0);
    }
    q
}

/// The values with bit `i / 32` of byte `i % 32` of `high` as bit `to` of value `i`: Q3_K and Q5_K.
#[inline(always)]
fn with_bit(mut q: [i8; 256], high: &[u8; 32], to: usize) -> [i8; 256] {
    for (i, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
        add_bits(q, high, i, 1, to);
    }
    q
}

/// The 6-bit layout of Q6_K.
#[inline(always)]
fn six_bits(ql: &[u8; 128], qh: &[u8; 64]) -> [i8; 256] {
    let mut q = [0; 256];
    let halves = q.as_chunks_mut::<128>().0.iter_mut();
    for ((q, low), high) in halves
        .zip(ql.as_chunks::<64>().0)
        .zip(qh.as_chunks::<32>().0)
    {
        for (part, q) in q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = &low.as_chunks::<32>().0[part % 2];
            for ((q, low), high) in q.iter_mut().zip(low).zip(high) {
                let (low, high) = (low >> (4 * (part / 2)), high >> (2 * part));
                *q = ((low & 15) | ((high & 3) << 4)) as i8;
            }
        }
    }
    q
}

/// The values of IQ4_XS: 32 by 32, as IQ4_NL has them.
#[inline(always)]
fn iq4_values(qs: &[u8; 128]) -> [i8; 256] {
    let mut q = [0; 256];
    for (q, qs) in q.as_chunks_mut::<32>().0.iter_mut().zip(qs.as_chunks().0) {
        *q = nibbles(qs).map(|q| IQ4_NL_VALUES[q as usize]);
    }
    q
}

/// The values of TQ1_0.
#[inline(always)]
fn base_3(qs: &[u8; 48], qh: &[u8; 4]) -> [i8; 256] {
    /// Writes the digits of some bytes, digit after digit.
    #[inline(always)]
    fn digits<const N: usize>(q: &mut [i8], mut bytes: [u8; N]) {
        for q in q.as_chunks_mut::<N>().0 {
            for (q, byte) in q.iter_mut().zip(&mut bytes) {
                *q = ((u16::from(*byte) * 3) >> 8) as i8 - 1;
                *byte = byte.wrapping_mul(3);
            }
        }
    }
    let (mut q, (first, second)) = ([0; 256], qs.split_at(32));
    digits::<32>(&mut q[..160], *first.first_chunk().unwrap_or(&[0; 32]));
    digits::<16>(&mut q[160..240], *second.first_chunk().unwrap_or(&[0; 16]));
    digits::<4>(&mut q[240..], *qh);
    q
}

/// Values whose groups have no scales.
#[inline(always)]
fn unscaled(q: [i8; 256], d: blocks::Half) -> Values256 {
    Values256 {
        q,
        scale: [1; 16],
        min: [0; 16],
        d: d.to_f32(),
        dmin: 0.0,
    }
}

/// Spreads eight scales or mins of groups of 32 over sixteen groups of 16.
#[inline(always)]
fn doubled(bytes: u64) -> [i16; 16] {
    std::array::from_fn(|g| i16::from(bytes.to_le_bytes()[g / 2]))
}

/// A block of a row as integers and what scales them.
#[cfg(feature = "wgpu")]
pub(crate) enum Decoded {
    Of32(Values32),
    Of256(Box<Values256>),
}

/// Gives the blocks of a row one after the other. Gives false, and no block, for a float type, which has none.
#[cfg(feature = "wgpu")]
pub(crate) fn decode_row(ty: GgmlType, row: &[u8], give: &mut dyn FnMut(Decoded)) -> bool {
    match_format!(
        ty,
        floats => return false,
        32 => |B| cast_slice::<u8, B>(row)
            .iter()
            .for_each(|block| {
                for part in 0..B::PARTS {
                    give(Decoded::Of32(block.decode(part)));
                }
            }),
        256 => |B| cast_slice::<u8, B>(row)
            .iter()
            .for_each(|block| give(Decoded::Of256(Box::new(block.decode())))),
    );
    true
}

/// Dequantises a row to `dst` with ggml's own order of operations. The row is `row_bytes(ty, dst.len())` long, which
/// [`crate::quant::Kernels::dequantize_row`] has checked.
pub(in crate::quant) fn dequantize_row(ty: GgmlType, row: &[u8], dst: &mut [f32]) {
    match_format!(
        ty,
        floats => widen_row(ty, row, dst),
        32 => |B| dequantize_32::<B>(row, dst),
        256 => |B| dequantize_256::<B>(row, dst),
    );
}

fn dequantize_32<B: Block32>(row: &[u8], dst: &mut [f32]) {
    for (block, dst) in cast_slice::<u8, B>(row)
        .iter()
        .zip(dst.chunks_exact_mut(32 * B::PARTS))
    {
        for (part, dst) in dst.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let v = block.decode(part);
            for (i, (y, q)) in dst.iter_mut().zip(v.q).enumerate() {
                *y = f32::from(q) * v.d[i / 16];
                if B::HAS_MIN {
                    *y += v.m;
                }
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

/// Halves that are converted at a time.
const HALVES: usize = 128;

/// Widens a row of F32, F16 or BF16 to f32; `row` and `dst` have the same number of values.
#[inline(always)]
pub(in crate::quant) fn widen_row(ty: GgmlType, row: &[u8], dst: &mut [f32]) {
    match ty {
        GgmlType::F32 => {
            for (y, x) in dst.iter_mut().zip(cast_slice::<u8, [u8; 4]>(row)) {
                *y = f32::from_le_bytes(*x);
            }
        }
        GgmlType::BF16 => {
            for (y, x) in dst.iter_mut().zip(cast_slice::<u8, [u8; 2]>(row)) {
                *y = f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16);
            }
        }
        _ => {
            let mut bits = [0u16; HALVES];
            for (dst, row) in dst.chunks_mut(HALVES).zip(row.chunks(2 * HALVES)) {
                let bits = &mut bits[..dst.len()];
                for (b, x) in bits.iter_mut().zip(cast_slice::<u8, [u8; 2]>(row)) {
                    *b = u16::from_le_bytes(*x);
                }
                bits.reinterpret_cast::<half::f16>()
                    .convert_to_f32_slice(dst);
            }
        }
    }
}
