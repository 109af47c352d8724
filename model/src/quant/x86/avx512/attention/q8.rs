//! Attention over keys and values of `Q8_0` by int8 dot products. The quants are multiplied as they are stored; queries
//! and weights become whole numbers of 16 bits in two planes of 8 bits, which keeps them to a 65,000th of the largest.
//!
//! `vpdpbusd` sums four products in each lane of 32 bits. With keys the elements are sixteen positions and the four products
//! are of values of a head; with values it is the other way round. Neither needs a sum over elements.

use super::pages::{BLOCK, ask_ahead, load, store_first};
use crate::quant::format::blocks::Half;
use crate::quant::format::kv_rows::PagedRows;
use crate::quant::kernels::Heads;
use crate::quant::x86::avx512::unpack::load_32;
use bytemuck::cast_slice;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::arch::x86_64::*;

/// Most query heads that share one transposition of keys and values.
pub(in crate::quant::x86::avx512) const HEADS: usize = 8;
/// Largest head in blocks of 32: the scales of sixteen such rows fit two vectors.
const BLOCKS_MAX: usize = 4;
/// Positions whose values are transposed at a time: they and the weights stay in L1, and sums of int32 that are shifted
/// by 8 bits do not overflow.
const CHUNK: usize = 4 * PAGE_TOKENS;
const _: () = assert!(255 * 128 * CHUNK < i32::MAX as usize >> 8);

/// What a key's byte is increased by so that it can be read as unsigned.
const OFFSET: i32 = 128;
/// The largest whole number of a query; its upper byte is at most 127 after rounding.
const QUERY_MAX: f32 = 32_512.0;
/// The largest whole number of a weight.
const WEIGHT_MAX: f32 = 65_535.0;

/// A query head as whole numbers: each value is `256 * high + low` times the scale.
#[derive(Clone, Copy)]
struct Query<const B: usize> {
    /// The upper and the lower bytes, four values in each number.
    high: [[i32; 8]; B],
    low: [[i32; 8]; B],
    /// What takes [`OFFSET`] out of a block's sums of `high` and of `low`.
    start: [[i32; 2]; B],
    scale: f32,
}

/// Stores the lowest byte of each element, four to a number.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store_bytes(dst: &mut [i32; 4], v: __m512i) {
    // SAFETY: the array has the 16 bytes that are stored
    unsafe { _mm_storeu_si128(dst.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) };
}

impl<const B: usize> Query<B> {
    const NONE: Self = Self {
        high: [[0; 8]; B],
        low: [[0; 8]; B],
        start: [[0; 2]; B],
        scale: 0.0,
    };

    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn new(q: &[f32]) -> Self {
        let mut query = Self::NONE;
        let (mut largest, mut odd) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        let blocks = q.as_chunks::<32>().0;
        for q in blocks.iter().flat_map(|block| load::<2>(block)) {
            largest = _mm512_max_ps(largest, _mm512_abs_ps(q));
            odd = not_finite(q, odd);
        }
        let largest = _mm512_reduce_max_ps(largest);
        query.scale = largest / QUERY_MAX + _mm512_reduce_add_ps(odd);
        let inverse = _mm512_set1_ps(inverse(largest, QUERY_MAX));
        for (b, q) in blocks.iter().enumerate() {
            let (mut highs, mut lows) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for (half, q) in load::<2>(q).into_iter().enumerate() {
                let number = _mm512_cvtps_epi32(_mm512_mul_ps(q, inverse));
                let high = _mm512_srai_epi32::<8>(_mm512_add_epi32(number, _mm512_set1_epi32(128)));
                let low = _mm512_sub_epi32(number, _mm512_slli_epi32::<8>(high));
                store_bytes(&mut query.high[b].as_chunks_mut().0[half], high);
                store_bytes(&mut query.low[b].as_chunks_mut().0[half], low);
                (highs, lows) = (_mm512_add_epi32(highs, high), _mm512_add_epi32(lows, low));
            }
            // this wraps where a value is NaN; the scale is NaN then, and so is everything made of it
            query.start[b] =
                [highs, lows].map(|sum| _mm512_reduce_add_epi32(sum).wrapping_mul(-OFFSET));
        }
        query
    }
}

