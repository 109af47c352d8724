//! How sixteen rows are unpacked to the panels of [`super::gemm`], row by row here, and from groups in [`groups`].

mod groups;

pub(super) use groups::Groups;

use super::gemm::{add_32, add_256};
use super::unpack::{
    self, Block32, Block256, first_16, load_4x16, load_16, load_32, load_64, store_64,
};
use crate::gguf::GROUP;
use crate::quant::Activations;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::format::interleaved::{Halves, Word};
use crate::quant::kernels::Product;
use crate::quant::x86::group_scales::Groups as Scaled;
use crate::quant::x86::panel::{self, Panel32, Panel256, SixteenRows, Sums};
use bytemuck::{cast, cast_mut, cast_ref};
use std::arch::x86_64::*;

/// Sixteen rows of blocks of 32 weights, one after the other.
pub(super) struct Rows32<'a, B>([&'a [B]; GROUP]);

/// Sixteen rows of blocks of 256 weights, one after the other.
pub(super) struct Rows256<'a, B>([&'a [B]; GROUP]);

impl<'a, B: Block32> SixteenRows<'a, 2> for Rows32<'a, B> {
    type Panel = Panel32;
    type Chunk = Q8Chunk;

    #[inline(always)]
    fn new(product: &Product<'a>, first: usize, rows: usize) -> Self {
        let (w, blocks) = (product.blocks(rows), product.row_blocks());
        Self(panel::rows(w, blocks, first, rows))
    }

    #[inline(always)]
    fn columns(acts: &'a Activations, c: usize) -> &'a [Q8Chunk] {
        acts.q8_from(c)
    }

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn unpack(&self, chunk: usize, panel: &mut Panel32) {
        let range = panel::part::<B>(chunk, self.0[0].len());
        let parts = range.len() * B::PARTS;
        panel.blocks = parts;
        let (mut bytes, mut halves) = ([[[0; 64]; GROUP]; 4], [[[0u16; GROUP]; 2]; 8]);
        for r in 0..GROUP {
            let row = &self.0[r][range.clone()];
            for i in 0..parts.div_ceil(4) {
                let four = [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3];
                let four = four.map(|n| n.min(parts - 1));
                let four = four.map(|n| (&row[n / B::PARTS], n % B::PARTS));
                let first = load_4x16(four.map(|(block, _)| first_16(block)));
                // SAFETY: this function is compiled with the features that the callee needs
                let [low, high] = unsafe { B::bytes(four, first) };
                let index = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
                let two = _mm512_permutex2var_epi64(low, index, high);
                store_64(&mut bytes[2 * i][r], two);
                let index = _mm512_add_epi64(index, _mm512_set1_epi64(4));
                let two = _mm512_permutex2var_epi64(low, index, high);
                store_64(&mut bytes[2 * i + 1][r], two);
            }
            for (n, halves) in halves.iter_mut().take(parts).enumerate() {
                [halves[0][r], halves[1][r]] = panel::halves(&row[n / B::PARTS]);
            }
        }
        let q: &mut [[Word; GROUP]; 4] = cast_mut(&mut panel.q);
        for i in 0..4 {
            transpose(&bytes[i], &mut q[i]);
        }
        for b in 0..8 {
            // SAFETY: this function is compiled with the features that the callee needs
            let d = unsafe { B::d(load_32(cast_ref(&halves[b][0]))) };
            store_64(cast_mut(&mut panel.d[b]), _mm512_castps_si512(d));
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

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add(
        panels: &[Panel32; 2],
        x: &[Q8Chunk],
        stride: usize,
        sums: &mut [[Sums; 2]],
    ) -> usize {
        add_32::<B>(panels, x, stride, sums)
    }
}

impl<'a, B: Block256> SixteenRows<'a, 2> for Rows256<'a, B> {
    type Panel = Panel256;
    type Chunk = Q8kChunk;

    #[inline(always)]
    fn new(product: &Product<'a>, first: usize, rows: usize) -> Self {
        let (w, blocks) = (product.blocks(rows), product.row_blocks());
        Self(panel::rows(w, blocks, first, rows))
    }

    #[inline(always)]
    fn columns(acts: &'a Activations, c: usize) -> &'a [Q8kChunk] {
        acts.q8k_from(c)
    }

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn unpack(&self, chunk: usize, panel: &mut Panel256) {
        let (mut bytes, mut d, mut dmin) = ([[[0; 64]; GROUP]; 4], [0u16; GROUP], [0u16; GROUP]);
        // sixteen scales, and sixteen mins, as int16
        let mut pairs = [[0; 64]; GROUP];
        for r in 0..GROUP {
            let block = &self.0[r][chunk];
            // SAFETY: this function is compiled with the features that the callee needs
            let values = unpack::arrange::<B>(unsafe { block.bytes() });
            for i in 0..4 {
                store_64(&mut bytes[i][r], values[i]);
            }
            let groups = block.group_scales();
            (d[r], dmin[r]) = (groups.d.bits(), groups.dmin.bits());
            let (scale, min) = (load_16(&groups.scales), load_16(&groups.mins));
            let scale = match B::GROUPS {
                Scaled::Signed => _mm256_cvtepi8_epi16(scale),
                Scaled::Eight | Scaled::Sixteen => _mm256_cvtepu8_epi16(scale),
            };
            let both = _mm512_castsi256_si512(scale);
            let both = _mm512_inserti64x4::<1>(both, _mm256_cvtepu8_epi16(min));
            store_64(&mut pairs[r], both);
        }
        let q: &mut [[Word; GROUP]; 4] = cast_mut(&mut panel.q);
        for i in 0..4 {
            transpose(&bytes[i], &mut q[i]);
        }
        let mut words = [[0; 64]; GROUP];
        transpose(&pairs, &mut words);
        let [scales, mins] = cast::<_, [[Word; 8]; 2]>(words);
        panel.scales[..8].copy_from_slice(&scales);
        panel.pairs = mins;
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

    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add(
        panels: &[Panel256; 2],
        x: &[Q8kChunk],
        stride: usize,
        sums: &mut [[Sums; 2]],
    ) -> usize {
        add_256::<B>(panels, x, stride, sums)
    }
}

/// From a vector of each row to a word of all rows.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn transpose(rows: &[Word; GROUP], words: &mut [Word; GROUP]) {
    // fours[i][j]: words j, 4 + j, 8 + j and 12 + j of rows 4 i..4 i + 4
    let mut fours = [[_mm512_setzero_si512(); 4]; 4];
    for i in 0..4 {
        let (a, b) = (load_64(&rows[4 * i]), load_64(&rows[4 * i + 1]));
        let (c, d) = (load_64(&rows[4 * i + 2]), load_64(&rows[4 * i + 3]));
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        fours[i][0] = _mm512_unpacklo_epi64(ab, cd);
        fours[i][1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        fours[i][2] = _mm512_unpacklo_epi64(ab, cd);
        fours[i][3] = _mm512_unpackhi_epi64(ab, cd);
    }
    for j in 0..4 {
        let [a, b, c, d] = [fours[0][j], fours[1][j], fours[2][j], fours[3][j]];
        let (ab, cd) = (
            _mm512_shuffle_i64x2::<0x44>(a, b),
            _mm512_shuffle_i64x2::<0x44>(c, d),
        );
        store_64(&mut words[j], _mm512_shuffle_i64x2::<0x88>(ab, cd));
        store_64(&mut words[4 + j], _mm512_shuffle_i64x2::<0xdd>(ab, cd));
        let (ab, cd) = (
            _mm512_shuffle_i64x2::<0xee>(a, b),
            _mm512_shuffle_i64x2::<0xee>(c, d),
        );
        store_64(&mut words[8 + j], _mm512_shuffle_i64x2::<0x88>(ab, cd));
        store_64(&mut words[12 + j], _mm512_shuffle_i64x2::<0xdd>(ab, cd));
    }
}

/// Sixteen halves as floats.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen(halves: &Halves, floats: &mut [f32; GROUP]) {
    let wide = _mm512_castps_si512(_mm512_cvtph_ps(load_32(halves)));
    store_64(cast_mut(floats), wide);
}
