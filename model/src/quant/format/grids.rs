//! IQ1, IQ2 and IQ3, which store no values but the numbers of rows in a grid: of eight values, or of four.
//!
//! A grid is data of the format. `grids.bin` has them as `tests/vectors/grids/make.py` takes them from gguf-py (`iq2xxs_grid` and the
//! others in `ggml-common.h`), two bytes for each row, and compilers expand them. What the formats say in fractions is a whole number
//! times a power of two here, and no rounding is lost by it: see [`OnGrid::FACTOR`].

use super::blocks::{Half, Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
use bytemuck::Pod;

/// The rows of all grids, one after the other.
const PACKED: &[u8; 9216] = include_bytes!("grids.bin");

/// Rows of eight values, the first in the lowest byte. In the file each has two bits, which count in `values`.
const fn of_eight<const N: usize>(first: usize, values: [i8; 3]) -> [u64; N] {
    let mut rows = [0; N];
    let mut i = 0;
    while i < 8 * N {
        let at = 2 * (first + i / 8);
        let bits = u16::from_le_bytes([PACKED[at], PACKED[at + 1]]);
        let value = values[(bits >> (2 * (i % 8)) & 3) as usize];
        rows[i / 8] |= (value as u8 as u64) << (8 * (i % 8));
        i += 1;
    }
    rows
}

/// Rows of four values, the first in the lowest byte. In the file each has four bits, which count in `values`.
const fn of_four<const N: usize>(first: usize, values: [i8; 8]) -> [u32; N] {
    let mut rows = [0; N];
    let mut i = 0;
    while i < 4 * N {
        let at = 2 * (first + i / 4);
        let bits = u16::from_le_bytes([PACKED[at], PACKED[at + 1]]);
        let value = values[(bits >> (4 * (i % 4)) & 15) as usize];
        rows[i / 4] |= (value as u32) << (8 * (i % 4));
        i += 1;
    }
    rows
}

pub(in crate::quant) static IQ2_XXS: [u64; 256] = of_eight(0, [8, 25, 43]);
pub(in crate::quant) static IQ2_XS: [u64; 512] = of_eight(256, [8, 25, 43]);
pub(in crate::quant) static IQ2_S: [u64; 1024] = of_eight(768, [8, 25, 43]);
/// The grid of both IQ1_S and IQ1_M, eightfold, so that an eighth is a whole number.
pub(in crate::quant) static IQ1: [u64; 2048] = of_eight(1792, [-8, 0, 8]);
/// The grid halved, since all of its values are even.
pub(in crate::quant) static IQ3_XXS: [u32; 256] = of_four(3840, [2, 6, 10, 14, 18, 22, 26, 31]);
pub(in crate::quant) static IQ3_S: [u32; 512] = of_four(4096, [1, 3, 5, 7, 9, 11, 13, 15]);

/// The signs of eight values by the first seven of them: a bit for each, set for minus. The eighth makes their number even.
static EVEN: [u8; 128] = {
    let mut signs = [0; 128];
    let mut i = 0;
    while i < 128 {
        signs[i] = i as u8 | ((i.count_ones() % 2) << 7) as u8;
        i += 1;
    }
    signs
};

/// 32 neighbouring values of a block.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Part {
    /// Rows of the grid, eight values in each, the first in the lowest byte.
    pub(in crate::quant) rows: [u64; 4],
    /// A bit for each value, the first in the lowest: see [`OnGrid::MOVED`].
    pub(in crate::quant) signs: u32,
}

/// A block of 256 values in sixteen groups: `w = d * FACTOR * scale * q`.
///
/// Scales are odd and at most 31, and `d * FACTOR * scale * q` has at most 22 significant bits. So f32 holds it exactly, in whatever
/// order it is multiplied.
pub(in crate::quant) trait OnGrid: Pod {
    /// The power of two that makes whole numbers of scales and values.
    const FACTOR: f32;
    /// The largest magnitude of a value `q`.
    const LARGEST: i32;
    /// What a set bit of [`Part::signs`] does. It makes a value of the grid negative; or, where this is true, takes one from it, to
    /// which a bit that is not set adds one.
    const MOVED: bool;
    /// The half that all of the block is multiplied with.
    fn d(&self) -> Half;
    /// The scale of each 16 values.
    fn scales(&self) -> [u8; 16];
    /// Values `32 i..32 i + 32`.
    fn part(&self, i: usize) -> Part;

