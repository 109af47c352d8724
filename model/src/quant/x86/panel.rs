//! The product of many columns, for all levels of x86-64: 256 values of sixteen rows are unpacked to bytes, a panel, and all columns
//! are multiplied by them while they are in L1. So what is unpacked is unpacked once, whatever the number of columns.
//!
//! A panel has a word of each of the sixteen rows side by side, as interleaved rows have. One kernel therefore serves both
//! layouts: they differ in how a panel is filled.

use crate::gguf::GROUP;
use crate::pool::RowTile;
use crate::quant::Activations;
use crate::quant::format::interleaved::Word;
use crate::quant::kernels::Product;
use crate::quant::reference::decode::Block32;
use bytemuck::{Pod, Zeroable};
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
use std::ops::Range;

/// Columns whose sums are kept beside panels: 128 of them are 8 KB a panel, and with more columns the rows are unpacked again.
const COLUMNS: usize = 128;

/// How many chunks ahead of what is unpacked memory is asked. From one ahead not all had come: unpacking took 7 % of a prompt in the place
/// of 2 (1.5B in Q4_K_M, two cores of Zen 5).
const AHEAD: usize = 2;

/// The running sums of sixteen rows and one column.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [f32; GROUP]);

/// Up to eight blocks of 32 weights of sixteen rows.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Panel32 {
    /// The values of each block, four to a word, as the level's kernel wants them.
    pub(super) q: [[Word; 8]; 8],
    pub(super) d: [[f32; GROUP]; 8],
    /// The mins, of a format that has them.
    pub(super) m: [[f32; GROUP]; 8],
    /// How many blocks there are.
    pub(super) blocks: usize,
}

/// A block of 256 weights of sixteen rows.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Panel256 {
    /// The values plus the format's offset, four to a word.
    pub(super) q: [[Word; 8]; 8],
    /// The scale of each group, as the level's kernel wants it; on AVX-512 two int16 of neighbouring groups, in half as many words.
    pub(super) scales: [Word; 16],
    /// Two int16 of neighbouring groups: their mins, or on AVX2 minus the offset times their scales.
    pub(super) pairs: [Word; 8],
    pub(super) d: [f32; GROUP],
    pub(super) dmin: [f32; GROUP],
}

/// Sixteen rows of a matrix, and how a level unpacks them, and multiplies the panels of `G` times sixteen.
pub(super) trait SixteenRows<'a, const G: usize>: Sized {
    /// A panel of this format.
    type Panel: Copy + Zeroable;
    /// 256 values of a column.
    type Chunk: 'a;
    /// The product's rows from `first` on. The last of its `rows` rows is repeated up to sixteen.
    fn new(product: &Product<'a>, first: usize, rows: usize) -> Self;
    /// The chunks of column `c`, and of all columns after it.
    fn columns(acts: &'a Activations, c: usize) -> &'a [Self::Chunk];
    /// Unpacks values `256 chunk..256 (chunk + 1)`, or as many as there are.
    ///
    /// # Safety
    /// The machine has the level's features.
    unsafe fn unpack(&self, chunk: usize, panel: &mut Self::Panel);
    /// Asks memory for an eighth of what is unpacked as `chunk`.
    fn ask(&self, chunk: usize, eighth: usize);
    /// Multiplies panels by one chunk of some columns, which are the first and every `stride`th of `x`, adds that to their
    /// sums, and returns how many columns that were: at most `sums.len()`, which is not 0.
    ///
    /// # Safety
    /// The machine has the level's features.
    unsafe fn add(
        panels: &[Self::Panel; G],
        x: &[Self::Chunk],
        stride: usize,
        sums: &mut [[Sums; G]],
    ) -> usize;
}

/// The blocks of a group of sixteen interleaved rows, and those of the groups behind it.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, B> {
    blocks: &'a [B],
    /// How many blocks are the group's own.
    own: usize,
}

impl<'a, B: Pod> Group<'a, B> {
    /// The group that begins with row `first` of a product.
    #[inline(always)]
    pub(super) fn new(product: &Product<'a>, first: usize) -> Self {
        let own = product.row_blocks();
        Self {
            blocks: &product.all_blocks()[first / GROUP * own..],
            own,
        }
    }

