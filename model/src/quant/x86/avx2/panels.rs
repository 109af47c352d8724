//! How sixteen rows are unpacked to the panels of [`super::gemm`], from rows and from groups of interleaved rows.

use super::dot::Dot;
use super::gemm::{add_32, add_256, set_floats};
use super::interleaved::{
    Affine, Eight, Interleaved, Interleaved32, floats, half, iq4xs_scales, iq4xs_values, q6k_words,
    signed_pairs, signed_twice,
};
use super::unpack::{Block32, Block256, first_16, load_2x16, load_16, load_32};
use crate::gguf::GROUP;
use crate::quant::Activations;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Halves, Iq4Xs, Q4K, Q5K, Q6K, Word};
use crate::quant::kernels::Product;
use crate::quant::reference::decode::Block32 as _;
use crate::quant::x86::group_scales::Groups as Scaled;
use crate::quant::x86::panel::{self, Group, Panel32, Panel256, SixteenRows, Sums};
use bytemuck::{Zeroable, cast_mut, cast_ref};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Sixteen rows of blocks of 32 weights, one after the other.
pub(super) struct Rows32<'a, B, D>([&'a [B]; GROUP], PhantomData<D>);

/// Sixteen rows of blocks of 256 weights, one after the other.
pub(super) struct Rows256<'a, B, D>([&'a [B]; GROUP], PhantomData<D>);

/// A group of sixteen interleaved rows, as this level unpacks it.
pub(super) struct Groups<'a, B, D>(Group<'a, B>, PhantomData<D>);

/// 32 bytes of each of sixteen rows, as many times as a panel has blocks.
type Bytes = [[[u8; 32]; GROUP]; 8];