/// Computes `scores[head][position] = q . k * scale` over keys of `Q8_0`, for heads of `32 * B` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::quant::x86::avx512) fn score<const B: usize>(heads: &Heads<'_>, scores: &mut [f32]) {
    let len = heads.len;
    let mut queries = [Query::<B>::NONE; HEADS];
    for (query, q) in queries.iter_mut().zip(heads.q.chunks_exact(32 * B)) {
        *query = Query::new(q);
    }
    let group = heads.q.len() / (32 * B);
    let queries = &queries[..group];
    for first in (0..len).step_by(BLOCK) {
        let rows = heads.k.rows(first, heads.d);
        let scales = scales::<B>(rows);
        let mut sums = [_mm512_setzero_ps(); HEADS];
        for (b, scale) in scales.iter().enumerate() {
            let keys = keys(sixteen::<B>(rows), b);
            ask_ahead(heads.k, first + PAGE_TOKENS, (b, B), heads);
            for (query, sum) in queries.iter().zip(&mut sums) {
                let mut high = _mm512_set1_epi32(query.start[b][0]);
                let mut low = _mm512_set1_epi32(query.start[b][1]);
                for j in 0..8 {
                    high = _mm512_dpbusd_epi32(high, keys[j], _mm512_set1_epi32(query.high[b][j]));
                    low = _mm512_dpbusd_epi32(low, keys[j], _mm512_set1_epi32(query.low[b][j]));
                }
                *sum = _mm512_fmadd_ps(whole(high, low), *scale, *sum);
            }
        }
        let n = BLOCK.min(len - first);
        for ((sum, query), scores) in sums.iter().zip(queries).zip(scores.chunks_exact_mut(len)) {
            let dots = _mm512_mul_ps(*sum, _mm512_set1_ps(query.scale * heads.scale));
            store_first(&mut scores[first..first + n], dots);
        }
    }
}

/// Computes `out[head] = sum of weights[head][position] * v` over values of `Q8_0`, for heads of `32 * B` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::quant::x86::avx512) fn weigh<const B: usize>(
    heads: &Heads<'_>,
    weights: &[f32],
    out: &mut [f32],
) {
    let (len, group) = (heads.len, heads.q.len() / (32 * B));
    let mut values = [[[[_mm512_setzero_si512(); 2]; B]; BLOCK / 4]; CHUNK / BLOCK];
    let mut scales = [[_mm512_setzero_ps(); B]; CHUNK / BLOCK];
    out.fill(0.0);
    for first in (0..len).step_by(CHUNK) {
        let n = CHUNK.min(len - first);
        let blocks = n.div_ceil(BLOCK);
        for i in 0..blocks {
            let rows = heads.v.rows(first + i * BLOCK, heads.d);
            scales[i] = self::scales(rows);
            for b in 0..B {
                for at in 0..BLOCK / 8 {
                    let [low, high] = eight_values(sixteen::<B>(rows), 8 * at, b);
                    values[i][2 * at][b] = low;
                    values[i][2 * at + 1][b] = high;
                }
            }
        }
        for (h, (out, weights)) in out
            .chunks_exact_mut(32 * B)
            .zip(weights.chunks_exact(len))
            .enumerate()
        {
            let (numbers, units) = numbers(&weights[first..first + n], &scales);
            let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; B];
            for (i, values) in values[..blocks].iter().enumerate() {
                ask_ahead(heads.v, first + CHUNK + i * BLOCK, (h, group), heads);
                for (t, values) in values.iter().enumerate() {
                    for b in 0..B {
                        for plane in 0..2 {
                            let weights = _mm512_set1_epi32(numbers[b][plane][i * (BLOCK / 4) + t]);
                            for half in 0..2 {
                                let sum = &mut sums[b][plane][half];
                                *sum = _mm512_dpbusd_epi32(*sum, weights, values[b][half]);
                            }
                        }
                    }
                }
            }
            let out: &mut [[f32; 32]; B] = &mut out.as_chunks_mut().0.as_chunks_mut().0[0];
            for b in 0..B {
                let unit = _mm512_set1_ps(units[b]);
                let [high, low] = sums[b];
                let (x, y) = (whole(high[0], low[0]), whole(high[1], low[1]));
                let halves = out[b].as_chunks_mut().0;
                add(&mut halves[0], _mm512_shuffle_f32x4::<0x88>(x, y), unit);
                add(&mut halves[1], _mm512_shuffle_f32x4::<0xdd>(x, y), unit);
            }
        }
    }
}