    /// Values `256 chunk..256 (chunk + 1)`, which are `some` blocks, or as many as there are.
    #[inline(always)]
    pub(super) fn chunk(&self, chunk: usize, some: usize) -> &'a [B] {
        &self.blocks[chunk * some..self.own.min((chunk + 1) * some)]
    }

    /// Asks memory for an eighth of the `some` blocks of a chunk, as [`Self::chunk`] has them. Where `G` groups are multiplied together, what
    /// comes behind the last chunk is the first one of the group that is `G` further.
    #[inline(always)]
    pub(super) fn ask<const G: usize>(&self, chunk: usize, some: usize, eighth: usize) {
        let first = chunk * some;
        let first = if first < self.own {
            first
        } else {
            first + (G - 1) * self.own
        };
        let len = self.blocks.len();
        let next = &self.blocks[len.min(first)..len.min(first + some)];
        let bytes = bytemuck::cast_slice::<B, u8>(next);
        ask::<_MM_HINT_T1>(&bytes[bytes.len() * eighth / 8..bytes.len() * (eighth + 1) / 8]);
    }
}

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes.
///
/// # Safety
/// The machine has the features of the level that `R` belongs to.
#[inline(always)]
pub(super) unsafe fn matmul<'a, R: SixteenRows<'a, G>, const G: usize>(
    product: &Product<'a>,
    out: &mut RowTile<'_>,
) {
    let (acts, col0) = (product.activations, product.first_column);
    let (mut panels, chunks) = ([R::Panel::zeroed(); G], product.k.div_ceil(256));
    let mut sums = [[Sums([0.0; GROUP]); G]; COLUMNS];
    for row in (0..out.rows()).step_by(G * GROUP) {
        // where the rows end sooner, the first sixteen are multiplied again
        let begins: [usize; G] = std::array::from_fn(|g| match row + g * GROUP {
            begin if begin < out.rows() => begin,
            _ => row,
        });
        let rows = begins.map(|begin| R::new(product, begin, out.rows()));
        for first in (0..out.cols()).step_by(COLUMNS) {
            let cols = COLUMNS.min(out.cols() - first);
            sums[..cols].fill([Sums([0.0; GROUP]); G]);
            for chunk in 0..chunks {
                for (rows, panel) in rows.iter().zip(&mut panels) {
                    // SAFETY: the caller vouches for the features
                    unsafe { rows.unpack(chunk, panel) };
                }
                let (mut c, mut asked) = (0, 0);
                while c < cols {
                    let x = &R::columns(acts, col0 + first + c)[chunk..];
                    // SAFETY: the caller vouches for the features
                    c += unsafe { R::add(&panels, x, chunks, &mut sums[c..cols]) };
                    while (asked + 1) * cols <= 8 * c {
                        rows.iter().for_each(|rows| rows.ask(chunk + AHEAD, asked));
                        asked += 1;
                    }
                }
            }
            for (c, sums) in sums[..cols].iter().enumerate() {
                for (begin, sums) in begins.iter().zip(sums) {
                    let out = &mut out.column(first + c)[*begin..];
                    match out.first_chunk_mut() {
                        Some(out) => *out = sums.0,
                        None => out.copy_from_slice(&sums.0[..out.len()]),
                    }
                }
            }
        }
    }
}

/// The blocks of a row of `len` that have values `256 chunk..256 (chunk + 1)`, or as many as there are.
#[inline(always)]
pub(super) fn part<B: Block32>(chunk: usize, len: usize) -> Range<usize> {
    let blocks = 8 / B::PARTS;
    len.min(blocks * chunk)..len.min(blocks * (chunk + 1))
}

/// The first and every `stride`th of `x`.
#[inline(always)]
pub(super) fn every_nth<T, const C: usize>(x: &[T], stride: usize) -> [&T; C] {
    let mut some = [&x[0]; C];
    for c in 1..C {
        some[c] = &x[c * stride];
    }
    some
}

/// Asks for bytes that are to be unpacked soon. With `_MM_HINT_T1` they go to L2, where they are not in the way of what is multiplied.
#[inline(always)]
pub(super) fn ask<const HINT: i32>(values: &[impl Sized]) {
    let first = values.as_ptr().cast::<i8>();
    for line in 0..size_of_val(values).div_ceil(64) {
        // SAFETY: a prefetch reads nothing and cannot fault, whatever its address
        unsafe { _mm_prefetch::<HINT>(first.wrapping_add(64 * line)) };
    }
}

/// Rows `first..` of `w`, whose rows have `blocks` blocks each, with the last of `all` rows repeated up to `N`.
#[inline(always)]
pub(super) fn rows<B, const N: usize>(
    w: &[B],
    blocks: usize,
    first: usize,
    all: usize,
) -> [&[B]; N] {
    let mut rows = [&w[..0]; N];
    for r in 0..N {
        rows[r] = &w[(first + r).min(all - 1) * blocks..][..blocks];
    }
    rows
}

/// The bits of the halves `d` and `m` that a block of 32 weights begins with. The second is something else in a format
/// without mins.
#[inline(always)]
pub(super) fn halves<B: Pod>(block: &B) -> [u16; 2] {
    let [a, b, c, d] = *bytemuck::bytes_of(block).first_chunk().unwrap_or(&[0; 4]);
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}
