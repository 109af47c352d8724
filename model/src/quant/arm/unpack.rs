//! The storage blocks in NEON registers: their values unpacked, and the scales of four rows side by side.
//!
//! Values of an unsigned layout stay unsigned here. [`Rows32::OFFSET`] and [`Rows256::OFFSET`] say what the kernel subtracts
//! with the sums of the activations, which is cheaper than one subtraction for each vector.

use super::intrinsics::*;
use crate::quant::format::blocks::{
    self, FP4_VALUES, Half, IQ4_NL_VALUES, e8m0, iq4xs_scales, q3k_scales, scales_and_mins, ue4m3,
};
use bytemuck::Pod;

/// Rows that share a pass: as many as a vector of int32 has elements.
pub(in crate::quant) const ROWS: usize = 4;

/// A block of 32, or of some parts of 32: `w = d * (value - OFFSET) + m`.
pub(in crate::quant) trait Rows32: Pod {
    /// How many parts of 32 weights a block has: 1, 2 or 4.
    const PARTS: usize = 1;
    /// The largest magnitude of a value.
    const MAX: i32;
    /// What the values have been increased by.
    const OFFSET: i32;
    /// Whether `m` may be other than zero.
    const HAS_MIN: bool = false;
    /// The 32 values of a part, 16 in a vector.
    fn values(&self, part: usize) -> [int8x16_t; 2];
    /// The scale `d` of each row.
    fn d(rows: [&Self; ROWS]) -> float32x4_t;
    /// The min `m` of each row, or 0 where the format has none.
    #[inline(always)]
    fn m(_: [&Self; ROWS]) -> float32x4_t {
        vdupq_n_f32(0.0)
    }
    /// The scales of the first and of the last 16 values of a part, of each row, where those are two.
    #[inline(always)]
    fn two_scales(_: [&Self; ROWS], _part: usize) -> Option<[float32x4_t; 2]> {
        None
    }
}

/// A block of 256 in groups: `w = d * scale * (value - OFFSET) - dmin * min`.
pub(in crate::quant) trait Rows256: Pod {
    /// The largest magnitude of a value.
    const MAX: i32;
    /// What the values have been increased by.
    const OFFSET: i32;
    /// How many values share a scale: 16 or 32.
    const GROUP: usize;
    /// Whether `dmin` may be other than zero.
    const HAS_MIN: bool = false;
    /// The values `64 J..64 J + 64`, 16 in a vector.
    fn values<const J: usize>(&self) -> [int8x16_t; 4];
    /// Element `g` has the scale of group `g` of each row. Only the first `256 / GROUP` elements count.
    fn scales(rows: [&Self; ROWS]) -> [int16x4_t; 16];
    /// Byte `g` is the min of group `g`, or 0 where the format has none.
    #[inline(always)]
    fn min_bytes(&self) -> uint8x16_t {
        vdupq_n_u8(0)
    }
    /// Element `g` has the min of group `g` of each row.
    #[inline(always)]
    fn mins(rows: [&Self; ROWS]) -> [int16x4_t; 16] {
        groups(transpose(each(rows, Self::min_bytes)))
    }
    /// The scale `d` of each row.
    fn d(rows: [&Self; ROWS]) -> float32x4_t;
    /// The scale `dmin` of each row's mins.
    #[inline(always)]
    fn dmin(_: [&Self; ROWS]) -> float32x4_t {
        vdupq_n_f32(0.0)
    }
}

/// Widens a half of each row.
#[inline(always)]
pub(super) fn halves(h: [Half; ROWS]) -> float32x4_t {
    let bits = each(h, Half::bits);
    widen_f16(load_u16(&bits))
}

/// Loads `N` consecutive vectors from `bytes[at]` on.
#[inline(always)]
fn vectors<const N: usize>(bytes: &[u8], at: usize) -> [uint8x16_t; N] {
    let mut vectors = [vdupq_n_u8(0); N];
    for (v, bytes) in vectors.iter_mut().zip(bytes[at..][..16 * N].as_chunks().0) {
        *v = load_u8(bytes);
    }
    vectors
}

#[inline(always)]
pub(in crate::quant) fn and(q: uint8x16_t, mask: u8) -> uint8x16_t {
    vandq_u8(q, vdupq_n_u8(mask))
}

