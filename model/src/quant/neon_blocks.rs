//! The storage blocks in NEON registers: values unpacked, scales of four rows side by side.
//!
//! Values of an unsigned layout stay unsigned here; [`Rows32::OFFSET`] and [`Rows256::OFFSET`] say what the kernel
//! takes off again with the sums of the activations, which is cheaper than one subtraction a vector.

use super::blocks::{self, Half, IQ4_NL_VALUES, q3k_scales, scales_and_mins};
use super::neon::ROWS;
use super::neon_ops::*;
use bytemuck::Pod;

/// A block of 32: `w = d * (value - OFFSET) + m`.
pub(super) trait Rows32: Pod {
    /// bound of `|value|`
    const MAX: i32;
    /// values are that much too large
    const OFFSET: i32;
    /// `m` is not always zero
    const HAS_MIN: bool;
    /// the 32 values
    fn values(&self) -> [int8x16_t; 2];
    /// `d` of each row
    fn d(rows: [&Self; ROWS]) -> float32x4_t;
    /// `m` of each row; 0 where the type has none
    fn m(rows: [&Self; ROWS]) -> float32x4_t;
}

/// A block of 256 in groups: `w = d * scale * (value - OFFSET) - dmin * min`.
pub(super) trait Rows256: Pod {
    /// bound of `|value|`
    const MAX: i32;
    /// values are that much too large
    const OFFSET: i32;
    /// values that share a scale: 16 or 32
    const GROUP: usize;
    /// `dmin` is not always zero
    const HAS_MIN: bool;
    /// values `64 J..64 J + 64`
    fn values<const J: usize>(&self) -> [int8x16_t; 4];
    /// element `g`: the scale of group `g` of each row. Only the first `256 / GROUP` count.
    fn scales(rows: [&Self; ROWS]) -> [int32x4_t; 16];
    /// element `g`: the min of group `g` of each row
    fn mins(rows: [&Self; ROWS]) -> [int16x4_t; 16];
    /// `d` of each row
    fn d(rows: [&Self; ROWS]) -> float32x4_t;
    /// `dmin` of each row
    fn dmin(rows: [&Self; ROWS]) -> float32x4_t;
}

/// A half of each row.
#[inline(always)]
fn halves(h: [Half; ROWS]) -> float32x4_t {
    let bits = h.map(Half::bits);
    widen_f16(load_u16(&bits))
}

/// `N` consecutive vectors from `bytes[at]` on.
#[inline(always)]
fn vectors<const N: usize>(bytes: &[u8], at: usize) -> [uint8x16_t; N] {
    std::array::from_fn(|i| {
        let mut part = [0; 16];
        part.copy_from_slice(&bytes[at + 16 * i..][..16]);
        load_u8(&part)
    })
}

#[inline(always)]
fn low(q: uint8x16_t) -> uint8x16_t {
    vandq_u8(q, vdupq_n_u8(15))
}

#[inline(always)]
fn high(q: uint8x16_t) -> uint8x16_t {
    vshrq_n_u8::<4>(q)
}

/// Two bits of each byte, from bit `2 * pair` on.
#[inline(always)]
fn two_bits(q: uint8x16_t, pair: usize) -> uint8x16_t {
    let q = match pair {
        0 => q,
        1 => vshrq_n_u8::<2>(q),
        2 => vshrq_n_u8::<4>(q),
        _ => vshrq_n_u8::<6>(q),
    };
    vandq_u8(q, vdupq_n_u8(3))
}

/// `q`, with the bits of `bit` set where `flags` has one of the bits of `flag`.
#[inline(always)]
fn with_bit(q: uint8x16_t, bit: u8, flags: uint8x16_t, flag: u8) -> uint8x16_t {
    vbslq_u8(vdupq_n_u8(bit), vtstq_u8(flags, vdupq_n_u8(flag)), q)
}

#[inline(always)]
fn signed<const N: usize>(q: [uint8x16_t; N]) -> [int8x16_t; N] {
    q.map(vreinterpretq_s8_u8)
}

#[inline(always)]
fn nibbles(qs: &[u8; 16]) -> [uint8x16_t; 2] {
    let q = load_u8(qs);
    [low(q), high(q)]
}

/// Nibbles with bit 4 of value `j` from bit `j` of `qh`.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [uint8x16_t; 2] {
    const BITS: u64 = 0x8040_2010_0804_0201;
    let bits = vreinterpretq_u8_u64(vdupq_n_u64(BITS));
    let [q0, q1] = nibbles(qs);
    // byte j / 8 of qh to lane j
    let qh = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(qh)));
    let lanes = |byte: u64| vreinterpretq_u8_u64(load_u64(&[byte, byte + 0x0101_0101_0101_0101]));
    let qh0 = vqtbl1q_u8(qh, lanes(0));
    let qh1 = vqtbl1q_u8(qh, lanes(0x0202_0202_0202_0202));
    let set = |q, qh| vbslq_u8(vdupq_n_u8(16), vtstq_u8(qh, bits), q);
    [set(q0, qh0), set(q1, qh1)]
}

