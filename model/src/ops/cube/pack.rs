//! How a weight matrix lies on a device: words that the kernels load whole, made of GGUF's blocks when a file is loaded.
//!
//! GGUF's blocks have 18, 34 or 210 bytes, which no load of words fits. Here each part of a block has a region of its own,
//! and in it row follows row and block follows block, so that neighbouring units load neighbouring words:
//!
//! 1. **Quants**, four words of nibbles for each block of 32 values, or eight words of bytes. Four words are loaded as a vector.
//!    Byte `j` of word `i` has value `4 j + i` in its low nibble and value `16 + 4 j + i` in its high one, so that a shift and a
//!    mask of the vector make four neighbouring values. Of bytes, the second four words have the values from 16 on.
//! 2. **High bits**, one word for each block of five bits (bit `v` is bit 4 of value `v`), or two for each of six (bits `2 v` and
//!    `2 v + 1` of word `k` are the high bits of value `16 k + v`).
//! 3. **Scales**, as [`Scales`] says. Their bits are those of the file, and nothing is rounded a second time.

use crate::gguf::{GROUP, GgmlType, Layout, unpack_row};
use crate::quant::{Decoded, decode_row, row_bytes};
use std::ops::Range;

/// Values of a block on the device; GGUF's blocks of 256 are eight of these.
pub(super) const BLOCK: usize = 32;

/// Parts of a matrix have a multiple of this many rows: those of a tile, and whole groups of a file.
const PART_STEP: usize = 2 * GROUP;

/// What a block's integers are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scales {
    /// `w = d q`: a half for each block, two blocks to a word.
    Half,
    /// `w = d q + m`: two halves for each block.
    HalfMin,
    /// `w = d s q - dmin m`: a byte `s` and a byte `m` for each block, two blocks to a word; behind those of the row, the
    /// halves `d` and `dmin` for every eight blocks.
    ByteMin,
    /// `w = d s q`: a signed byte for every sixteen values, two blocks to a word; behind those of the row, the half `d` for
    /// every eight blocks, a word each.
    ByteOf16,
}

/// The words of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Format {
    /// Bits of a value: 4, 5, 6 or 8.
    pub(super) bits: u32,
    /// What is taken from a stored value, which is never negative, to make it the quant.
    pub(super) offset: u32,
    /// What the values are multiplied with.
    pub(super) scales: Scales,
}

impl Format {
    /// The words of a type, or `None` if the device has no kernels for it.
    pub(super) const fn of(ty: GgmlType) -> Option<Self> {
        let (bits, offset, scales) = match ty {
            GgmlType::Q4_0 => (4, 8, Scales::Half),
            GgmlType::Q4_1 => (4, 0, Scales::HalfMin),
            GgmlType::Q5_0 => (5, 16, Scales::Half),
            GgmlType::Q5_1 => (5, 0, Scales::HalfMin),
            GgmlType::Q8_0 | GgmlType::IQ4_NL => (8, 128, Scales::Half),
            GgmlType::Q3_K => (4, 4, Scales::ByteOf16),
            GgmlType::Q4_K => (4, 0, Scales::ByteMin),
            GgmlType::Q5_K => (5, 0, Scales::ByteMin),
            GgmlType::Q6_K => (6, 32, Scales::ByteOf16),
            _ => return None,
        };
        Some(Self {
            bits,
            offset,
            scales,
        })
    }

    /// Words of a block in the first region.
    pub(super) const fn quant_words(self) -> usize {
        if self.bits == 8 { 8 } else { 4 }
    }

    /// Words of a block in the second region.
    pub(super) const fn high_words(self) -> usize {
        match self.bits {
            5 => 1,
            6 => 2,
            _ => 0,
        }
    }

    /// Words of a row of `blocks` blocks in the third region.
    pub(super) const fn scale_words(self, blocks: usize) -> usize {
        match self.scales {
            Scales::Half => blocks.div_ceil(2),
            Scales::HalfMin => blocks,
            Scales::ByteMin | Scales::ByteOf16 => blocks / 2 + blocks / 8,
        }
    }

    /// Whether something is added to all values of a block.
    pub(super) const fn has_min(self) -> bool {
        matches!(self.scales, Scales::HalfMin | Scales::ByteMin)
    }

    /// Whether scales are for 256 values, and so are those of the activations.
    pub(super) const fn of_256(self) -> bool {
        matches!(self.scales, Scales::ByteMin | Scales::ByteOf16)
    }

    /// The most rows that lie together in a buffer of `limit` bytes.
    pub(super) const fn part_rows(self, blocks: usize, limit: u64) -> usize {
        let fit = limit / (4 * self.words(1, blocks)) as u64;
        // no row is larger than the smallest buffer that devices give
        let steps = fit as usize / PART_STEP;
        if steps == 0 {
            PART_STEP
        } else {
            steps * PART_STEP
        }
    }

