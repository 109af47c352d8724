//! The product of an interleaved matrix, with the sixteen rows of a group in the elements of each vector: words of weights
//! are used as they come from memory, activations are broadcast, and nothing has to be folded at the end.
//!
//! Up to eight columns share what is unpacked. For more columns the kernel goes over the same part of a group again, which is
//! in L1 by then. So the same code serves decode, where memory is the limit, and prefill, where `vpdpbusd` is. A panel
//! ([`super::gemm`]) would be no gain here: on Zen 4 `vpdpbusd`, `vpmulld`, `vpdpwssd` and floats wait for two ports, and
//! masks and shifts go to the others. By 256 weights, a vector of rows and one column of Q4_K those are 64 `vpdpbusd`, 8
//! `vpmulld` for the scales, 4 `vpdpwssd` for the mins and 4 of floats: 80 for 64, so that 80 % of a bare loop of `vpdpbusd`
//! is the most, and 75 % is reached.
//!
//! One file, because it is one kernel: the formats differ only in how their blocks are unpacked and scaled.

mod few_bits;
mod k_quants;
mod tables;

use super::unpack::{load_32, load_64};
use crate::gguf::GROUP;
use crate::pool::RowTile;
use crate::quant::Activations;
use crate::quant::format::activations::Q8Chunk;
use crate::quant::format::interleaved::{Halves, Q4_0, Q4_1, Q5_0, Q8_0, Word};
use crate::quant::format::kinds::match_interleaved;
use crate::quant::kernels::Product;
use crate::quant::x86::panel;
use crate::quant::x86::turns::{self, STREAMS, by_turns};
use bytemuck::{Pod, cast_ref};
use std::arch::x86_64::*;
use std::ops::Range;

/// Sixteen interleaved blocks of any size. A product of theirs is made in [`Self::PARTS`] parts and an end.
trait Interleaved: Pod {
    /// What a column of activations consists of.
    type Chunk;
    /// How many parts of equal size a block is read in: about 512 bytes each.
    const PARTS: usize;
    /// The chunks of column `c`.
    fn column(acts: &Activations, c: usize) -> &[Self::Chunk];
    /// Multiplies part `part` of these blocks, number `b` of their rows, by some columns and adds that to `sum`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn part<const C: usize>(
        &self,
        part: usize,
        b: usize,
        x: &[&[Self::Chunk]; C],
        sum: &mut [__m512i; C],
    );
    /// Scales the sum of all parts and adds that to `acc`.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn end<const C: usize>(
        &self,
        b: usize,
        x: &[&[Self::Chunk]; C],
        sum: [__m512i; C],
        acc: &mut [__m512; C],
    );
}

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul(product: &Product<'_>, out: &mut RowTile<'_>) {
    match_interleaved!(product.ty, |B| groups::<B>(product, out));
}

#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn groups<B: Interleaved>(product: &Product<'_>, out: &mut RowTile<'_>) {
    let blocks = product.row_blocks();
    // rows that make no group may follow the groups
    let whole = product.weights.len() / size_of::<B>() * size_of::<B>();
    let w = bytemuck::cast_slice::<u8, B>(&product.weights[..whole]);
    let (mut i, groups) = (0, out.rows() / GROUP);
    while i < groups {
        let (w, row) = (&w[i * blocks..], GROUP * i);
        i += match out.cols() {
            ..=8 if groups - i >= STREAMS && by_turns() => {
                few_columns::<B, STREAMS>(product, w, out, row)
            }
            ..=8 => few_columns::<B, 1>(product, w, out, row),
            _ => many_columns(product, w, out, row),
        };
    }
}

/// Multiplies `G` groups by all columns, of which there are at most eight, and returns how many groups that were.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn few_columns<B: Interleaved, const G: usize>(
    product: &Product<'_>,
    w: &[B],
    out: &mut RowTile<'_>,
    row: usize,
) -> usize {
    let x = |c: usize| B::column(product.activations, product.first_column + c);
    let (blocks, mut c) = (product.row_blocks(), 0);
    while c < out.cols() {
        c += match out.cols() - c {
            1 => streams::<B, 1, G>(w, blocks, [x(c)], out, c, row),
            2 | 3 => streams::<B, 2, G>(w, blocks, [x(c), x(c + 1)], out, c, row),
            4..8 => {
                let x = [x(c), x(c + 1), x(c + 2), x(c + 3)];
                streams::<B, 4, G>(w, blocks, x, out, c, row)
            }
            _ => streams::<B, 8, G>(w, blocks, eight(x, c), out, c, row),
        };
    }
    G
}

