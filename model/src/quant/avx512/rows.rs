//! A few columns: sixteen rows at a time.

use super::unpack::{self, Block32, Block256, Groups, load_16, load_32, load_64};
use crate::pool::RowTile;
use crate::quant::Activations;
use crate::quant::activations::{Q8Chunk, Q8kChunk};
use bytemuck::{cast_mut, cast_ref};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows in a group: the lanes of a vector.
const ROWS: usize = 16;

/// Columns `cols` of the call: `out.column(c)[r] = dot(row r of w, column col0 + c of acts)`.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul_32<B: Block32>(
    w: &[B],
    blocks: usize,
    acts: &Activations,
    col0: usize,
    cols: Range<usize>,
    out: &mut RowTile<'_>,
) {
    for first in (0..out.rows()).step_by(ROWS) {
        let (rows, n) = group(w, blocks, first);
        let mut c = cols.start;
        while c < cols.end {
            let x = |i: usize| acts.q8(col0 + c + i);
            c += match cols.end - c {
                1 => store(out, c, first, n, sixteen_32(&rows, [x(0)])),
                2 | 3 => store(out, c, first, n, sixteen_32(&rows, [x(0), x(1)])),
                _ => store(
                    out,
                    c,
                    first,
                    n,
                    sixteen_32(&rows, [x(0), x(1), x(2), x(3)]),
                ),
            };
        }
    }
}

/// Columns `cols` of the call: `out.column(c)[r] = dot(row r of w, column col0 + c of acts)`.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn matmul_256<B: Block256>(
    w: &[B],
    blocks: usize,
    acts: &Activations,
    col0: usize,
    cols: Range<usize>,
    out: &mut RowTile<'_>,
) {
    for first in (0..out.rows()).step_by(ROWS) {
        let (rows, n) = group(w, blocks, first);
        let mut c = cols.start;
        while c < cols.end {
            let x = |i: usize| acts.q8k(col0 + c + i);
            c += match cols.end - c {
                1 => store(out, c, first, n, sixteen_256(&rows, [x(0)])),
                2 | 3 => store(out, c, first, n, sixteen_256(&rows, [x(0), x(1)])),
                _ => store(
                    out,
                    c,
                    first,
                    n,
                    sixteen_256(&rows, [x(0), x(1), x(2), x(3)]),
                ),
            };
        }
    }
}

/// Rows `first..first + n`, the last one again and again up to sixteen.
#[inline(always)]
fn group<B>(w: &[B], blocks: usize, first: usize) -> ([&[B]; ROWS], usize) {
    let n = ROWS.min(w.len() / blocks - first);
    (
        std::array::from_fn(|r| &w[(first + r.min(n - 1)) * blocks..][..blocks]),
        n,
    )
}

/// `n` rows of some columns; returns how many columns.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store<const C: usize>(
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
    n: usize,
    sums: [__m512; C],
) -> usize {
    for (c, sums) in sums.into_iter().enumerate() {
        let mut lanes = [0.0f32; ROWS];
        // SAFETY: 64 bytes by reference
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
        out.column(col + c)[row..row + n].copy_from_slice(&lanes[..n]);
    }
    C
}

