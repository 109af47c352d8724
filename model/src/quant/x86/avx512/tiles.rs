//! The product of many columns: rows are unpacked once, and sixteen columns lie in the elements of a vector.

use super::unpack::{self, Block32, Block256, first_16, load_4x16, load_16, load_64, store_64};
use crate::pool::RowTile;
use crate::quant::format::activations::{Q8Tile, Q8kTile, TILE};
use crate::quant::kernels::Product;
use crate::quant::x86::group_scales::Groups;
use bytemuck::cast_ref;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a sweep: eight running sums, eight dot products and eight results fit the 32 registers.
const ROWS: usize = 8;
/// Bytes of rows that are unpacked at a time: half of the 1 MB of L2 of the smallest core with this level.
const SCRATCH: usize = 512 << 10;

/// Eight blocks of 32 weights of a row, unpacked; past the end of the row everything is zero.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Wide32 {
    q: [[u8; 4]; 64],
    d: [f32; 8],
    m: [f32; 8],
}

/// A block of 256 weights, unpacked.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Wide256 {
    q: [[u8; 4]; 64],
    /// The scale of each 16 values, with a zero high half where [`fits`] is true.
    scale: [i32; 16],
    /// Two int16 of neighbouring groups: their mins (of 32 or of 16 values), or minus the offset times their scale.
    pairs: [i32; 8],
    d: f32,
    dmin: f32,
}

thread_local! {
    static WIDE_32: RefCell<Vec<Wide32>> = const { RefCell::new(Vec::new()) };
    static WIDE_256: RefCell<Vec<Wide256>> = const { RefCell::new(Vec::new()) };
}

/// The columns of the result that lie in `tiles`; see [`crate::quant::Kernels::matmul`].
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul_32<B: Block32>(
    product: &Product<'_>,
    tiles: Range<usize>,
    out: &mut RowTile<'_>,
) {
    if tiles.is_empty() {
        return;
    }
    let (acts, col0) = (product.activations, product.first_column);
    let (w, blocks) = (product.blocks::<B>(out.rows()), product.row_blocks());
    let chunks = blocks.div_ceil(8);
    WIDE_32.with_borrow_mut(|wide| {
        let rows = rows_at_a_time(chunks * size_of::<Wide32>());
        for (i, w) in w.chunks(rows * blocks).enumerate() {
            wide.clear();
            for row in w.chunks_exact(blocks) {
                for blocks in row.chunks(8) {
                    wide.push(widen_32(blocks));
                }
            }
            for t in tiles.clone() {
                let x = acts.q8_tile(t);
                for (j, wide) in wide.chunks(ROWS * chunks).enumerate() {
                    store(
                        out,
                        t,
                        col0,
                        rows * i + ROWS * j,
                        wide.len() / chunks,
                        sweep_32::<B>(wide, blocks, x),
                    );
                }
            }
        }
    });
}

/// The columns of the result that lie in `tiles`; see [`crate::quant::Kernels::matmul`].
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul_256<B: Block256>(
    product: &Product<'_>,
    tiles: Range<usize>,
    out: &mut RowTile<'_>,
) {
    if tiles.is_empty() {
        return;
    }
    let (acts, col0) = (product.activations, product.first_column);
    let (w, blocks) = (product.blocks::<B>(out.rows()), product.row_blocks());
    WIDE_256.with_borrow_mut(|wide| {
        let rows = rows_at_a_time(blocks * size_of::<Wide256>());
        for (i, w) in w.chunks(rows * blocks).enumerate() {
            wide.clear();
            for block in w {
                wide.push(widen_256(block));
            }
            for t in tiles.clone() {
                let x = acts.q8k_tile(t);
                for (j, wide) in wide.chunks(ROWS * blocks).enumerate() {
                    store(
                        out,
                        t,
                        col0,
                        rows * i + ROWS * j,
                        wide.len() / blocks,
                        sweep_256::<B>(wide, blocks, x),
                    );
                }
            }
        }
    });
}

/// How many unpacked rows of this size fill the scratch, in whole sweeps.
fn rows_at_a_time(row_bytes: usize) -> usize {
    (SCRATCH / row_bytes / ROWS).max(1) * ROWS
}