macro_rules! rows32 {
    ($block:ident, max $max:literal, offset $offset:literal, min $has_min:literal, |$b:ident| $values:expr, $m:expr) => {
        impl Rows32 for blocks::$block {
            const MAX: i32 = $max;
            const OFFSET: i32 = $offset;
            const HAS_MIN: bool = $has_min;
            #[inline(always)]
            fn values(&self) -> [int8x16_t; 2] {
                let $b = self;
                $values
            }
            #[inline(always)]
            fn d(rows: [&Self; ROWS]) -> float32x4_t {
                halves(rows.map(|b| b.d))
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
rows32!(Q4_1, max 15, offset 0, min true, |b| signed(nibbles(&b.qs)), |rows| halves(rows.map(|b| b.m)));
rows32!(Q5_0, max 31, offset 16, min false, |b| signed(five_bits(&b.qs, b.qh)), |_| vdupq_n_f32(0.0));
rows32!(Q5_1, max 31, offset 0, min true, |b| signed(five_bits(&b.qs, b.qh)), |rows| halves(rows.map(|b| b.m)));
rows32!(Q8_0, max 128, offset 0, min false, |b| load_x2(&b.qs), |_| vdupq_n_f32(0.0));
rows32!(Iq4Nl, max 127, offset 0, min false,
    |b| nibbles(&b.qs).map(|q| vqtbl1q_s8(load_s8(&IQ4_NL_VALUES), q)), |_| vdupq_n_f32(0.0));

#[inline(always)]
fn load_x2(q: &[i8; 32]) -> [int8x16_t; 2] {
    signed(vectors(bytemuck::cast_slice(q), 0))
}

/// A byte of each row for each of 16 groups: bytes `4 i..4 i + 4` of vector `j` are the rows of group `4 j + i`.
#[inline(always)]
fn transpose(rows: [uint8x16_t; ROWS]) -> [uint8x16_t; 4] {
    let pairs = |a, b| {
        (
            vreinterpretq_u16_u8(vzip1q_u8(a, b)),
            vreinterpretq_u16_u8(vzip2q_u8(a, b)),
        )
    };
    let (a, b) = (pairs(rows[0], rows[1]), pairs(rows[2], rows[3]));
    [
        vzip1q_u16(a.0, b.0),
        vzip2q_u16(a.0, b.0),
        vzip1q_u16(a.1, b.1),
        vzip2q_u16(a.1, b.1),
    ]
    .map(vreinterpretq_u8_u16)
}

/// Eight bytes of each row in the form of [`transpose`].
#[inline(always)]
fn transpose_8(rows: [u64; ROWS]) -> [uint8x16_t; 4] {
    transpose(rows.map(|r| vreinterpretq_u8_u64(load_u64(&[r, 0]))))
}

/// What [`transpose`] made, as signed bytes, widened: element `g` is the rows of group `g`.
#[inline(always)]
fn groups_i16(t: [uint8x16_t; 4]) -> [int16x4_t; 16] {
    let wide: [[int16x8_t; 2]; 4] = signed(t).map(|t| [vmovl_s8(vget_low_s8(t)), vmovl_high_s8(t)]);
    std::array::from_fn(|g| {
        let pair = wide[g / 4][g / 2 % 2];
        if g % 2 == 0 {
            vget_low_s16(pair)
        } else {
            vget_high_s16(pair)
        }
    })
}

/// As [`groups_i16`].
#[inline(always)]
fn groups_i32(t: [uint8x16_t; 4]) -> [int32x4_t; 16] {
    groups_i16(t).map(vmovl_s16)
}

const NO_MINS: fn() -> [int16x4_t; 16] = || [vdup_n_s16(0); 16];

impl Rows256 for blocks::Q4K {
    const MAX: i32 = 15;
    const OFFSET: i32 = 0;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        let [a, b] = vectors(&self.qs, 32 * J);
        signed([low(a), low(b), high(a), high(b)])
    }
    #[inline(always)]
    fn scales(rows: [&Self; ROWS]) -> [int32x4_t; 16] {
        groups_i32(transpose_8(rows.map(|b| scales_and_mins(&b.scales).0)))
    }
    #[inline(always)]
    fn mins(rows: [&Self; ROWS]) -> [int16x4_t; 16] {
        groups_i16(transpose_8(rows.map(|b| scales_and_mins(&b.scales).1)))
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.d))
    }
    #[inline(always)]
    fn dmin(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.dmin))
    }
}

impl Rows256 for blocks::Q5K {
    const MAX: i32 = 31;
    const OFFSET: i32 = 0;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        let [a, b] = vectors(&self.qs, 32 * J);
        let [ha, hb] = vectors(&self.qh, 0);
        let (even, odd) = (1 << (2 * J), 2 << (2 * J));
        signed([
            with_bit(low(a), 16, ha, even),
            with_bit(low(b), 16, hb, even),
            with_bit(high(a), 16, ha, odd),
            with_bit(high(b), 16, hb, odd),
        ])
    }
    #[inline(always)]
    fn scales(rows: [&Self; ROWS]) -> [int32x4_t; 16] {
        groups_i32(transpose_8(rows.map(|b| scales_and_mins(&b.scales).0)))
    }
    #[inline(always)]
    fn mins(rows: [&Self; ROWS]) -> [int16x4_t; 16] {
        groups_i16(transpose_8(rows.map(|b| scales_and_mins(&b.scales).1)))
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.d))
    }
    #[inline(always)]
    fn dmin(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.dmin))
    }
}