/// Sixteen rows of blocks of 32.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sixteen_32<B: Block32, const C: usize>(rows: &[&[B]; ROWS], x: [&[Q8Chunk]; C]) -> [__m512; C] {
    let blocks = rows[0].len();
    let mut acc = [_mm512_setzero_ps(); C];
    let mut sums = [[_mm512_setzero_si512(); ROWS]; C];
    let mut d = [[0u16; ROWS]; 8];
    let mut m = [[0u16; ROWS]; 8];
    for chunk in 0..blocks.div_ceil(8) {
        let first = 8 * chunk;
        let n = 8.min(blocks - first);
        for (r, row) in rows.iter().enumerate() {
            for (b, block) in row[first..first + n].iter().enumerate() {
                let halves = block.halves();
                d[b][r] = halves.0;
                if B::HAS_MIN {
                    m[b][r] = halves.1;
                }
            }
        }
        for pair in 0..n.div_ceil(2) {
            let two = 2 * pair + 1 < n;
            let a = first + 2 * pair;
            let b = a + usize::from(two);
            for (r, row) in rows.iter().enumerate() {
                // SAFETY: this function has the features
                let bytes = unsafe { B::bytes(&row[a], &row[b]) };
                for (sums, x) in sums.iter_mut().zip(x) {
                    let x = cast_ref::<_, [[u8; 64]; 4]>(&x[chunk].q);
                    sums[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes, load_64(&x[pair]));
                }
            }
            for (c, x) in x.iter().enumerate() {
                let x = &x[chunk];
                for (half, sums) in fold_halves(&sums[c])
                    .into_iter()
                    .enumerate()
                    .take(1 + usize::from(two))
                {
                    let i = 2 * pair + half;
                    let sum = _mm512_sub_epi32(sums, _mm512_set1_epi32(B::OFFSET * x.sum[i]));
                    let scale = _mm512_mul_ps(widen(&d[i]), _mm512_set1_ps(x.scale[i]));
                    acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, acc[c]);
                    if B::HAS_MIN {
                        acc[c] =
                            _mm512_fmadd_ps(widen(&m[i]), _mm512_set1_ps(x.scaled_sum[i]), acc[c]);
                    }
                }
            }
        }
    }
    acc
}

/// Sixteen rows of blocks of 256.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sixteen_256<B: Block256, const C: usize>(
    rows: &[&[B]; ROWS],
    x: [&[Q8kChunk]; C],
) -> [__m512; C] {
    let blocks = rows[0].len();
    let mut acc = [_mm512_setzero_ps(); C];
    let mut sums = [[_mm512_setzero_si512(); ROWS]; C];
    let mut scales = [[0u8; 16]; ROWS];
    let mut mins = [[0u8; 16]; ROWS];
    let mut d = [0.0f32; ROWS];
    let mut dmin = [0.0f32; ROWS];
    for b in 0..blocks {
        for (r, row) in rows.iter().enumerate() {
            let head = row[b].head();
            scales[r] = head.scales;
            d[r] = head.d;
            if B::HAS_MIN {
                dmin[r] = head.dmin;
                set_mins::<B>(&mut mins, r, &head.mins);
            }
        }
        for (r, row) in rows.iter().enumerate() {
            // SAFETY: this function has the features
            let bytes = unsafe { row[b].bytes() };
            let spread = unpack::spread::<B>(&scales[r]);
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = &x[b];
                let mut sum = _mm512_setzero_si512();
                if B::OFFSET != 0 {
                    // the offset, times the scale, times the sum of the activations of each group
                    let groups = unpack::groups::<B>(&scales[r]);
                    let extra = _mm256_madd_epi16(groups, load_32(cast_ref(&x.sums)));
                    let extra = _mm256_sll_epi32(
                        extra,
                        _mm_cvtsi32_si128(B::OFFSET.trailing_zeros() as i32),
                    );
                    sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(extra));
                }
                let q = cast_ref::<_, [[u8; 64]; 4]>(&x.q);
                for i in 0..4 {
                    if 4 * B::MAX * 127 < 1 << 15 {
                        let dot =
                            _mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes[i], load_64(&q[i]));
                        sum = _mm512_dpwssd_epi32(sum, dot, spread[i]);
                    } else {
                        sum = _mm512_dpbusd_epi32(sum, bytes[i], load_64(&q[i]));
                    }
                }
                sums[r] = sum;
            }
        }
        for (c, x) in x.iter().enumerate() {
            let x = &x[b];
            let scale = _mm512_mul_ps(load_ps(&d), _mm512_set1_ps(x.scale));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(fold(&sums[c])), scale, acc[c]);
            if B::HAS_MIN {
                let scale = _mm512_mul_ps(load_ps(&dmin), _mm512_set1_ps(x.scale));
                acc[c] =
                    _mm512_fnmadd_ps(_mm512_cvtepi32_ps(min_sums::<B>(&mins, x)), scale, acc[c]);
            }
        }
    }
    acc
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen(halves: &[u16; ROWS]) -> __m512 {
    _mm512_cvtph_ps(load_32(cast_ref(halves)))
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load_ps(a: &[f32; ROWS]) -> __m512 {
    _mm512_castsi512_ps(load_64(cast_ref(a)))
}

/// The sums of four vectors in each lane of 128 bits.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold_4(v: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(
        _mm512_unpacklo_epi32(v[0], v[1]),
        _mm512_unpackhi_epi32(v[0], v[1]),
    );
    let cd = _mm512_add_epi32(
        _mm512_unpacklo_epi32(v[2], v[3]),
        _mm512_unpackhi_epi32(v[2], v[3]),
    );
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Lanes 0 + 1 and 2 + 3 (of 128 bits) of `a`, then of `b`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold_lanes(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(
        _mm512_shuffle_i64x2::<0x88>(a, b),
        _mm512_shuffle_i64x2::<0xdd>(a, b),
    )
}

