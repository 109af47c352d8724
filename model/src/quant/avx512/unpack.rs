//! From blocks to bytes: every type as unsigned 8-bit values in their natural order, and its scales.

use crate::quant::blocks::{self, IQ4_NL_VALUES, q3k_scales, scales_and_mins};
use crate::quant::scalar;
use bytemuck::{cast, cast_ref};
use std::arch::x86_64::*;

/// Two neighbouring blocks of 32 weights.
pub(super) trait Block32: scalar::Block32 {
    /// what the bytes have too much
    const OFFSET: i32;
    /// The values of `a`, then those of `b`, plus [`Self::OFFSET`].
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn bytes(a: &Self, b: &Self) -> __m512i;
    /// Bits of the halves `d` and `m` (0 if there is none).
    fn halves(&self) -> (u16, u16);
}

/// A block of 256 weights in 16 groups of 16.
pub(super) trait Block256: scalar::Block256 {
    /// what the bytes have too much
    const OFFSET: i32;
    /// largest byte
    const MAX: i32;
    /// how the groups are scaled
    const GROUPS: Groups;
    /// The values plus [`Self::OFFSET`], 64 in a vector.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn bytes(&self) -> [__m512i; 4];
    /// Everything but the values.
    fn head(&self) -> Head;
}

/// What the bytes of a [`Head`] mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Groups {
    /// the first eight unsigned scales and mins count, each for 32 values
    Eight,
    /// sixteen unsigned scales and mins
    Sixteen,
    /// sixteen signed scales, no mins
    Signed,
    /// every scale is one, no mins
    One,
}

/// What a block of 256 weights says about its groups.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) scales: [u8; 16],
    pub(super) mins: [u8; 16],
    pub(super) d: f32,
    pub(super) dmin: f32,
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_16(a: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes by reference
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_32(a: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes by reference
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_64(a: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes by reference
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

/// The same 32 bytes in both halves.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn twice(a: &[u8; 32]) -> __m512i {
    _mm512_broadcast_i64x4(load_32(a))
}

/// `low` in the lower eight lanes, `high` in the upper ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn lanes(low: i32, high: i32) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi32(low), _mm256_set1_epi32(high))
}

/// Nibbles of two blocks: low ones of `a`, high ones of `a`, low ones of `b`, high ones of `b`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> __m512i {
    let both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(load_16(a)), 0xff00, load_16(b));
    let shift = _mm512_set_epi32(4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0);
    _mm512_and_si512(_mm512_srlv_epi32(both, shift), _mm512_set1_epi8(0x0f))
}

/// Adds bit 4 where `a` (values 0..32) and `b` (32..64) have ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fifth_bits(q: __m512i, a: [u8; 4], b: [u8; 4]) -> __m512i {
    let bits = u64::from(u32::from_le_bytes(a)) | (u64::from(u32::from_le_bytes(b)) << 32);
    _mm512_mask_add_epi8(q, bits, q, _mm512_set1_epi8(16))
}

macro_rules! block32 {
    ($block:ident, $offset:literal, |$b:ident| $m:expr, |$x:ident, $y:ident| $bytes:expr) => {
        impl Block32 for blocks::$block {
            const OFFSET: i32 = $offset;
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn bytes($x: &Self, $y: &Self) -> __m512i {
                $bytes
            }
            #[inline(always)]
            fn halves(&self) -> (u16, u16) {
                let $b = self;
                ($b.d.bits(), $m)
            }
        }
    };
}
block32!(Q4_0, 8, |b| 0, |a, b| nibbles(&a.qs, &b.qs));
block32!(Q4_1, 0, |b| b.m.bits(), |a, b| nibbles(&a.qs, &b.qs));
block32!(Q5_0, 16, |b| 0, |a, b| fifth_bits(
    nibbles(&a.qs, &b.qs),
    a.qh,
    b.qh
));
block32!(Q5_1, 0, |b| b.m.bits(), |a, b| fifth_bits(
    nibbles(&a.qs, &b.qs),
    a.qh,
    b.qh
));
block32!(Q8_0, 128, |b| 0, |a, b| {
    let (a, b) = (load_32(cast_ref(&a.qs)), load_32(cast_ref(&b.qs)));
    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
    _mm512_xor_si512(both, _mm512_set1_epi8(-128))
});
block32!(Iq4Nl, 128, |b| 0, |a, b| {
    const TABLE: [u8; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            table[i] = (IQ4_NL_VALUES[i] as u8) ^ 0x80;
            i += 1;
        }
        table
    };
    _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(load_16(&TABLE)),
        nibbles(&a.qs, &b.qs),
    )
});

