//! How a matrix lies in a file: row after row, as GGUF has it, or sixteen rows interleaved, as the kernels stream it.
//!
//! When rows are interleaved, a vector of 64 bytes holds one word of each of sixteen rows, one in each 32-bit lane. So a
//! kernel loads weights in the order of memory, broadcasts four activations to every lane, and has sixteen sums at the end,
//! with nothing to fold. `vpdpbusd`, `vpmaddubsw` and `sdot` by element all want just this. One layout serves every level,
//! and a file packed on one machine runs on any other.

use super::GgmlType;

/// How many rows are interleaved with each other.
pub const GROUP: usize = 16;

/// The order of a matrix's bytes. Both orders of a matrix have the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The blocks of a row, then those of the next row, as in GGUF.
    Rows,
    /// Groups of [`GROUP`] rows, each block after block. Of a block there are first its 4-byte words, each of all sixteen
    /// rows side by side, and then its 2-byte halves in the same way: see [`Words`]. Rows of a vocabulary that make no group
    /// follow as in [`Self::Rows`].
    Interleaved16,
}

/// What a block consists of when sixteen of them are interleaved: 4-byte words, and the halves `d` (and `dmin`, `m` or scales).
/// Every byte is in one of them. Words lie in the order in which a kernel needs them, and halves, which it needs last, at
/// the end, because a core's prefetcher follows ascending addresses. With Q6_K's words in GGUF's order, read here and there
/// within 3 KB, one core streamed 8.6 GB/s, and in this order it streams 33 (2 cores of an AMD EPYC, Zen 4).
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// The byte of GGUF's block at which the words begin.
    pub words_at: usize,
    /// How many words a block has.
    pub words: usize,
    /// Which of GGUF's words is number `i` here.
    pub word: fn(usize) -> usize,
    /// How the bits of a word are ordered here, and how in GGUF, where those differ.
    pub bits: Option<Bits>,
    /// The byte of GGUF's block at which the halves begin.
    pub halves_at: usize,
    /// How many halves a block has.
    pub halves: usize,
    /// The bytes of a half: 2, or 1 of MXFP4, which has one byte instead.
    pub half_bytes: usize,
}

/// An order of the bits of a word. The kernels shift a word and mask it, and want values `4 i..4 i + 4` in its bytes then.
#[derive(Debug, Clone, Copy)]
pub struct Bits {
    /// Makes the order of this layout of GGUF's.
    pub interleave: fn([u8; 4]) -> [u8; 4],
    /// Makes GGUF's order of that of this layout.
    pub unpack: fn([u8; 4]) -> [u8; 4],
}

impl Layout {
    /// Whether a matrix of this type and number of rows can be interleaved. That is possible for the types that have
    /// [`Words`], if no row is left over.
    #[must_use]
    pub fn groups(ty: GgmlType, rows: u64) -> bool {
        Words::of(ty).is_some() && rows.is_multiple_of(GROUP as u64)
    }

    /// Whether a matrix of this name can be. Embeddings and LM heads have as many rows as there are tokens, whatever that number
    /// is, and are read by whole groups and what is left of them; of other matrices a chunk may end anywhere.
    #[must_use]
    pub fn takes(name: &str, ty: GgmlType, rows: u64) -> bool {
        let of_a_vocabulary = VOCABULARIES.contains(&name) && rows >= GROUP as u64;
        Self::groups(ty, rows) || of_a_vocabulary && Words::of(ty).is_some()
    }
}

/// The tensor that holds the LM head in four bits. The logits of all tokens are computed with it, and the largest ones again
/// with the head itself.
pub const REQUANTIZED_HEAD: &str = "output_coarse.weight";

/// The matrices that have a row for each token.
const VOCABULARIES: [&str; 3] = ["token_embd.weight", "output.weight", REQUANTIZED_HEAD];

