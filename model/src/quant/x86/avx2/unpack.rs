//! From blocks to unsigned bytes, and their scales.

use crate::quant::format::blocks::{self, FP4_VALUES, IQ4_NL_VALUES};
use crate::quant::reference::decode;
use crate::quant::x86::group_scales::{Grouped, Groups};
use bytemuck::{Pod, cast_ref};
use std::arch::x86_64::*;

/// How this level unpacks a block of 32 weights.
pub(super) trait Block32: decode::Block32 {
    /// What the values have been increased by; 0 if they are signed.
    const OFFSET: i32;
    /// How many words' products may be added in int16.
    const WORDS: usize;
    /// Whether the values are signed eight-bit ones, and not unsigned ones of up to six bits.
    const SIGNED: bool;
    /// The values of two blocks, or of a part of each, plus [`Self::OFFSET`], a block in each lane of 128 bits: values 0..16,
    /// values 16..32. `first` has the first 16 bytes of each block.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn bytes(blocks: [(&Self, usize); 2], first: __m256i) -> [__m256i; 2];
    /// The scales `d` that the first two bytes of eight blocks are.
    ///
    /// # Safety
    /// The machine has this level's features.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn d(halves: __m128i) -> __m256 {
        _mm256_cvtph_ps(halves)
    }
}

/// How this level unpacks a block of 256 weights.
pub(super) trait Block256: Grouped {
    /// Whether the values are signed eight-bit ones, because two products of unsigned ones would not fit int16.
    const SIGNED: bool = Self::MAX > 127;
    /// What the values have been increased by; 0 if they are signed.
    const ADDED: i32 = if Self::SIGNED { 0 } else { Self::OFFSET };
    /// The values plus [`Self::ADDED`] in their natural order, 32 in a vector.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn bytes(&self) -> [__m256i; 8];
}

/// The weights as unsigned bytes, and the activations that they are multiplied with. Signed weights give their sign to these, which
/// are never -128; |-128| is 128 as a byte without sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn signs(signed: bool, w: __m256i, x: __m256i) -> (__m256i, __m256i) {
    if signed {
        (_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    } else {
        (w, x)
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_16(a: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are loaded
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_32(a: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are loaded
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

/// Two arrays of 16 bytes in one vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_2x16(a: &[u8; 16], b: &[u8; 16]) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load_16(a)), load_16(b))
}

/// The first 16 bytes of a block; every block has more.
#[inline(always)]
pub(super) fn first_16<B: Pod>(block: &B) -> &[u8; 16] {
    bytemuck::bytes_of(block).first_chunk().unwrap_or(&[0; 16])
}

/// The low nibbles, then the high nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(qs: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(0x0f);
    [
        _mm256_and_si256(qs, mask),
        _mm256_and_si256(_mm256_srli_epi32::<4>(qs), mask),
    ]
}

/// Adds the fifth bits, which are in bytes `at..at + 4` of each lane of `first`, one bit a value.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_fifth(q: [__m256i; 2], first: __m256i, at: i8) -> [__m256i; 2] {
    let [low, high] = bits(first, at, 16);
    [_mm256_or_si256(q[0], low), _mm256_or_si256(q[1], high)]
}

/// `set` where the bit of a value is set, and 0 where it is not. The bits are in bytes `at..at + 4` of each lane of `first`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(first: __m256i, at: i8, set: i8) -> [__m256i; 2] {
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let low = _mm_unpacklo_epi64(_mm_set1_epi8(at), _mm_set1_epi8(at + 1));
    let low = _mm256_broadcastsi128_si256(low);
    let high = _mm256_add_epi8(low, _mm256_set1_epi8(2));
    let set = _mm256_set1_epi8(set);
    let low = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(first, low), bit), bit);
    let high = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(first, high), bit), bit);
    [_mm256_and_si256(low, set), _mm256_and_si256(high, set)]
}