    /// All values in their order, signs and moves included.
    #[inline(always)]
    fn values(&self) -> [i8; 256] {
        let mut values = [0; 256];
        for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let part = self.part(i);
            let rows = part.rows.iter().zip(part.signs.to_le_bytes());
            for ((row, signs), values) in rows.zip(values.as_chunks_mut::<8>().0) {
                for (j, (value, of_grid)) in values.iter_mut().zip(row.to_le_bytes()).enumerate() {
                    // -1 for minus, or 0
                    let minus = ((signs >> j & 1) as i8).wrapping_neg();
                    let of_grid = of_grid as i8;
                    *value = if Self::MOVED {
                        of_grid.wrapping_add(minus | 1)
                    } else {
                        (of_grid ^ minus).wrapping_sub(minus)
                    };
                }
            }
        }
        values
    }
}

macro_rules! on_grid {
    ($block:ident, factor $factor:literal, largest $largest:literal, moved $moved:literal, d |$b:ident| $d:expr,
        scales $scales:expr, part |$i:ident| $part:expr) => {
        impl OnGrid for $block {
            const FACTOR: f32 = $factor;
            const LARGEST: i32 = $largest;
            const MOVED: bool = $moved;
            #[inline(always)]
            fn d(&self) -> Half {
                let $b = self;
                $d
            }
            #[inline(always)]
            fn scales(&self) -> [u8; 16] {
                let $b = self;
                $scales
            }
            #[inline(always)]
            fn part(&self, $i: usize) -> Part {
                let $b = self;
                $part
            }
        }
    };
}
on_grid!(Iq2Xxs, factor 0.125, largest 43, moved false, d |b| b.d,
scales of_32(b.qs.as_chunks::<8>().0, |eight| eight[7] >> 4), part |i| {
    let [a, b, c, d, signs @ ..] = b.qs.as_chunks::<8>().0[i];
    Part {
        rows: rows(&IQ2_XXS, [(a, 0), (b, 0), (c, 0), (d, 0)]),
        signs: even_signs(u32::from_le_bytes(signs)),
    }
});
on_grid!(Iq2Xs, factor 0.125, largest 43, moved false, d |b| b.d, scales nibbles(b.scales), part |i| {
    let [a, b, c, d, e, f, g, h] = b.qs.as_chunks::<8>().0[i];
    Part {
        rows: rows(&IQ2_XS, [(a, b & 1), (c, d & 1), (e, f & 1), (g, h & 1)]),
        signs: u32::from_le_bytes([even(b >> 1), even(d >> 1), even(f >> 1), even(h >> 1)]),
    }
});
on_grid!(Iq3Xxs, factor 0.5, largest 31, moved false, d |b| b.d,
scales of_32(b.words.as_chunks::<4>().0, |word| word[3] >> 4), part |i| Part {
    rows: pairs_of_rows(&IQ3_XXS, b.qs.as_chunks::<8>().0[i], 0),
    signs: even_signs(u32::from_le_bytes(b.words.as_chunks::<4>().0[i])),
});
on_grid!(Iq1S, factor 0.125, largest 9, moved true, d |b| b.d,
scales of_32(b.qh.as_chunks::<2>().0, |high| high[1] >> 4 & 7), part |i| {
    let high = u16::from_le_bytes(b.qh.as_chunks::<2>().0[i]);
    let [a, b, c, d] = b.qs.as_chunks::<4>().0[i];
    let three = |at: u16| (high >> at) as u8 & 7;
    Part {
        rows: rows(&IQ1, [(a, three(0)), (b, three(3)), (c, three(6)), (d, three(9))]),
        signs: u32::from(high >> 15).wrapping_neg(),
    }
});
on_grid!(Iq3S, factor 1.0, largest 15, moved false, d |b| b.d,
scales of_32(b.scales.map(|two| [two & 15, two >> 4]).as_flattened(), |scale| scale), part |i| Part {
    rows: pairs_of_rows(&IQ3_S, b.qs.as_chunks::<8>().0[i], b.qh[i]),
    signs: u32::from_le_bytes(b.signs.as_chunks::<4>().0[i]),
});
on_grid!(Iq2S, factor 0.125, largest 43, moved false, d |b| b.d, scales nibbles(b.scales), part |i| {
    let (high, signs) = (b.qh[i], b.signs.as_chunks::<4>().0[i]);
    let [a, b, c, d] = b.qs.as_chunks::<4>().0[i];
    Part {
        rows: rows(&IQ2_S, [(a, high & 3), (b, high >> 2 & 3), (c, high >> 4 & 3), (d, high >> 6)]),
        signs: u32::from_le_bytes(signs),
    }
});
on_grid!(Iq1M, factor 0.125, largest 9, moved true, d |b| {
    let [_, a, _, b, _, c, _, d] = b.scales.map(|byte| u16::from(byte >> 4));
    Half::from_bits(a | b << 4 | c << 8 | d << 12)
}, scales {
    let mut scales = [0; 16];
    for (scales, four) in scales.as_chunks_mut::<4>().0.iter_mut().zip(b.scales.as_chunks::<2>().0) {
        let four = u16::from_le_bytes(*four);
        *scales = [four, four >> 3, four >> 6, four >> 9].map(|scale| odd(scale as u8 & 7));
    }
    scales
}, part |i| {
    let [x, y] = b.qh.as_chunks::<2>().0[i];
    let [a, b, c, d] = b.qs.as_chunks::<4>().0[i];
    Part {
        rows: rows(&IQ1, [(a, x & 7), (b, x >> 4 & 7), (c, y & 7), (d, y >> 4 & 7)]),
        signs: u32::from_le_bytes([x >> 3 & 1, x >> 7, y >> 3 & 1, y >> 7].map(u8::wrapping_neg)),
    }
});

