//! Launching what is rounded and multiplied.

use super::buffers::{Slot, rounded_words};
use super::kernels::matmul::{Many, OWN, ROW_UNITS, TILE_ROWS, multiply_many};
use super::kernels::matvec::{
    ALONE_UNITS, Factors, Few, Finish, GROUP_UNITS, GROUPS, multiply_alone, multiply_few,
};
use super::kernels::quantize::{Rounding, UNITS as ROUND_UNITS, quantize};
use super::launch::{Launcher, QUAD, format, parts, quads, words};
use super::pack::BLOCK;
use crate::ops::Matrix;
use crate::ops::runtime::Planes;
use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use glowplug_firmware_config::limits::CHUNK_TOKENS;
use std::ops::Range;

/// Most columns that are multiplied without a tile: a token of each of a few streams, or a short draft.
const FEW: usize = 4;
/// Columns of a small tile: every stream, with as many tokens of a prompt beside them.
const SOME: usize = 16;
/// Sums that a unit has of few columns, as many as fit into registers and those of a cube into 8 KB of shared memory.
const SUMS: usize = 8;
/// Where a product goes: a tensor, the distance of its columns, and the place of the first row in a column.
type Place<'a> = (&'a CubeTensor, usize, usize);

/// Columns that were rounded to int8.
pub(super) struct Rounded {
    pub(super) blocks: CubeTensor,
    /// Whether 256 values share a scale, and not 32.
    of_256: bool,
    columns: usize,
    planes: usize,
}

impl Launcher {
    /// Rounds some rows of `x` to int8 for matrices of one kind, normed before if there is a norm: its weight, and what is added
    /// to the mean of squares.
    pub(super) fn round(
        &mut self,
        x: &CubeTensor,
        range: Range<usize>,
        norm: Option<(&CubeTensor, f32)>,
        of_256: bool,
        planes: Planes,
    ) -> Rounded {
        let (columns, blocks) = (range.len(), x.shape()[1] / BLOCK);
        assert!(columns <= CHUNK_TOKENS, "{columns} columns of a step");
        let planes = if planes == Planes::Two { 2 } else { 1 };
        let words_of_all = rounded_words(x.shape()[1], planes);
        let blocks_of_all = self.tensor(Slot::Rounded, [CHUNK_TOKENS, words_of_all]);
        let (weight, eps) = norm.unwrap_or((x, 0.0));
        let rounding = Rounding {
            of_256,
            planes,
            normed: norm.is_some(),
            exact: self.exact,
            // one kernel for all levels where the level changes nothing
            host: if norm.is_some() {
                self.host
            } else {
                self.exact
            },
        };
        let cubes = columns * blocks.div_ceil(ROUND_UNITS as usize);
        self.traffic.launches += 1;
        quantize::launch(
            &self.client,
            // the first row is told by the grid, because arguments that differ are a buffer more
            CubeCount::Static(cubes as u32, 1 + range.start as u32, 1),
            CubeDim::new_1d(ROUND_UNITS),
            QUAD,
            quads(x),
            words(x),
            quads(weight),
            quads(&blocks_of_all),
            blocks as u32,
            eps,
            rounding,
        );
        Rounded {
            blocks: blocks_of_all,
            of_256,
            columns,
            planes,
        }
    }

    /// Multiplies each matrix with rows of `x`, which are rounded, and normed before, as [`Self::round`] says: once for
    /// neighbours that want them alike. The products go to the place that each matrix comes with.
    pub(super) fn multiply(
        &mut self,
        matrices: &[(&Matrix<CubeBackend>, Finish, Place<'_>)],
        x: &CubeTensor,
        range: Range<usize>,
        norm: Option<(&CubeTensor, f32)>,
        planes: Planes,
    ) {
        let mut rounded: Option<Rounded> = None;
        for (w, finish, place) in matrices {
            let of_256 = format(w).of_256();
            let x = match rounded.take().filter(|rounded| rounded.of_256 == of_256) {
                Some(rounded) => rounded,
                None => self.round(x, range.clone(), norm, of_256, planes),
            };
            self.product(w, &x, *finish, *place);
            rounded = Some(x);
        }
    }

    /// Multiplies a matrix with rounded columns.
    fn product(
        &mut self,
        w: &Matrix<CubeBackend>,
        x: &Rounded,
        finish: Finish,
        (out, stride, first): Place<'_>,
    ) {
        let columns = x.columns;
        let of = Factors {
            format: format(w),
            planes: x.planes,
            finish,
            exact: self.exact,
            host: match finish {
                Finish::Gate => self.host,
                Finish::Store | Finish::Add => self.exact,
            },
        };
        let width = if self.alone {
            columns.next_power_of_two().min(FEW / x.planes)
        } else {
            columns.next_power_of_two()
        };
        let few = Few {
            of,
            columns: width,
            rows: (SUMS / (width * x.planes)).clamp(1, 4),
        };
        let many = Many {
            of,
            columns: if columns <= SOME { SOME } else { CHUNK_TOKENS },
        };
        for (part, rows, blocks) in parts(w) {
            let scalars = [rows, w.cols / BLOCK, stride, first + part].map(|n| n as u32);
            let [count, row_blocks, stride, first] = scalars;
            self.traffic.launches += 1;
            if self.alone {
                let (rows, columns) =
                    (rows.div_ceil(ALONE_UNITS as usize), columns.div_ceil(width));
                multiply_alone::launch(
                    &self.client,
                    CubeCount::Static(rows as u32, columns as u32, 1),
                    CubeDim::new_1d(ALONE_UNITS),
                    QUAD,
                    quads(blocks),
                    words(blocks),
                    quads(&x.blocks),
                    words(out),
                    count,
                    row_blocks,
                    stride,
                    first,
                    few,
                );
            } else if columns <= FEW {
                multiply_few::launch(
                    &self.client,
                    CubeCount::Static(rows.div_ceil(GROUPS * few.rows) as u32, 1, 1),
                    CubeDim::new_1d((GROUP_UNITS * GROUPS) as u32),
                    QUAD,
                    quads(blocks),
                    words(blocks),
                    quads(&x.blocks),
                    words(out),
                    count,
                    row_blocks,
                    stride,
                    first,
                    few,
                );
            } else {
                multiply_many::launch(
                    &self.client,
                    CubeCount::Static(rows.div_ceil(TILE_ROWS) as u32, 1, 1),
                    CubeDim::new_2d(ROW_UNITS as u32, (many.columns / OWN) as u32),
                    QUAD,
                    quads(blocks),
                    words(blocks),
                    quads(&x.blocks),
                    words(out),
                    count,
                    row_blocks,
                    stride,
                    first,
                    many,
                );
            }
        }
    }
}
