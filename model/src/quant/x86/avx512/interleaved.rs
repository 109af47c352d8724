//! The product of an interleaved matrix, with the sixteen rows of a group in the elements of each vector: words of weights
//! are used as they come from memory, activations are broadcast, and nothing has to be folded at the end.
//!
//! Four columns share what is unpacked; where there are more, each block is read again for the next four. Many columns are multiplied
//! by panels ([`super::panels`]): with these, what is unpacked is unpacked once.
//!
//! One file, because it is one kernel: the formats differ only in how their blocks are unpacked and scaled.

mod few_bits;
mod k_quants;
mod tables;

pub(super) use k_quants::{Eight, less, q5k_words, q6k_words, signed_pairs};
pub(super) use tables::{iq4xs_scales, iq4xs_words};

use super::rows::dpbusd_every;
use super::unpack::{Block32, load_32, load_64};
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

/// How often four columns are multiplied by the same weights, at most.
const TIMES: usize = (super::MANY_OF_GROUPS - 1).div_ceil(4);

/// Sixteen interleaved blocks of any size. A product of theirs is made in [`Self::PARTS`] parts and an end.
pub(super) trait Interleaved: Pod {
    /// What a column of activations consists of.
    type Chunk;
    /// How many blocks have the values of a chunk.
    const BLOCKS: usize;
    /// How many parts of equal size a block is read in: about 512 bytes each.
    const PARTS: usize;
    /// The chunks of column `c`, and of all columns after it.
    fn columns(acts: &Activations, c: usize) -> &[Self::Chunk];
    /// Multiplies part `part` of these blocks by a chunk of some columns and adds that to `sum`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn part<const C: usize>(
        &self,
        part: usize,
        x: [&Self::Chunk; C],
        sum: &mut [__m512i; C],
    );
    /// Scales the sum of all parts of these blocks, number `b` of their rows, and adds that to `acc`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn end<const C: usize>(
        &self,
        b: usize,
        x: [&Self::Chunk; C],
        sum: [__m512i; C],
        acc: &mut [__m512; C],
    );
}

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul<B: Interleaved>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let blocks = product.row_blocks();
    // rows that make no group may follow the groups
    let w = product.all_blocks::<B>();
    let groups = out.rows() / GROUP;
    let apart = turns::of_each(groups);
    for i in 0..apart {
        let w = Streams::new(&w[i * blocks..], blocks, apart);
        some_groups::<B, STREAMS>(product, w, out, GROUP * i);
    }
    for i in STREAMS * apart..groups {
        let w = Streams::new(&w[i * blocks..], blocks, 1);
        some_groups::<B, 1>(product, w, out, GROUP * i);
    }
}

/// Multiplies `G` groups, of which the first begins with row `row`, by all columns.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn some_groups<B: Interleaved, const G: usize>(
    product: &Product<'_>,
    w: Streams<'_, B, G>,
    out: &mut RowTile<'_>,
    row: usize,
) {
    match out.cols() {
        1 => columns::<B, 1, G>(product, w, out, 0, row),
        2 => columns::<B, 2, G>(product, w, out, 0, row),
        _ => fours(product, w, out, row),
    }
}

/// Chunk `at` of each column.
#[inline(always)]
fn chunks_at<'a, T, const C: usize>(x: &[&'a [T]; C], at: usize) -> [&'a T; C] {
    let mut chunks = [&x[0][at]; C];
    for c in 1..C {
        chunks[c] = &x[c][at];
    }
    chunks
}

/// Multiplies `G` groups by the `C` columns that there are from `col` on, part by part by turns.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns<B: Interleaved, const C: usize, const G: usize>(
    product: &Product<'_>,
    w: Streams<'_, B, G>,
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
) {
    let (blocks, first) = (product.row_blocks(), product.first_column + col);
    let mut x = [B::columns(product.activations, first); C];
    for c in 1..C {
        x[c] = B::columns(product.activations, first + c);
    }
    let mut acc = [[_mm512_setzero_ps(); C]; G];
    for b in 0..blocks {
        let mut sum = [[_mm512_setzero_si512(); C]; G];
        let chunks = chunks_at(&x, b / B::BLOCKS);
        for part in 0..B::PARTS {
            for (g, sum) in sum.iter_mut().enumerate() {
                if col == 0 {
                    w.ask::<C>(b, G * part + g, G * B::PARTS);
                }
                // SAFETY: this function is compiled with the features that the callee needs
                unsafe { w.block(g, b).part(part, chunks, sum) };
            }
        }
        for (g, (sum, acc)) in sum.into_iter().zip(&mut acc).enumerate() {
            // SAFETY: this function is compiled with the features that the callee needs
            unsafe { w.block(g, b).end(b, chunks, sum, acc) };
        }
    }
    for (g, acc) in acc.iter().enumerate() {
        store(acc, out, col, row + w.row(g));
    }
}

