//! The product of an interleaved matrix, with eight of a group's sixteen rows in the elements of each vector. AVX-512's
//! kernel of the same name explains the idea.
//!
//! `vpmaddubsw` adds two products in int16, and as many words are added there as cannot overflow: eight of nibbles, four
//! of five bits, two of six bits, and one of eight bits, whose sign goes to the activations. VNNI adds all that share a scale
//! ([`Dot`]).
//!
//! One file, because it is one kernel: the formats differ only in how their blocks are unpacked and scaled.

mod few_bits;
mod q6_k;
mod tables;

pub(super) use q6_k::{q6k_words, signed_pairs, signed_twice};
pub(super) use tables::{iq4xs_scales, iq4xs_values};

use super::dot::{Dot, run};
use super::unpack::{Block32, load_32, signs};
use crate::gguf::GROUP;
use crate::pool::RowTile;
use crate::quant::Activations;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Halves, Q4_0, Q4_1, Q4K, Q5_0, Q5K, Q8_0, Word};
use crate::quant::kernels::Product;
use crate::quant::reference::decode::Block32 as _;
use bytemuck::{Pod, cast_ref};
use std::arch::x86_64::*;

/// Sixteen interleaved blocks of any size.
pub(super) trait Interleaved: Pod {
    /// What a column of activations consists of.
    type Chunk;
    /// The chunks of column `c`, and of all columns after it.
    fn columns(acts: &Activations, c: usize) -> &[Self::Chunk];
    /// Multiplies halves `at..at + V` of these blocks, number `b` of their rows, by some columns and adds that to `acc`.
    ///
    /// # Safety
    /// The machine has this level's features, and those of `D`.
    unsafe fn add<D: Dot, const V: usize, const C: usize>(
        &self,
        b: usize,
        at: usize,
        x: &[&[Self::Chunk]; C],
        acc: &mut [[__m256; C]; V],
    );
}

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes.
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn matmul<B: Interleaved, D: Dot>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let (acts, col0) = (product.activations, product.first_column);
    let groups = product
        .weights
        .chunks_exact(product.row_blocks() * size_of::<B>());
    for (i, w) in groups.take(out.rows() / GROUP).enumerate() {
        let (w, row) = (bytemuck::cast_slice::<u8, B>(w), GROUP * i);
        let mut c = 0;
        while c < out.cols() {
            let x = |i: usize| B::columns(acts, col0 + c + i);
            // SAFETY: the caller vouches for the features of `D`
            c += unsafe {
                match out.cols() - c {
                    1 => columns::<B, D, 2, 1>(w, [x(0)], out, c, row),
                    2 | 3 => columns::<B, D, 1, 2>(w, [x(0), x(1)], out, c, row),
                    _ => columns::<B, D, 1, 4>(w, [x(0), x(1), x(2), x(3)], out, c, row),
                }
            };
        }
    }
}

/// Multiplies one group by some columns, `V` halves at a time, and returns how many columns that were.
///
/// # Safety
/// The machine has the features of `D`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<B: Interleaved, D: Dot, const V: usize, const C: usize>(
    w: &[B],
    x: [&[B::Chunk]; C],
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
) -> usize {
    for at in (0..2).step_by(V) {
        let mut acc = [[_mm256_setzero_ps(); C]; V];
        for (b, block) in w.iter().enumerate() {
            // SAFETY: this function is compiled with the level's features, and the caller vouches for those of `D`
            unsafe { block.add::<D, V, C>(b, at, &x, &mut acc) };
        }
        for v in 0..V {
            for c in 0..C {
                let mut elements = [0.0f32; 8];
                // SAFETY: the array has the 32 bytes that are stored
                unsafe { _mm256_storeu_ps(elements.as_mut_ptr(), acc[v][c]) };
                out.column(col + c)[row + 8 * (at + v)..][..8].copy_from_slice(&elements);
            }
        }
    }
    C
}

/// A column's 256 activations as eight times eight quads of four.
#[inline(always)]
fn quads(q: &[i8; 256]) -> &[[[u8; 4]; 8]; 8] {
    cast_ref(q)
}

/// Four activations, or two sums of activations, in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn every(four: [u8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(four))
}