/// Multiplies one group by many columns, a part of its rows by all of them before the next part, and returns 1.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn many_columns<B: Interleaved>(
    product: &Product<'_>,
    w: &[B],
    out: &mut RowTile<'_>,
    row: usize,
) -> usize {
    let x = |c: usize| B::column(product.activations, product.first_column + c);
    let (blocks, depth) = (product.row_blocks(), DEPTH / product.ty.block_len());
    for first in (0..blocks).step_by(depth) {
        let part = first..blocks.min(first + depth);
        // with so much to do for each block, no prefetcher of the processor follows
        let next = &w[part.end..w.len().min(part.end + depth)];
        let mut c = 0;
        while c < out.cols() {
            let (part, cols) = (part.clone(), (out.cols() - c).min(8));
            let next = &next[next.len() * c / out.cols()..next.len() * (c + cols) / out.cols()];
            c += match cols {
                1 => columns(w, part, next, [x(c)], out, c, row),
                2 | 3 => columns(w, part, next, [x(c), x(c + 1)], out, c, row),
                4..8 => {
                    let x = [x(c), x(c + 1), x(c + 2), x(c + 3)];
                    columns(w, part, next, x, out, c, row)
                }
                _ => columns(w, part, next, eight(x, c), out, c, row),
            };
        }
    }
    1
}

/// Eight columns of activations from `c` on.
#[inline(always)]
fn eight<'a, T>(x: impl Fn(usize) -> &'a [T], c: usize) -> [&'a [T]; 8] {
    [0, 1, 2, 3, 4, 5, 6, 7].map(|i| x(c + i))
}

/// Multiplies `G` groups of `blocks` blocks each by some columns, part by part by turns, and returns how many columns that were.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn streams<B: Interleaved, const C: usize, const G: usize>(
    w: &[B],
    blocks: usize,
    x: [&[B::Chunk]; C],
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
) -> usize {
    let mut acc = [[_mm512_setzero_ps(); C]; G];
    for b in 0..blocks {
        let mut sum = [[_mm512_setzero_si512(); C]; G];
        let ahead = turns::ahead::<B, G>(b, blocks);
        for part in 0..B::PARTS {
            for (g, sum) in sum.iter_mut().enumerate() {
                let at = g * blocks + b;
                if col == 0 {
                    turns::ask_part(w.get(at + ahead), part, B::PARTS);
                }
                // SAFETY: this function is compiled with the features that the callee needs
                unsafe { w[at].part(part, b, &x, sum) };
            }
        }
        for (g, (sum, acc)) in sum.into_iter().zip(&mut acc).enumerate() {
            // SAFETY: this function is compiled with the features that the callee needs
            unsafe { w[g * blocks + b].end(b, &x, sum, acc) };
        }
    }
    for (g, acc) in acc.iter().enumerate() {
        store(acc, out, col, row + GROUP * g);
    }
    C
}

/// Values of a row that are multiplied by all columns before the next ones are: with sixteen rows of them (18 KB of Q4_K) and
/// eight columns of activations L1 is full. Rows of 8,960 values went from 153 to 172 GMAC/s at 64 columns
/// (Q4_K, Zen 4).
const DEPTH: usize = 2048;

/// Multiplies blocks `part` of one group by some columns, adds that to what the blocks before them gave, and asks for blocks
/// `next` meanwhile. Returns how many columns that were.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns<B: Interleaved, const C: usize>(
    w: &[B],
    part: Range<usize>,
    next: &[B],
    x: [&[B::Chunk]; C],
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
) -> usize {
    let mut acc = [_mm512_setzero_ps(); C];
    let first = part.start;
    if first > 0 {
        for c in 0..C {
            let mut elements = [0.0f32; GROUP];
            elements.copy_from_slice(&out.column(col + c)[row..][..GROUP]);
            acc[c] = _mm512_castsi512_ps(load_64(cast_ref(&elements)));
        }
    }
    let next = bytemuck::cast_slice::<B, u8>(next);
    let mut next = next.chunks(next.len().div_ceil(part.len()).max(1));
    for (b, block) in w[part].iter().enumerate() {
        panel::ask::<_MM_HINT_T1>(next.next().unwrap_or_default());
        let mut sum = [_mm512_setzero_si512(); C];
        for part in 0..B::PARTS {
            // SAFETY: this function is compiled with the features that the callee needs
            unsafe { block.part(part, first + b, &x, &mut sum) };
        }
        // SAFETY: this function is compiled with the features that the callee needs
        unsafe { block.end(first + b, &x, sum, &mut acc) };
    }
    store(&acc, out, col, row);
    C
}

