//! The product of an interleaved matrix, with four of a group's sixteen rows in the elements of each vector: words of
//! weights are used as they come from memory, activations are taken by element, and nothing has to be folded at the end.
//!
//! A single column goes through a group once, with all four vectors of rows at a time. More columns share what is unpacked;
//! then fewer rows are taken at a time, because there are only 32 registers.
//!
//! One file, because it is one kernel: the formats differ only in how their blocks are unpacked and scaled.

mod few_bits;
mod tables;

pub(in crate::quant) use tables::iq4xs_scales;

use super::intrinsics::*;
use super::unpack::{high, high_under, low, low_under};
use crate::gguf::GROUP;
use crate::pool::RowTile;
use crate::quant::format::activations::{Activations, Q8Chunk, Q8kChunk};
use crate::quant::format::interleaved::{Halves, Q4_0, Q4_1, Q4K, Q5_0, Q5K, Q6K, Q8_0, Word};
use crate::quant::format::kinds::match_interleaved;
use crate::quant::kernels::Product;
use bytemuck::{Pod, cast_ref, cast_slice, pod_read_unaligned};

/// What a level multiplies with. `|x| <= 127` and `|w| <= max` hold as for [`super::rows::Dot`].
pub(in crate::quant) trait Words: Copy {
    /// For each of four rows, the sum of `16 N` products: word `i` of `w[n]` by bytes `4 i..4 i + 4` of `x[n]`.
    fn run<const N: usize>(self, w: [[int8x16_t; 4]; N], x: [int8x16_t; N], max: i32) -> int32x4_t;
}

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes.
#[inline(always)]
pub(in crate::quant) fn matmul<S: Words>(s: S, product: &Product<'_>, out: &mut RowTile<'_>) {
    match_interleaved!(product.ty, |B| groups::<S, B>(s, product, out));
}

/// Sixteen interleaved blocks of any size.
trait Interleaved: Pod {
    /// What a column of activations consists of.
    type Chunk;
    /// The chunks of column `c`.
    fn column(acts: &Activations, c: usize) -> &[Self::Chunk];
    /// Multiplies vectors `at..at + V` of these blocks, number `b` of their rows, by some columns and adds that to `acc`.
    fn add<S: Words, const V: usize, const C: usize>(
        &self,
        s: S,
        b: usize,
        at: usize,
        x: &[&[Self::Chunk]; C],
        acc: &mut [[float32x4_t; C]; V],
    );
}

#[inline(always)]
fn groups<S: Words, B: Interleaved>(s: S, product: &Product<'_>, out: &mut RowTile<'_>) {
    let (acts, col0) = (product.activations, product.first_column);
    let groups = product
        .weights
        .chunks_exact(product.row_blocks() * size_of::<B>());
    for (i, w) in groups.take(out.rows() / GROUP).enumerate() {
        let (w, row) = (cast_slice::<u8, B>(w), GROUP * i);
        let mut c = 0;
        while c < out.cols() {
            let x0 = B::column(acts, col0 + c);
            c += match out.cols() - c {
                1 => columns::<S, B, 4, 1>(s, w, [x0], out, c, row),
                2 | 3 => {
                    let x = [x0, B::column(acts, col0 + c + 1)];
                    columns::<S, B, 2, 2>(s, w, x, out, c, row)
                }
                _ => {
                    let x1 = B::column(acts, col0 + c + 1);
                    let x2 = B::column(acts, col0 + c + 2);
                    let x3 = B::column(acts, col0 + c + 3);
                    columns::<S, B, 1, 4>(s, w, [x0, x1, x2, x3], out, c, row)
                }
            };
        }
    }
}

/// Multiplies one group by some columns, `V` vectors of rows at a time, and returns how many columns that were.
#[inline(always)]
fn columns<S: Words, B: Interleaved, const V: usize, const C: usize>(
    s: S,
    w: &[B],
    x: [&[B::Chunk]; C],
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
) -> usize {
    for at in (0..4).step_by(V) {
        let mut acc = [[vdupq_n_f32(0.0); C]; V];
        for (b, block) in w.iter().enumerate() {
            block.add::<S, V, C>(s, b, at, &x, &mut acc);
        }
        for v in 0..V {
            for c in 0..C {
                let elements = to_array(acc[v][c]);
                out.column(col + c)[row + 4 * (at + v)..][..4].copy_from_slice(&elements);
            }
        }
    }
    C
}

