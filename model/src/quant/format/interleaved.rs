//! Sixteen rows interleaved ([`crate::gguf::Layout::Interleaved16`]): their blocks, and the way through rows for the level that
//! has no kernel of its own, and for one row.

use crate::gguf::{GROUP, GgmlType, unpack_row};
use crate::pool::RowTile;
use crate::quant::dispatch::Matmul;
use crate::quant::{Activations, row_bytes};
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

/// A word of sixteen rows.
pub(in crate::quant) type Word = [u8; 64];
/// A half of sixteen rows.
pub(in crate::quant) type Halves = [u8; 32];

macro_rules! sixteen {
    ($($name:ident: $bytes:literal { $($field:ident: $ty:ty),* })*) => {$(
        /// Sixteen blocks, interleaved: see [`crate::gguf::Layout::Interleaved16`].
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub(in crate::quant) struct $name { $(pub(in crate::quant) $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == GROUP * $bytes && align_of::<$name>() == 1);
    )*};
}
sixteen! {
    Q4_0: 18 { qs: [Word; 4], d: Halves }
    Q4_1: 20 { qs: [Word; 4], d: Halves, m: Halves }
    Q5_0: 22 { qh: Word, qs: [Word; 4], d: Halves }
    Q8_0: 34 { qs: [Word; 8], d: Halves }
    Q4K: 144 { scales: [Word; 3], qs: [[Word; 8]; 4], d: Halves, dmin: Halves }
    Q5K: 176 { scales: [Word; 3], qh: [Word; 8], qs: [[Word; 8]; 4], d: Halves, dmin: Halves }
    Q6K: 210 { scales: [Word; 4], q: [[[Word; 3]; 8]; 2], d: Halves }
}

thread_local! {
    /// a row, or a group in rows, while it is read: at most `16 * row_bytes`
    static ROWS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Gives row `row` of a matrix in groups, as GGUF has it: `bytes` bytes.
///
/// # Panics
/// If the type has no groups, or there is no such row.
pub(in crate::quant) fn with_row(
    ty: GgmlType,
    matrix: &[u8],
    row: usize,
    bytes: usize,
    give: impl FnOnce(&[u8]),
) {
    let group = &matrix[row / GROUP * GROUP * bytes..][..GROUP * bytes];
    ROWS.with_borrow_mut(|rows| {
        rows.resize(rows.len().max(bytes), 0);
        unpack_row(ty, group, row % GROUP, &mut rows[..bytes]);
        give(&rows[..bytes]);
    });
}

/// [`crate::quant::Kernels::matmul`] of groups by way of rows.
pub(in crate::quant) fn by_rows(
    matmul: Matmul,
    ty: GgmlType,
    w: &[u8],
    k: usize,
    acts: &Activations,
    col0: usize,
    out: &mut RowTile<'_>,
) {
    let group = GROUP * row_bytes(ty, k).unwrap_or_default();
    ROWS.with_borrow_mut(|rows| {
        rows.resize(rows.len().max(group), 0);
        let rows = &mut rows[..group];
        for (i, w) in w.chunks_exact(group).take(out.rows() / GROUP).enumerate() {
            for (r, row) in rows.chunks_exact_mut(group / GROUP).enumerate() {
                unpack_row(ty, w, r, row);
            }
            matmul(ty, rows, k, acts, col0, &mut out.part(GROUP * i, GROUP));
        }
    });
}