macro_rules! block32 {
    ($block:ident, $offset:literal, $words:literal, $signed:literal, |$a:ident, $b:ident, $first:ident| $bytes:expr) => {
        impl Block32 for blocks::$block {
            const OFFSET: i32 = $offset;
            const WORDS: usize = $words;
            const SIGNED: bool = $signed;
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn bytes(
                [($a, _), ($b, _)]: [(&Self, usize); 2],
                $first: __m256i,
            ) -> [__m256i; 2] {
                $bytes
            }
        }
    };
}
block32!(Q4_0, 8, 8, false, |a, b, _first| nibbles(load_2x16(
    &a.qs, &b.qs
)));
block32!(Q4_1, 0, 8, false, |a, b, _first| nibbles(load_2x16(
    &a.qs, &b.qs
)));
block32!(Q5_0, 16, 4, false, |a, b, first| with_fifth(
    nibbles(load_2x16(&a.qs, &b.qs)),
    first,
    2
));
block32!(Q5_1, 0, 4, false, |a, b, first| with_fifth(
    nibbles(load_2x16(&a.qs, &b.qs)),
    first,
    4
));
block32!(Q8_0, 0, 1, true, |a, b, _first| {
    let [a, c] = cast_ref::<_, [[u8; 16]; 2]>(&a.qs);
    let [b, d] = cast_ref::<_, [[u8; 16]; 2]>(&b.qs);
    [load_2x16(a, b), load_2x16(c, d)]
});
block32!(Iq4Nl, 0, 1, true, |a, b, _first| {
    let [low, high] = nibbles(load_2x16(&a.qs, &b.qs));
    [
        looked_up(&IQ4_NL_VALUES, low),
        looked_up(&IQ4_NL_VALUES, high),
    ]
});

/// The numbers of [`FP4_VALUES`], each plus 12.
pub(super) const FP4: [i8; 16] = {
    let (mut table, mut i) = (FP4_VALUES, 0);
    while i < 16 {
        table[i] += 12;
        i += 1;
    }
    table
};

impl Block32 for blocks::Mxfp4 {
    const OFFSET: i32 = 12;
    const WORDS: usize = 4;
    const SIGNED: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes([(a, _), (b, _)]: [(&Self, usize); 2], _: __m256i) -> [__m256i; 2] {
        let [low, high] = nibbles(load_2x16(&a.qs, &b.qs));
        [looked_up(&FP4, low), looked_up(&FP4, high)]
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn d(halves: __m128i) -> __m256 {
        let low = _mm_and_si128(halves, _mm_set1_epi16(0xff));
        e8m0(_mm256_cvtepu16_epi32(low))
    }
}

/// What `crate::quant::format::blocks::e8m0` makes of eight bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn e8m0(e: __m256i) -> __m256 {
    let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
    let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
    let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
    _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small))
}

impl Block32 for blocks::Nvfp4 {
    const OFFSET: i32 = 0;
    const WORDS: usize = 1;
    const SIGNED: bool = true;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes([(a, i), (b, j)]: [(&Self, usize); 2], _: __m256i) -> [__m256i; 2] {
        let mut q = [_mm256_setzero_si256(); 2];
        for group in 0..2 {
            let a = i64::from_le_bytes(a.qs[2 * i + group]);
            let b = i64::from_le_bytes(b.qs[2 * j + group]);
            // eight low nibbles, and then the high ones of the same bytes
            let nibbles = _mm256_and_si256(
                _mm256_set_epi64x(b >> 4, b, a >> 4, a),
                _mm256_set1_epi8(15),
            );
            q[group] = looked_up(&FP4_VALUES, nibbles);
        }
        q
    }
}

impl Block32 for blocks::Q1_0 {
    const OFFSET: i32 = 1;
    const WORDS: usize = 8;
    const SIGNED: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes([(a, i), (b, j)]: [(&Self, usize); 2], _: __m256i) -> [__m256i; 2] {
        let (a, b) = (i32::from_le_bytes(a.qs[i]), i32::from_le_bytes(b.qs[j]));
        bits(_mm256_set_m128i(_mm_set1_epi32(b), _mm_set1_epi32(a)), 0, 2)
    }
}