/// Computes `dst += v * scale` for sixteen values.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add(dst: &mut [f32; 16], v: __m512, scale: __m512) {
    // SAFETY: the array has the 64 bytes that are loaded and stored
    unsafe {
        let sum = _mm512_fmadd_ps(v, scale, _mm512_loadu_ps(dst.as_ptr()));
        _mm512_storeu_ps(dst.as_mut_ptr(), sum);
    }
}

/// The weights of a chunk's positions times the scales of the values there, as whole numbers: by block their upper and
/// lower bytes, four positions in each number, and what the whole number 1 stands for. Only as many scales are used as
/// there are weights.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn numbers<const B: usize>(
    weights: &[f32],
    scales: &[[__m512; B]; CHUNK / BLOCK],
) -> ([[[i32; CHUNK / 4]; 2]; B], [f32; B]) {
    let mut numbers = [[[0; CHUNK / 4]; 2]; B];
    let mut units = [0.0; B];
    for b in 0..B {
        let mut products = [_mm512_setzero_ps(); CHUNK / BLOCK];
        let (mut largest, mut odd) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        for (i, weights) in weights.chunks(BLOCK).enumerate() {
            let used = 0xffff >> (BLOCK - weights.len());
            // SAFETY: the mask has as many ones as the slice has elements, so nothing past its end is read
            let weights = unsafe { _mm512_maskz_loadu_ps(used, weights.as_ptr()) };
            // what lies behind the last row may be anything
            products[i] = _mm512_maskz_mul_ps(used, weights, scales[i][b]);
            largest = _mm512_max_ps(largest, products[i]);
            odd = not_finite(products[i], odd);
        }
        let largest = _mm512_reduce_max_ps(largest);
        units[b] = largest / WEIGHT_MAX + _mm512_reduce_add_ps(odd);
        let inverse = _mm512_set1_ps(inverse(largest, WEIGHT_MAX));
        let [high, low] = &mut numbers[b];
        for (i, product) in products[..weights.len().div_ceil(BLOCK)].iter().enumerate() {
            let number = _mm512_cvtps_epi32(_mm512_mul_ps(*product, inverse));
            store_bytes(
                &mut high.as_chunks_mut().0[i],
                _mm512_srli_epi32::<8>(number),
            );
            store_bytes(&mut low.as_chunks_mut().0[i], number);
        }
    }
    (numbers, units)
}

/// What a value is multiplied by to become a whole number of at most `most`.
#[inline(always)]
fn inverse(largest: f32, most: f32) -> f32 {
    // below this the inverse would overflow; such values are nothing beside any other
    if largest < 1e-30 { 0.0 } else { most / largest }
}

/// `so_far`, or NaN in the elements where `v` is not finite, which a maximum might hide.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn not_finite(v: __m512, so_far: __m512) -> __m512 {
    _mm512_fmadd_ps(v, _mm512_setzero_ps(), so_far)
}

/// Puts the sums of both planes together.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn whole(high: __m512i, low: __m512i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<8>(high), low))
}

/// The scales of sixteen rows, block by block.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scales<const B: usize>(rows: PagedRows<'_>) -> [__m512; B] {
    const { assert!(B <= BLOCKS_MAX) };
    let mut halves = [0u16; BLOCK * BLOCKS_MAX];
    halves[..BLOCK * B].copy_from_slice(cast_slice::<Half, u16>(rows.first(BLOCK).1));
    let [low, high] = [0, 1].map(|i| {
        let halves = &halves.as_chunks::<32>().0[i];
        // SAFETY: the array has the 64 bytes that are loaded
        unsafe { _mm512_loadu_si512(halves.as_ptr().cast()) }
    });
    let elements = _mm512_cvtepu16_epi32(_mm256_setr_epi16(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    ));
    let of_rows = _mm512_cvtepi32_epi16(_mm512_mullo_epi32(elements, _mm512_set1_epi32(B as i32)));
    let mut scales = [_mm512_setzero_ps(); B];
    for (b, scale) in scales.iter_mut().enumerate() {
        let index = _mm256_add_epi16(of_rows, _mm256_set1_epi16(b as i16));
        let halves = _mm512_permutex2var_epi16(low, _mm512_castsi256_si512(index), high);
        *scale = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    }
    scales
}

