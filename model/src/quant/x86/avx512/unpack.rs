//! From blocks to bytes: the values of every format as unsigned bytes in their natural order, and the scales.
//!
//! One file, because it is one table of formats: each is a few lines, made of steps that several share.

use crate::quant::format::blocks::{self, FP4_VALUES, IQ4_NL_VALUES};
use crate::quant::reference::decode;
use crate::quant::x86::group_scales::{Grouped, Groups};
use bytemuck::{Pod, cast_ref};
use std::arch::x86_64::*;

/// How this level unpacks a block of 32 weights.
pub(super) trait Block32: decode::Block32 {
    /// What the values have been increased by.
    const OFFSET: i32;
    /// The values of four blocks, or of a part of each, plus [`Self::OFFSET`], a block in each lane of 128 bits: values 0..16,
    /// values 16..32. `first` has the first 16 bytes of each block.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn bytes(blocks: [(&Self, usize); 4], first: __m512i) -> [__m512i; 2];
    /// The scales `d` that the first two bytes of sixteen blocks are.
    ///
    /// # Safety
    /// The machine has this level's features.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn d(halves: __m256i) -> __m512 {
        _mm512_cvtph_ps(halves)
    }
}

/// How this level unpacks a block of 256 weights.
pub(super) trait Block256: Grouped {
    /// The values plus [`Grouped::OFFSET`], 64 in a vector, as [`arrange`] orders them.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn bytes(&self) -> [__m512i; 4];
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_16(a: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are loaded
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_32(a: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are loaded
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_64(a: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are loaded
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn store_64(a: &mut [u8; 64], v: __m512i) {
    // SAFETY: the array has the 64 bytes that are stored
    unsafe { _mm512_storeu_si512(a.as_mut_ptr().cast(), v) };
}

/// The same 32 bytes in both halves.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn twice(a: &[u8; 32]) -> __m512i {
    _mm512_broadcast_i64x4(load_32(a))
}

/// `low` in the lower eight elements, `high` in the upper ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn elements(low: i32, high: i32) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi32(low), _mm256_set1_epi32(high))
}

/// Four arrays of 16 bytes in one vector.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn load_4x16(a: [&[u8; 16]; 4]) -> __m512i {
    let v = _mm512_castsi128_si512(load_16(a[0]));
    let v = _mm512_inserti32x4::<1>(v, load_16(a[1]));
    let v = _mm512_inserti32x4::<2>(v, load_16(a[2]));
    _mm512_inserti32x4::<3>(v, load_16(a[3]))
}

/// The first 16 bytes of a block; every block has more.
#[inline(always)]
pub(super) fn first_16<B: Pod>(block: &B) -> &[u8; 16] {
    bytemuck::bytes_of(block).first_chunk().unwrap_or(&[0; 16])
}

/// The low nibbles, then the high nibbles.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn nibbles(qs: [&[u8; 16]; 4]) -> [__m512i; 2] {
    let (qs, mask) = (load_4x16(qs), _mm512_set1_epi8(0x0f));
    [
        _mm512_and_si512(qs, mask),
        _mm512_and_si512(_mm512_srli_epi32::<4>(qs), mask),
    ]
}

/// Adds the fifth bits, which are in bytes `at..at + 4` of each lane of `first`, one bit a value.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn with_fifth(q: [__m512i; 2], first: __m512i, at: i8) -> [__m512i; 2] {
    let [low, high] = bits(first, at);
    let sixteen = _mm512_set1_epi8(16);
    [
        _mm512_mask_add_epi8(q[0], low, q[0], sixteen),
        _mm512_mask_add_epi8(q[1], high, q[1], sixteen),
    ]
}

/// Whether the bit of each value is set. The bits are in bytes `at..at + 4` of each lane of `first`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn bits(first: __m512i, at: i8) -> [__mmask64; 2] {
    let bit = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
    let (zero, one) = (_mm_set1_epi8(at), _mm_set1_epi8(at + 1));
    let low = _mm512_broadcast_i32x4(_mm_unpacklo_epi64(zero, one));
    let high = _mm512_add_epi8(low, _mm512_set1_epi8(2));
    [
        _mm512_test_epi8_mask(_mm512_shuffle_epi8(first, low), bit),
        _mm512_test_epi8_mask(_mm512_shuffle_epi8(first, high), bit),
    ]
}