/// The whole number that stands for a scale: twice as much and one.
#[inline(always)]
fn odd(scale: u8) -> u8 {
    scale << 1 | 1
}

/// The scale of each 32 values, twice: for both groups of 16.
#[inline(always)]
fn of_32<T: Copy>(all: &[T], scale: impl Fn(T) -> u8) -> [u8; 16] {
    let mut scales = [0; 16];
    for (scales, of_32) in scales.as_chunks_mut::<2>().0.iter_mut().zip(all) {
        *scales = [odd(scale(*of_32)); 2];
    }
    scales
}

/// Sixteen scales, two to a byte.
#[inline(always)]
fn nibbles(bytes: [u8; 8]) -> [u8; 16] {
    let mut scales = [0; 16];
    for (scales, two) in scales.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *scales = [odd(two & 15), odd(two >> 4)];
    }
    scales
}

// What follows is written out and not in loops, because a compiler that does not unroll them keeps the rows in memory, and vectors
// that are loaded from there wait for it: IQ3_S was twice as slow.

/// Four rows of a grid, each by the low and the high bits of its number.
#[inline(always)]
fn rows<const N: usize>(grid: &[u64; N], numbers: [(u8, u8); 4]) -> [u64; 4] {
    let [a, b, c, d] = numbers;
    let row = |(low, high): (u8, u8)| grid[usize::from(high) << 8 | usize::from(low)];
    [row(a), row(b), row(c), row(d)]
}

/// Eight rows of four values, two to a number, each by the low bits of its number; its ninth is a bit of `high`.
#[inline(always)]
fn pairs_of_rows<const N: usize>(grid: &[u32; N], low: [u8; 8], high: u8) -> [u64; 4] {
    let [a, b, c, d, e, f, g, h] = low;
    let row = |low, high: u8| u64::from(grid[usize::from(high & 1) << 8 | usize::from(low)]);
    [
        row(a, high) | row(b, high >> 1) << 32,
        row(c, high >> 2) | row(d, high >> 3) << 32,
        row(e, high >> 4) | row(f, high >> 5) << 32,
        row(g, high >> 6) | row(h, high >> 7) << 32,
    ]
}

/// The signs of eight values by seven bits.
#[inline(always)]
fn even(seven: u8) -> u8 {
    EVEN[usize::from(seven & 127)]
}

/// The signs of 32 values by four times seven bits.
#[inline(always)]
fn even_signs(word: u32) -> u32 {
    u32::from_le_bytes([
        even(word as u8),
        even((word >> 7) as u8),
        even((word >> 14) as u8),
        even((word >> 21) as u8),
    ])
}
