//! Unpacking four rows as GGUF has them.

use super::opened::{Of32, Of256, Opened, of_rows, of_rows_s32};
use super::product::Source;
use crate::quant::arm::intrinsics::*;
use crate::quant::arm::tiles::minus;
use crate::quant::arm::unpack::{ROWS, Rows32, Rows256};
use crate::quant::format::blocks;
use crate::quant::format::grids::OnGrid;
use crate::quant::kernels::Product;
use bytemuck::Pod;

/// A format of rows.
pub(super) trait Line: Pod {
    type Opened: Opened;
    /// Unpacks values `256 chunk..` of four rows.
    fn open(rows: [&[Self]; ROWS], chunk: usize, to: &mut Self::Opened);
}

/// The rows of a product.
pub(super) struct Lines<'a, B> {
    w: &'a [B],
    /// Blocks of a row.
    blocks: usize,
    rows: usize,
}

impl<'a, B: Line> Lines<'a, B> {
    pub(super) fn new(product: &Product<'a>, rows: usize) -> Self {
        Self {
            w: product.blocks(rows),
            blocks: product.row_blocks(),
            rows,
        }
    }
}

impl<B: Line> Source for Lines<'_, B> {
    type Opened = B::Opened;

    #[inline(always)]
    fn open(&self, row: usize, chunk: usize, to: &mut B::Opened) {
        let row = |r: usize| &self.w[(row + r).min(self.rows - 1) * self.blocks..][..self.blocks];
        B::open([row(0), row(1), row(2), row(3)], chunk, to);
    }
}

macro_rules! lines {
    ($open:ident: $($block:ident => $opened:ty),*) => {$(
        impl Line for blocks::$block {
            type Opened = $opened;
            #[inline(always)]
            fn open(rows: [&[Self]; ROWS], chunk: usize, to: &mut $opened) {
                $open(rows, chunk, to);
            }
        }
    )*};
}
lines!(open_32: Q4_0 => Of32<false>, Q4_1 => Of32<true>, Q5_0 => Of32<false>, Q5_1 => Of32<true>, Q8_0 => Of32<false>,
    Iq4Nl => Of32<false>, Mxfp4 => Of32<false>, Q1_0 => Of32<false>, Q2_0 => Of32<false>);
lines!(open_256: Q2K => Of256<16, true>, Q3K => Of256<16, false>, Q4K => Of256<32, true>, Q5K => Of256<32, true>,
    Q6K => Of256<16, false>, Iq4Xs => Of256<32, false>,
    Tq1_0 => Of256<16, false>, Tq2_0 => Of256<16, false>);

impl<B: OnGrid> Line for B {
    type Opened = Of256<16, false>;
    #[inline(always)]
    fn open(rows: [&[Self]; ROWS], chunk: usize, to: &mut Self::Opened) {
        open_256(rows, chunk, to);
    }
}

#[inline(always)]
fn open_32<B: Rows32, const HAS_MIN: bool>(
    rows: [&[B]; ROWS],
    chunk: usize,
    to: &mut Of32<HAS_MIN>,
) {
    const { assert!(B::HAS_MIN == HAS_MIN) };
    let first = 8 * chunk;
    to.blocks = (rows[0].len() * B::PARTS - first).min(8);
    for b in 0..to.blocks {
        let rows = each(rows, |row| &row[(first + b) / B::PARTS]);
        let part = b % B::PARTS;
        for two in 0..2 {
            let upper = minus(rows[2 * two].values(part), B::OFFSET);
            let lower = minus(rows[2 * two + 1].values(part), B::OFFSET);
            for v in 0..2 {
                let [even, odd] = eights(upper[v], lower[v]);
                to.values[b][2 * v][two] = even;
                to.values[b][2 * v + 1][two] = odd;
            }
        }
        to.d[b] = of_rows(B::d(rows));
        if HAS_MIN {
            to.m[b] = of_rows(B::m(rows));
        }
    }
}

#[inline(always)]
fn open_256<B: Rows256, const GROUP: usize, const HAS_MIN: bool>(
    rows: [&[B]; ROWS],
    chunk: usize,
    to: &mut Of256<GROUP, HAS_MIN>,
) {
    const { assert!(B::GROUP == GROUP && B::HAS_MIN == HAS_MIN) };
    let rows = each(rows, |row| &row[chunk]);
    quarter::<B, 0>(rows, &mut to.values);
    quarter::<B, 1>(rows, &mut to.values);
    quarter::<B, 2>(rows, &mut to.values);
    quarter::<B, 3>(rows, &mut to.values);
    let scales = B::scales(rows);
    for g in 0..256 / GROUP {
        to.scales[g] = of_rows_s32(vmovl_s16(scales[g]));
    }
    to.d = of_rows(B::d(rows));
    if HAS_MIN {
        for two in 0..2 {
            let mins = [rows[2 * two].min_bytes(), rows[2 * two + 1].min_bytes()];
            let [even, odd] = eights(vreinterpretq_s8_u8(mins[0]), vreinterpretq_s8_u8(mins[1]));
            to.mins[0][two] = even;
            to.mins[1][two] = odd;
        }
        to.dmin = of_rows(B::dmin(rows));
    }
}

/// Unpacks values `64 J..64 J + 64`.
#[inline(always)]
fn quarter<B: Rows256, const J: usize>(rows: [&B; ROWS], values: &mut [[int8x16_t; 2]; 32]) {
    for two in 0..2 {
        let upper = minus(rows[2 * two].values::<J>(), B::OFFSET);
        let lower = minus(rows[2 * two + 1].values::<J>(), B::OFFSET);
        for v in 0..4 {
            let [even, odd] = eights(upper[v], lower[v]);
            values[8 * J + 2 * v][two] = even;
            values[8 * J + 2 * v + 1][two] = odd;
        }
    }
}

/// The first eight values of both rows, then the other eight.
#[inline(always)]
fn eights(upper: int8x16_t, lower: int8x16_t) -> [int8x16_t; 2] {
    let (upper, lower) = (vreinterpretq_u64_s8(upper), vreinterpretq_u64_s8(lower));
    [
        vreinterpretq_s8_u64(vzip1q_u64(upper, lower)),
        vreinterpretq_s8_u64(vzip2q_u64(upper, lower)),
    ]
}
