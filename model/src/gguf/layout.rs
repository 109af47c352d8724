//! How a matrix lies in a file: row after row, as GGUF has it, or sixteen rows interleaved, as the kernels stream it.
//!
//! A vector of 64 bytes holds a word of sixteen rows, one in each 32-bit lane. So a kernel loads what it multiplies by in
//! the order of memory, broadcasts four activations to every lane, and has sixteen sums at the end, with nothing to fold:
//! `vpdpbusd`, `vpmaddubsw` and `sdot` by element all want just this. One layout serves every level, and a file packed on
//! one machine runs on any other.

use super::GgmlType;

/// Rows of a group.
pub const GROUP: usize = 16;

/// The order of a matrix's bytes. Both orders of a matrix have the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// a row's blocks, then the next row's: GGUF
    Rows,
    /// Groups of [`GROUP`] rows. Of each group block after block; of a block first its 4-byte words, each of all sixteen
    /// rows side by side, then its 2-byte halves likewise: see [`Words`]. Same length as in rows.
    Interleaved16,
}

/// What a block consists of when sixteen of them are interleaved: 4-byte words, and the halves `d` (and `dmin` or `m`).
/// All bytes are in one of them. Words lie in the order in which a kernel needs them, and halves, needed last, at the end:
/// a core's prefetcher follows ascending addresses, and with Q6_K's words in GGUF's order, read here and there within 3 KB,
/// one core streamed 8.6 GB/s where it does 33 in this one (2 cores of an AMD EPYC, Zen 4).
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// where the words begin in GGUF's block
    pub words_at: usize,
    /// how many
    pub words: usize,
    /// which of GGUF's words is number `i` here
    pub word: fn(usize) -> usize,
    /// where the halves begin in GGUF's block
    pub halves_at: usize,
    /// how many
    pub halves: usize,
}

impl Layout {
    /// Can a matrix be in groups? Those types can that files of Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and their mixtures hold, if
    /// no row is left over.
    #[must_use]
    pub fn groups(ty: GgmlType, rows: u64) -> bool {
        Words::of(ty).is_some() && rows.is_multiple_of(GROUP as u64)
    }
}

impl Words {
    /// None: the type is always in rows.
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

/// Row `r` of a group, as GGUF has it; `row` is as long as one.
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

/// For every word and half of row `r`'s block: where it is in the block, where in the group's block, and its length.
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

/// Scales first; then of each half, for each of eight words, low bits of the first and the third 32 values, low bits of the
/// second and the fourth, high bits of all.
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