macro_rules! block32 {
    ($block:ident, $offset:literal, |$x:ident, $first:ident| $bytes:expr) => {
        impl Block32 for blocks::$block {
            const OFFSET: i32 = $offset;
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn bytes($x: [(&Self, usize); 4], $first: __m512i) -> [__m512i; 2] {
                $bytes
            }
        }
    };
}
/// References to one field of four blocks.
macro_rules! four {
    ($x:ident, $field:ident) => {
        [
            &$x[0].0.$field,
            &$x[1].0.$field,
            &$x[2].0.$field,
            &$x[3].0.$field,
        ]
    };
}
block32!(Q4_0, 8, |x, _first| nibbles(four!(x, qs)));
block32!(Q4_1, 0, |x, _first| nibbles(four!(x, qs)));
block32!(Q5_0, 16, |x, first| with_fifth(
    nibbles(four!(x, qs)),
    first,
    2
));
block32!(Q5_1, 0, |x, first| with_fifth(
    nibbles(four!(x, qs)),
    first,
    4
));
block32!(Q8_0, 128, |x, _first| {
    let [a, b, c, d] = four!(x, qs);
    let [a, b, c, d] = [
        cast_halves(a),
        cast_halves(b),
        cast_halves(c),
        cast_halves(d),
    ];
    let top = _mm512_set1_epi8(-128);
    [
        _mm512_xor_si512(load_4x16([&a[0], &b[0], &c[0], &d[0]]), top),
        _mm512_xor_si512(load_4x16([&a[1], &b[1], &c[1], &d[1]]), top),
    ]
});
block32!(Iq4Nl, 128, |x, _first| {
    let q = nibbles(four!(x, qs));
    [looked_up(&IQ4, q[0]), looked_up(&IQ4, q[1])]
});

/// The values of IQ4_NL and IQ4_XS plus 128.
pub(super) const IQ4: [u8; 16] = plus(&IQ4_NL_VALUES, 128);

/// The values of MXFP4 plus 12.
pub(super) const FP4: [u8; 16] = plus(&FP4_VALUES, 12);

impl Block32 for blocks::Mxfp4 {
    const OFFSET: i32 = 12;
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bytes(x: [(&Self, usize); 4], _: __m512i) -> [__m512i; 2] {
        let q = nibbles(four!(x, qs));
        [looked_up(&FP4, q[0]), looked_up(&FP4, q[1])]
    }
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn d(halves: __m256i) -> __m512 {
        let low = _mm256_and_si256(halves, _mm256_set1_epi16(0xff));
        e8m0(_mm512_cvtepu16_epi32(low))
    }
}

/// What `crate::quant::format::blocks::e8m0` makes of sixteen bytes.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn e8m0(e: __m512i) -> __m512 {
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    let small = _mm512_set1_epi32(0x0020_0000);
    _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, is_small, small, e))
}

impl Block32 for blocks::Q1_0 {
    const OFFSET: i32 = 1;
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bytes(x: [(&Self, usize); 4], _: __m512i) -> [__m512i; 2] {
        let [a, b, c, d] = x.map(|(block, part)| i64::from(u32::from_le_bytes(block.qs[part])));
        let bytes = _mm512_set_epi64(0, d, 0, c, 0, b, 0, a);
        let [low, high] = bits(bytes, 0);
        let two = _mm512_set1_epi8(2);
        [
            _mm512_maskz_mov_epi8(low, two),
            _mm512_maskz_mov_epi8(high, two),
        ]
    }
}