/// `q >> n`, or `q << -n` where `n` is negative.
#[inline(always)]
pub(in crate::quant) fn shift(q: uint8x16_t, n: i32) -> uint8x16_t {
    match n {
        -4 => vshlq_n_u8::<4>(q),
        -3 => vshlq_n_u8::<3>(q),
        -2 => vshlq_n_u8::<2>(q),
        -1 => vshlq_n_u8::<1>(q),
        0 => q,
        1 => vshrq_n_u8::<1>(q),
        2 => vshrq_n_u8::<2>(q),
        3 => vshrq_n_u8::<3>(q),
        4 => vshrq_n_u8::<4>(q),
        5 => vshrq_n_u8::<5>(q),
        6 => vshrq_n_u8::<6>(q),
        _ => vshrq_n_u8::<7>(q),
    }
}

#[inline(always)]
pub(in crate::quant) fn low(q: uint8x16_t) -> uint8x16_t {
    and(q, 15)
}

#[inline(always)]
pub(in crate::quant) fn high(q: uint8x16_t) -> uint8x16_t {
    vshrq_n_u8::<4>(q)
}

/// The low nibbles of `q` below the bits of `h` from bit `from` on, cut by `mask`.
#[inline(always)]
pub(in crate::quant) fn low_under(q: uint8x16_t, h: uint8x16_t, from: i32, mask: u8) -> uint8x16_t {
    and(vsliq_n_u8::<4>(q, shift(h, from)), mask)
}

/// The high nibbles of `q` below the bits of `h` from bit `from` on, cut by `mask`.
#[inline(always)]
pub(in crate::quant) fn high_under(
    q: uint8x16_t,
    h: uint8x16_t,
    from: i32,
    mask: u8,
) -> uint8x16_t {
    and(vsriq_n_u8::<4>(shift(h, from - 4), q), mask)
}

/// Values `64 J..64 J + 64` of the 2-bit layout of Q2_K and Q3_K, with six bits of something else above.
#[inline(always)]
fn two_bits<const J: usize>(qs: &[u8; 64]) -> [uint8x16_t; 4] {
    let [a, b] = vectors(qs, 32 * (J / 2));
    let from = if J.is_multiple_of(2) { 0 } else { 4 };
    [
        shift(a, from),
        shift(b, from),
        shift(a, from + 2),
        shift(b, from + 2),
    ]
}

#[inline(always)]
fn signed<const N: usize>(q: [uint8x16_t; N]) -> [int8x16_t; N] {
    let mut signed = [vdupq_n_s8(0); N];
    for (s, q) in signed.iter_mut().zip(q) {
        *s = vreinterpretq_s8_u8(q);
    }
    signed
}

#[inline(always)]
fn nibbles(qs: &[u8; 16]) -> [uint8x16_t; 2] {
    let q = load_u8(qs);
    [low(q), high(q)]
}

/// Nibbles with bit `j` of `qh` as bit 4 of value `j`, less 16: a nibble under the bits 0000 or 1111.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [uint8x16_t; 2] {
    let bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    // byte j / 8 of qh to lane j
    let qh = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(qh)));
    let elements =
        |byte: u64| vreinterpretq_u8_u64(load_u64(&[byte, byte + 0x0101_0101_0101_0101]));
    let clear0 = vceqzq_u8(vandq_u8(vqtbl1q_u8(qh, elements(0)), bits));
    let clear1 = vceqzq_u8(vandq_u8(
        vqtbl1q_u8(qh, elements(0x0202_0202_0202_0202)),
        bits,
    ));
    let q = load_u8(qs);
    [vsliq_n_u8::<4>(q, clear0), vsriq_n_u8::<4>(clear1, q)]
}