/// Half `at` of a word: rows `8 at..8 at + 8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half(word: &Word, at: usize) -> __m256i {
    load_32(&cast_ref::<Word, [[u8; 32]; 2]>(word)[at])
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn floats(halves: &Halves, at: usize) -> __m256 {
    let halves = u128::from_le_bytes(cast_ref::<Halves, [[u8; 16]; 2]>(halves)[at]);
    _mm256_cvtph_ps(_mm_set_epi64x((halves >> 64) as i64, halves as i64))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn and(a: __m256i, mask: u8) -> __m256i {
    _mm256_and_si256(a, _mm256_set1_epi8(mask as i8))
}

/// `acc + sum * (d * scale)`, in the order of the definition.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled(acc: __m256, sum: __m256i, d: __m256, scale: f32) -> __m256 {
    let d = _mm256_mul_ps(d, _mm256_set1_ps(scale));
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), d, acc)
}

/// Sixteen interleaved blocks of 32 weights.
pub(super) trait Interleaved32: Pod {
    /// The same format row by row.
    type Rows: Block32;
    /// The values of half `at` of a part plus [`Block32::OFFSET`]: vector `i` has values `4 i..4 i + 4`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn quads(&self, part: usize, at: usize) -> [__m256i; 8];
    /// The scales `d` of half `at`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn d(&self, at: usize) -> __m256;
    /// The halves `m`, if the format has them.
    #[inline(always)]
    fn m(&self) -> Option<&Halves> {
        None
    }
}

impl<B: Interleaved32> Interleaved for B {
    type Chunk = Q8Chunk;

    #[inline(always)]
    fn columns(acts: &Activations, c: usize) -> &[Q8Chunk] {
        acts.q8_from(c)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add<D: Dot, const V: usize, const C: usize>(
        &self,
        b: usize,
        at: usize,
        x: &[&[Q8Chunk]; C],
        acc: &mut [[__m256; C]; V],
    ) {
        for part in 0..B::Rows::PARTS {
            let n = b * B::Rows::PARTS + part;
            let (chunk, i) = (n / 8, n % 8);
            for v in 0..V {
                // SAFETY: this function is compiled with the features that the callees need
                let (w, d) = unsafe { (self.quads(part, at + v), self.d(at + v)) };
                for c in 0..C {
                    let x = &x[c][chunk];
                    let q = &quads(&x.q)[i];
                    let offset = B::Rows::OFFSET.wrapping_mul(x.sum[i]).wrapping_neg();
                    let mut sum = _mm256_set1_epi32(offset);
                    let mut some = _mm256_setzero_si256();
                    for j in 0..8 {
                        let (w, x) = signs(B::Rows::SIGNED, w[j], every(q[j]));
                        // SAFETY: the caller vouches for the features of `D`
                        some = unsafe { D::more(some, w, x) };
                        if (j + 1) % run::<D>(B::Rows::WORDS, 8) == 0 {
                            // SAFETY: the caller vouches for the features of `D`
                            sum = unsafe { D::whole(sum, some) };
                            some = _mm256_setzero_si256();
                        }
                    }
                    acc[v][c] = scaled(acc[v][c], sum, d, x.scale[i]);
                    if let Some(m) = self.m() {
                        let scaled_sum = _mm256_set1_ps(x.scaled_sum[i]);
                        acc[v][c] = _mm256_fmadd_ps(floats(m, at + v), scaled_sum, acc[v][c]);
                    }
                }
            }
        }
    }
}

/// The low nibbles of all words, then the high ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(qs: &[Word; 4], at: usize) -> [__m256i; 8] {
    let mut quads = [_mm256_setzero_si256(); 8];
    for i in 0..4 {
        let q = half(&qs[i], at);
        quads[i] = and(q, 0x0f);
        quads[4 + i] = and(_mm256_srli_epi16::<4>(q), 0x0f);
    }
    quads
}

