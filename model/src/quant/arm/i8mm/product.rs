//! The product by `smmla`: of sixteen rows, a block at a time is unpacked and multiplied with all columns of up to four tiles.
//!
//! The block is 4 KB and is read from L1 for every eight columns; the columns' sums, 4 KB as well, are kept beside it.

use super::opened::{Opened, Two};
use super::pairs::PAIRS;
use super::smmla::Smmla;
use crate::gguf::GROUP;
use crate::pool::RowTile;
use crate::quant::arm::intrinsics::*;
use crate::quant::arm::unpack::ROWS;
use crate::quant::format::activations::TILE;
use crate::quant::kernels::Product;

/// Rows that can be unpacked four at a time.
pub(super) trait Source {
    /// What they are unpacked to.
    type Opened: Opened;
    /// Unpacks values `256 chunk..` of rows `row..row + 4`. Rows past the last one repeat it.
    fn open(&self, row: usize, chunk: usize, to: &mut Self::Opened);
}

/// Tiles of columns that share what is unpacked: as many columns as a chunk of a prompt has.
const TILES: usize = 4;
/// The sums of four rows and of the pairs of columns of all tiles.
type Sums = [Two<float32x4_t>; TILES * PAIRS];

/// See [`crate::quant::Kernels::matmul`], which has checked the sizes. All wanted columns lie in tiles.
#[target_feature(enable = "neon,i8mm")]
pub(super) fn multiply<S: Source>(source: &S, product: &Product<'_>, out: &mut RowTile<'_>) {
    let (first, end) = (product.first_column, product.first_column + out.cols());
    let tiles = first / TILE..end.div_ceil(TILE);
    let mut opened: [S::Opened; GROUP / ROWS] = std::array::from_fn(|_| S::Opened::empty());
    for row in (0..out.rows()).step_by(GROUP) {
        let fours = (out.rows() - row).div_ceil(ROWS).min(opened.len());
        let opened = &mut opened[..fours];
        for tile in tiles.clone().step_by(TILES) {
            let shared = tile..tiles.end.min(tile + TILES);
            let mut sums = [[[vdupq_n_f32(0.0); 2]; TILES * PAIRS]; GROUP / ROWS];
            for chunk in 0..product.k.div_ceil(256) {
                for (four, opened) in opened.iter_mut().enumerate() {
                    source.open(row + ROWS * four, chunk, opened);
                }
                for t in shared.clone() {
                    let x = &S::Opened::tile(product.activations, t)[chunk];
                    let wanted = first.max(TILE * t)..end.min(TILE * (t + 1));
                    let until = (wanted.end - TILE * t).div_ceil(2);
                    let (mut pair, at) = ((wanted.start - TILE * t) / 2, PAIRS * (t - tile));
                    while pair < until {
                        pair += match until - pair {
                            1 => columns::<_, 1>(opened, x, pair, at, &mut sums),
                            2 | 3 => columns::<_, 2>(opened, x, pair, at, &mut sums),
                            _ => columns::<_, 4>(opened, x, pair, at, &mut sums),
                        };
                    }
                }
            }
            for (four, sums) in sums.iter().take(fours).enumerate() {
                let row = row + ROWS * four;
                let keep = ROWS.min(out.rows() - row);
                for c in first.max(TILE * tile)..end.min(TILE * shared.end) {
                    let [a, b] = sums[(c - TILE * tile) / 2].map(vreinterpretq_u64_f32);
                    let column = if c % 2 == 0 {
                        vzip1q_u64(a, b)
                    } else {
                        vzip2q_u64(a, b)
                    };
                    let elements = to_array(vreinterpretq_f32_u64(column));
                    out.column(c - first)[row..][..keep].copy_from_slice(&elements[..keep]);
                }
            }
        }
    }
}

/// Multiplies a chunk of up to sixteen rows by `C` pairs of columns, and returns how many pairs that were. The sums of the
/// tile's pairs begin with number `at`. It depends on what is unpacked, and not on the layout that it came from.
#[target_feature(enable = "neon,i8mm")]
fn columns<O: Opened, const C: usize>(
    opened: &[O],
    x: &O::Tile,
    pair: usize,
    at: usize,
    sums: &mut [Sums; GROUP / ROWS],
) -> usize {
    let smmla = Smmla::new();
    for (opened, sums) in opened.iter().zip(sums) {
        opened.multiply::<C>(smmla, x, pair, &mut sums[at + pair..]);
    }
    C
}