    /// Words of a matrix of `rows` rows of `blocks` blocks.
    pub(super) const fn words(self, rows: usize, blocks: usize) -> usize {
        rows * (blocks * (self.quant_words() + self.high_words()) + self.scale_words(blocks))
    }
}

/// Bytes that a matrix takes on a device, or `None` if the device has no kernels for its type.
#[must_use]
pub(super) fn device_bytes(ty: GgmlType, rows: usize, cols: usize) -> Option<usize> {
    Some(4 * Format::of(ty)?.words(rows, cols / BLOCK))
}

/// Makes the words of some rows of a matrix. Gives `None` if the device has no kernels for its type.
///
/// # Panics
/// If `bytes` are not a matrix of this type and shape, or have no such rows.
#[must_use]
pub(super) fn pack(
    ty: GgmlType,
    layout: Layout,
    bytes: &[u8],
    range: Range<usize>,
    cols: usize,
) -> Option<Vec<u32>> {
    let format = Format::of(ty)?;
    let (rows, blocks, row_len) = (range.len(), cols / BLOCK, row_bytes(ty, cols)?);
    assert!(range.end * row_len <= bytes.len(), "the bytes of a matrix");
    let mut words = vec![0; format.words(rows, blocks)];
    let (quants, rest) = words.split_at_mut(rows * blocks * format.quant_words());
    let (high, scales) = rest.split_at_mut(rows * blocks * format.high_words());
    let mut unpacked = vec![0; row_len];
    for (r, of) in range.enumerate() {
        let bytes = match layout {
            Layout::Interleaved16 if (of / GROUP + 1) * GROUP * row_len <= bytes.len() => {
                let group = &bytes[of / GROUP * GROUP * row_len..][..GROUP * row_len];
                unpack_row(ty, group, of % GROUP, &mut unpacked);
                &unpacked
            }
            // of interleaved rows those that make no group are as they were
            _ => &bytes[of * row_len..][..row_len],
        };
        let mut row = Row {
            format,
            blocks,
            quants: &mut quants[r * blocks * format.quant_words()..],
            high: &mut high[r * blocks * format.high_words()..],
            scales: &mut scales[r * format.scale_words(blocks)..],
        };
        let mut block = 0;
        decode_row(ty, bytes, &mut |decoded| {
            block += row.put(block, &decoded);
        });
    }
    Some(words)
}

/// The words of one row, to be filled. Each part begins with the row's own words.
struct Row<'a> {
    format: Format,
    blocks: usize,
    quants: &'a mut [u32],
    high: &'a mut [u32],
    scales: &'a mut [u32],
}

impl Row<'_> {
    /// Puts a block of the file at block `at` of the row and gives how many blocks of the device it is.
    fn put(&mut self, at: usize, decoded: &Decoded) -> usize {
        match decoded {
            Decoded::Of32(values) => {
                self.put_quants(at, &values.q);
                // a format with two scales has no place here: see `Format::of`
                let (d, m) = (half(values.d[0]), half(values.m));
                match self.format.scales {
                    Scales::HalfMin => self.scales[at] = d | (m << 16),
                    _ => self.scales[at / 2] |= d << (16 * (at % 2)),
                }
                1
            }
            Decoded::Of256(values) => {
                let min = self.format.scales == Scales::ByteMin;
                for (b, q) in values.q.as_chunks::<BLOCK>().0.iter().enumerate() {
                    self.put_quants(at + b, q);
                    let second = if min {
                        values.min[2 * b]
                    } else {
                        values.scale[2 * b + 1]
                    };
                    let pair =
                        u32::from(values.scale[2 * b] as u8) | (u32::from(second as u8) << 8);
                    self.scales[(at + b) / 2] |= pair << (16 * ((at + b) % 2));
                }
                self.scales[self.blocks / 2 + at / 8] = half(values.d) | (half(values.dmin) << 16);
                8
            }
        }
    }

    fn put_quants(&mut self, block: usize, q: &[i8; BLOCK]) {
        let (words, high_words) = (self.format.quant_words(), self.format.high_words());
        let quants = &mut self.quants[block * words..][..words];
        let high = &mut self.high[block * high_words..][..high_words];
        for (at, q) in q.iter().enumerate() {
            let stored = u32::from(q.wrapping_add(self.format.offset as u8 as i8) as u8);
            let (half, word, byte) = (at / 16, at % 4, at % 16 / 4);
            match self.format.bits {
                8 => quants[4 * half + word] |= stored << (8 * byte),
                bits => {
                    quants[word] |= (stored & 15) << (8 * byte + 4 * half);
                    match bits {
                        5 => high[0] |= (stored >> 4) << at,
                        6 => high[half] |= (stored >> 4) << (2 * (at % 16)),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// The bits of a half; the value came from one, so nothing is rounded.
fn half(value: f32) -> u32 {
    u32::from(half::f16::from_f32(value).to_bits())
}
