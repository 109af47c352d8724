//! Tiles of sixteen columns in the order of `smmla`: eight values of one column, then the same eight of the next.

use crate::quant::format::activations::{Q8Chunk, Q8Tile, Q8kChunk, Q8kTile, TILE, Tiles};
use bytemuck::{cast_mut, cast_ref};

/// Pairs of columns in a tile.
pub(super) const PAIRS: usize = TILE / 2;

/// Eight values of both columns of each pair.
pub(super) type Eight = [[i8; 16]; PAIRS];
/// Sums of eight groups as `128 * high + low`, where both fit int8: the high parts, then the low ones.
pub(super) type Sums = [Eight; 2];

/// Fewest columns that tiles are filled for; fewer are read as they are.
pub(super) const COLUMNS: usize = 3;

pub(super) const TILES: Tiles = Tiles {
    count: |cols| {
        if cols < COLUMNS {
            0
        } else {
            cols.div_ceil(TILE)
        }
    },
    q8: lay_32,
    q8k: lay_256,
};

/// The values of a tile; eight `e` has values `8 e..8 e + 8`.
pub(super) fn values(q: &[[[i8; 4]; TILE]; 64]) -> &[Eight; 32] {
    cast_ref(q)
}

/// The sums of every 16 values of a tile.
pub(super) fn sums_16(tile: &Q8kTile) -> &[Sums; 2] {
    cast_ref(&tile.sums)
}

/// The sums of every 32 values of a tile.
pub(super) fn sums_32(tile: &Q8kTile) -> &Sums {
    cast_ref(&tile.sums32)
}

fn lay_32(tile: &mut Q8Tile, columns: &[&Q8Chunk; TILE]) {
    for (c, x) in columns.iter().enumerate() {
        lay_values(&mut tile.q, c, &x.q);
        for b in 0..8 {
            tile.scale[b][c] = x.scale[b];
            tile.scaled_sum[b][c] = x.scaled_sum[b];
        }
    }
}

fn lay_256(tile: &mut Q8kTile, columns: &[&Q8kChunk; TILE]) {
    for (c, x) in columns.iter().enumerate() {
        lay_values(&mut tile.q, c, &x.q);
        let halves: &mut [[[[i8; 8]; TILE]; 2]; 2] = cast_mut(&mut tile.sums);
        for (to, sums) in halves.iter_mut().zip(x.sums.as_chunks().0) {
            lay_sums(to, c, sums);
        }
        lay_sums(cast_mut(&mut tile.sums32), c, &x.sums32);
        tile.scale[c] = x.scale;
    }
}

fn lay_values(q: &mut [[[i8; 4]; TILE]; 64], c: usize, x: &[i8; 256]) {
    let q: &mut [[[i8; 8]; TILE]; 32] = cast_mut(q);
    for (q, x) in q.iter_mut().zip(x.as_chunks().0) {
        q[c] = *x;
    }
}

/// A sum is one of at most 32 values, so its magnitude is at most `32 * 127`, and that of its high part at most 32.
fn lay_sums(to: &mut [[[i8; 8]; TILE]; 2], c: usize, sums: &[i16; 8]) {
    for (g, sum) in sums.iter().enumerate() {
        let high = (sum + 64) >> 7;
        to[0][c][g] = high as i8;
        to[1][c][g] = (sum - (high << 7)) as i8;
    }
}
