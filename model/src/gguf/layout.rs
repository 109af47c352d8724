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
    /// rows side by side, and then its 2-byte halves in the same way: see [`Words`].
    Interleaved16,
}

/// What a block consists of when sixteen of them are interleaved: 4-byte words, and the halves `d` (and `dmin` or `m`).
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
    /// The byte of GGUF's block at which the halves begin.
    pub halves_at: usize,
    /// How many halves a block has.
    pub halves: usize,
}

impl Layout {
    /// Whether a matrix of this type and number of rows can be interleaved. That is possible for the types that files of
    /// Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and their mixtures hold, if no row is left over.
    #[must_use]
    pub fn groups(ty: GgmlType, rows: u64) -> bool {
        Words::of(ty).is_some() && rows.is_multiple_of(GROUP as u64)
    }
}

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
            _ => return None,
        };
        Some(Self {
            words_at,
            words,
            word,
            halves_at,
            halves,
        })
    }
}

/// Interleaves whole groups of rows.
///
/// # Panics
/// If the type has no groups, `rows` are not whole groups of rows of `row` bytes, or `out` is not as long.
pub fn interleave(ty: GgmlType, row: usize, rows: &[u8], out: &mut [u8]) {
    let group = GROUP * row;
    let block = ty.block_bytes();
    assert!(
        Words::of(ty).is_some()
            && row > 0
            && row.is_multiple_of(block)
            && rows.len().is_multiple_of(group)
            && rows.len() == out.len(),
        "{} bytes to {} as groups of sixteen rows of {row} bytes of {ty}",
        rows.len(),
        out.len()
    );
    for (rows, out) in rows.chunks_exact(group).zip(out.chunks_exact_mut(group)) {
        for (b, out) in out.chunks_exact_mut(GROUP * block).enumerate() {
            for r in 0..GROUP {
                let from = &rows[r * row + b * block..][..block];
                places(ty, r, |at, place, len| {
                    out[place..place + len].copy_from_slice(&from[at..at + len]);
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
        places(ty, r, |at, place, len| {
            to[at..at + len].copy_from_slice(&from[place..place + len]);
        });
    }
}

/// Calls `place` for every word and half of row `r`'s block: with its byte in the block, its byte in the group's block, and
/// its length.
#[inline(always)]
fn places(ty: GgmlType, r: usize, mut place: impl FnMut(usize, usize, usize)) {
    if let Some(w) = Words::of(ty) {
        for i in 0..w.words {
            place(w.words_at + 4 * (w.word)(i), 4 * (GROUP * i + r), 4);
        }
        let halves = 4 * GROUP * w.words;
        for i in 0..w.halves {
            place(w.halves_at + 2 * i, halves + 2 * (GROUP * i + r), 2);
        }
    }
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

    #[test]
    fn words_and_halves_are_the_whole_block() {
        for ty in GgmlType::ALL {
            if let Some(w) = Words::of(ty) {
                assert_eq!(4 * w.words + 2 * w.halves, ty.block_bytes(), "{ty}");
                let (first, second) = if w.words_at == 0 {
                    (4 * w.words, w.halves_at)
                } else {
                    (2 * w.halves, w.words_at)
                };
                assert_eq!(first, second, "{ty}");
                let mut order: Vec<usize> = (0..w.words).map(w.word).collect();
                order.sort_unstable();
                assert!(order.into_iter().eq(0..w.words), "{ty}");
                assert!(Layout::groups(ty, 32) && !Layout::groups(ty, 24));
            } else {
                assert!(!Layout::groups(ty, 32));
            }
        }
    }
}
