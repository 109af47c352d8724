//! Quantised columns of one layer input.
//!
//! Rounding is to the nearest, ties to even, and the scale is the largest magnitude divided by 127. That is as in ggml,
//! except that the scale of a block of 32 stays f32 where ggml rounds it to half precision.

use super::kinds::ActKind;
use crate::pool::Pool;
use bytemuck::{Pod, Zeroable, cast_ref};
use std::cell::RefCell;

/// Columns of a tile: as many as a 512-bit vector has elements of 32 bits.
pub(crate) const TILE: usize = 16;
/// Fewest columns for which a tile is filled; with fewer, the kernels go row by row. Measured with `benches/kernels.rs`.
#[cfg(target_arch = "aarch64")]
const TILE_FROM: usize = 10;

/// 256 values of a column as eight blocks of 32. Past the end of the column everything is zero.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q8Chunk {
    /// `x / scale`, rounded, in -127..=127.
    pub(crate) q: [i8; 256],
    /// The scale of each block.
    pub(crate) scale: [f32; 8],
    /// The sum of each block's `q`.
    pub(crate) sum: [i32; 8],
    /// `scale * sum as f32` of each block.
    pub(crate) scaled_sum: [f32; 8],
}

/// One block of 256 values of a column.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q8kChunk {
    /// `x / scale`, rounded, in -127..=127.
    pub(crate) q: [i8; 256],
    /// The sums of every 16 values of `q`.
    pub(crate) sums: [i16; 16],
    /// The sums of every 32 values of `q`.
    pub(crate) sums32: [i16; 8],
    /// The largest of the sums of every 16 magnitudes of `q`. Kernels whose sums then fit int16 scale two at a time.
    pub(crate) largest: i16,
    pub(crate) scale: f32,
}

/// One [`Q8Chunk`] each of 16 columns, columns innermost: `q[i][c]` are values `4 i..4 i + 4` of column `c`. A level may lay
/// it otherwise: see [`Tiles`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Q8Tile {
    pub(crate) q: [[[i8; 4]; TILE]; 64],
    pub(crate) scale: [[f32; TILE]; 8],
    pub(crate) sum: [[i32; TILE]; 8],
    pub(crate) scaled_sum: [[f32; TILE]; 8],
}

/// One [`Q8kChunk`] each of 16 columns, columns innermost: `sums[i][c]` and `sums32[i][c]` are sums `2 i` and `2 i + 1`
/// of column `c`. A level may lay it otherwise: see [`Tiles`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Q8kTile {
    pub(crate) q: [[[i8; 4]; TILE]; 64],
    pub(crate) sums: [[[i16; 2]; TILE]; 8],
    pub(crate) sums32: [[[i16; 2]; TILE]; 4],
    pub(crate) scale: [f32; TILE],
}

const NO_Q8: Q8Chunk = Q8Chunk {
    q: [0; 256],
    scale: [0.0; 8],
    sum: [0; 8],
    scaled_sum: [0.0; 8],
};
const NO_Q8K: Q8kChunk = Q8kChunk {
    q: [0; 256],
    sums: [0; 16],
    sums32: [0; 8],
    largest: 0,
    scale: 0.0,
};
const NO_Q8_TILE: Q8Tile = Q8Tile {
    q: [[[0; 4]; TILE]; 64],
    scale: [[0.0; TILE]; 8],
    sum: [[0; TILE]; 8],
    scaled_sum: [[0.0; TILE]; 8],
};
const NO_Q8K_TILE: Q8kTile = Q8kTile {
    q: [[[0; 4]; TILE]; 64],
    sums: [[[0; 2]; TILE]; 8],
    sums32: [[[0; 2]; TILE]; 4],
    scale: [0.0; TILE],
};

/// How a level fills [`Activations`].
#[derive(Clone, Copy)]
pub(in crate::quant) struct Quantizer {
    /// The tiles of 16 columns that the level's `matmul` reads, if it reads any.
    pub(in crate::quant) tiles: Option<Tiles>,
    /// Quantises a column of `k` values to `ceil(k / 256)` chunks.
    pub(in crate::quant) q8: fn(&[f32], &mut [Q8Chunk]),
    /// Quantises a column of `k` values to `k / 256` chunks.
    pub(in crate::quant) q8k: fn(&[f32], &mut [Q8kChunk]),
}

/// How a level fills tiles.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Tiles {
    /// How many tiles are filled for a number of columns, at most one for each 16 begun. The columns past them are read one
    /// by one.
    pub(in crate::quant) count: fn(usize) -> usize,
    /// Lays one chunk of 16 columns.
    pub(in crate::quant) q8: fn(&mut Q8Tile, &[&Q8Chunk; TILE]),
    /// Lays one chunk of 16 columns.
    pub(in crate::quant) q8k: fn(&mut Q8kTile, &[&Q8kChunk; TILE]),
}