impl Block32 for blocks::Q2_0 {
    const OFFSET: i32 = 1;
    const WORDS: usize = 8;
    const SIGNED: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn bytes([(a, i), (b, j)]: [(&Self, usize); 2], _: __m256i) -> [__m256i; 2] {
        let (a, b) = (i64::from_le_bytes(a.qs[i]), i64::from_le_bytes(b.qs[j]));
        // a nibble has two values, and a byte two nibbles
        let [low, high] = nibbles(_mm256_set_epi64x(0, b, 0, a));
        let pairs = _mm256_unpacklo_epi8(low, high);
        let (low, high) = (two_bits::<0>(pairs), two_bits::<2>(pairs));
        [
            _mm256_unpacklo_epi8(low, high),
            _mm256_unpackhi_epi8(low, high),
        ]
    }
}

/// The values of a table that nibbles stand for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn looked_up(values: &[i8; 16], nibbles: __m256i) -> __m256i {
    let table = _mm256_broadcastsi128_si256(load_16(cast_ref(values)));
    _mm256_shuffle_epi8(table, nibbles)
}

/// Sixteen scales or mins as int16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn groups<B: Block256>(bytes: &[u8; 16]) -> __m256i {
    let bytes = load_16(bytes);
    match B::GROUPS {
        Groups::Eight => _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes)),
        Groups::Sixteen => _mm256_cvtepu8_epi16(bytes),
        Groups::Signed => _mm256_cvtepi8_epi16(bytes),
    }
}

/// From [`groups`] to the vectors of [`Block256::bytes`]: a group is half a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn spread(groups: __m256i) -> [__m256i; 8] {
    let low = _mm256_permute2x128_si256::<0x00>(groups, groups);
    let high = _mm256_permute2x128_si256::<0x11>(groups, groups);
    let mut spread = [_mm256_setzero_si256(); 8];
    for (i, spread) in spread.iter_mut().enumerate() {
        // bytes 4 i and 4 i + 1, then 4 i + 2 and 4 i + 3, of eight int16
        let first = 0x0100 + 0x0404 * (i % 4) as i16;
        let index = _mm256_set_m128i(_mm_set1_epi16(first + 0x0202), _mm_set1_epi16(first));
        *spread = _mm256_shuffle_epi8(if i < 4 { low } else { high }, index);
    }
    spread
}

/// Bits `shift..shift + 2` of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_bits<const SHIFT: i32>(q: __m256i) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi32::<SHIFT>(q), _mm256_set1_epi8(3))
}

/// `q` with bit `to` set where `high` has bit `from` set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_bit(q: __m256i, high: __m256i, from: i32, to: i32) -> __m256i {
    let moved = if from <= to {
        _mm256_sllv_epi32(high, _mm256_set1_epi32(to - from))
    } else {
        _mm256_srlv_epi32(high, _mm256_set1_epi32(from - to))
    };
    _mm256_or_si256(q, _mm256_and_si256(moved, _mm256_set1_epi8(1 << to)))
}

macro_rules! block256 {
    ($block:ident, |$b:ident| $bytes:expr) => {
        impl Block256 for blocks::$block {
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn bytes(&self) -> [__m256i; 8] {
                let $b = self;
                $bytes
            }
        }
    };
}