impl Block32 for blocks::Q2_0 {
    const OFFSET: i32 = 1;
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn bytes(x: [(&Self, usize); 4], _: __m512i) -> [__m512i; 2] {
        let [a, b, c, d] = x.map(|(block, part)| i64::from_le_bytes(block.qs[part]));
        let bytes = _mm512_set_epi64(0, d, 0, c, 0, b, 0, a);
        // a nibble has two values, and a byte two nibbles
        let (four, two) = (_mm512_set1_epi8(15), _mm512_set1_epi8(3));
        let pairs = _mm512_unpacklo_epi8(
            _mm512_and_si512(bytes, four),
            _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), four),
        );
        let low = _mm512_and_si512(pairs, two);
        let high = _mm512_and_si512(_mm512_srli_epi32::<2>(pairs), two);
        [
            _mm512_unpacklo_epi8(low, high),
            _mm512_unpackhi_epi8(low, high),
        ]
    }
}

/// The values of a table, increased.
pub(super) const fn plus(values: &[i8; 16], offset: u8) -> [u8; 16] {
    let mut table = [0; 16];
    let mut i = 0;
    while i < 16 {
        table[i] = (values[i] as u8).wrapping_add(offset);
        i += 1;
    }
    table
}

/// The values of a table that nibbles stand for.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn looked_up(values: &[u8; 16], nibbles: __m512i) -> __m512i {
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load_16(values)), nibbles)
}

#[inline(always)]
fn cast_halves(q: &[i8; 32]) -> &[[u8; 16]; 2] {
    cast_ref(q)
}

/// From the natural order to that of [`Block256::bytes`], and back: the types with nibbles in 32 low and 32 high halves
/// have 32 values and the 32 after the next in a vector, then those between.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn arrange<B: Block256>(v: [__m512i; 4]) -> [__m512i; 4] {
    if B::GROUPS == Groups::Eight {
        [
            _mm512_shuffle_i64x2::<0x44>(v[0], v[1]),
            _mm512_shuffle_i64x2::<0xee>(v[0], v[1]),
            _mm512_shuffle_i64x2::<0x44>(v[2], v[3]),
            _mm512_shuffle_i64x2::<0xee>(v[2], v[3]),
        ]
    } else {
        v
    }
}

/// A scale for each int32 lane of the four vectors of [`Block256::bytes`]: int16 in the low half, zero in the high one.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn spread<B: Block256>(scales: &[u8; 16]) -> [__m512i; 4] {
    // a byte with its top bit set makes vpshufb write zero
    const ZEROS: i32 = 0x8080_8000_u32 as i32;
    let all = _mm512_broadcast_i32x4(load_16(scales));
    let group = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    // loops, here and elsewhere on this level: closures with its features are not inlined into `array::map`
    let mut spread = [_mm512_setzero_si512(); 4];
    for (spread, i) in spread.iter_mut().zip(0..) {
        *spread = match B::GROUPS {
            Groups::Eight => {
                let first = ZEROS + i + (i & 2);
                _mm512_shuffle_epi8(all, elements(first, first + 2))
            }
            Groups::Sixteen => {
                let index = _mm512_add_epi32(group, _mm512_set1_epi32(ZEROS + 4 * i));
                _mm512_shuffle_epi8(all, index)
            }
            Groups::Signed => {
                let all = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(load_16(scales)));
                let index = _mm512_add_epi32(group, _mm512_set1_epi32(4 * i));
                _mm512_maskz_permutexvar_epi16(0x5555_5555, index, all)
            }
        };
    }
    spread
}

/// In each lane of 128 bits the first 16 bytes of a block of Q4_K or Q5_K; the result is its eight scales, then its
/// eight mins: [`blocks::scales_and_mins`] of four blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn four_scales_and_mins(v: __m512i) -> __m512i {
    // int32 of a lane: d and dmin, a, b, c
    let ab = _mm512_shuffle_epi32::<0b10_10_01_01>(v);
    let c = _mm512_shuffle_epi32::<0b11_11_11_11>(v);
    let ab = _mm512_srlv_epi32(ab, _mm512_broadcast_i32x4(_mm_set_epi32(2, 0, 2, 0)));
    let c = _mm512_srlv_epi32(c, _mm512_broadcast_i32x4(_mm_set_epi32(4, 0, 0, 0)));
    let (six, two) = (0x3f3f_3f3f, 0x3030_3030);
    let ab = _mm512_and_si512(
        ab,
        _mm512_broadcast_i32x4(_mm_set_epi32(two, six, two, six)),
    );
    let four = _mm512_broadcast_i32x4(_mm_set_epi32(0x0f0f_0f0f, 0, 0x0f0f_0f0f, 0));
    _mm512_ternarylogic_epi32::<0xf8>(ab, c, four)
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
    }
}