/// Stores rows `row..row + n` of those columns of tile `t` that are wanted.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store(out: &mut RowTile<'_>, t: usize, col0: usize, row: usize, n: usize, sums: [__m512; ROWS]) {
    // columns[q][i] lane l: rows 4 q..4 q + 4 of column 4 l + i
    let mut columns = [[[[0.0f32; 4]; 4]; 4]; 2];
    for (columns, v) in columns.iter_mut().zip(sums.as_chunks::<4>().0) {
        let (a, b) = (
            _mm512_unpacklo_ps(v[0], v[1]),
            _mm512_unpackhi_ps(v[0], v[1]),
        );
        let (c, d) = (
            _mm512_unpacklo_ps(v[2], v[3]),
            _mm512_unpackhi_ps(v[2], v[3]),
        );
        let [p, q, r, s] = columns;
        store_ps(p, _mm512_shuffle_ps::<0b01_00_01_00>(a, c));
        store_ps(q, _mm512_shuffle_ps::<0b11_10_11_10>(a, c));
        store_ps(r, _mm512_shuffle_ps::<0b01_00_01_00>(b, d));
        store_ps(s, _mm512_shuffle_ps::<0b11_10_11_10>(b, d));
    }
    let wanted = (TILE * t).max(col0)..(TILE * (t + 1)).min(col0 + out.cols());
    for c in wanted {
        let lane = |q: usize| columns[q][c % 4][c % TILE / 4];
        let column: [f32; ROWS] = bytemuck::cast([lane(0), lane(1)]);
        let out = &mut out.column(c - col0)[row..];
        match out.first_chunk_mut::<ROWS>() {
            Some(out) if n == ROWS => *out = column,
            _ => out[..n].copy_from_slice(&column[..n]),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store_ps(a: &mut [[f32; 4]; 4], v: __m512) {
    // SAFETY: the array has the 64 bytes that are stored
    unsafe { _mm512_storeu_ps(a.as_mut_ptr().cast(), v) };
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen(half: u16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half))))
}

/// Unpacks one to eight blocks.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen_32<B: Block32>(blocks: &[B]) -> Wide32 {
    let mut wide = Wide32 {
        q: [[0; 4]; 64],
        d: [0.0; 8],
        m: [0.0; 8],
    };
    let q: &mut [[u8; 64]; 4] = bytemuck::cast_mut(&mut wide.q);
    for (q, four) in q.as_chunks_mut::<2>().0.iter_mut().zip(blocks.chunks(4)) {
        let four = [0, 1, 2, 3].map(|i| &four[i.min(four.len() - 1)]);
        let first = load_4x16(four.map(first_16));
        // SAFETY: this function is compiled with the features that the callee needs
        let [low, high] = unsafe { B::bytes(four, first) };
        let index = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
        store_64(&mut q[0], _mm512_permutex2var_epi64(low, index, high));
        let index = _mm512_add_epi64(index, _mm512_set1_epi64(4));
        store_64(&mut q[1], _mm512_permutex2var_epi64(low, index, high));
    }
    for (i, block) in blocks.iter().enumerate() {
        let (d, m) = block.halves();
        wide.d[i] = widen(d);
        wide.m[i] = widen(m);
    }
    wide
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen_256<B: Block256>(block: &B) -> Wide256 {
    let groups = block.group_scales();
    let mut wide = Wide256 {
        q: [[0; 4]; 64],
        scale: [0; 16],
        pairs: [0; 8],
        d: widen(groups.d.bits()),
        dmin: widen(groups.dmin.bits()),
    };
    let q: &mut [[u8; 64]; 4] = bytemuck::cast_mut(&mut wide.q);
    // SAFETY: this function is compiled with the features that the callee needs
    let bytes = unsafe { block.bytes() };
    for (q, bytes) in q.iter_mut().zip(unpack::arrange::<B>(bytes)) {
        store_64(q, bytes);
    }
    let scales = unpack::groups::<B>(&groups.scales);
    let scale = if fits::<B>() {
        _mm512_cvtepu16_epi32(scales)
    } else {
        _mm512_cvtepi16_epi32(scales)
    };
    store_64(bytemuck::cast_mut(&mut wide.scale), scale);
    let pairs = match B::GROUPS {
        Groups::Eight => _mm256_cvtepu8_epi16(load_16(&groups.mins)),
        Groups::Sixteen => unpack::groups::<B>(&groups.mins),
        Groups::Signed => _mm256_mullo_epi16(scales, _mm256_set1_epi16(-B::OFFSET as i16)),
    };
    // SAFETY: the array has the 32 bytes that are stored
    unsafe { _mm256_storeu_si256(wide.pairs.as_mut_ptr().cast(), pairs) };
    wide
}