/// A scale for each of the 64 int32 lanes of a block's four vectors: int16 in the low half, zero in the high one.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn spread<B: Block256>(scales: &[u8; 16]) -> [__m512i; 4] {
    // a byte with its top bit set makes vpshufb write zero
    const ZEROS: i32 = 0x8080_8000_u32 as i32;
    let all = _mm512_broadcast_i32x4(load_16(scales));
    let group = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    [0, 1, 2, 3].map(|i| match B::GROUPS {
        Groups::Eight => _mm512_shuffle_epi8(all, lanes(ZEROS + 2 * i, ZEROS + 2 * i + 1)),
        Groups::Sixteen => _mm512_shuffle_epi8(
            all,
            _mm512_add_epi32(group, _mm512_set1_epi32(ZEROS + 4 * i)),
        ),
        Groups::Signed => {
            let all = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(load_16(scales)));
            let index = _mm512_add_epi32(group, _mm512_set1_epi32(4 * i));
            _mm512_maskz_permutexvar_epi16(0x5555_5555, index, all)
        }
        Groups::One => _mm512_set1_epi32(1),
    })
}

/// Sixteen scales or mins as int16.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn groups<B: Block256>(bytes: &[u8; 16]) -> __m256i {
    let bytes = load_16(bytes);
    match B::GROUPS {
        Groups::Eight => _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes)),
        Groups::Sixteen => _mm256_cvtepu8_epi16(bytes),
        Groups::Signed => _mm256_cvtepi8_epi16(bytes),
        Groups::One => _mm256_set1_epi16(1),
    }
}

/// Bits `2 s..2 s + 2` of byte `j` are value `32 s + j`: 128 values of Q2_K and Q3_K.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn two_bits(qs: &[u8; 32]) -> [__m512i; 2] {
    let (q, mask) = (twice(qs), _mm512_set1_epi8(3));
    [
        _mm512_and_si512(_mm512_srlv_epi32(q, lanes(0, 2)), mask),
        _mm512_and_si512(_mm512_srlv_epi32(q, lanes(4, 6)), mask),
    ]
}

/// Low nibbles, then high ones: 64 values of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn four_bits(qs: &[u8; 32]) -> __m512i {
    _mm512_and_si512(
        _mm512_srlv_epi32(twice(qs), lanes(0, 4)),
        _mm512_set1_epi8(0x0f),
    )
}

/// `q` with `bit` set where bit `i` of each byte of `high` is set, 64 values of four: `i` is `2 n`, then `2 n + 1`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn with_bit(q: __m512i, high: __m512i, n: i32, bit: i32) -> __m512i {
    let (low, up) = (2 * n - bit, 2 * n + 1 - bit);
    let moved = if low < 0 {
        _mm512_sllv_epi32(high, lanes(-low, -up))
    } else {
        _mm512_srlv_epi32(high, lanes(low, up))
    };
    or_masked(q, moved, 1 << bit)
}

/// `a | (b & mask)`, one instruction.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn or_masked(a: __m512i, b: __m512i, mask: i8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask))
}

macro_rules! block256 {
    ($block:ident, $offset:literal, $max:literal, $groups:ident, |$b:ident| $bytes:expr, $head:expr) => {
        impl Block256 for blocks::$block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const GROUPS: Groups = Groups::$groups;
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn bytes(&self) -> [__m512i; 4] {
                let $b = self;
                $bytes
            }
            #[inline(always)]
            fn head(&self) -> Head {
                let $b = self;
                $head
            }
        }
    };
}