impl<'a, B: Block32, D: Dot> SixteenRows<'a, 1> for Rows32<'a, B, D> {
    type Panel = Panel32;
    type Chunk = Q8Chunk;

    #[inline(always)]
    fn new(product: &Product<'a>, first: usize, rows: usize) -> Self {
        let (w, blocks) = (product.blocks(rows), product.row_blocks());
        Self(panel::rows(w, blocks, first, rows), PhantomData)
    }

    #[inline(always)]
    fn columns(acts: &'a Activations, c: usize) -> &'a [Q8Chunk] {
        acts.q8_from(c)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(&self, chunk: usize, panel: &mut Panel32) {
        let range = panel::part::<B>(chunk, self.0[0].len());
        let parts = range.len() * B::PARTS;
        panel.blocks = parts;
        let (mut bytes, mut halves): (Bytes, _) = ([[[0; 32]; GROUP]; 8], [[[0u16; GROUP]; 2]; 8]);
        for r in 0..GROUP {
            let row = &self.0[r][range.clone()];
            for i in 0..parts.div_ceil(2) {
                let two = [2 * i, parts.min(2 * i + 2) - 1];
                let two = two.map(|n| (&row[n / B::PARTS], n % B::PARTS));
                let first = load_2x16(first_16(two[0].0), first_16(two[1].0));
                // SAFETY: this function is compiled with the features that the callee needs
                let [low, high] = unsafe { B::bytes(two, first) };
                store_32(
                    &mut bytes[2 * i][r],
                    _mm256_permute2x128_si256::<0x20>(low, high),
                );
                store_32(
                    &mut bytes[2 * i + 1][r],
                    _mm256_permute2x128_si256::<0x31>(low, high),
                );
            }
            for (n, halves) in halves.iter_mut().take(parts).enumerate() {
                [halves[0][r], halves[1][r]] = panel::halves(&row[n / B::PARTS]);
            }
        }
        for b in 0..8 {
            transpose(&bytes[b], &mut panel.q[b]);
            for at in 0..2 {
                let halves: &[[u8; 16]; 2] = cast_ref(&halves[b][0]);
                // SAFETY: this function is compiled with the features that the callee needs
                set_floats(&mut panel.d[b], at, unsafe { B::d(load_16(&halves[at])) });
            }
            if B::HAS_MIN {
                widen(cast_ref(&halves[b][1]), &mut panel.m[b]);
            }
        }
    }

    #[inline(always)]
    fn ask(&self, chunk: usize, eighth: usize) {
        for row in &self.0[2 * eighth..2 * eighth + 2] {
            panel::ask::<_MM_HINT_T1>(&row[panel::part::<B>(chunk, row.len())]);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(
        [panel]: &[Panel32; 1],
        x: &[Q8Chunk],
        stride: usize,
        sums: &mut [[Sums; 1]],
    ) -> usize {
        // SAFETY: the caller vouches for the features of `D`
        unsafe { add_32::<B, D>(panel, x, stride, sums.as_flattened_mut()) }
    }
}

impl<'a, B: Block256, D: Dot> SixteenRows<'a, 1> for Rows256<'a, B, D> {
    type Panel = Panel256;
    type Chunk = Q8kChunk;

    #[inline(always)]
    fn new(product: &Product<'a>, first: usize, rows: usize) -> Self {
        let (w, blocks) = (product.blocks(rows), product.row_blocks());
        Self(panel::rows(w, blocks, first, rows), PhantomData)
    }

    #[inline(always)]
    fn columns(acts: &'a Activations, c: usize) -> &'a [Q8kChunk] {
        acts.q8k_from(c)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(&self, chunk: usize, panel: &mut Panel256) {
        let (mut d, mut dmin) = ([0u16; GROUP], [0u16; GROUP]);
        let mut bytes: Bytes = [[[0; 32]; GROUP]; 8];
        let mut scales = [[[0; 32]; GROUP]; 2];
        let mut mins = [[0; 32]; GROUP];
        for r in 0..GROUP {
            let block = &self.0[r][chunk];
            // SAFETY: this function is compiled with the features that the callee needs
            let values = unsafe { block.bytes() };
            for i in 0..8 {
                store_32(&mut bytes[i][r], values[i]);
            }
            let groups = block.group_scales();
            (d[r], dmin[r]) = (groups.d.bits(), groups.dmin.bits());
            let (scale, min) = (load_16(&groups.scales), load_16(&groups.mins));
            let (scale, min) = if B::GROUPS == Scaled::Signed {
                let scale = _mm256_cvtepi8_epi16(scale);
                let offset = _mm256_set1_epi16(-B::ADDED as i16);
                (scale, _mm256_mullo_epi16(scale, offset))
            } else {
                (_mm256_cvtepu8_epi16(scale), _mm256_cvtepu8_epi16(min))
            };
            // each scale twice
            let (low, high) = (
                _mm256_unpacklo_epi16(scale, scale),
                _mm256_unpackhi_epi16(scale, scale),
            );
            store_32(
                &mut scales[0][r],
                _mm256_permute2x128_si256::<0x20>(low, high),
            );
            store_32(
                &mut scales[1][r],
                _mm256_permute2x128_si256::<0x31>(low, high),
            );
            store_32(&mut mins[r], min);
        }
        for i in 0..8 {
            transpose(&bytes[i], &mut panel.q[i]);
        }
        let words: &mut [[Word; 8]; 2] = cast_mut(&mut panel.scales);
        transpose(&scales[0], &mut words[0]);
        transpose(&scales[1], &mut words[1]);
        transpose(&mins, &mut panel.pairs);
        widen(cast_ref(&d), &mut panel.d);
        for d in &mut panel.d {
            *d *= B::FACTOR;
        }
        widen(cast_ref(&dmin), &mut panel.dmin);
    }

    #[inline(always)]
    fn ask(&self, chunk: usize, eighth: usize) {
        for row in &self.0[2 * eighth..2 * eighth + 2] {
            panel::ask::<_MM_HINT_T1>(&row[row.len().min(chunk)..row.len().min(chunk + 1)]);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(
        [panel]: &[Panel256; 1],
        x: &[Q8kChunk],
        stride: usize,
        sums: &mut [[Sums; 1]],
    ) -> usize {
        // SAFETY: the caller vouches for the features of `D`
        unsafe { add_256::<B, D>(panel, x, stride, sums.as_flattened_mut()) }
    }
}

impl<'a, B: Unpack, D: Dot> SixteenRows<'a, 1> for Groups<'a, B, D> {
    type Panel = B::Panel;
    type Chunk = B::Chunk;

    #[inline(always)]
    fn new(product: &Product<'a>, first: usize, _: usize) -> Self {
        Self(Group::new(product, first), PhantomData)
    }

    #[inline(always)]
    fn columns(acts: &'a Activations, c: usize) -> &'a [B::Chunk] {
        B::columns(acts, c)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(&self, chunk: usize, panel: &mut B::Panel) {
        // SAFETY: this function is compiled with the features that the callee needs
        unsafe { B::unpack(self.0.chunk(chunk, B::BLOCKS), panel) };
    }

    #[inline(always)]
    fn ask(&self, chunk: usize, eighth: usize) {
        self.0.ask::<1>(chunk, B::BLOCKS, eighth);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add(
        [panel]: &[B::Panel; 1],
        x: &[B::Chunk],
        stride: usize,
        sums: &mut [[Sums; 1]],
    ) -> usize {
        // SAFETY: this function is compiled with the level's features, and the caller vouches for those of `D`
        unsafe { B::add_panel::<D>(panel, x, stride, sums.as_flattened_mut()) }
    }
}

/// Sixteen interleaved blocks, as they are unpacked for many columns.
pub(super) trait Unpack: Interleaved {
    /// What they are unpacked to.
    type Panel: Copy + Zeroable;
    /// How many blocks have 256 values.
    const BLOCKS: usize;
    /// Unpacks blocks that follow each other, at most [`Self::BLOCKS`] of them.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn unpack(blocks: &[Self], panel: &mut Self::Panel);
    /// See [`SixteenRows::add`].
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn add_panel<D: Dot>(
        panel: &Self::Panel,
        x: &[Self::Chunk],
        stride: usize,
        sums: &mut [Sums],
    ) -> usize;
}

impl<B: Interleaved32> Unpack for B {
    type Panel = Panel32;
    const BLOCKS: usize = 8 / B::Rows::PARTS;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(blocks: &[Self], panel: &mut Panel32) {
        panel.blocks = blocks.len() * B::Rows::PARTS;
        for b in 0..panel.blocks.min(8) {
            let (block, part) = (&blocks[b / B::Rows::PARTS], b % B::Rows::PARTS);
            for at in 0..2 {
                // SAFETY: this function is compiled with the features that the callee needs
                let (quads, d) = unsafe { (block.quads(part, at), block.d(at)) };
                for j in 0..8 {
                    set_half(&mut panel.q[b][j], at, quads[j]);
                }
                set_floats(&mut panel.d[b], at, d);
            }
            if let Some(m) = block.m() {
                widen(m, &mut panel.m[b]);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_panel<D: Dot>(
        panel: &Panel32,
        x: &[Q8Chunk],
        stride: usize,
        sums: &mut [Sums],
    ) -> usize {
        // SAFETY: the caller vouches for the features of `D`
        unsafe { add_32::<B::Rows, D>(panel, x, stride, sums) }
    }
}

macro_rules! unpack256 {
    ($name:ident, $unpack:ident) => {
        impl Unpack for $name {
            type Panel = Panel256;
            const BLOCKS: usize = 1;

            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn unpack(blocks: &[Self], panel: &mut Panel256) {
                for at in 0..2 {
                    $unpack(&blocks[0], at, panel);
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn add_panel<D: Dot>(
                panel: &Panel256,
                x: &[Q8kChunk],
                stride: usize,
                sums: &mut [Sums],
            ) -> usize {
                // SAFETY: the caller vouches for the features of `D`
                unsafe { add_256::<blocks::$name, D>(panel, x, stride, sums) }
            }
        }
    };
}
unpack256!(Q4K, affine);
unpack256!(Q5K, affine);
unpack256!(Q6K, q6k);
unpack256!(Iq4Xs, iq4xs);

/// Unpacks half `at` of a block of Q4_K or Q5_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn affine<B: Affine>(block: &B, at: usize, panel: &mut Panel256) {
    for i in 0..4 {
        for j in 0..8 {
            // SAFETY: this function is compiled with the features that the callee needs
            let (low, high) = unsafe { block.values(i, j, at) };
            set_half(&mut panel.q[2 * i][j], at, low);
            set_half(&mut panel.q[2 * i + 1][j], at, high);
        }
    }
    let groups = Eight::read(block.scales(), at);
    for g in 0..8 {
        set_half(&mut panel.scales[g], at, groups.scale(g));
    }
    let mins = groups.min_pairs();
    for i in 0..4 {
        set_half(&mut panel.pairs[i], at, mins[i]);
    }
    let (d, dmin) = block.halves();
    set_floats(&mut panel.d, at, floats(d, at));
    set_floats(&mut panel.dmin, at, floats(dmin, at));
}

/// Unpacks half `at` of a block of Q6_K.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6k(block: &Q6K, at: usize, panel: &mut Panel256) {
    for h in 0..2 {
        for j in 0..8 {
            let (low, high) = q6k_words::<0>(block, h, j, at);
            set_half(&mut panel.q[4 * h][j], at, low);
            set_half(&mut panel.q[4 * h + 2][j], at, high);
            let (low, high) = q6k_words::<1>(block, h, j, at);
            set_half(&mut panel.q[4 * h + 1][j], at, low);
            set_half(&mut panel.q[4 * h + 3][j], at, high);
        }
    }
    for i in 0..4 {
        let scales = half(&block.scales[i], at);
        for j in 0..4 {
            set_half(&mut panel.scales[4 * i + j], at, signed_twice(scales, j));
        }
        let pairs = signed_pairs(scales);
        for j in 0..2 {
            // times the offset of 32, and negative
            let pair = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16::<5>(pairs[j]));
            set_half(&mut panel.pairs[2 * i + j], at, pair);
        }
    }
    set_floats(&mut panel.d, at, floats(&block.d, at));
}

/// Unpacks half `at` of a block of IQ4_XS, whose pairs stay zero: its values are signed.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn iq4xs(block: &Iq4Xs, at: usize, panel: &mut Panel256) {
    let scales = iq4xs_scales(block, at);
    for g in 0..8 {
        for j in 0..4 {
            let (low, high) = iq4xs_values(block, g, j, at);
            set_half(&mut panel.q[g][j], at, low);
            set_half(&mut panel.q[g][4 + j], at, high);
        }
        for part in 0..2 {
            set_half(&mut panel.scales[2 * g + part], at, scales[g]);
        }
    }
    set_floats(&mut panel.d, at, floats(&block.d, at));
}

/// From 32 bytes of each row to words of all rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(rows: &[[u8; 32]; GROUP], words: &mut [Word; 8]) {
    for at in 0..2 {
        // fours[i][j]: words j and 4 + j of rows 4 i..4 i + 4 of the half
        let mut fours = [[_mm256_setzero_si256(); 4]; 2];
        for i in 0..2 {
            let row = 8 * at + 4 * i;
            let (a, b) = (load_32(&rows[row]), load_32(&rows[row + 1]));
            let (c, d) = (load_32(&rows[row + 2]), load_32(&rows[row + 3]));
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            fours[i][0] = _mm256_unpacklo_epi64(ab, cd);
            fours[i][1] = _mm256_unpackhi_epi64(ab, cd);
            let (ab, cd) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            fours[i][2] = _mm256_unpacklo_epi64(ab, cd);
            fours[i][3] = _mm256_unpackhi_epi64(ab, cd);
        }
        for j in 0..4 {
            let (a, b) = (fours[0][j], fours[1][j]);
            set_half(&mut words[j], at, _mm256_permute2x128_si256::<0x20>(a, b));
            set_half(
                &mut words[4 + j],
                at,
                _mm256_permute2x128_si256::<0x31>(a, b),
            );
        }
    }
}

/// Sixteen halves as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(halves: &Halves, wide: &mut [f32; GROUP]) {
    for at in 0..2 {
        set_floats(wide, at, floats(halves, at));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_32(a: &mut [u8; 32], v: __m256i) {
    // SAFETY: the array has the 32 bytes that are stored
    unsafe { _mm256_storeu_si256(a.as_mut_ptr().cast(), v) };
}

/// Sets half `at` of a word: rows `8 at..8 at + 8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn set_half(word: &mut Word, at: usize, v: __m256i) {
    let halves: &mut [[u8; 32]; 2] = cast_mut(word);
    store_32(&mut halves[at], v);
}
