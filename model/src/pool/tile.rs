//! The disjoint tiles of an output that the tasks of a run write.

use std::marker::PhantomData;

/// An exclusive view of some rows of a column-major f32 matrix, so `column(c)` is `rows` long.
///
/// # Shapes
/// The matrix is `[cols][stride]`, of which the view reaches `rows` consecutive elements in every column.
pub struct RowTile<'a> {
    /// The first row of the tile in column 0.
    pub(super) ptr: *mut f32,
    /// The number of elements from one column to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) _out: PhantomData<&'a mut [f32]>,
}

impl<'a> RowTile<'a> {
    /// Views a whole buffer of `[cols][rows]`; the number of columns follows from its length.
    ///
    /// # Panics
    /// If `out.len()` is not a multiple of `rows` (`rows == 0` asks for an empty buffer).
    pub fn new(out: &'a mut [f32], rows: usize) -> Self {
        let cols = out.len().checked_div(rows).unwrap_or(0);
        assert!(
            cols * rows == out.len(),
            "an output of {} values is no whole number of columns of {rows}",
            out.len()
        );
        Self {
            ptr: out.as_mut_ptr(),
            stride: rows,
            rows,
            cols,
            _out: PhantomData,
        }
    }

    /// How many rows the tile has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns the tile has.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Views `rows` of the tile's rows from `first` on.
    ///
    /// # Panics
    /// If the rows are not all in the tile.
    pub fn part(&mut self, first: usize, rows: usize) -> RowTile<'_> {
        assert!(
            first.checked_add(rows).is_some_and(|end| end <= self.rows),
            "{rows} rows from {first} of a tile of {}",
            self.rows
        );
        RowTile {
            // SAFETY: first <= self.rows, so the pointer stays inside column 0's rows of this tile or one past them. The
            // part's rows are this tile's, which is borrowed for as long as the part lives
            ptr: unsafe { self.ptr.add(first) },
            stride: self.stride,
            rows,
            cols: self.cols,
            _out: PhantomData,
        }
    }

    /// This tile's rows of column `c`.
    ///
    /// # Panics
    /// If `c >= cols()`.
    pub fn column(&mut self, c: usize) -> &mut [f32] {
        assert!(c < self.cols, "column {c} of a tile of {}", self.cols);
        // SAFETY: c < cols, and the tile was cut so that ptr + c*stride .. + rows lies inside the matrix for every
        // column. Tiles of one matrix have disjoint rows or disjoint columns (`run_tiles`), and `&mut self` makes this
        // slice the only one of this tile; the matrix is borrowed for 'a.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(c * self.stride), self.rows) }
    }
}
