//! The product of an interleaved matrix, with eight of a group's sixteen rows in the elements of each vector. AVX-512's
//! kernel of the same name explains the idea.
//!
//! `vpmaddubsw` adds two products in int16, and as many words are added there as cannot overflow: eight of nibbles, four
//! of five bits, two of six bits, and one of eight bits, whose sign goes to the activations. VNNI adds all that share a scale
//! ([`Dot`]).
//!
//! One file, because it is one kernel: the formats differ only in how their blocks are unpacked and scaled.

mod affine;
mod few_bits;
mod q6_k;
mod tables;

pub(super) use affine::{Affine, Eight};
pub(super) use q6_k::{q6k_words, signed_pairs, signed_twice};
pub(super) use tables::{iq4xs_scales, iq4xs_values};

use super::dot::{Dot, run};
use super::unpack::{Block32, load_32, signs};
use crate::gguf::GROUP;
use crate::pool::RowTile;
use crate::quant::Activations;
use crate::quant::format::activations::Q8Chunk;
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Halves, Q4_0, Q4_1, Q5_0, Q8_0, Word};
use crate::quant::kernels::Product;
use crate::quant::reference::decode::Block32 as _;
use crate::quant::x86::turns::{self, STREAMS, Streams};
use bytemuck::{Pod, cast_ref};
use std::arch::x86_64::*;

/// Sixteen interleaved blocks of any size.
pub(super) trait Interleaved: Pod {
    /// What a column of activations consists of.
    type Chunk;
    /// The chunks of column `c`, and of all columns after it.
    fn columns(acts: &Activations, c: usize) -> &[Self::Chunk];
    /// How many parts of equal size a block is read in: about 512 bytes each.
    const PARTS: usize;
    /// Multiplies part `part` of half `at` of these blocks, number `b` of their rows, by some columns and adds that to `sum`.
    ///
    /// # Safety
    /// The machine has this level's features, and those of `D`.
    unsafe fn part<D: Dot, const C: usize>(
        &self,
        part: usize,
        b: usize,
        at: usize,
        x: &[&[Self::Chunk]; C],
        sum: &mut [__m256i; C],
    );
    /// Scales the sum of all parts of a half and adds that to `acc`.
    ///
    /// # Safety
    /// The machine has this level's features, and those of `D`.
    unsafe fn end<D: Dot, const C: usize>(
        &self,
        b: usize,
        at: usize,
        x: &[&[Self::Chunk]; C],
        sum: [__m256i; C],
        acc: &mut [__m256; C],
    );
}

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes.
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn matmul<B: Interleaved, D: Dot>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let (blocks, groups) = (product.row_blocks(), out.rows() / GROUP);
    // rows that make no group may follow the groups
    let w = product.all_blocks::<B>();
    let apart = turns::of_each(groups);
    for i in 0..apart {
        let w = Streams::new(&w[i * blocks..], blocks, apart);
        // SAFETY: the caller vouches for the features of `D`
        unsafe { some_groups::<B, D, STREAMS>(product, w, out, GROUP * i) };
    }
    for i in STREAMS * apart..groups {
        let w = Streams::new(&w[i * blocks..], blocks, 1);
        // SAFETY: the caller vouches for the features of `D`
        unsafe { some_groups::<B, D, 1>(product, w, out, GROUP * i) };
    }
}

/// Multiplies `G` groups, of which the first begins with row `row`, by all columns.
///
/// # Safety
/// The machine has the features of `D`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn some_groups<B: Interleaved, D: Dot, const G: usize>(
    product: &Product<'_>,
    w: Streams<'_, B, G>,
    out: &mut RowTile<'_>,
    row: usize,
) {
    let mut c = 0;
    while c < out.cols() {
        // SAFETY: the caller vouches for the features of `D`
        c += unsafe {
            match out.cols() - c {
                1 => columns::<B, D, 1, G>(product, w, out, c, row),
                2 => columns::<B, D, 2, G>(product, w, out, c, row),
                // of three one is repeated: that costs less than unpacking all again
                _ => columns::<B, D, 4, G>(product, w, out, c, row),
            }
        };
    }
}