macro_rules! rows32 {
    ($block:ident, max $max:literal, offset $offset:literal, min $has_min:literal, |$b:ident| $values:expr, $m:expr) => {
        impl Rows32 for blocks::$block {
            const MAX: i32 = $max;
            const OFFSET: i32 = $offset;
            const HAS_MIN: bool = $has_min;
            #[inline(always)]
            fn values(&self, _: usize) -> [int8x16_t; 2] {
                let $b = self;
                $values
            }
            #[inline(always)]
            fn d(rows: [&Self; ROWS]) -> float32x4_t {
                halves(each(rows, |b| b.d))
            }
            #[inline(always)]
            fn m(rows: [&Self; ROWS]) -> float32x4_t {
                let m: fn([&Self; ROWS]) -> float32x4_t = $m;
                m(rows)
            }
        }
    };
}
rows32!(Q4_0, max 15, offset 8, min false, |b| signed(nibbles(&b.qs)), |_| vdupq_n_f32(0.0));
rows32!(Q4_1, max 15, offset 0, min true, |b| signed(nibbles(&b.qs)), |rows| halves(each(rows, |b| b.m)));
rows32!(Q5_0, max 16, offset 0, min false, |b| signed(five_bits(&b.qs, b.qh)), |_| vdupq_n_f32(0.0));
rows32!(Q5_1, max 16, offset -16, min true, |b| signed(five_bits(&b.qs, b.qh)), |rows| halves(each(rows, |b| b.m)));
rows32!(Q8_0, max 128, offset 0, min false, |b| load_x2(&b.qs), |_| vdupq_n_f32(0.0));
rows32!(Iq4Nl, max 127, offset 0, min false,
    |b| looked_up(&IQ4_NL_VALUES, nibbles(&b.qs)), |_| vdupq_n_f32(0.0));

/// The values of a table that nibbles stand for.
#[inline(always)]
pub(in crate::quant) fn looked_up(values: &[i8; 16], q: [uint8x16_t; 2]) -> [int8x16_t; 2] {
    let table = load_s8(values);
    [vqtbl1q_s8(table, q[0]), vqtbl1q_s8(table, q[1])]
}

impl Rows32 for blocks::Mxfp4 {
    const MAX: i32 = 12;
    const OFFSET: i32 = 0;
    #[inline(always)]
    fn values(&self, _: usize) -> [int8x16_t; 2] {
        looked_up(&FP4_VALUES, nibbles(&self.qs))
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        load_f32(&each(rows, |b| e8m0(b.e)))
    }
}

impl Rows32 for blocks::Nvfp4 {
    const PARTS: usize = 2;
    const MAX: i32 = 12;
    const OFFSET: i32 = 0;
    #[inline(always)]
    fn values(&self, part: usize) -> [int8x16_t; 2] {
        // eight low nibbles, and then the high ones of the same bytes
        let group = |qs: [u8; 8]| {
            let bytes = u64::from_le_bytes(qs);
            low(vreinterpretq_u8_u64(load_u64(&[bytes, bytes >> 4])))
        };
        let [first, last] = [self.qs[2 * part], self.qs[2 * part + 1]];
        looked_up(&FP4_VALUES, [group(first), group(last)])
    }
    #[inline(always)]
    fn d(_: [&Self; ROWS]) -> float32x4_t {
        vdupq_n_f32(0.0)
    }
    #[inline(always)]
    fn two_scales(rows: [&Self; ROWS], part: usize) -> Option<[float32x4_t; 2]> {
        let scales = |i: usize| load_f32(&each(rows, |b| ue4m3(b.d[2 * part + i])));
        Some([scales(0), scales(1)])
    }
}

impl Rows32 for blocks::Q1_0 {
    const PARTS: usize = 4;
    const MAX: i32 = 2;
    const OFFSET: i32 = 1;
    #[inline(always)]
    fn values(&self, part: usize) -> [int8x16_t; 2] {
        let bits = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        let bytes = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(self.qs[part])));
        // byte j / 8 to lane j
        let first = load_u64(&[0, 0x0101_0101_0101_0101]);
        let second = load_u64(&[0x0202_0202_0202_0202, 0x0303_0303_0303_0303]);
        signed([first, second].map(|at| {
            let spread = vqtbl1q_u8(bytes, vreinterpretq_u8_u64(at));
            and(vtstq_u8(spread, bits), 2)
        }))
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(each(rows, |b| b.d))
    }
}

impl Rows32 for blocks::Q2_0 {
    const PARTS: usize = 2;
    const MAX: i32 = 3;
    const OFFSET: i32 = 1;
    #[inline(always)]
    fn values(&self, part: usize) -> [int8x16_t; 2] {
        let bytes = vreinterpretq_u8_u64(load_u64(&[u64::from_le_bytes(self.qs[part]), 0]));
        // a nibble has two values, and a byte two nibbles
        let pairs = vzip1q_u8(low(bytes), high(bytes));
        let (first, second) = (and(pairs, 3), shift(pairs, 2));
        signed([vzip1q_u8(first, second), vzip2q_u8(first, second)])
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(each(rows, |b| b.d))
    }
}