macro_rules! interleaved32 {
    ($name:ident, |$b:ident, $at:ident $(, $part:ident)?| $quads:expr $(, $m:ident)?) => {
        impl Interleaved32 for $name {
            type Rows = blocks::$name;
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn quads(&self, part: usize, $at: usize) -> [__m256i; 8] {
                let $b = self;
                let _ = part;
                $(let $part = part;)?
                $quads
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn d(&self, at: usize) -> __m256 {
                floats(&self.d, at)
            }
            $(
                #[inline(always)]
                fn m(&self) -> Option<&Halves> {
                    Some(&self.$m)
                }
            )?
        }
    };
}
use interleaved32;
interleaved32!(Q4_0, |b, at| nibbles(&b.qs, at));
interleaved32!(Q4_1, |b, at| nibbles(&b.qs, at), m);
interleaved32!(Q5_0, |b, at| {
    let mut quads = nibbles(&b.qs, at);
    let high = half(&b.qh, at);
    for i in 0..8 {
        // bits 4 i.. of each lane: byte i / 2 of the lane in all of its bytes, a bit tested in each
        let byte = i as i32 / 2 * 0x0101_0101;
        let lane = _mm256_set_epi64x(
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
        );
        let bytes = _mm256_shuffle_epi8(high, _mm256_add_epi8(lane, _mm256_set1_epi32(byte)));
        let bit = _mm256_set1_epi32((0x0804_0201_u32 << (4 * (i % 2))) as i32);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
        quads[i] = _mm256_or_si256(quads[i], and(set, 16));
    }
    quads
});
interleaved32!(Q8_0, |b, at| {
    let mut quads = [_mm256_setzero_si256(); 8];
    for i in 0..8 {
        quads[i] = half(&b.qs[i], at);
    }
    quads
});

/// Two bytes of each lane as a pair of int16: bytes 0 and 1, or 2 and 3 if `high`. `above` puts each byte above a zero
/// byte instead of below one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_bytes(elements: __m256i, high: bool, above: bool) -> __m256i {
    let at = _mm256_broadcastsi128_si256(_mm_set_epi32(
        0x800d_800c_u32 as i32,
        0x8009_8008_u32 as i32,
        0x8005_8004_u32 as i32,
        0x8001_8000_u32 as i32,
    ));
    let at = if high {
        _mm256_or_si256(at, _mm256_set1_epi16(2))
    } else {
        at
    };
    // a byte moved to the upper half of its int16
    let at = if above {
        _mm256_or_si256(_mm256_slli_epi16::<8>(at), _mm256_set1_epi16(0x0080))
    } else {
        at
    };
    _mm256_shuffle_epi8(elements, at)
}

/// Byte `i` of each lane in both of its int16, above a zero byte if `above` and below one otherwise.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn byte_twice(elements: __m256i, i: usize, above: bool) -> __m256i {
    let at = _mm256_broadcastsi128_si256(_mm_set_epi32(
        0x800c_800c_u32 as i32,
        0x8008_8008_u32 as i32,
        0x8004_8004_u32 as i32,
        0x8000_8000_u32 as i32,
    ));
    let at = _mm256_add_epi16(at, _mm256_set1_epi16(i as i16));
    let at = if above {
        _mm256_or_si256(_mm256_slli_epi16::<8>(at), _mm256_set1_epi16(0x0080))
    } else {
        at
    };
    _mm256_shuffle_epi8(elements, at)
}

/// What Q4_K and Q5_K have in common: unsigned values with a scale and a min for every 32.
pub(super) trait Affine: Pod {
    /// How many words' products may be added in int16.
    const WORDS: usize;
    fn scales(&self) -> &[Word; 3];
    /// Word `j` of values `64 i..64 i + 32`, and of the 32 values after them, in half `at`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn values(&self, i: usize, j: usize, at: usize) -> (__m256i, __m256i);
    /// The halves `d` and `dmin`.
    fn halves(&self) -> (&Halves, &Halves);
}

