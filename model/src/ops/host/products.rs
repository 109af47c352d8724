//! Products of quantised matrices and columns: of some rows of one matrix, and of several matrices in one barrier.

use super::{Flex, add, claim, first, slice};
use crate::gguf::GROUP;
use crate::ops::Matrix;
use crate::ops::runtime::LayerInput;
use crate::pool::{Pool, RowTile};
use crate::quant::{Activations, Kernels, Product, row_bytes};
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// A worker's products of two planes, twice as many as a tile has.
    static PLANES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A matrix as the kernels see it: its bytes, row by row.
#[derive(Clone, Copy)]
pub(super) struct MatrixRows<'a> {
    pub(super) bytes: &'a [u8],
    row_bytes: usize,
    pub(super) matrix: &'a Matrix<Flex>,
}

impl<'a> MatrixRows<'a> {
    pub(super) fn new(matrix: &'a Matrix<Flex>) -> Self {
        let bytes = slice::<u8>(&matrix.blocks);
        let row_bytes = row_bytes(matrix.ty, matrix.cols).unwrap_or_default();
        assert_eq!(
            bytes.len(),
            row_bytes * matrix.rows,
            "matrix bytes do not match its shape"
        );
        Self {
            bytes,
            row_bytes,
            matrix,
        }
    }

    /// `out.column(c)[r] = row r . x[c]` for the `out.cols()` columns of `acts`, with both planes summed where it has two.
    pub(super) fn multiply(
        &self,
        kernels: &Kernels,
        rows: Range<usize>,
        acts: &Activations,
        out: &mut RowTile<'_>,
    ) {
        let (n, len) = (out.cols(), rows.len());
        if acts.cols() == n {
            return self.multiply_plane(kernels, rows, acts, 0, out);
        }
        PLANES.with_borrow_mut(|planes| {
            let planes = first(planes, acts.cols() * len);
            self.multiply_plane(kernels, rows, acts, 0, &mut RowTile::new(planes, len));
            let (high, low) = planes.split_at(n * len);
            for (c, (high, low)) in high
                .chunks_exact(len)
                .zip(low.chunks_exact(len))
                .enumerate()
            {
                for ((out, high), low) in out.column(c).iter_mut().zip(high).zip(low) {
                    *out = high + low;
                }
            }
        });
    }

    /// `out.column(c)[r] = row r . x[column + c]`, without summing planes.
    pub(super) fn multiply_plane(
        &self,
        kernels: &Kernels,
        rows: Range<usize>,
        acts: &Activations,
        column: usize,
        out: &mut RowTile<'_>,
    ) {
        let product = Product {
            ty: self.matrix.ty,
            layout: self.matrix.layout,
            weights: &self.bytes[rows.start * self.row_bytes..],
            k: self.matrix.cols,
            activations: acts,
            first_column: column,
        };
        kernels.matmul(&product, out);
    }

    /// `out[r] = row r . x[column]` for one of `columns` columns and at most a group of rows, with both planes summed where
    /// there are two.
    pub(super) fn multiply_column(
        &self,
        kernels: &Kernels,
        rows: Range<usize>,
        acts: &Activations,
        (column, columns): (usize, usize),
        out: &mut [f32],
    ) {
        let len = rows.len();
        let plane = |column, out: &mut [f32]| {
            let out = &mut RowTile::new(&mut out[..len], len);
            self.multiply_plane(kernels, rows.clone(), acts, column, out);
        };
        plane(column, out);
        if acts.cols() > columns {
            let mut low = [0.0; GROUP];
            plane(columns + column, &mut low);
            add(&mut out[..len], &low[..len]);
        }
    }
}

/// Multiplies all matrices in one barrier; each column of `products` has those of one matrix after those of the other. Where a
/// chunk of rows straddles two, each gets its part, which is whole groups of sixteen rows for every matrix that has groups if
/// the rows before it are.
pub(super) fn multiply_all(
    matrices: &[MatrixRows<'_>],
    kernels: &Kernels,
    pool: &Pool,
    threads: usize,
    inputs: &LayerInput,
    products: &mut [f32],
) {
    let rows = matrices.iter().map(|rows| rows.matrix.rows).sum();
    let n = products.len().checked_div(rows).unwrap_or(0);
    pool.run_rows(threads, products, rows, claim(n), &|range, out| {
        let mut first = 0;
        for matrix in matrices {
            let end = first + matrix.matrix.rows;
            let own = range.start.max(first)..range.end.min(end);
            if !own.is_empty() {
                matrix.multiply(
                    kernels,
                    own.start - first..own.end - first,
                    inputs.of(matrix.matrix.ty),
                    &mut out.part(own.start - range.start, own.len()),
                );
            }
            first = end;
        }
    });
}