#[inline(always)]
fn load_x2(q: &[i8; 32]) -> [int8x16_t; 2] {
    signed(vectors(bytemuck::cast_slice(q), 0))
}

/// Transposes one byte per group: bytes `4 i..4 i + 4` of vector `j` are what the four rows have for group `4 j + i`.
#[inline(always)]
pub(super) fn transpose(rows: [uint8x16_t; ROWS]) -> [uint8x16_t; 4] {
    let low = |a, b| vreinterpretq_u16_u8(vzip1q_u8(a, b));
    let high = |a, b| vreinterpretq_u16_u8(vzip2q_u8(a, b));
    let (a0, a1) = (low(rows[0], rows[1]), high(rows[0], rows[1]));
    let (b0, b1) = (low(rows[2], rows[3]), high(rows[2], rows[3]));
    let groups = [
        vzip1q_u16(a0, b0),
        vzip2q_u16(a0, b0),
        vzip1q_u16(a1, b1),
        vzip2q_u16(a1, b1),
    ];
    each(groups, vreinterpretq_u8_u16)
}

/// Widens what [`transpose`] made as signed bytes: element `g` is what the four rows have for group `g`.
#[inline(always)]
pub(super) fn groups(t: [uint8x16_t; 4]) -> [int16x4_t; 16] {
    let mut groups = [vdup_n_s16(0); 16];
    for (groups, t) in groups.as_chunks_mut::<4>().0.iter_mut().zip(signed(t)) {
        let (a, b) = (vmovl_s8(vget_low_s8(t)), vmovl_high_s8(t));
        *groups = [
            vget_low_s16(a),
            vget_high_s16(a),
            vget_low_s16(b),
            vget_high_s16(b),
        ];
    }
    groups
}

/// Eight bytes for eight groups. Those of the eight groups that a row does not have are zero.
#[inline(always)]
fn eight(bytes: u64) -> uint8x16_t {
    vreinterpretq_u8_u64(load_u64(&[bytes, 0]))
}

/// The scales are a byte for each group of one block, and so are the mins of the formats that have any.
macro_rules! rows256 {
    ($block:ident, max $max:literal, offset $offset:literal, group $group:literal, |$b:ident, $J:ident| $values:expr,
        scales $scales:expr $(, mins $mins:expr)?) => {
        impl Rows256 for blocks::$block {
            const MAX: i32 = $max;
            const OFFSET: i32 = $offset;
            const GROUP: usize = $group;
            #[inline(always)]
            fn values<const $J: usize>(&self) -> [int8x16_t; 4] {
                let $b = self;
                signed($values)
            }
            #[inline(always)]
            fn scales(rows: [&Self; ROWS]) -> [int16x4_t; 16] {
                let scales: fn(&Self) -> uint8x16_t = $scales;
                groups(transpose(each(rows, scales)))
            }
            #[inline(always)]
            fn d(rows: [&Self; ROWS]) -> float32x4_t {
                halves(each(rows, |b| b.d))
            }
            $(
                const HAS_MIN: bool = true;
                #[inline(always)]
                fn min_bytes(&self) -> uint8x16_t {
                    let mins: fn(&Self) -> uint8x16_t = $mins;
                    mins(self)
                }
                #[inline(always)]
                fn dmin(rows: [&Self; ROWS]) -> float32x4_t {
                    halves(each(rows, |b| b.dmin))
                }
            )?
        }
    };
}
rows256!(Q2K, max 3, offset 0, group 16, |b, J| each(two_bits::<J>(&b.qs), |q| and(q, 3)),
    scales |b| low(load_u8(&b.scales)), mins |b| high(load_u8(&b.scales)));