/// Vector `at` of a word: rows `4 at..4 at + 4`.
#[inline(always)]
pub(in crate::quant) fn vector(word: &Word, at: usize) -> uint8x16_t {
    load_u8(&cast_ref::<Word, [[u8; 16]; 4]>(word)[at])
}

#[inline(always)]
pub(in crate::quant) fn floats(halves: &Halves, at: usize) -> float32x4_t {
    let four = cast_ref::<Halves, [[u8; 8]; 4]>(halves)[at];
    widen_f16(load_u16(&pod_read_unaligned(&four)))
}

/// Byte `i` of each lane, as an unsigned number.
#[inline(always)]
pub(in crate::quant) fn byte(elements: uint8x16_t, i: usize) -> int32x4_t {
    let elements = vreinterpretq_u32_u8(elements);
    vreinterpretq_s32_u32(match i {
        0 => vandq_u32(elements, vdupq_n_u32(0xff)),
        1 => vandq_u32(vshrq_n_u32::<8>(elements), vdupq_n_u32(0xff)),
        2 => vandq_u32(vshrq_n_u32::<16>(elements), vdupq_n_u32(0xff)),
        _ => vshrq_n_u32::<24>(elements),
    })
}

/// Byte `i` of each lane, as a signed number.
#[inline(always)]
pub(in crate::quant) fn signed_byte(elements: uint8x16_t, i: usize) -> int32x4_t {
    let elements = vreinterpretq_s32_s8(vreinterpretq_s8_u8(elements));
    match i {
        0 => vshrq_n_s32::<24>(vshlq_n_s32::<24>(elements)),
        1 => vshrq_n_s32::<24>(vshlq_n_s32::<16>(elements)),
        2 => vshrq_n_s32::<24>(vshlq_n_s32::<8>(elements)),
        _ => vshrq_n_s32::<24>(elements),
    }
}

/// `acc + sum * (d * scale)`, in the order of the definition.
#[inline(always)]
fn scaled(acc: float32x4_t, sum: int32x4_t, d: float32x4_t, scale: f32) -> float32x4_t {
    vfmaq_f32(acc, vcvtq_f32_s32(sum), vmulq_n_f32(d, scale))
}

/// Sixteen interleaved blocks of 32 weights.
trait Interleaved32: Pod {
    /// How many parts of 32 weights a block has.
    const PARTS: usize = 1;
    /// The largest magnitude of a value.
    const MAX: i32;
    /// What the values have been increased by.
    const OFFSET: i32;
    /// The values of a part in vector `at`; word `i` has values `4 i..4 i + 4`.
    fn values(&self, part: usize, at: usize) -> [[int8x16_t; 4]; 2];
    /// The scales `d` of vector `at`.
    fn d(&self, at: usize) -> float32x4_t;
    /// The halves `m`, if the format has them.
    #[inline(always)]
    fn m(&self) -> Option<&Halves> {
        None
    }
}

impl<B: Interleaved32> Interleaved for B {
    type Chunk = Q8Chunk;

    #[inline(always)]
    fn column(acts: &Activations, c: usize) -> &[Q8Chunk] {
        acts.q8(c)
    }

    #[inline(always)]
    fn add<S: Words, const V: usize, const C: usize>(
        &self,
        s: S,
        b: usize,
        at: usize,
        x: &[&[Q8Chunk]; C],
        acc: &mut [[float32x4_t; C]; V],
    ) {
        for part in 0..B::PARTS {
            let n = b * B::PARTS + part;
            let (chunk, i) = (n / 8, n % 8);
            for v in 0..V {
                let (w, d) = (self.values(part, at + v), self.d(at + v));
                for c in 0..C {
                    let x = &x[c][chunk];
                    let mut sum = s.run(w, load_x::<2>(&x.q, 32 * i), B::MAX);
                    if B::OFFSET != 0 {
                        let offset = B::OFFSET.wrapping_mul(x.sum[i]);
                        sum = vsubq_s32(sum, vdupq_n_s32(offset));
                    }
                    acc[v][c] = scaled(acc[v][c], sum, d, x.scale[i]);
                    if let Some(m) = self.m() {
                        let m = floats(m, at + v);
                        acc[v][c] = vfmaq_n_f32(acc[v][c], m, x.scaled_sum[i]);
                    }
                }
            }
        }
    }
}