/// Multiplies `G` groups by three columns or more, block by block by turns, four at a time: so many have their sums in registers beside
/// what is unpacked. If three stay behind, the last is multiplied twice, and one or two go by themselves.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fours<B: Interleaved, const G: usize>(
    product: &Product<'_>,
    w: Streams<'_, B, G>,
    out: &mut RowTile<'_>,
    row: usize,
) {
    let (blocks, last) = (product.row_blocks(), out.cols() - 1);
    let times = (out.cols() + 1) / 4;
    let mut x = [[B::columns(product.activations, product.first_column); 4]; TIMES];
    for c in 1..4 * times {
        x[c / 4][c % 4] = B::columns(product.activations, product.first_column + c.min(last));
    }
    let mut acc = [[[_mm512_setzero_ps(); 4]; TIMES]; G];
    for b in 0..blocks {
        for g in 0..G {
            let block = w.block(g, b);
            for i in 0..times {
                let mut sum = [_mm512_setzero_si512(); 4];
                let chunks = chunks_at(&x[i], b / B::BLOCKS);
                for part in 0..B::PARTS {
                    if i == 0 {
                        w.ask::<4>(b, B::PARTS * g + part, G * B::PARTS);
                    }
                    // SAFETY: this function is compiled with the features that the callee needs
                    unsafe { block.part(part, chunks, &mut sum) };
                }
                // SAFETY: this function is compiled with the features that the callee needs
                unsafe { block.end(b, chunks, sum, &mut acc[g][i]) };
            }
        }
    }
    for g in 0..G {
        let row = row + w.row(g);
        for i in 0..times {
            store(&acc[g][i], out, 4 * i, row);
        }
        match out.cols().saturating_sub(4 * times) {
            0 => {}
            1 => columns::<B, 1, 1>(product, w.only(g), out, 4 * times, row),
            _ => columns::<B, 2, 1>(product, w.only(g), out, 4 * times, row),
        }
    }
}

/// Stores the sums of a group's rows and of the columns that there are.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store<const C: usize>(acc: &[__m512; C], out: &mut RowTile<'_>, col: usize, row: usize) {
    for c in 0..C.min(out.cols() - col) {
        let mut elements = [0.0f32; GROUP];
        // SAFETY: the array has the 64 bytes that are stored
        unsafe { _mm512_storeu_ps(elements.as_mut_ptr(), acc[c]) };
        out.column(col + c)[row..][..GROUP].copy_from_slice(&elements);
    }
}

/// Four activations of a column.
type Quad = [u8; 4];

/// A column's 256 activations as eight times eight quads. Here, as everywhere in this file, loops index arrays of known
/// length: with the release profile's overflow checks, iterators and computed indices kept the loops rolled, at half the
/// speed.
#[inline(always)]
fn quads(q: &[i8; 256]) -> &[[Quad; 8]; 8] {
    cast_ref(q)
}

/// Four activations, or two sums of activations, in every lane.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn every(four: [u8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(four))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn floats(halves: &Halves) -> __m512 {
    _mm512_cvtph_ps(load_32(halves))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn and(a: __m512i, mask: u8) -> __m512i {
    _mm512_and_si512(a, _mm512_set1_epi8(mask as i8))
}

/// `a | (b & mask)`
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn or_and(a: __m512i, b: __m512i, mask: u8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask as i8))
}

/// Sixteen interleaved blocks of 32 weights.
pub(super) trait Interleaved32: Pod {
    /// The same format row by row.
    type Rows: Block32;
    /// The values of a part plus [`Block32::OFFSET`]: vector `i` has values `4 i..4 i + 4`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn quads(&self, part: usize) -> [__m512i; 8];
    /// The scales `d`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn d(&self) -> __m512;
    /// The halves `m`, if the format has them.
    #[inline(always)]
    fn m(&self) -> Option<&Halves> {
        None
    }
}

impl<B: Interleaved32> Interleaved for B {
    type Chunk = Q8Chunk;
    const BLOCKS: usize = 8 / B::Rows::PARTS;
    const PARTS: usize = 1;