impl Words {
    /// The words and halves of a type, or `None` if it is never interleaved.
    #[must_use]
    pub const fn of(ty: GgmlType) -> Option<Self> {
        let (words_at, words, word, halves_at, halves): (_, _, fn(usize) -> usize, _, _) = match ty
        {
            GgmlType::Q4_0 => (2, 4, same, 0, 1),
            GgmlType::Q4_1 => (4, 4, same, 0, 2),
            GgmlType::Q5_0 => (2, 5, same, 0, 1),
            GgmlType::Q8_0 => (2, 8, same, 0, 1),
            GgmlType::Q4_K => (4, 35, same, 0, 2),
            GgmlType::Q5_K => (4, 43, same, 0, 2),
            GgmlType::Q6_K => (0, 52, q6_k, 208, 1),
            GgmlType::IQ4_XS => (4, 33, same, 0, 2),
            GgmlType::MXFP4 => (1, 4, same, 0, 1),
            GgmlType::Q1_0 | GgmlType::Q2_0 => (2, 4, same, 0, 1),
            _ => return None,
        };
        Some(Self {
            words_at,
            words,
            word,
            bits: match ty {
                GgmlType::Q1_0 => Some(Q1_0),
                GgmlType::Q2_0 => Some(Q2_0),
                _ => None,
            },
            halves_at,
            halves,
            half_bytes: if matches!(ty, GgmlType::MXFP4) { 1 } else { 2 },
        })
    }
}

/// Interleaves groups of rows. Rows at the end that make no group stay as they are.
///
/// # Panics
/// If the type has no groups, `rows` are not whole rows of `row` bytes, or `out` is not as long.
pub fn interleave(ty: GgmlType, row: usize, rows: &[u8], out: &mut [u8]) {
    let group = GROUP * row;
    let block = ty.block_bytes();
    assert!(
        Words::of(ty).is_some()
            && row > 0
            && row.is_multiple_of(block)
            && rows.len().is_multiple_of(row)
            && rows.len() == out.len(),
        "{} bytes to {} as groups of sixteen rows of {row} bytes of {ty}",
        rows.len(),
        out.len()
    );
    let (groups, rest) = rows.split_at(rows.len() / group * group);
    let (out, to) = out.split_at_mut(groups.len());
    to.copy_from_slice(rest);
    for (rows, out) in groups.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        for (b, out) in out.chunks_exact_mut(GROUP * block).enumerate() {
            for r in 0..GROUP {
                let from = &rows[r * row + b * block..][..block];
                places(ty, r, |at, place, len, bits| {
                    let piece = &mut out[place..place + len];
                    piece.copy_from_slice(&from[at..at + len]);
                    order(piece, bits.map(|bits| bits.interleave));
                });
            }
        }
    }
}

/// Writes row `r` of a group to `row`, as GGUF has it.
///
/// # Panics
/// If the type has no groups, or `row` is not a sixteenth of `group`.
pub fn unpack_row(ty: GgmlType, group: &[u8], r: usize, row: &mut [u8]) {
    assert!(
        Words::of(ty).is_some() && row.len().checked_mul(GROUP) == Some(group.len()) && r < GROUP,
        "row {r}, {} bytes, of a group of {} bytes of {ty}",
        row.len(),
        group.len()
    );
    let block = ty.block_bytes();
    for (from, to) in group
        .chunks_exact(GROUP * block)
        .zip(row.chunks_exact_mut(block))
    {
        places(ty, r, |at, place, len, bits| {
            let piece = &mut to[at..at + len];
            piece.copy_from_slice(&from[place..place + len]);
            order(piece, bits.map(|bits| bits.unpack));
        });
    }
}

/// Calls `place` for every word and half of row `r`'s block: with its byte in the block, its byte in the group's block, its
/// length, and the order of its bits if that is another.
#[inline(always)]
fn places(ty: GgmlType, r: usize, mut place: impl FnMut(usize, usize, usize, Option<Bits>)) {
    if let Some(w) = Words::of(ty) {
        for i in 0..w.words {
            let at = w.words_at + 4 * (w.word)(i);
            place(at, 4 * (GROUP * i + r), 4, w.bits);
        }
        let (halves, len) = (4 * GROUP * w.words, w.half_bytes);
        for i in 0..w.halves {
            place(
                w.halves_at + len * i,
                halves + len * (GROUP * i + r),
                len,
                None,
            );
        }
    }
}

