//! How groups of interleaved rows are unpacked to panels. They have the order of a panel already.

use super::super::gemm::{add_32, add_256};
use super::super::interleaved::{
    Eight, Interleaved, Interleaved32, and, floats, iq4xs_scales, iq4xs_words, q5k_words,
    q6k_words, signed_pairs,
};
use super::super::unpack::{load_64, store_64};
use super::widen;
use crate::gguf::GROUP;
use crate::quant::Activations;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::format::blocks;
use crate::quant::format::interleaved::{Halves, Iq4Xs, Q4K, Q5K, Q6K, Word};
use crate::quant::kernels::Product;
use crate::quant::reference::decode::Block32 as _;
use crate::quant::x86::panel::{Group, Panel32, Panel256, SixteenRows, Sums};
use bytemuck::{Zeroable, cast_mut};
use std::arch::x86_64::*;

/// A group of sixteen interleaved rows, as this level unpacks it.
pub(in super::super) struct Groups<'a, B>(Group<'a, B>);

impl<'a, B: Unpack> SixteenRows<'a, 2> for Groups<'a, B> {
    type Panel = B::Panel;
    type Chunk = B::Chunk;

    #[inline(always)]
    fn new(product: &Product<'a>, first: usize, _: usize) -> Self {
        Self(Group::new(product, first))
    }

    #[inline(always)]
    fn columns(acts: &'a Activations, c: usize) -> &'a [B::Chunk] {
        B::columns(acts, c)
    }

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn unpack(&self, chunk: usize, panel: &mut B::Panel) {
        // SAFETY: this function is compiled with the features that the callee needs
        unsafe { B::unpack(self.0.chunk(chunk, B::BLOCKS), panel) };
    }

    #[inline(always)]
    fn ask(&self, chunk: usize, eighth: usize) {
        self.0.ask::<2>(chunk, B::BLOCKS, eighth);
    }

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add(
        panels: &[B::Panel; 2],
        x: &[B::Chunk],
        stride: usize,
        sums: &mut [[Sums; 2]],
    ) -> usize {
        // SAFETY: this function is compiled with the features that the callee needs
        unsafe { B::add_panels(panels, x, stride, sums) }
    }
}

/// Sixteen interleaved blocks, as they are unpacked for many columns.
pub(in super::super) trait Unpack: Interleaved {
    /// What they are unpacked to.
    type Panel: Copy + Zeroable;
    /// Unpacks blocks that follow each other, at most [`Interleaved::BLOCKS`] of them.
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn unpack(blocks: &[Self], panel: &mut Self::Panel);
    /// See [`SixteenRows::add`].
    ///
    /// # Safety
    /// The machine has this level's features.
    unsafe fn add_panels(
        panels: &[Self::Panel; 2],
        x: &[Self::Chunk],
        stride: usize,
        sums: &mut [[Sums; 2]],
    ) -> usize;
}

impl<B: Interleaved32> Unpack for B {
    type Panel = Panel32;

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn unpack(blocks: &[Self], panel: &mut Panel32) {
        panel.blocks = blocks.len() * B::Rows::PARTS;
        for b in 0..panel.blocks.min(8) {
            let (block, part) = (&blocks[b / B::Rows::PARTS], b % B::Rows::PARTS);
            // SAFETY: this function is compiled with the features that the callee needs
            let (quads, d) = unsafe { (block.quads(part), block.d()) };
            store_all(&mut panel.q[b], quads);
            store_floats(&mut panel.d[b], d);
            if let Some(m) = block.m() {
                widen(m, &mut panel.m[b]);
            }
        }
    }

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add_panels(
        panels: &[Panel32; 2],
        x: &[Q8Chunk],
        stride: usize,
        sums: &mut [[Sums; 2]],
    ) -> usize {
        add_32::<B::Rows>(panels, x, stride, sums)
    }
}

macro_rules! unpack256 {
    ($name:ident, |$block:ident, $panel:ident| $unpack:expr) => {
        impl Unpack for $name {
            type Panel = Panel256;

            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn unpack(blocks: &[Self], $panel: &mut Panel256) {
                let $block = &blocks[0];
                $unpack
            }

            #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn add_panels(
                panels: &[Panel256; 2],
                x: &[Q8kChunk],
                stride: usize,
                sums: &mut [[Sums; 2]],
            ) -> usize {
                add_256::<blocks::$name>(panels, x, stride, sums)
            }
        }
    };
}
unpack256!(Q4K, |block, panel| {
    for i in 0..4 {
        for j in 0..8 {
            let q = load_64(&block.qs[i][j]);
            store_64(&mut panel.q[2 * i][j], and(q, 0x0f));
            let high = and(_mm512_srli_epi32::<4>(q), 0x0f);
            store_64(&mut panel.q[2 * i + 1][j], high);
        }
    }
    scales_and_mins(&block.scales, [&block.d, &block.dmin], panel);
});
unpack256!(Q5K, |block, panel| {
    for i in 0..4 {
        for j in 0..8 {
            let (low, high) = q5k_words(block, i, j);
            store_64(&mut panel.q[2 * i][j], low);
            store_64(&mut panel.q[2 * i + 1][j], high);
        }
    }
    scales_and_mins(&block.scales, [&block.d, &block.dmin], panel);
});
unpack256!(Q6K, |block, panel| {
    for h in 0..2 {
        for j in 0..8 {
            let (low, high) = q6k_words::<0>(block, h, j);
            store_64(&mut panel.q[4 * h][j], low);
            store_64(&mut panel.q[4 * h + 2][j], high);
            let (low, high) = q6k_words::<1>(block, h, j);
            store_64(&mut panel.q[4 * h + 1][j], low);
            store_64(&mut panel.q[4 * h + 3][j], high);
        }
    }
    for i in 0..4 {
        let pairs = signed_pairs(load_64(&block.scales[i]));
        store_all(&mut panel.scales[2 * i..], pairs);
    }
    store_floats(&mut panel.d, floats(&block.d));
});
unpack256!(Iq4Xs, |block, panel| {
    let scales = iq4xs_scales(block);
    for g in 0..8 {
        for j in 0..4 {
            let (low, high) = iq4xs_words(block, g, j);
            store_64(&mut panel.q[g][j], low);
            store_64(&mut panel.q[g][4 + j], high);
        }
        // the same scale for both halves of a group
        let twice = _mm512_or_si512(
            _mm512_and_si512(scales[g], _mm512_set1_epi32(0xffff)),
            _mm512_slli_epi32::<16>(scales[g]),
        );
        store_64(&mut panel.scales[g], twice);
    }
    store_floats(&mut panel.d, floats(&block.d));
});

/// Unpacks eight scales and mins, and what they are multiplied by.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scales_and_mins(packed: &[Word; 3], [d, dmin]: [&Halves; 2], panel: &mut Panel256) {
    let groups = Eight::read(packed);
    store_all(&mut panel.scales, groups.scale_pairs());
    store_all(&mut panel.pairs, groups.min_pairs());
    store_floats(&mut panel.d, floats(d));
    store_floats(&mut panel.dmin, floats(dmin));
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store_all<const N: usize>(words: &mut [Word], values: [__m512i; N]) {
    for i in 0..N {
        store_64(&mut words[i], values[i]);
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store_floats(floats: &mut [f32; GROUP], values: __m512) {
    store_64(cast_mut(floats), _mm512_castps_si512(values));
}