block256!(Q2K, |b| low_two(&b.qs));
block256!(Q3K, |b| {
    let (mut q, high) = (low_two(&b.qs), load_32(&b.hmask));
    for (i, q) in q.iter_mut().enumerate() {
        *q = with_bit(*q, high, i as i32, 2);
    }
    q
});
block256!(Q4K, |b| low_four(&b.qs));
block256!(Q5K, |b| {
    let (mut q, high) = (low_four(&b.qs), load_32(&b.qh));
    for (i, q) in q.iter_mut().enumerate() {
        *q = with_bit(*q, high, i as i32, 4);
    }
    q
});
block256!(Q6K, |b| {
    let ql = cast_ref::<_, [[u8; 32]; 4]>(&b.ql);
    let qh = cast_ref::<_, [[u8; 32]; 2]>(&b.qh);
    let top = _mm256_set1_epi8(0x30);
    let mut q = [_mm256_setzero_si256(); 8];
    for half in 0..2 {
        let ([a, c], [b, d]) = (
            nibbles(load_32(&ql[2 * half])),
            nibbles(load_32(&ql[2 * half + 1])),
        );
        let high = load_32(&qh[half]);
        q[4 * half] = _mm256_or_si256(a, _mm256_and_si256(_mm256_slli_epi32::<4>(high), top));
        q[4 * half + 1] = _mm256_or_si256(b, _mm256_and_si256(_mm256_slli_epi32::<2>(high), top));
        q[4 * half + 2] = _mm256_or_si256(c, _mm256_and_si256(high, top));
        q[4 * half + 3] = _mm256_or_si256(d, _mm256_and_si256(_mm256_srli_epi32::<2>(high), top));
    }
    q
});
block256!(Iq4Xs, |b| {
    let (mut q, mask) = ([_mm256_setzero_si256(); 8], _mm256_set1_epi8(0x0f));
    for (q, qs) in q.iter_mut().zip(b.qs.as_chunks().0) {
        let low = load_16(qs);
        let both = _mm256_set_m128i(_mm_srli_epi32::<4>(low), low);
        *q = looked_up(&IQ4_NL_VALUES, _mm256_and_si256(both, mask));
    }
    q
});
block256!(Tq2_0, |b| low_two(&b.qs));
block256!(Tq1_0, |b| {
    let (first, rest) = b.qs.split_at(32);
    let mut bytes = load_32(first.first_chunk().unwrap_or(&[0; 32]));
    let mut q = [_mm256_setzero_si256(); 8];
    for q in &mut q[..5] {
        *q = digit(bytes);
        bytes = thrice(bytes);
    }
    // two digits of sixteen bytes to a vector, and the fifth beside four of `qh`
    let sixteen = load_16(rest.first_chunk().unwrap_or(&[0; 16]));
    let once = _mm256_set_m128i(sixteen, sixteen);
    let mut both = _mm256_blend_epi32::<0xf0>(once, thrice(once));
    for q in &mut q[5..7] {
        *q = digit(both);
        both = thrice(thrice(both));
    }
    let once = _mm256_castsi128_si256(_mm_set1_epi32(i32::from_le_bytes(b.qh)));
    let (second, third) = (thrice(once), thrice(thrice(once)));
    let four = _mm256_blend_epi32::<0b0010>(once, second);
    let four = _mm256_blend_epi32::<0b0100>(four, third);
    let four = _mm256_blend_epi32::<0b1000>(four, thrice(third));
    q[7] = digit(_mm256_permute2x128_si256::<0x20>(both, four));
    q
});

/// The first digit of base 3 of each byte of TQ1_0: the whole part of `3 * byte / 256`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn digit(bytes: __m256i) -> __m256i {
    // 86 is the first byte with 1, and 171 the first with 2
    let reaches =
        |from: i8| _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, _mm256_set1_epi8(from)), bytes);
    let negative = _mm256_add_epi8(reaches(86), reaches(171u8 as i8));
    _mm256_sub_epi8(_mm256_setzero_si256(), negative)
}

/// Three times each byte, of which the digits after the first remain.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn thrice(bytes: __m256i) -> __m256i {
    _mm256_add_epi8(bytes, _mm256_add_epi8(bytes, bytes))
}

/// The low two bits of each value of Q2_K and Q3_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_two(qs: &[u8; 64]) -> [__m256i; 8] {
    let [a, b] = cast_ref::<_, [[u8; 32]; 2]>(qs);
    let (a, b) = (load_32(a), load_32(b));
    [
        two_bits::<0>(a),
        two_bits::<2>(a),
        two_bits::<4>(a),
        two_bits::<6>(a),
        two_bits::<0>(b),
        two_bits::<2>(b),
        two_bits::<4>(b),
        two_bits::<6>(b),
    ]
}

/// The low four bits of each value of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_four(qs: &[u8; 128]) -> [__m256i; 8] {
    let mut q = [_mm256_setzero_si256(); 8];
    for (q, qs) in q
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(cast_ref::<_, [[u8; 32]; 4]>(qs))
    {
        *q = nibbles(load_32(qs));
    }
    q
}
