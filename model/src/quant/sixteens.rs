//! Sixteen rows interleaved ([`crate::gguf::Layout::Sixteens`]) by way of rows: for a level that has no kernel of its own,
//! and for one row.

use super::dispatch::Matmul;
use super::{Activations, row_bytes};
use crate::gguf::{GROUP, GgmlType, unpack_row};
use crate::pool::RowTile;
use std::cell::RefCell;

thread_local! {
    /// a row, or a group in rows, while it is read: at most `16 * row_bytes`
    static ROWS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Gives row `row` of a matrix in groups, as GGUF has it: `bytes` bytes.
///
/// # Panics
/// If the type has no groups, or there is no such row.
pub(super) fn with_row(
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

/// [`super::Kernels::matmul`] of groups by way of rows.
pub(super) fn by_rows(
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