/// Quantised columns of one layer input, reused from step to step. They are filled and read only through
/// [`crate::quant::Kernels`].
///
/// The buffers grow to the largest `k` and number of columns they were filled with, and never shrink.
#[derive(Default)]
pub struct Activations {
    kind: Option<ActKind>,
    k: usize,
    cols: usize,
    /// Chunks of 256 values in a column.
    chunks: usize,
    /// Tiles that are filled. The columns past them are read one by one.
    tiles: usize,
    floats: Vec<f32>,
    q8: Vec<Q8Chunk>,
    q8k: Vec<Q8kChunk>,
    q8_tiles: Vec<Q8Tile>,
    q8k_tiles: Vec<Q8kTile>,
}

impl Activations {
    /// Makes one without columns; it allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many columns it holds.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How many values a column has.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// The form of the columns, or `None` before they are first filled.
    pub(crate) fn kind(&self) -> Option<ActKind> {
        self.kind
    }

    /// Column `c` in the form [`ActKind::F32`]: `k` values.
    pub(crate) fn f32(&self, c: usize) -> &[f32] {
        &self.floats[c * self.k..][..self.k]
    }

    /// Column `c` in the form [`ActKind::Q8`]: `ceil(k / 256)` chunks.
    pub(crate) fn q8(&self, c: usize) -> &[Q8Chunk] {
        &self.q8[c * self.chunks..][..self.chunks]
    }

    /// Column `c` in the form [`ActKind::Q8K`]: `k / 256` chunks.
    pub(crate) fn q8k(&self, c: usize) -> &[Q8kChunk] {
        &self.q8k[c * self.chunks..][..self.chunks]
    }