/// Multiplies up to eight unpacked rows by sixteen columns.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sweep_32<B: Block32>(wide: &[Wide32], blocks: usize, x: &[Q8Tile]) -> [__m512; ROWS] {
    let rows = group(wide, x.len());
    let mut acc = [_mm512_setzero_ps(); ROWS];
    for (chunk, x) in x.iter().enumerate() {
        let w = rows.map(|row| &row[chunk]);
        for b in 0..8.min(blocks - 8 * chunk) {
            let offset =
                _mm512_mullo_epi32(load_64(cast_ref(&x.sum[b])), _mm512_set1_epi32(-B::OFFSET));
            let mut sum = [offset; ROWS];
            for i in 8 * b..8 * b + 8 {
                let x = load_64(cast_ref(&x.q[i]));
                for r in 0..ROWS {
                    sum[r] = _mm512_dpbusd_epi32(
                        sum[r],
                        _mm512_set1_epi32(i32::from_le_bytes(w[r].q[i])),
                        x,
                    );
                }
            }
            let scale = _mm512_castsi512_ps(load_64(cast_ref(&x.scale[b])));
            for r in 0..ROWS {
                let scale = _mm512_mul_ps(_mm512_set1_ps(w[r].d[b]), scale);
                acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), scale, acc[r]);
                if B::HAS_MIN {
                    let sums = _mm512_castsi512_ps(load_64(cast_ref(&x.scaled_sum[b])));
                    acc[r] = _mm512_fmadd_ps(_mm512_set1_ps(w[r].m[b]), sums, acc[r]);
                }
            }
        }
    }
    acc
}

/// Multiplies up to eight unpacked rows by sixteen columns.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sweep_256<B: Block256>(wide: &[Wide256], blocks: usize, x: &[Q8kTile]) -> [__m512; ROWS] {
    let rows = group(wide, blocks);
    let mut acc = [_mm512_setzero_ps(); ROWS];
    for (b, x) in x.iter().enumerate() {
        let w = rows.map(|row| &row[b]);
        let mut sum = [_mm512_setzero_si512(); ROWS];
        // quads of values before the scale: where two groups share it, and the dot is too large anyway, both
        let quads = if B::GROUPS == Groups::Eight && !fits::<B>() {
            8
        } else {
            4
        };
        for first in (0..64).step_by(quads) {
            let mut dot = [_mm512_setzero_si512(); ROWS];
            for i in first..first + quads {
                let x = load_64(cast_ref(&x.q[i]));
                for r in 0..ROWS {
                    dot[r] = _mm512_dpbusd_epi32(
                        dot[r],
                        _mm512_set1_epi32(i32::from_le_bytes(w[r].q[i])),
                        x,
                    );
                }
            }
            for r in 0..ROWS {
                let scale = _mm512_set1_epi32(w[r].scale[first / 4]);
                sum[r] = if fits::<B>() {
                    _mm512_dpwssd_epi32(sum[r], dot[r], scale)
                } else {
                    _mm512_add_epi32(sum[r], _mm512_mullo_epi32(dot[r], scale))
                };
            }
        }
        if !B::HAS_MIN {
            for i in 0..8 {
                let x = load_64(cast_ref(&x.sums[i]));
                for r in 0..ROWS {
                    sum[r] = _mm512_dpwssd_epi32(sum[r], x, _mm512_set1_epi32(w[r].pairs[i]));
                }
            }
        }
        let scale = _mm512_castsi512_ps(load_64(cast_ref(&x.scale)));
        for r in 0..ROWS {
            let scale = _mm512_mul_ps(_mm512_set1_ps(w[r].d), scale);
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), scale, acc[r]);
        }
        if B::HAS_MIN {
            let mut mins = [_mm512_setzero_si512(); ROWS];
            for i in 0..if B::GROUPS == Groups::Eight { 4 } else { 8 } {
                let x = load_64(match B::GROUPS {
                    Groups::Eight => cast_ref(&x.sums32[i]),
                    _ => cast_ref(&x.sums[i]),
                });
                for r in 0..ROWS {
                    mins[r] = _mm512_dpwssd_epi32(mins[r], x, _mm512_set1_epi32(w[r].pairs[i]));
                }
            }
            for r in 0..ROWS {
                let scale = _mm512_mul_ps(_mm512_set1_ps(w[r].dmin), scale);
                acc[r] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins[r]), scale, acc[r]);
            }
        }
    }
    acc
}

/// Whether the sum of sixteen products fits int16, so that `vpdpwssd` can scale it.
const fn fits<B: Block256>() -> bool {
    16 * B::MAX * 127 < 1 << 15
}

/// The rows of a sweep, with the last one repeated up to eight.
#[inline(always)]
fn group<T>(wide: &[T], chunks: usize) -> [&[T]; ROWS] {
    let n = wide.len() / chunks;
    std::array::from_fn(|r| &wide[r.min(n - 1) * chunks..][..chunks])
}