    #[inline(always)]
    fn columns(acts: &Activations, c: usize) -> &[Q8Chunk] {
        acts.q8_from(c)
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn part<const C: usize>(&self, _: usize, _: [&Q8Chunk; C], _: &mut [__m512i; C]) {}

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn end<const C: usize>(
        &self,
        b: usize,
        x: [&Q8Chunk; C],
        _: [__m512i; C],
        acc: &mut [__m512; C],
    ) {
        // SAFETY: this function is compiled with the features that the callee needs
        let d = unsafe { self.d() };
        for part in 0..B::Rows::PARTS {
            let i = b % Self::BLOCKS * B::Rows::PARTS + part;
            // SAFETY: this function is compiled with the features that the callee needs
            let quads = unsafe { self.quads(part) };
            let mut sum = [_mm512_setzero_si512(); C];
            let offset = <B::Rows as Block32>::OFFSET;
            for c in 0..C {
                let offset = offset.wrapping_mul(x[c].sum[i]).wrapping_neg();
                sum[c] = _mm512_set1_epi32(offset);
            }
            for j in 0..8 {
                for c in 0..C {
                    let q = self::quads(&x[c].q);
                    sum[c] = dpbusd_every::<C>(sum[c], quads[j], &q[i][j]);
                }
            }
            for c in 0..C {
                let x = x[c];
                acc[c] = scaled(acc[c], sum[c], d, x.scale[i]);
                if let Some(m) = self.m() {
                    acc[c] = _mm512_fmadd_ps(floats(m), _mm512_set1_ps(x.scaled_sum[i]), acc[c]);
                }
            }
        }
    }
}

/// The low nibbles of all words, then the high ones.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn nibbles(qs: &[Word; 4]) -> [__m512i; 8] {
    let mut quads = [_mm512_setzero_si512(); 8];
    for i in 0..4 {
        let q = load_64(&qs[i]);
        quads[i] = and(q, 0x0f);
        quads[4 + i] = and(_mm512_srli_epi32::<4>(q), 0x0f);
    }
    quads
}

macro_rules! interleaved32 {
    ($name:ident, |$b:ident $(, $part:ident)?| $quads:expr $(, $m:ident)?) => {
        impl Interleaved32 for $name {
            type Rows = blocks::$name;
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn quads(&self, part: usize) -> [__m512i; 8] {
                let $b = self;
                let _ = part;
                $(let $part = part;)?
                $quads
            }
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn d(&self) -> __m512 {
                floats(&self.d)
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
interleaved32!(Q4_0, |b| nibbles(&b.qs));
interleaved32!(Q4_1, |b| nibbles(&b.qs), m);
interleaved32!(Q5_0, |b| {
    let mut quads = nibbles(&b.qs);
    let high = load_64(&b.qh);
    for i in 0..8 {
        // bits 4 i.. of each lane: byte i / 2 of the lane in all of its bytes, a bit tested in each
        let byte = 0x0101_0101 * (i as i32 / 2);
        let lane = _mm512_set_epi64(
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
        );
        let bytes = _mm512_shuffle_epi8(high, _mm512_add_epi8(lane, _mm512_set1_epi32(byte)));
        let bit = _mm512_set1_epi32(0x0804_0201 << (4 * (i % 2)));
        let set = _mm512_test_epi8_mask(bytes, bit);
        quads[i] = _mm512_mask_add_epi8(quads[i], set, quads[i], _mm512_set1_epi8(16));
    }
    quads
});
interleaved32!(Q8_0, |b| {
    let mut quads = [_mm512_setzero_si512(); 8];
    for i in 0..8 {
        quads[i] = _mm512_xor_si512(load_64(&b.qs[i]), _mm512_set1_epi8(-128));
    }
    quads
});

/// `acc + sum * (d * scale)`, in the order of the definition.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn scaled(acc: __m512, sum: __m512i, d: __m512, scale: f32) -> __m512 {
    _mm512_fmadd_ps(
        _mm512_cvtepi32_ps(sum),
        _mm512_mul_ps(d, _mm512_set1_ps(scale)),
        acc,
    )
}

macro_rules! interleaved256 {
    ($name:ident, $part:ident, $end:ident) => {
        impl Interleaved for $name {
            type Chunk = Q8kChunk;
            const BLOCKS: usize = 1;
            const PARTS: usize = 4;
            #[inline(always)]
            fn columns(acts: &Activations, c: usize) -> &[Q8kChunk] {
                acts.q8k_from(c)
            }
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn part<const C: usize>(
                &self,
                part: usize,
                x: [&Q8kChunk; C],
                sum: &mut [__m512i; C],
            ) {
                $part(self, part, x, sum);
            }
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn end<const C: usize>(
                &self,
                _: usize,
                x: [&Q8kChunk; C],
                sum: [__m512i; C],
                acc: &mut [__m512; C],
            ) {
                $end(self, x, sum, acc);
            }
        }
    };
}
use interleaved256;