macro_rules! affine {
    ($name:ident, $words:literal, |$b:ident, $i:ident, $j:ident, $at:ident| $values:expr) => {
        impl Affine for $name {
            const WORDS: usize = $words;
            #[inline(always)]
            fn scales(&self) -> &[Word; 3] {
                &self.scales
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn values(&self, $i: usize, $j: usize, $at: usize) -> (__m256i, __m256i) {
                let $b = self;
                $values
            }
            #[inline(always)]
            fn halves(&self) -> (&Halves, &Halves) {
                (&self.d, &self.dmin)
            }
        }
    };
}
affine!(Q4K, 8, |b, i, j, at| {
    let q = half(&b.qs[i][j], at);
    (and(q, 0x0f), and(_mm256_srli_epi16::<4>(q), 0x0f))
});
affine!(Q5K, 4, |b, i, j, at| {
    let (q, fifth) = (half(&b.qs[i][j], at), half(&b.qh[j], at));
    // bit 2 i, or 2 i + 1, goes to bit 4
    let first = _mm256_srl_epi16(fifth, _mm_cvtsi32_si128(2 * i as i32));
    let second = _mm256_srl_epi16(fifth, _mm_cvtsi32_si128(2 * i as i32 + 1));
    let fifth = |bits| _mm256_slli_epi16::<4>(and(bits, 1));
    (
        _mm256_or_si256(and(q, 0x0f), fifth(first)),
        _mm256_or_si256(and(_mm256_srli_epi16::<4>(q), 0x0f), fifth(second)),
    )
});

/// The scales and mins of eight groups of 32 weights, for eight rows.
pub(super) struct Eight {
    /// One byte per group in each element: groups 0..4 in the first vector, groups 4..8 in the second.
    scales: [__m256i; 2],
    /// The mins, laid out like the scales.
    mins: [__m256i; 2],
}

impl Eight {
    /// What `crate::quant::format::blocks::scales_and_mins` unpacks, for the rows of half `at`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn read(packed: &[Word; 3], at: usize) -> Self {
        let [a, b, c] = packed;
        let (a, b, c) = (half(a, at), half(b, at), half(c, at));
        let top = |v| and(_mm256_srli_epi16::<2>(v), 0x30);
        let c_high = and(_mm256_srli_epi16::<4>(c), 0x0f);
        Self {
            scales: [and(a, 0x3f), _mm256_or_si256(and(c, 0x0f), top(a))],
            mins: [and(b, 0x3f), _mm256_or_si256(c_high, top(b))],
        }
    }

    /// The scale of group `g` in both int16 of each element.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn scale(&self, g: usize) -> __m256i {
        byte_twice(self.scales[g / 4], g % 4, false)
    }

    /// The mins of groups `2 i` and `2 i + 1` as two int16 of each element.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn min_pairs(&self) -> [__m256i; 4] {
        [
            two_bytes(self.mins[0], false, false),
            two_bytes(self.mins[0], true, false),
            two_bytes(self.mins[1], false, false),
            two_bytes(self.mins[1], true, false),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn affine<B: Affine, D: Dot, const V: usize, const C: usize>(
    block: &B,
    at: usize,
    x: [&Q8kChunk; C],
    acc: &mut [[__m256; C]; V],
) {
    for v in 0..V {
        let groups = Eight::read(block.scales(), at + v);
        let mut sum = [_mm256_setzero_si256(); C];
        for i in 0..4 {
            let (first, second) = (groups.scale(2 * i), groups.scale(2 * i + 1));
            let (mut low, mut high) = ([_mm256_setzero_si256(); C], [_mm256_setzero_si256(); C]);
            for j in 0..8 {
                // SAFETY: this function is compiled with the features that the callee needs
                let (a, b) = unsafe { block.values(i, j, at + v) };
                for c in 0..C {
                    let q = quads(&x[c].q);
                    // SAFETY: the caller vouches for the features of `D`
                    unsafe {
                        low[c] = D::more(low[c], a, every(q[2 * i][j]));
                        high[c] = D::more(high[c], b, every(q[2 * i + 1][j]));
                    }
                    if (j + 1) % run::<D>(B::WORDS, 8) == 0 {
                        // SAFETY: the caller vouches for the features of `D`
                        unsafe {
                            sum[c] = D::scaled(sum[c], low[c], first);
                            sum[c] = D::scaled(sum[c], high[c], second);
                        }
                        low[c] = _mm256_setzero_si256();
                        high[c] = _mm256_setzero_si256();
                    }
                }
            }
        }
        let mins = groups.min_pairs();
        let (d, dmin) = block.halves();
        let (d, dmin) = (floats(d, at + v), floats(dmin, at + v));
        for c in 0..C {
            let sums: &[[u8; 4]; 4] = cast_ref(&x[c].sums32);
            let mut min_sum = _mm256_setzero_si256();
            for i in 0..4 {
                // SAFETY: the caller vouches for the features of `D`
                min_sum = unsafe { D::pairs(min_sum, mins[i], every(sums[i])) };
            }
            acc[v][c] = scaled(acc[v][c], sum[c], d, x[c].scale);
            let dmin = _mm256_mul_ps(dmin, _mm256_set1_ps(x[c].scale));
            acc[v][c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(min_sum), dmin, acc[v][c]);
        }
    }
}

macro_rules! interleaved256 {
    ($name:ident, $add:ident $(::<$ty:ident>)?) => {
        impl Interleaved for $name {
            type Chunk = Q8kChunk;
            #[inline(always)]
            fn columns(acts: &Activations, c: usize) -> &[Q8kChunk] {
                acts.q8k_from(c)
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn add<D: Dot, const V: usize, const C: usize>(
                &self,
                b: usize,
                at: usize,
                x: &[&[Q8kChunk]; C],
                acc: &mut [[__m256; C]; V],
            ) {
                // SAFETY: the caller vouches for the features of `D`
                unsafe { $add::<$($ty,)? D, V, C>(self, at, x.map(|x| &x[b]), acc) };
            }
        }
    };
}
use interleaved256;
interleaved256!(Q4K, affine::<Q4K>);
interleaved256!(Q5K, affine::<Q5K>);