/// Lane `r` is the sum of the lanes of vector `r`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold(v: &[__m512i; ROWS]) -> __m512i {
    let [a, b] = fold_eighths(v);
    fold_lanes(a, b)
}

/// As [`fold`], for the lower and the upper eight lanes.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold_halves(v: &[__m512i; ROWS]) -> [__m512i; 2] {
    let [a, b] = fold_eighths(v);
    [
        _mm512_shuffle_i64x2::<0x88>(a, b),
        _mm512_shuffle_i64x2::<0xdd>(a, b),
    ]
}

/// Rows 0..4 lower and upper half, rows 4..8; then rows 8..16.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold_eighths(v: &[__m512i; ROWS]) -> [__m512i; 2] {
    [
        fold_lanes(
            fold_4([v[0], v[1], v[2], v[3]]),
            fold_4([v[4], v[5], v[6], v[7]]),
        ),
        fold_lanes(
            fold_4([v[8], v[9], v[10], v[11]]),
            fold_4([v[12], v[13], v[14], v[15]]),
        ),
    ]
}

/// Puts the mins of row `r` where [`min_sums`] wants them, so that its folding leaves the rows in order.
#[inline(always)]
fn set_mins<B: Block256>(mins: &mut [[u8; 16]; ROWS], r: usize, row: &[u8; 16]) {
    if B::GROUPS == Groups::Eight {
        let mins: &mut [[[u8; 8]; 2]; ROWS] = cast_mut(mins);
        let slot = 4 * (r % 4) + r / 4;
        mins[slot / 2][slot % 2] = cast_ref::<_, [[u8; 8]; 2]>(row)[0];
    } else {
        mins[2 * (r % 4 + 4 * (r / 8)) + r / 4 % 2] = *row;
    }
}

/// Lane `r`: the sum of min times sum of activations over the groups of row `r`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn min_sums<B: Block256>(mins: &[[u8; 16]; ROWS], x: &Q8kChunk) -> __m512i {
    let mins: &[[u8; 32]; 8] = cast_ref(mins);
    if B::GROUPS == Groups::Eight {
        // a vector holds four rows of eight
        let sums = _mm512_broadcast_i32x4(load_16(cast_ref(&x.sums32)));
        fold_4(
            [0, 1, 2, 3]
                .map(|i: usize| _mm512_madd_epi16(_mm512_cvtepu8_epi16(load_32(&mins[i])), sums)),
        )
    } else {
        // a vector holds two rows of sixteen
        let sums = _mm512_broadcast_i64x4(load_32(cast_ref(&x.sums)));
        let part = |i: usize| _mm512_madd_epi16(_mm512_cvtepu8_epi16(load_32(&mins[i])), sums);
        fold_lanes(
            fold_4([part(0), part(1), part(2), part(3)]),
            fold_4([part(4), part(5), part(6), part(7)]),
        )
    }
}