block256!(
    Q2K,
    0,
    3,
    Sixteen,
    |b| {
        let [x, y] = cast_ref::<_, [[u8; 32]; 2]>(&b.qs);
        let ([p, q], [r, s]) = (two_bits(x), two_bits(y));
        [p, q, r, s]
    },
    {
        const LOW: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
        let both = u128::from_le_bytes(b.scales);
        Head {
            scales: (both & LOW).to_le_bytes(),
            mins: ((both >> 4) & LOW).to_le_bytes(),
            d: b.d.to_f32(),
            dmin: b.dmin.to_f32(),
        }
    }
);
block256!(
    Q3K,
    4,
    7,
    Signed,
    |b| {
        let [x, y] = cast_ref::<_, [[u8; 32]; 2]>(&b.qs);
        let ([p, q], [r, s]) = (two_bits(x), two_bits(y));
        let high = twice(&b.hmask);
        [
            with_bit(p, high, 0, 2),
            with_bit(q, high, 1, 2),
            with_bit(r, high, 2, 2),
            with_bit(s, high, 3, 2),
        ]
    },
    Head {
        scales: q3k_scales(&b.scales).map(|s| s.wrapping_sub(32)),
        mins: [0; 16],
        d: b.d.to_f32(),
        dmin: 0.0,
    }
);
block256!(
    Q4K,
    0,
    15,
    Eight,
    |b| {
        let [x, y, z, w] = cast_ref::<_, [[u8; 32]; 4]>(&b.qs);
        [four_bits(x), four_bits(y), four_bits(z), four_bits(w)]
    },
    eight(&b.scales, b.d, b.dmin)
);
block256!(
    Q5K,
    0,
    31,
    Eight,
    |b| {
        let [x, y, z, w] = cast_ref::<_, [[u8; 32]; 4]>(&b.qs);
        let high = twice(&b.qh);
        [
            with_bit(four_bits(x), high, 0, 4),
            with_bit(four_bits(y), high, 1, 4),
            with_bit(four_bits(z), high, 2, 4),
            with_bit(four_bits(w), high, 3, 4),
        ]
    },
    eight(&b.scales, b.d, b.dmin)
);
block256!(
    Q6K,
    32,
    63,
    Signed,
    |b| {
        let [x, y] = cast_ref::<_, [[u8; 64]; 2]>(&b.ql);
        let [u, v] = cast_ref::<_, [[u8; 32]; 2]>(&b.qh);
        let nibble = _mm512_set1_epi8(0x0f);
        let [low, high] = [(x, u), (y, v)].map(|(ql, qh)| {
            let (ql, qh) = (load_64(ql), twice(qh));
            [
                or_masked(
                    _mm512_and_si512(ql, nibble),
                    _mm512_sllv_epi32(qh, lanes(4, 2)),
                    0x30,
                ),
                or_masked(
                    _mm512_and_si512(_mm512_srli_epi32::<4>(ql), nibble),
                    _mm512_srlv_epi32(qh, lanes(0, 2)),
                    0x30,
                ),
            ]
        });
        [low[0], low[1], high[0], high[1]]
    },
    Head {
        scales: cast(b.scales),
        mins: [0; 16],
        d: b.d.to_f32(),
        dmin: 0.0,
    }
);
block256!(
    Q8K,
    128,
    255,
    One,
    |b| {
        let parts = cast_ref::<_, [[u8; 64]; 4]>(&b.qs);
        [0, 1, 2, 3].map(|i: usize| _mm512_xor_si512(load_64(&parts[i]), _mm512_set1_epi8(-128)))
    },
    Head {
        scales: [1; 16],
        mins: [0; 16],
        d: f32::from_le_bytes(b.d),
        dmin: 0.0,
    }
);

/// The head of Q4_K and Q5_K.
#[inline(always)]
fn eight(packed: &[u8; 12], d: blocks::Half, dmin: blocks::Half) -> Head {
    let (scales, mins) = scales_and_mins(packed);
    Head {
        scales: u128::from(scales).to_le_bytes(),
        mins: u128::from(mins).to_le_bytes(),
        d: d.to_f32(),
        dmin: dmin.to_f32(),
    }
}