/// Stores the sums of a group's rows.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store<const C: usize>(acc: &[__m512; C], out: &mut RowTile<'_>, col: usize, row: usize) {
    for c in 0..C {
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
fn floats(halves: &Halves) -> __m512 {
    _mm512_cvtph_ps(load_32(halves))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn and(a: __m512i, mask: u8) -> __m512i {
    _mm512_and_si512(a, _mm512_set1_epi8(mask as i8))
}

/// `a | (b & mask)`
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn or_and(a: __m512i, b: __m512i, mask: u8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask as i8))
}

/// Sixteen interleaved blocks of 32 weights.
trait Interleaved32: Pod {
    /// How many parts of 32 weights a block has.
    const SCALES: usize = 1;
    /// What the values have been increased by.
    const OFFSET: i32;
    /// The values of a part plus [`Self::OFFSET`]: vector `i` has values `4 i..4 i + 4`.
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
    const PARTS: usize = 1;

    #[inline(always)]
    fn column(acts: &Activations, c: usize) -> &[Q8Chunk] {
        acts.q8(c)
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn part<const C: usize>(
        &self,
        _: usize,
        _: usize,
        _: &[&[Q8Chunk]; C],
        _: &mut [__m512i; C],
    ) {
    }

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn end<const C: usize>(
        &self,
        b: usize,
        x: &[&[Q8Chunk]; C],
        _: [__m512i; C],
        acc: &mut [__m512; C],
    ) {
        // SAFETY: this function is compiled with the features that the callee needs
        let d = unsafe { self.d() };
        for part in 0..B::SCALES {
            let n = b * B::SCALES + part;
            let (chunk, i) = (n / 8, n % 8);
            // SAFETY: this function is compiled with the features that the callee needs
            let quads = unsafe { self.quads(part) };
            for c in 0..C {
                let x = &x[c][chunk];
                let mut sum = _mm512_set1_epi32(B::OFFSET.wrapping_mul(x.sum[i]).wrapping_neg());
                let q = &self::quads(&x.q)[i];
                for j in 0..8 {
                    sum = _mm512_dpbusd_epi32(sum, quads[j], every(q[j]));
                }
                acc[c] = scaled(acc[c], sum, d, x.scale[i]);
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
    ($name:ident, $offset:literal, |$b:ident $(, $part:ident of $parts:literal)?| $quads:expr $(, $m:ident)?) => {
        impl Interleaved32 for $name {
            $(const SCALES: usize = $parts;)?
            const OFFSET: i32 = $offset;
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
interleaved32!(Q4_0, 8, |b| nibbles(&b.qs));
interleaved32!(Q4_1, 0, |b| nibbles(&b.qs), m);
interleaved32!(Q5_0, 16, |b| {
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
interleaved32!(Q8_0, 128, |b| {
    let mut quads = [_mm512_setzero_si512(); 8];
    for i in 0..8 {
        quads[i] = _mm512_xor_si512(load_64(&b.qs[i]), _mm512_set1_epi8(-128));
    }
    quads
});

/// `acc + sum * (d * scale)`, in the order of the definition.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scaled(acc: __m512, sum: __m512i, d: __m512, scale: f32) -> __m512 {
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
            const PARTS: usize = 4;
            #[inline(always)]
            fn column(acts: &Activations, c: usize) -> &[Q8kChunk] {
                acts.q8k(c)
            }
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn part<const C: usize>(
                &self,
                part: usize,
                b: usize,
                x: &[&[Q8kChunk]; C],
                sum: &mut [__m512i; C],
            ) {
                $part(self, part, x.map(|x| &x[b]), sum);
            }
            #[inline]
            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn end<const C: usize>(
                &self,
                b: usize,
                x: &[&[Q8kChunk]; C],
                sum: [__m512i; C],
                acc: &mut [__m512; C],
            ) {
                $end(self, x.map(|x| &x[b]), sum, acc);
            }
        }
    };
}
use interleaved256;