/// The low nibbles of all words, then the high ones.
#[inline(always)]
fn nibbles(qs: &[Word; 4], at: usize) -> [[uint8x16_t; 4]; 2] {
    let qs = each(
        [
            vector(&qs[0], at),
            vector(&qs[1], at),
            vector(&qs[2], at),
            vector(&qs[3], at),
        ],
        same,
    );
    [each(qs, low), each(qs, high)]
}

#[inline(always)]
fn same(v: uint8x16_t) -> uint8x16_t {
    v
}

#[inline(always)]
fn signed(v: [[uint8x16_t; 4]; 2]) -> [[int8x16_t; 4]; 2] {
    [
        each(v[0], vreinterpretq_s8_u8),
        each(v[1], vreinterpretq_s8_u8),
    ]
}

macro_rules! interleaved32 {
    ($name:ident, $max:literal, $offset:literal, |$b:ident, $at:ident $(, $part:ident of $parts:literal)?| $values:expr
        $(, $m:ident)?) => {
        impl Interleaved32 for $name {
            $(const PARTS: usize = $parts;)?
            const MAX: i32 = $max;
            const OFFSET: i32 = $offset;
            #[inline(always)]
            fn values(&self, part: usize, $at: usize) -> [[int8x16_t; 4]; 2] {
                let $b = self;
                let _ = part;
                $(let $part = part;)?
                signed($values)
            }
            #[inline(always)]
            fn d(&self, at: usize) -> float32x4_t {
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
interleaved32!(Q4_0, 15, 8, |b, at| nibbles(&b.qs, at));
interleaved32!(Q4_1, 15, 0, |b, at| nibbles(&b.qs, at), m);
interleaved32!(Q5_0, 31, 16, |b, at| {
    let mut values = nibbles(&b.qs, at);
    let bits = vector(&b.qh, at);
    for i in 0..4 {
        // bits 8 i.. of each lane are values 8 i..: byte i in all bytes of the lane, a bit tested in each
        let bytes = vqtbl1q_u8(bits, load_u8(&SPREAD[i]));
        let first = vtstq_u8(bytes, vreinterpretq_u8_u32(vdupq_n_u32(0x0804_0201)));
        let second = vtstq_u8(bytes, vreinterpretq_u8_u32(vdupq_n_u32(0x8040_2010)));
        for (j, set) in [(2 * i, first), (2 * i + 1, second)] {
            let value = &mut values[j / 4][j % 4];
            *value = vorrq_u8(*value, vandq_u8(set, vdupq_n_u8(16)));
        }
    }
    values
});
interleaved32!(Q8_0, 128, 0, |b, at| [
    each([0, 1, 2, 3].map(|i| vector(&b.qs[i], at)), same),
    each([4, 5, 6, 7].map(|i| vector(&b.qs[i], at)), same),
]);

/// Indices that put byte `i` of each lane in all bytes of the lane.
const SPREAD: [[u8; 16]; 4] = {
    let mut spread = [[0; 16]; 4];
    let mut i = 0;
    while i < 4 {
        let mut j = 0;
        while j < 16 {
            spread[i][j] = (j / 4 * 4 + i) as u8;
            j += 1;
        }
        i += 1;
    }
    spread
};

/// What Q4_K and Q5_K have in common: unsigned values with a scale and a min for every 32.
trait Affine: Pod {
    /// The largest value that the format has.
    const MAX: i32;
    fn scales(&self) -> &[Word; 3];
    /// Word `j` of values `64 I..64 I + 32`, and of the 32 values after them, in vector `at`.
    fn values<const I: usize>(&self, j: usize, at: usize) -> (uint8x16_t, uint8x16_t);
    /// The halves `d` and `dmin`.
    fn halves(&self) -> (&Halves, &Halves);
}

impl Affine for Q4K {
    const MAX: i32 = 15;
    #[inline(always)]
    fn scales(&self) -> &[Word; 3] {
        &self.scales
    }
    #[inline(always)]
    fn values<const I: usize>(&self, j: usize, at: usize) -> (uint8x16_t, uint8x16_t) {
        let q = vector(&self.qs[I][j], at);
        (low(q), high(q))
    }
    #[inline(always)]
    fn halves(&self) -> (&Halves, &Halves) {
        (&self.d, &self.dmin)
    }
}

impl Affine for Q5K {
    const MAX: i32 = 31;
    #[inline(always)]
    fn scales(&self) -> &[Word; 3] {
        &self.scales
    }
    #[inline(always)]
    fn values<const I: usize>(&self, j: usize, at: usize) -> (uint8x16_t, uint8x16_t) {
        let (q, fifth) = (vector(&self.qs[I][j], at), vector(&self.qh[j], at));
        let from = 2 * I as i32;
        (
            low_under(q, fifth, from, 31),
            high_under(q, fifth, from + 1, 31),
        )
    }
    #[inline(always)]
    fn halves(&self) -> (&Halves, &Halves) {
        (&self.d, &self.dmin)
    }
}

/// What `crate::quant::format::blocks::scales_and_mins` unpacks, for four rows at once, with one byte per group of 32 in
/// each lane: the scales of groups 0..4 and 4..8, then their mins.
#[inline(always)]
pub(in crate::quant) fn scales_and_mins(packed: &[Word; 3], at: usize) -> [uint8x16_t; 4] {
    let [a, b, c] = [
        vector(&packed[0], at),
        vector(&packed[1], at),
        vector(&packed[2], at),
    ];
    let six = |v| vandq_u8(v, vdupq_n_u8(0x3f));
    let top = |v| vandq_u8(vshrq_n_u8::<2>(v), vdupq_n_u8(0x30));
    [
        six(a),
        vorrq_u8(low(c), top(a)),
        six(b),
        vorrq_u8(high(c), top(b)),
    ]
}

/// Adds the products of values `64 I..64 I + 64`, each group times its scale.
#[inline(always)]
fn affine_64<S: Words, B: Affine, const V: usize, const C: usize, const I: usize>(
    s: S,
    block: &B,
    groups: &[[uint8x16_t; 4]; V],
    at: usize,
    x: &[&Q8kChunk; C],
    sum: &mut [[int32x4_t; C]; V],
) {
    for v in 0..V {
        let zero = [[vdupq_n_s8(0); 4]; 2];
        let (mut first, mut second) = (zero, zero);
        for j in 0..8 {
            let (a, b) = block.values::<I>(j, at + v);
            first[j / 4][j % 4] = vreinterpretq_s8_u8(a);
            second[j / 4][j % 4] = vreinterpretq_s8_u8(b);
        }
        let scales = groups[v][I / 2];
        let (a, b) = (byte(scales, 2 * (I % 2)), byte(scales, 2 * (I % 2) + 1));
        for c in 0..C {
            let [x0, x1, x2, x3] = load_x::<4>(&x[c].q, 64 * I);
            sum[v][c] = vmlaq_s32(sum[v][c], s.run(first, [x0, x1], B::MAX), a);
            sum[v][c] = vmlaq_s32(sum[v][c], s.run(second, [x2, x3], B::MAX), b);
        }
    }
}

#[inline(always)]
fn affine<S: Words, B: Affine, const V: usize, const C: usize>(
    s: S,
    block: &B,
    at: usize,
    x: [&Q8kChunk; C],
    acc: &mut [[float32x4_t; C]; V],
) {
    let mut groups = [[vdupq_n_u8(0); 4]; V];
    for v in 0..V {
        groups[v] = scales_and_mins(block.scales(), at + v);
    }
    let mut sum = [[vdupq_n_s32(0); C]; V];
    affine_64::<S, B, V, C, 0>(s, block, &groups, at, &x, &mut sum);
    affine_64::<S, B, V, C, 1>(s, block, &groups, at, &x, &mut sum);
    affine_64::<S, B, V, C, 2>(s, block, &groups, at, &x, &mut sum);
    affine_64::<S, B, V, C, 3>(s, block, &groups, at, &x, &mut sum);
    let (d, dmin) = block.halves();
    for c in 0..C {
        let sums = load_s16(&x[c].sums32);
        let sums = [vmovl_s16(vget_low_s16(sums)), vmovl_high_s16(sums)];
        for v in 0..V {
            let mut mins = vdupq_n_s32(0);
            for g in 0..8 {
                mins = mla_lane(mins, byte(groups[v][2 + g / 4], g % 4), sums[g / 4], g % 4);
            }
            let scale = x[c].scale;
            let dmin = vmulq_n_f32(floats(dmin, at + v), scale);
            acc[v][c] = scaled(acc[v][c], sum[v][c], floats(d, at + v), scale);
            acc[v][c] = vfmsq_f32(acc[v][c], vcvtq_f32_s32(mins), dmin);
        }
    }
}

/// Adds the products of half `HALF` of a block: of each 32 values the 16 from `16 PART` on, times their scale.
#[inline(always)]
fn q6k_64<S: Words, const V: usize, const C: usize, const HALF: usize, const PART: usize>(
    s: S,
    block: &Q6K,
    scales: &[[uint8x16_t; 4]; V],
    at: usize,
    x: &[&Q8kChunk; C],
    sum: &mut [[int32x4_t; C]; V],
) {
    for v in 0..V {
        let mut values = [[vdupq_n_s8(0); 4]; 4];
        for j in 0..4 {
            let [p, q, bits] = &block.q[HALF][4 * PART + j];
            let (p, q, bits) = (vector(p, at + v), vector(q, at + v), vector(bits, at + v));
            values[0][j] = vreinterpretq_s8_u8(low_under(p, bits, 0, 63));
            values[1][j] = vreinterpretq_s8_u8(low_under(q, bits, 2, 63));
            values[2][j] = vreinterpretq_s8_u8(high_under(p, bits, 4, 63));
            values[3][j] = vreinterpretq_s8_u8(high_under(q, bits, 6, 63));
        }
        for i in 0..4 {
            let scale = signed_byte(scales[v][2 * HALF + i / 2], 2 * (i % 2) + PART);
            for c in 0..C {
                let x = load_x::<1>(&x[c].q, 128 * HALF + 32 * i + 16 * PART);
                sum[v][c] = vmlaq_s32(sum[v][c], s.run([values[i]], x, 63), scale);
            }
        }
    }
}

#[inline(always)]
fn q6k<S: Words, const V: usize, const C: usize>(
    s: S,
    block: &Q6K,
    at: usize,
    x: [&Q8kChunk; C],
    acc: &mut [[float32x4_t; C]; V],
) {
    let mut scales = [[vdupq_n_u8(0); 4]; V];
    let mut sum = [[vdupq_n_s32(0); C]; V];
    for v in 0..V {
        for i in 0..4 {
            scales[v][i] = vector(&block.scales[i], at + v);
        }
    }
    // minus 32 times scale times sum of activations, first
    for c in 0..C {
        let [a, b] = cast_ref::<[i16; 16], [[i16; 8]; 2]>(&x[c].sums);
        let (a, b) = (load_s16(a), load_s16(b));
        let sums = [
            vmovl_s16(vget_low_s16(a)),
            vmovl_high_s16(a),
            vmovl_s16(vget_low_s16(b)),
            vmovl_high_s16(b),
        ];
        for v in 0..V {
            let mut offset = vdupq_n_s32(0);
            for g in 0..16 {
                let scale = signed_byte(scales[v][g / 4], g % 4);
                offset = mla_lane(offset, scale, sums[g / 4], g % 4);
            }
            sum[v][c] = vsubq_s32(sum[v][c], vshlq_n_s32::<5>(offset));
        }
    }
    q6k_64::<S, V, C, 0, 0>(s, block, &scales, at, &x, &mut sum);
    q6k_64::<S, V, C, 0, 1>(s, block, &scales, at, &x, &mut sum);
    q6k_64::<S, V, C, 1, 0>(s, block, &scales, at, &x, &mut sum);
    q6k_64::<S, V, C, 1, 1>(s, block, &scales, at, &x, &mut sum);
    for v in 0..V {
        let d = floats(&block.d, at + v);
        for c in 0..C {
            acc[v][c] = scaled(acc[v][c], sum[v][c], d, x[c].scale);
        }
    }
}

macro_rules! interleaved256 {
    ($name:ident, $add:path) => {
        impl Interleaved for $name {
            type Chunk = Q8kChunk;
            #[inline(always)]
            fn column(acts: &Activations, c: usize) -> &[Q8kChunk] {
                acts.q8k(c)
            }
            #[inline(always)]
            fn add<S: Words, const V: usize, const C: usize>(
                &self,
                s: S,
                b: usize,
                at: usize,
                x: &[&[Q8kChunk]; C],
                acc: &mut [[float32x4_t; C]; V],
            ) {
                $add(s, self, at, x.map(|x| &x[b]), acc);
            }
        }
    };
}
use interleaved256;
interleaved256!(Q4K, affine);
interleaved256!(Q5K, affine);
interleaved256!(Q6K, q6k);