/// Bits `2 s..2 s + 2` of byte `j` are value `32 s + j`: 128 values of Q2_K and Q3_K.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn two_bits(qs: &[u8; 32]) -> [__m512i; 2] {
    let (q, mask) = (twice(qs), _mm512_set1_epi8(3));
    [
        _mm512_and_si512(_mm512_srlv_epi32(q, elements(0, 2)), mask),
        _mm512_and_si512(_mm512_srlv_epi32(q, elements(4, 6)), mask),
    ]
}

/// The nibbles of Q4_K and Q5_K, 64 in a vector.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn four_bits(qs: &[u8; 128]) -> [__m512i; 4] {
    let mask = _mm512_set1_epi8(0x0f);
    let [a, b] = cast_ref::<_, [[u8; 64]; 2]>(qs);
    let (a, b) = (load_64(a), load_64(b));
    [
        _mm512_and_si512(a, mask),
        _mm512_and_si512(_mm512_srli_epi32::<4>(a), mask),
        _mm512_and_si512(b, mask),
        _mm512_and_si512(_mm512_srli_epi32::<4>(b), mask),
    ]
}

/// `q` with bit `to` set: in the lower 32 bytes where bit `low` of `high` is set, in the upper ones where bit `up` is.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn with_bit(q: __m512i, high: __m512i, low: i32, up: i32, to: i32) -> __m512i {
    let moved = if low <= to && up <= to {
        _mm512_sllv_epi32(high, elements(to - low, to - up))
    } else {
        _mm512_srlv_epi32(high, elements(low - to, up - to))
    };
    or_masked(q, moved, 1 << to)
}

/// `a | (b & mask)`, one instruction.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn or_masked(a: __m512i, b: __m512i, mask: i8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask))
}

macro_rules! block256 {
    ($block:ident, |$b:ident| $bytes:expr) => {
        impl Block256 for blocks::$block {
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn bytes(&self) -> [__m512i; 4] {
                let $b = self;
                $bytes
            }
        }
    };
}