    /// Writes the values that column `c` stands for after quantisation to `dst`, which is `[k]`.
    ///
    /// # Panics
    /// If `dst` is not `k` long or there is no such column.
    #[cfg(test)]
    pub(in crate::quant) fn dequantize(&self, c: usize, dst: &mut [f32]) {
        assert!(
            c < self.cols && dst.len() == self.k,
            "dequantize: column {c} of {}, {} values of {}",
            self.cols,
            dst.len(),
            self.k
        );
        match self.kind {
            None => {}
            Some(ActKind::F32) => dst.copy_from_slice(self.f32(c)),
            Some(ActKind::Q8) => dequantize_q8(self.q8(c), dst),
            Some(ActKind::Q8K) => dequantize_q8k(self.q8k(c), dst),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Activations {
    /// All chunks from column `c` on in the form [`ActKind::Q8`].
    pub(crate) fn q8_from(&self, c: usize) -> &[Q8Chunk] {
        &self.q8[c * self.chunks..self.cols * self.chunks]
    }

    /// All chunks from column `c` on in the form [`ActKind::Q8K`].
    pub(crate) fn q8k_from(&self, c: usize) -> &[Q8kChunk] {
        &self.q8k[c * self.chunks..self.cols * self.chunks]
    }
}

// only this processor has kernels that read tiles
#[cfg(target_arch = "aarch64")]
impl Activations {
    /// How many tiles are filled. Tile `t` holds columns `16 t..16 t + 16`, with zeros past the last column.
    pub(crate) fn tiles(&self) -> usize {
        self.tiles
    }

    /// Tile `t` in the form [`ActKind::Q8`]: `ceil(k / 256)` chunks.
    pub(crate) fn q8_tile(&self, t: usize) -> &[Q8Tile] {
        &self.q8_tiles[t * self.chunks..][..self.chunks]
    }

    /// Tile `t` in the form [`ActKind::Q8K`]: `k / 256` chunks.
    pub(crate) fn q8k_tile(&self, t: usize) -> &[Q8kTile] {
        &self.q8k_tiles[t * self.chunks..][..self.chunks]
    }
}

impl Activations {
    /// See [`crate::quant::Kernels::quantize`], and with two planes [`crate::quant::Kernels::quantize_twice`].
    #[allow(
        clippy::too_many_arguments,
        reason = "the arguments of a function of the table, and how often"
    )]
    pub(in crate::quant) fn fill(
        &mut self,
        quantizer: &Quantizer,
        kind: ActKind,
        x: &[f32],
        k: usize,
        planes: usize,
        pool: &Pool,
        threads: usize,
    ) {
        let unit = match kind {
            ActKind::F32 => 1,
            ActKind::Q8 => 32,
            ActKind::Q8K => 256,
        };
        assert!(
            k > 0 && k.is_multiple_of(unit) && x.len().is_multiple_of(k),
            "quantize: {} values as columns of {k} for {kind:?}",
            x.len()
        );
        self.kind = Some(kind);
        self.k = k;
        self.cols = x.len() / k * planes;
        self.chunks = k.div_ceil(256);
        self.tiles = quantizer.tiles.map_or(0, |tiles| (tiles.count)(self.cols));
        let (cols, chunks) = (self.cols, self.chunks);
        // one column is done sooner than another thread comes
        let threads = if x.len() == k { 1 } else { threads };
        match kind {
            ActKind::F32 => {
                self.floats.clear();
                self.floats.extend_from_slice(x);
                self.floats.resize(planes * x.len(), 0.0);
            }
            ActKind::Q8 => {
                let columns = grown(&mut self.q8, cols * chunks, NO_Q8);
                pool.run_chunks(threads, columns, chunks, &|c, dst| {
                    fill_column(x, (c, k), dst, quantizer.q8, dequantize_q8);
                });
                if let Some(tiles) = quantizer.tiles {
                    let filled = grown(&mut self.q8_tiles, self.tiles * chunks, NO_Q8_TILE);
                    pool.run_chunks(threads, filled, chunks, &|t, dst| {
                        fill_tile(dst, columns, TILE * t, &NO_Q8, tiles.q8);
                    });
                }
            }
            ActKind::Q8K => {
                let columns = grown(&mut self.q8k, cols * chunks, NO_Q8K);
                pool.run_chunks(threads, columns, chunks, &|c, dst| {
                    fill_column(x, (c, k), dst, quantizer.q8k, dequantize_q8k);
                });
                if let Some(tiles) = quantizer.tiles {
                    let filled = grown(&mut self.q8k_tiles, self.tiles * chunks, NO_Q8K_TILE);
                    pool.run_chunks(threads, filled, chunks, &|t, dst| {
                        fill_tile(dst, columns, TILE * t, &NO_Q8K, tiles.q8k);
                    });
                }
            }
        }
    }
}

thread_local! {
    /// What the first plane of a column left over: as many values as the longest column has.
    static REST: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Fills column `c`, which behind the columns of `x` is what the first plane of one of them left over.
fn fill_column<C>(
    x: &[f32],
    (c, k): (usize, usize),
    dst: &mut [C],
    quantize: fn(&[f32], &mut [C]),
    dequantize: fn(&[C], &mut [f32]),
) {
    let columns = x.len() / k;
    let x = &x[c % columns * k..][..k];
    quantize(x, dst);
    if c >= columns {
        REST.with_borrow_mut(|rest| {
            let rest = grown(rest, k, 0.0);
            dequantize(dst, rest);
            for (rest, x) in rest.iter_mut().zip(x) {
                *rest = x - *rest;
            }
            quantize(rest, dst);
        });
    }
}

/// The values that a column stands for.
fn dequantize_q8(column: &[Q8Chunk], dst: &mut [f32]) {
    for (chunk, dst) in column.iter().zip(dst.chunks_mut(256)) {
        for (i, dst) in dst.iter_mut().enumerate() {
            *dst = f32::from(chunk.q[i]) * chunk.scale[i / 32];
        }
    }
}

/// The values that a column stands for.
fn dequantize_q8k(column: &[Q8kChunk], dst: &mut [f32]) {
    for (chunk, dst) in column.iter().zip(dst.as_chunks_mut::<256>().0) {
        for (dst, q) in dst.iter_mut().zip(&chunk.q) {
            *dst = f32::from(*q) * chunk.scale;
        }
    }
}

/// Fills the chunks of a tile with those of 16 columns from `first` on, and with `none` past the last column.
fn fill_tile<T, C>(
    tile: &mut [T],
    columns: &[C],
    first: usize,
    none: &C,
    lay: fn(&mut T, &[&C; TILE]),
) {
    let chunks = tile.len();
    for (i, tile) in tile.iter_mut().enumerate() {
        let chunk = |c: usize| columns.get((first + c) * chunks + i).unwrap_or(none);
        lay(tile, &std::array::from_fn(chunk));
    }
}

/// Tiles as [`Q8Tile`] and [`Q8kTile`] describe them.
#[cfg(target_arch = "aarch64")]
pub(in crate::quant) const FOURS: Tiles = Tiles {
    count: |cols| (cols + TILE - TILE_FROM) / TILE,
    q8: |tile, columns| {
        for (c, x) in columns.iter().enumerate() {
            set_quads(&mut tile.q, c, &x.q);
            for b in 0..8 {
                tile.scale[b][c] = x.scale[b];
                tile.sum[b][c] = x.sum[b];
                tile.scaled_sum[b][c] = x.scaled_sum[b];
            }
        }
    },
    q8k: |tile, columns| {
        for (c, x) in columns.iter().enumerate() {
            set_quads(&mut tile.q, c, &x.q);
            for (pair, sums) in tile.sums.iter_mut().zip(x.sums.as_chunks().0) {
                pair[c] = *sums;
            }
            for (pair, sums) in tile.sums32.iter_mut().zip(x.sums32.as_chunks().0) {
                pair[c] = *sums;
            }
            tile.scale[c] = x.scale;
        }
    },
};

/// The first `len` elements of `vec`, which is grown to at least that many.
fn grown<T: Copy>(vec: &mut Vec<T>, len: usize, empty: T) -> &mut [T] {
    if vec.len() < len {
        vec.resize(len, empty);
    }
    &mut vec[..len]
}

/// Writes the values of one column of a tile.
#[cfg(target_arch = "aarch64")]
fn set_quads(tile: &mut [[[i8; 4]; TILE]; 64], lane: usize, q: &[i8; 256]) {
    for (row, quad) in tile.iter_mut().zip(q.chunks_exact(4)) {
        row[lane] = [quad[0], quad[1], quad[2], quad[3]];
    }
}

/// `(scale, 1 / scale)` of a block. NaN or infinity anywhere in the block makes the scale so too, so it is not hidden.
#[inline(always)]
pub(in crate::quant) fn scale_of(x: &[f32]) -> (f32, f32) {
    // the bits of non-negative floats are ordered like the floats, with infinity and then NaN on top
    let amax = x.iter().fold(0u32, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    let amax = f32::from_bits(amax);
    // below this the inverse would overflow; such a block is zero beside any other
    if amax < 1e-30 {
        (0.0, 0.0)
    } else {
        (amax / 127.0, 127.0 / amax)
    }
}

/// Rounds `x * inverse` to the nearest integer, ties to even, and clamps it to -127..=127.
#[inline(always)]
pub(in crate::quant) fn round(x: f32, inverse: f32) -> i8 {
    // 1.5 * 2^23 leaves no fraction bits: the addition itself rounds, and the low bits hold the integer
    const MAGIC: f32 = 12_582_912.0;
    let bits = (x * inverse + MAGIC).to_bits() as i32;
    (bits.wrapping_sub(MAGIC.to_bits() as i32)).clamp(-127, 127) as i8
}

/// Fills the chunks of one column. It is inlined into every level, so that it is compiled for the level's vectors.
#[inline(always)]
pub(in crate::quant) fn quantize_q8(x: &[f32], dst: &mut [Q8Chunk]) {
    for (x, dst) in x.chunks(256).zip(dst) {
        if x.len() < 256 {
            *dst = NO_Q8;
        }
        for (b, x) in x.chunks_exact(32).enumerate() {
            let (scale, inverse) = scale_of(x);
            let mut sum = 0i32;
            for (q, x) in dst.q[32 * b..][..32].iter_mut().zip(x) {
                *q = round(*x, inverse);
                sum = sum.wrapping_add(i32::from(*q));
            }
            dst.scale[b] = scale;
            dst.sum[b] = sum;
            dst.scaled_sum[b] = scale * sum as f32;
        }
    }
}

/// Fills the chunks of one column. It is inlined into every level, so that it is compiled for the level's vectors.
#[inline(always)]
pub(in crate::quant) fn quantize_q8k(x: &[f32], dst: &mut [Q8kChunk]) {
    for (x, dst) in x.chunks_exact(256).zip(dst) {
        let (scale, inverse) = scale_of(x);
        for (q, x) in dst.q.iter_mut().zip(x) {
            *q = round(*x, inverse);
        }
        for (sum, q) in dst.sums.iter_mut().zip(dst.q.chunks_exact(16)) {
            *sum = q.iter().fold(0i16, |s, &q| s.wrapping_add(i16::from(q)));
        }
        for (sum, pair) in dst.sums32.iter_mut().zip(dst.sums.chunks_exact(2)) {
            *sum = pair[0].wrapping_add(pair[1]);
        }
        // all groups at once, which the compiler makes vectors of
        let (groups, mut magnitudes): (&[[i8; 16]; 16], _) = (cast_ref(&dst.q), [0i16; 16]);
        for i in 0..16 {
            for (sum, group) in magnitudes.iter_mut().zip(groups) {
                *sum = sum.wrapping_add(i16::from(group[i]).wrapping_abs());
            }
        }
        dst.largest = magnitudes.into_iter().fold(0, i16::max);
        dst.scale = scale;
    }
}