impl Rows256 for blocks::Q6K {
    const MAX: i32 = 63;
    const OFFSET: i32 = 32;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        let q: [uint8x16_t; 4] = vectors(&self.ql, 64 * (J / 2));
        let h: [uint8x16_t; 2] = vectors(&self.qh, 32 * (J / 2));
        let bits = vdupq_n_u8(0x30);
        signed(std::array::from_fn(|i| {
            let (q, h) = (q[i], h[i % 2]);
            if J % 2 == 0 {
                let h = if i < 2 {
                    vshlq_n_u8::<4>(h)
                } else {
                    vshlq_n_u8::<2>(h)
                };
                vbslq_u8(bits, h, low(q))
            } else {
                let h = if i < 2 { h } else { vshrq_n_u8::<2>(h) };
                vbslq_u8(bits, h, high(q))
            }
        }))
    }
    #[inline(always)]
    fn scales(rows: [&Self; ROWS]) -> [int32x4_t; 16] {
        groups_i32(transpose(
            rows.map(|b| vreinterpretq_u8_s8(load_s8(&b.scales))),
        ))
    }
    #[inline(always)]
    fn mins(_: [&Self; ROWS]) -> [int16x4_t; 16] {
        NO_MINS()
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.d))
    }
    #[inline(always)]
    fn dmin(_: [&Self; ROWS]) -> float32x4_t {
        vdupq_n_f32(0.0)
    }
}

impl Rows256 for blocks::Q2K {
    const MAX: i32 = 3;
    const OFFSET: i32 = 0;
    const GROUP: usize = 16;
    const HAS_MIN: bool = true;
    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        let q: [uint8x16_t; 2] = vectors(&self.qs, 32 * (J / 2));
        signed(std::array::from_fn(|i| {
            two_bits(q[i % 2], 2 * (J % 2) + i / 2)
        }))
    }
    #[inline(always)]
    fn scales(rows: [&Self; ROWS]) -> [int32x4_t; 16] {
        groups_i32(transpose(rows.map(|b| low(load_u8(&b.scales)))))
    }
    #[inline(always)]
    fn mins(rows: [&Self; ROWS]) -> [int16x4_t; 16] {
        groups_i16(transpose(rows.map(|b| high(load_u8(&b.scales)))))
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.d))
    }
    #[inline(always)]
    fn dmin(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.dmin))
    }
}

impl Rows256 for blocks::Q3K {
    const MAX: i32 = 7;
    const OFFSET: i32 = 4;
    const GROUP: usize = 16;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        let q: [uint8x16_t; 2] = vectors(&self.qs, 32 * (J / 2));
        let h: [uint8x16_t; 2] = vectors(&self.hmask, 0);
        signed(std::array::from_fn(|i| {
            let two = two_bits(q[i % 2], 2 * (J % 2) + i / 2);
            with_bit(two, 4, h[i % 2], 1 << (2 * J + i / 2))
        }))
    }
    #[inline(always)]
    fn scales(rows: [&Self; ROWS]) -> [int32x4_t; 16] {
        let offset = vdupq_n_u8(32);
        groups_i32(transpose(
            rows.map(|b| vsubq_u8(load_u8(&q3k_scales(&b.scales)), offset)),
        ))
    }
    #[inline(always)]
    fn mins(_: [&Self; ROWS]) -> [int16x4_t; 16] {
        NO_MINS()
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        halves(rows.map(|b| b.d))
    }
    #[inline(always)]
    fn dmin(_: [&Self; ROWS]) -> float32x4_t {
        vdupq_n_f32(0.0)
    }
}

impl Rows256 for blocks::Q8K {
    const MAX: i32 = 128;
    const OFFSET: i32 = 0;
    const GROUP: usize = 32;
    const HAS_MIN: bool = false;
    #[inline(always)]
    fn values<const J: usize>(&self) -> [int8x16_t; 4] {
        signed(vectors(bytemuck::cast_slice(&self.qs), 64 * J))
    }
    #[inline(always)]
    fn scales(_: [&Self; ROWS]) -> [int32x4_t; 16] {
        [vdupq_n_s32(1); 16]
    }
    #[inline(always)]
    fn mins(_: [&Self; ROWS]) -> [int16x4_t; 16] {
        NO_MINS()
    }
    #[inline(always)]
    fn d(rows: [&Self; ROWS]) -> float32x4_t {
        load_f32(&rows.map(|b| f32::from_le_bytes(b.d)))
    }
    #[inline(always)]
    fn dmin(_: [&Self; ROWS]) -> float32x4_t {
        vdupq_n_f32(0.0)
    }
}