block256!(Q2K, |b| {
    let [x, y] = cast_ref::<_, [[u8; 32]; 2]>(&b.qs);
    let ([p, q], [r, s]) = (two_bits(x), two_bits(y));
    [p, q, r, s]
});
block256!(Q3K, |b| {
    let [x, y] = cast_ref::<_, [[u8; 32]; 2]>(&b.qs);
    let ([p, q], [r, s]) = (two_bits(x), two_bits(y));
    let high = twice(&b.hmask);
    [
        with_bit(p, high, 0, 1, 2),
        with_bit(q, high, 2, 3, 2),
        with_bit(r, high, 4, 5, 2),
        with_bit(s, high, 6, 7, 2),
    ]
});
block256!(Q4K, |b| four_bits(&b.qs));
block256!(Q5K, |b| {
    let [x, y, z, w] = four_bits(&b.qs);
    let high = twice(&b.qh);
    [
        with_bit(x, high, 0, 2, 4),
        with_bit(y, high, 1, 3, 4),
        with_bit(z, high, 4, 6, 4),
        with_bit(w, high, 5, 7, 4),
    ]
});
block256!(Q6K, |b| {
    let [x, y] = cast_ref::<_, [[u8; 64]; 2]>(&b.ql);
    let [u, v] = cast_ref::<_, [[u8; 32]; 2]>(&b.qh);
    let nibble = _mm512_set1_epi8(0x0f);
    let mut q = [_mm512_setzero_si512(); 4];
    for (q, (ql, qh)) in q.as_chunks_mut::<2>().0.iter_mut().zip([(x, u), (y, v)]) {
        let (ql, qh) = (load_64(ql), twice(qh));
        let low = _mm512_and_si512(ql, nibble);
        let high = _mm512_and_si512(_mm512_srli_epi32::<4>(ql), nibble);
        q[0] = or_masked(low, _mm512_sllv_epi32(qh, elements(4, 2)), 0x30);
        q[1] = or_masked(high, _mm512_srlv_epi32(qh, elements(0, 2)), 0x30);
    }
    q
});
block256!(Tq2_0, |b| {
    let [x, y] = cast_ref::<_, [[u8; 32]; 2]>(&b.qs);
    let ([p, q], [r, s]) = (two_bits(x), two_bits(y));
    [p, q, r, s]
});
block256!(Tq1_0, |b| {
    let (first, rest) = b.qs.split_at(32);
    let once = twice(first.first_chunk().unwrap_or(&[0; 32]));
    // digits 0 and 1, then 2 and 3, of 32 bytes
    let two = _mm512_mask_mov_epi64(once, 0xf0, thrice(once));
    let four = thrice(thrice(two));
    // digits 4 of these, 0 and 1 of the next sixteen bytes
    let sixteen = _mm512_broadcast_i32x4(load_16(rest.first_chunk().unwrap_or(&[0; 16])));
    let fifth = thrice(thrice(four));
    let next = _mm512_mask_mov_epi64(sixteen, 0xc0, thrice(sixteen));
    let middle = _mm512_mask_mov_epi64(next, 0x0f, fifth);
    // digits 2, 3 and 4 of the sixteen, and four digits of `qh`
    let [third, fourth] = [thrice(thrice(sixteen)), thrice(thrice(thrice(sixteen)))];
    let last = _mm512_mask_mov_epi64(third, 0x0c, fourth);
    let last = _mm512_mask_mov_epi64(last, 0x30, thrice(fourth));
    let qh = _mm512_set1_epi32(i32::from_le_bytes(b.qh));
    let [second, third] = [thrice(qh), thrice(thrice(qh))];
    let qh = _mm512_mask_mov_epi32(qh, 0x2000, second);
    let qh = _mm512_mask_mov_epi32(qh, 0x4000, third);
    let qh = _mm512_mask_mov_epi32(qh, 0x8000, thrice(third));
    let last = _mm512_mask_mov_epi64(last, 0xc0, qh);
    [digit(two), digit(four), digit(middle), digit(last)]
});

/// The first digit of base 3 of each byte of TQ1_0: the whole part of `3 * byte / 256`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn digit(bytes: __m512i) -> __m512i {
    // 86 is the first byte with 1, and 171 the first with 2
    let one = _mm512_set1_epi8(1);
    let reaches = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(86));
    let both = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(171u8 as i8));
    let digit = _mm512_maskz_mov_epi8(reaches, one);
    _mm512_mask_add_epi8(digit, both, digit, one)
}

/// Three times each byte, of which the digits after the first remain.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn thrice(bytes: __m512i) -> __m512i {
    _mm512_add_epi8(bytes, _mm512_add_epi8(bytes, bytes))
}

block256!(Iq4Xs, |b| {
    let (mut q, mask) = ([_mm512_setzero_si512(); 4], _mm512_set1_epi8(0x0f));
    for (q, two) in q.iter_mut().zip(b.qs.as_chunks().0) {
        // 16 bytes twice, the second time for their high nibbles, and the 16 after them
        let index = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
        let twice = _mm512_permutexvar_epi64(index, _mm512_castsi256_si512(load_32(two)));
        let shift = _mm512_set_epi64(FOURS, FOURS, 0, 0, FOURS, FOURS, 0, 0);
        let nibbles = _mm512_and_si512(_mm512_srlv_epi32(twice, shift), mask);
        *q = looked_up(&IQ4, nibbles);
    }
    q
});

/// A shift by four of both halves of 64 bits.
const FOURS: i64 = 0x0000_0004_0000_0004;