/// Orders the bits of a word.
#[inline(always)]
fn order(piece: &mut [u8], bits: Option<fn([u8; 4]) -> [u8; 4]>) {
    if let (Some(bits), Ok(word)) = (bits, <&mut [u8; 4]>::try_from(piece)) {
        *word = bits(*word);
    }
}

/// Sixteen values of two bits: value `4 i + j` goes to bits `2 i..2 i + 2` of byte `j`, from those of byte `i` that value `j`
/// has. That exchanges rows and columns, so that it is also the way back.
const Q2_0: Bits = Bits {
    interleave: transpose_2_bits,
    unpack: transpose_2_bits,
};

fn transpose_2_bits(word: [u8; 4]) -> [u8; 4] {
    let word = u32::from_le_bytes(word);
    // pairs of neighbours, and then pairs of pairs
    let moved = (word ^ (word >> 6)) & 0x00cc_00cc;
    let word = word ^ moved ^ (moved << 6);
    let moved = (word ^ (word >> 12)) & 0x0000_f0f0;
    (word ^ moved ^ (moved << 12)).to_le_bytes()
}

/// 32 values of a bit: value `4 i + j` goes to bit `i` of byte `j`, from the bit of its number.
const Q1_0: Bits = Bits {
    interleave: |word| {
        let word = u32::from_le_bytes(word);
        std::array::from_fn(|j| (0..8).fold(0, |byte, i| byte | (bit(word, 4 * i + j) << i)))
    },
    unpack: |bytes| {
        let of = |value: usize| bit(bytes[value % 4].into(), value / 4);
        std::array::from_fn(|byte| (0..8).fold(0, |bits, i| bits | (of(8 * byte + i) << i)))
    },
};

fn bit(word: u32, at: usize) -> u8 {
    (word >> at & 1) as u8
}

fn same(i: usize) -> usize {
    i
}

/// The order of Q6_K: the scales first; then, for each half and each of eight words, the low bits of the first and third 32
/// values, the low bits of the second and fourth, and the high bits of all.
fn q6_k(i: usize) -> usize {
    let Some(i) = i.checked_sub(4) else {
        return 48 + i;
    };
    let (half, word) = (i / 24, i % 24 / 3);
    match i % 3 {
        0 => 16 * half + word,
        1 => 16 * half + 8 + word,
        _ => 32 + 8 * half + word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bit by itself, so that none is lost and none meets another.
    #[test]
    fn bits_go_there_and_back() {
        for (bits, width) in [(Q1_0, 1), (Q2_0, 2)] {
            for value in 0..32 / width {
                for bit in 0..width {
                    let word = 1u32 << (width * value + bit);
                    let there = (bits.interleave)(word.to_le_bytes());
                    let at = 8 * (value % 4) + width * (value / 4) + bit;
                    assert_eq!(u32::from_le_bytes(there), 1 << at, "{width} {value}");
                    assert_eq!((bits.unpack)(there), word.to_le_bytes());
                }
            }
        }
    }

    #[test]
    fn words_and_halves_are_the_whole_block() {
        for ty in GgmlType::ALL {
            if let Some(w) = Words::of(ty) {
                let scales = w.half_bytes * w.halves;
                assert_eq!(4 * w.words + scales, ty.block_bytes(), "{ty}");
                let (first, second) = if w.words_at == 0 {
                    (4 * w.words, w.halves_at)
                } else {
                    (scales, w.words_at)
                };
                assert_eq!(first, second, "{ty}");
                let mut order: Vec<usize> = (0..w.words).map(w.word).collect();
                order.sort_unstable();
                assert!(order.into_iter().eq(0..w.words), "{ty}");
                assert!(Layout::groups(ty, 32) && !Layout::groups(ty, 24));
                assert!(Layout::takes("output.weight", ty, 24));
                assert!(!Layout::takes("output.weight", ty, 15));
                assert!(!Layout::takes("blk.0.attn_q.weight", ty, 24));
            } else {
                assert!(!Layout::groups(ty, 32));
            }
        }
    }
}