/// Multiplies `G` groups by `C` columns, of which the last is repeated where there are fewer, part by part by turns. Returns how many
/// columns there were.
///
/// # Safety
/// The machine has the features of `D`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<B: Interleaved, D: Dot, const C: usize, const G: usize>(
    product: &Product<'_>,
    w: Streams<'_, B, G>,
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
) -> usize {
    let (blocks, last) = (product.row_blocks(), out.cols() - 1);
    let mut x = [B::columns(product.activations, product.first_column + last); C];
    for c in 0..C.min(last - col) {
        x[c] = B::columns(product.activations, product.first_column + col + c);
    }
    let mut acc = [[[_mm256_setzero_ps(); C]; 2]; G];
    for b in 0..blocks {
        let mut sum = [[[_mm256_setzero_si256(); C]; 2]; G];
        for part in 0..B::PARTS {
            for g in 0..G {
                if col == 0 {
                    w.ask::<C>(b, G * part + g, G * B::PARTS);
                }
                let block = w.block(g, b);
                for half in 0..2 {
                    // SAFETY: this function is compiled with the level's features, and the caller vouches for those of `D`
                    unsafe { block.part::<D, C>(part, b, half, &x, &mut sum[g][half]) };
                }
            }
        }
        for g in 0..G {
            for half in 0..2 {
                let block = w.block(g, b);
                // SAFETY: this function is compiled with the level's features, and the caller vouches for those of `D`
                unsafe { block.end::<D, C>(b, half, &x, sum[g][half], &mut acc[g][half]) };
            }
        }
    }
    let some = C.min(out.cols() - col);
    for (i, acc) in acc.iter().flatten().enumerate() {
        let row = row + w.row(i / 2) + 8 * (i % 2);
        for c in 0..some {
            let mut elements = [0.0f32; 8];
            // SAFETY: the array has the 32 bytes that are stored
            unsafe { _mm256_storeu_ps(elements.as_mut_ptr(), acc[c]) };
            out.column(col + c)[row..][..8].copy_from_slice(&elements);
        }
    }
    some
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
    const PARTS: usize = 1;

    #[inline(always)]
    fn columns(acts: &Activations, c: usize) -> &[Q8Chunk] {
        acts.q8_from(c)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn part<D: Dot, const C: usize>(
        &self,
        _: usize,
        _: usize,
        _: usize,
        _: &[&[Q8Chunk]; C],
        _: &mut [__m256i; C],
    ) {
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn end<D: Dot, const C: usize>(
        &self,
        b: usize,
        at: usize,
        x: &[&[Q8Chunk]; C],
        _: [__m256i; C],
        acc: &mut [__m256; C],
    ) {
        for part in 0..B::Rows::PARTS {
            let n = b * B::Rows::PARTS + part;
            let (chunk, i) = (n / 8, n % 8);
            // SAFETY: this function is compiled with the features that the callees need
            let (w, d) = unsafe { (self.quads(part, at), self.d(at)) };
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
                acc[c] = scaled(acc[c], sum, d, x.scale[i]);
                if let Some(m) = self.m() {
                    let scaled_sum = _mm256_set1_ps(x.scaled_sum[i]);
                    acc[c] = _mm256_fmadd_ps(floats(m, at), scaled_sum, acc[c]);
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

macro_rules! interleaved256 {
    ($name:ident, $part:ident, $end:ident $(, $ty:ident)?) => {
        impl Interleaved for $name {
            type Chunk = Q8kChunk;
            const PARTS: usize = 4;
            #[inline(always)]
            fn columns(acts: &Activations, c: usize) -> &[Q8kChunk] {
                acts.q8k_from(c)
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn part<D: Dot, const C: usize>(
                &self,
                part: usize,
                b: usize,
                at: usize,
                x: &[&[Q8kChunk]; C],
                sum: &mut [__m256i; C],
            ) {
                // SAFETY: the caller vouches for the features of `D`
                unsafe { $part::<$($ty,)? D, C>(self, part, at, x.map(|x| &x[b]), sum) };
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn end<D: Dot, const C: usize>(
                &self,
                b: usize,
                at: usize,
                x: &[&[Q8kChunk]; C],
                sum: [__m256i; C],
                acc: &mut [__m256; C],
            ) {
                // SAFETY: the caller vouches for the features of `D`
                unsafe { $end::<$($ty,)? D, C>(self, at, x.map(|x| &x[b]), sum, acc) };
            }
        }
    };
}
use interleaved256;