/// Sixteen rows of values, in blocks of 32.
type SixteenRows<const B: usize> = [[[u8; 32]; B]; BLOCK];

#[inline(always)]
fn sixteen<const B: usize>(rows: PagedRows<'_>) -> &SixteenRows<B> {
    &rows
        .first(BLOCK)
        .0
        .as_chunks()
        .0
        .as_chunks()
        .0
        .as_chunks()
        .0[0]
}

/// Block `b` of rows `i` and `i + 4`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn two_rows<const B: usize>(rows: &SixteenRows<B>, i: usize, b: usize) -> __m512i {
    let first = _mm512_castsi256_si512(load_32(&rows[i][b]));
    _mm512_inserti64x4::<1>(first, load_32(&rows[i + 4][b]))
}

/// Block `b` of eight keys, `at` and following: of each key the values 0..4 and 16..20, then 4..8 and 20..24 and so on.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn eight_keys<const B: usize>(rows: &SixteenRows<B>, at: usize, b: usize) -> [__m512i; 4] {
    let (r0, r1) = (two_rows(rows, at, b), two_rows(rows, at + 1, b));
    let (r2, r3) = (two_rows(rows, at + 2, b), two_rows(rows, at + 3, b));
    let (a, c) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
    let (b, d) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
    [
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpackhi_epi64(a, b),
        _mm512_unpacklo_epi64(c, d),
        _mm512_unpackhi_epi64(c, d),
    ]
}

/// Block `b` of sixteen keys plus [`OFFSET`]: vector `j` has values `4 j..4 j + 4` of each, key by key.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn keys<const B: usize>(rows: &SixteenRows<B>, b: usize) -> [__m512i; 8] {
    let (low, high) = (eight_keys(rows, 0, b), eight_keys(rows, 8, b));
    let sign = _mm512_set1_epi8(OFFSET as i8);
    let mut keys = [sign; 8];
    for i in 0..4 {
        let (x, y) = (low[i], high[i]);
        keys[i] = _mm512_xor_si512(_mm512_shuffle_i32x4::<0x88>(x, y), sign);
        keys[i + 4] = _mm512_xor_si512(_mm512_shuffle_i32x4::<0xdd>(x, y), sign);
    }
    keys
}

/// Block `b` of eight rows of values: of each four rows two vectors, in a lane one value of the four. The elements of
/// 128 bits have values 0.., 16.., 4.., 20.. and 8.., 24.., 12.., 28...
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn eight_values<const B: usize>(rows: &SixteenRows<B>, at: usize, b: usize) -> [[__m512i; 2]; 2] {
    let (r0, r1) = (two_rows(rows, at, b), two_rows(rows, at + 1, b));
    let (r2, r3) = (two_rows(rows, at + 2, b), two_rows(rows, at + 3, b));
    let (a, c) = (_mm512_unpacklo_epi8(r0, r1), _mm512_unpackhi_epi8(r0, r1));
    let (b, d) = (_mm512_unpacklo_epi8(r2, r3), _mm512_unpackhi_epi8(r2, r3));
    let (w, x) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
    let (y, z) = (_mm512_unpacklo_epi16(c, d), _mm512_unpackhi_epi16(c, d));
    [
        [
            _mm512_shuffle_i32x4::<0x44>(w, x),
            _mm512_shuffle_i32x4::<0x44>(y, z),
        ],
        [
            _mm512_shuffle_i32x4::<0xee>(w, x),
            _mm512_shuffle_i32x4::<0xee>(y, z),
        ],
    ]
}