rows256!(Q3K, max 7, offset 4, group 16, |b, J| {
    let q = two_bits::<J>(&b.qs);
    let [ha, hb] = vectors(&b.hmask, 0);
    let bit = 2 * J as i32;
    [
        and(vsliq_n_u8::<2>(q[0], shift(ha, bit)), 7),
        and(vsliq_n_u8::<2>(q[1], shift(hb, bit)), 7),
        and(vsliq_n_u8::<2>(q[2], shift(ha, bit + 1)), 7),
        and(vsliq_n_u8::<2>(q[3], shift(hb, bit + 1)), 7),
    ]
}, scales |b| vsubq_u8(load_u8(&q3k_scales(&b.scales)), vdupq_n_u8(32)));
rows256!(Q4K, max 15, offset 0, group 32, |b, J| {
    let [x, y] = vectors(&b.qs, 32 * J);
    [low(x), low(y), high(x), high(y)]
}, scales |b| eight(scales_and_mins(&b.scales).0), mins |b| eight(scales_and_mins(&b.scales).1));
rows256!(Q5K, max 31, offset 0, group 32, |b, J| {
    let [x, y] = vectors(&b.qs, 32 * J);
    let [hx, hy] = vectors(&b.qh, 0);
    let bit = 2 * J as i32;
    [
        low_under(x, hx, bit, 31),
        low_under(y, hy, bit, 31),
        high_under(x, hx, bit + 1, 31),
        high_under(y, hy, bit + 1, 31),
    ]
}, scales |b| eight(scales_and_mins(&b.scales).0), mins |b| eight(scales_and_mins(&b.scales).1));
rows256!(Q6K, max 63, offset 32, group 16, |b, J| {
    let q: [uint8x16_t; 4] = vectors(&b.ql, 64 * (J / 2));
    let h: [uint8x16_t; 2] = vectors(&b.qh, 32 * (J / 2));
    if J.is_multiple_of(2) {
        [
            low_under(q[0], h[0], 0, 63),
            low_under(q[1], h[1], 0, 63),
            low_under(q[2], h[0], 2, 63),
            low_under(q[3], h[1], 2, 63),
        ]
    } else {
        [
            high_under(q[0], h[0], 4, 63),
            high_under(q[1], h[1], 4, 63),
            high_under(q[2], h[0], 6, 63),
            high_under(q[3], h[1], 6, 63),
        ]
    }
}, scales |b| vreinterpretq_u8_s8(load_s8(&b.scales)));
rows256!(Iq4Xs, max 127, offset 0, group 32, |b, J| {
    let [x, y] = vectors(&b.qs, 32 * J);
    let [a, b] = looked_up(&IQ4_NL_VALUES, [low(x), high(x)]);
    let [c, d] = looked_up(&IQ4_NL_VALUES, [low(y), high(y)]);
    [a, b, c, d].map(vreinterpretq_u8_s8)
}, scales |b| eight(u64::from_le_bytes(iq4xs_scales(b.scales_l, b.scales_h).map(|scale| scale as u8))));
rows256!(Tq2_0, max 3, offset 1, group 16, |b, J| each(two_bits::<J>(&b.qs), |q| and(q, 3)), scales |_| vdupq_n_u8(1));
rows256!(Tq1_0, max 2, offset 1, group 16, |b, J| {
    let [x, y, z] = vectors(&b.qs, 0);
    // the sixteen values 64 J + 16 i.. are digits of one vector, and the last of `qh`
    [0, 1, 2, 3].map(|i| match 4 * J + i {
        n @ ..10 => digit([x, y][n % 2], n / 2),
        n @ ..15 => digit(z, n - 10),
        _ => {
            let qh = u32::from_le_bytes(b.qh);
            digits_of_four(vreinterpretq_u8_u32(vdupq_n_u32(qh)))
        }
    })
}, scales |_| vdupq_n_u8(1));

/// Digit `n` of base 3 of each byte of TQ1_0: the whole part of `3 * byte / 256`, of the byte times `3^n`.
#[inline(always)]
fn digit(bytes: uint8x16_t, n: usize) -> uint8x16_t {
    first_digit(vmulq_u8(bytes, vdupq_n_u8([1, 3, 9, 27, 81][n])))
}

/// Four digits of the same four bytes, digit after digit.
#[inline(always)]
fn digits_of_four(bytes: uint8x16_t) -> uint8x16_t {
    const POWERS: [u8; 16] = [1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27];
    first_digit(vmulq_u8(bytes, load_u8(&POWERS)))
}

#[inline(always)]
fn first_digit(bytes: uint8x16_t) -> uint8x16_t {
    // 86 is the first byte with 1, and 171 the first with 2; what is reached is 255, or minus one
    let reached = [86, 171].map(|from| vcgeq_u8(bytes, vdupq_n_u8(from)));
    vsubq_u8(vsubq_u8(vdupq_n_u8(0), reached[0]), reached[1])
}
