//! The blocks of sixteen interleaved rows ([`crate::gguf::Layout::Interleaved16`]), and the way back to rows for whoever
//! has no kernel for them.

use crate::gguf::{GROUP, GgmlType, unpack_row};
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

/// One 4-byte word of each of sixteen rows.
pub(in crate::quant) type Word = [u8; 64];
/// One half-precision float of each of sixteen rows.
pub(in crate::quant) type Halves = [u8; 32];

macro_rules! interleaved {
    ($($name:ident: $ty:ident { $($field:ident: $field_ty:ty),* })*) => {$(
        /// Sixteen blocks of this format, interleaved as in [`crate::gguf::Layout::Interleaved16`].
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub(in crate::quant) struct $name { $(pub(in crate::quant) $field: $field_ty),* }
        const _: () = assert!(size_of::<$name>() == GROUP * GgmlType::$ty.block_bytes() && align_of::<$name>() == 1);
    )*};
}
interleaved! {
    Q4_0: Q4_0 { qs: [Word; 4], d: Halves }
    Q4_1: Q4_1 { qs: [Word; 4], d: Halves, m: Halves }
    Q5_0: Q5_0 { qh: Word, qs: [Word; 4], d: Halves }
    Q8_0: Q8_0 { qs: [Word; 8], d: Halves }
    Q4K: Q4_K { scales: [Word; 3], qs: [[Word; 8]; 4], d: Halves, dmin: Halves }
    Q5K: Q5_K { scales: [Word; 3], qh: [Word; 8], qs: [[Word; 8]; 4], d: Halves, dmin: Halves }
    Iq4Xs: IQ4_XS { scales_l: Word, qs: [[Word; 4]; 8], d: Halves, scales_h: Halves }
    Mxfp4: MXFP4 { qs: [Word; 4], e: [u8; 16] }
    Q1_0: Q1_0 { qs: [Word; 4], d: Halves }
    Q2_0: Q2_0 { qs: [[Word; 2]; 2], d: Halves }
    Q6K: Q6_K { scales: [Word; 4], q: [[[Word; 3]; 8]; 2], d: Halves }
}

thread_local! {
    /// A row, or the rows of a group, while they are read: at most `16 * row_bytes`.
    static ROWS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Unpacks row `row` of an interleaved matrix whose rows have `bytes` bytes, and gives it as GGUF has it.
///
/// # Panics
/// If the type is never interleaved, or there is no such row.
pub(in crate::quant) fn with_row(
    ty: GgmlType,
    matrix: &[u8],
    row: usize,
    bytes: usize,
    give: impl FnOnce(&[u8]),
) {
    let Some(group) = matrix[row / GROUP * GROUP * bytes..].get(..GROUP * bytes) else {
        // one of the last rows, which make no group
        return give(&matrix[row * bytes..][..bytes]);
    };
    with_scratch(bytes, |unpacked| {
        unpack_row(ty, group, row % GROUP, unpacked);
        give(unpacked);
    });
}

/// Unpacks a whole group, and gives its sixteen rows as GGUF has them, one after the other.
///
/// # Panics
/// If the type is never interleaved, or the group is not sixteen rows.
pub(in crate::quant) fn with_group(ty: GgmlType, group: &[u8], give: impl FnOnce(&[u8])) {
    with_scratch(group.len(), |rows| {
        for (r, row) in rows.chunks_exact_mut(group.len() / GROUP).enumerate() {
            unpack_row(ty, group, r, row);
        }
        give(rows);
    });
}

/// Gives `len` bytes of this thread's scratch.
fn with_scratch(len: usize, body: impl FnOnce(&mut [u8])) {
    ROWS.with_borrow_mut(|rows| {
        rows.resize(rows.len().max(len), 0);
        body(&mut rows[..len]);
    });
}
