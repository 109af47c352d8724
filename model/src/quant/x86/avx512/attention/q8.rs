//! Attention over keys and values of `Q8_0` by int8 dot products. The quants are multiplied as they are stored; queries
//! and weights become whole numbers of 16 bits in two planes of 8 bits, which keeps them to a 65,000th of the largest.
//!
//! `vpdpbusd` sums four products in each lane of 32 bits. With keys the elements are sixteen positions and the four products
//! are of values of a head; with values it is the other way round. Neither needs a sum over elements.

use super::pages::{Ahead, BLOCK, load, store_first};
use crate::quant::format::blocks::Half;
use crate::quant::format::kv_rows::PagedRows;
use crate::quant::kernels::Heads;
use crate::quant::x86::avx512::unpack::load_32;
use bytemuck::cast_slice;
use glowplug_firmware_config::attention::QUERIES_MAX;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::arch::x86_64::*;

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

/// A query as whole numbers: each value is `256 * high + low` times the scale.
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

/// Computes `scores[query][position] = q . k * scale` over keys of `Q8_0`, for heads of `32 * B` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::quant::x86::avx512) fn score<const B: usize>(heads: &Heads<'_>, scores: &mut [f32]) {
    let mut queries = [Query::<B>::NONE; QUERIES_MAX];
    for (query, q) in queries.iter_mut().zip(heads.q.chunks_exact(32 * B)) {
        *query = Query::new(q);
    }
    let stride = heads.stride();
    let mut sums = [_mm512_setzero_ps(); QUERIES_MAX];
    for first in (0..heads.longest()).step_by(BLOCK) {
        let looking = heads.blind(first)..heads.queries();
        let (queries, sums) = (&queries[looking.clone()], &mut sums[looking.clone()]);
        sums.fill(_mm512_setzero_ps());
        let rows = heads.k.rows(first, heads.d);
        let scales = scales::<B>(rows);
        let ahead = Ahead::new(heads, heads.k, first + PAGE_TOKENS, B);
        for (b, scale) in scales.iter().enumerate() {
            let keys = keys(sixteen::<B>(rows), b);
            ahead.ask(b);
            for (query, sum) in queries.iter().zip(&mut *sums) {
                let mut high = _mm512_set1_epi32(query.start[b][0]);
                let mut low = _mm512_set1_epi32(query.start[b][1]);
                for j in 0..8 {
                    high = _mm512_dpbusd_epi32(high, keys[j], _mm512_set1_epi32(query.high[b][j]));
                    low = _mm512_dpbusd_epi32(low, keys[j], _mm512_set1_epi32(query.low[b][j]));
                }
                *sum = _mm512_fmadd_ps(whole(high, low), *scale, *sum);
            }
        }
        let scores = scores.chunks_exact_mut(stride).enumerate();
        let scores = scores.skip(looking.start);
        for ((sum, query), (i, scores)) in sums.iter().zip(queries).zip(scores) {
            let dots = _mm512_mul_ps(*sum, _mm512_set1_ps(query.scale * heads.scale));
            store_first(&mut scores[first..][..heads.sees(i, first, BLOCK)], dots);
        }
    }
}

/// Computes `out[query] = sum of weights[query][position] * v` over values of `Q8_0`, for heads of `32 * B` values.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::quant::x86::avx512) fn weigh<const B: usize>(
    heads: &Heads<'_>,
    weights: &[f32],
    out: &mut [f32],
) {
    let (longest, stride) = (heads.longest(), heads.stride());
    let mut values = [[[[_mm512_setzero_si512(); 2]; B]; BLOCK / 4]; CHUNK / BLOCK];
    let mut scales = [[_mm512_setzero_ps(); B]; CHUNK / BLOCK];
    let mut ahead = [Ahead::NONE; CHUNK / BLOCK];
    let mut numbers = [[[0; CHUNK / 4]; 2]; B];
    out.fill(0.0);
    for first in (0..longest).step_by(CHUNK) {
        for i in 0..CHUNK.min(longest - first).div_ceil(BLOCK) {
            let rows = heads.v.rows(first + i * BLOCK, heads.d);
            scales[i] = self::scales(rows);
            let next = first + CHUNK + i * BLOCK;
            ahead[i] = Ahead::new(heads, heads.v, next, heads.queries());
            for b in 0..B {
                for at in 0..BLOCK / 8 {
                    let [low, high] = eight_values(sixteen::<B>(rows), 8 * at, b);
                    values[i][2 * at][b] = low;
                    values[i][2 * at + 1][b] = high;
                }
            }
        }
        let queries = out.chunks_exact_mut(32 * B);
        let queries = queries.zip(weights.chunks_exact(stride)).enumerate();
        for (query, (out, weights)) in queries.skip(heads.blind(first)) {
            let weights = &weights[first..][..heads.sees(query, first, CHUNK)];
            let units = write_numbers(&mut numbers, weights, &scales);
            let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; B];
            let blocks = weights.len().div_ceil(BLOCK);
            for (i, (values, ahead)) in values[..blocks].iter().zip(&ahead).enumerate() {
                ahead.ask(query);
                for (t, values) in values.iter().enumerate() {
                    for b in 0..B {
                        for plane in 0..2 {
                            let weights = _mm512_set1_epi32(numbers[b][plane][place(i, t)]);
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

/// Writes the weights of a chunk's positions times the scales of the values there, as whole numbers: by block their upper and
/// lower bytes, four positions in each number, as [`place`] says. Returns by block what the whole number 1 stands for. Only as
/// many scales count as there are weights.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn write_numbers<const B: usize>(
    numbers: &mut [[[i32; CHUNK / 4]; 2]; B],
    weights: &[f32],
    scales: &[[__m512; B]; CHUNK / BLOCK],
) -> [f32; BLOCKS_MAX] {
    let mut vectors = [_mm512_setzero_ps(); CHUNK / BLOCK];
    for (vector, weights) in vectors.iter_mut().zip(weights.chunks(BLOCK)) {
        // SAFETY: the mask has as many ones as the slice has elements, so nothing past its end is read
        *vector = unsafe { _mm512_maskz_loadu_ps(first_ones(weights.len()), weights.as_ptr()) };
    }
    // a product that is NaN is not taken for the largest, because what lies behind the last row may be anything
    let mut largest = [_mm512_setzero_ps(); BLOCKS_MAX];
    for (vector, scales) in vectors.iter().zip(scales) {
        for (largest, scale) in largest.iter_mut().zip(scales) {
            *largest = _mm512_max_ps(_mm512_mul_ps(*vector, *scale), *largest);
        }
    }
    let largest = maxima(largest);
    let (mut units, mut inverses) = ([0.0; BLOCKS_MAX], [0.0; BLOCKS_MAX]);
    for ((unit, inverse), largest) in units.iter_mut().zip(&mut inverses).zip(largest) {
        *unit = largest / WEIGHT_MAX;
        *inverse = self::inverse(largest, WEIGHT_MAX);
    }
    let mut signs = _mm512_setzero_si512();
    for b in 0..B {
        let inverse = _mm512_set1_ps(inverses[b]);
        let fours = vectors.as_chunks::<4>().0.iter();
        for (i, (vectors, scales)) in fours.zip(scales.as_chunks::<4>().0).enumerate() {
            let mut whole = [_mm512_setzero_si512(); 4];
            for (whole, (vector, scales)) in whole.iter_mut().zip(vectors.iter().zip(scales)) {
                let product = _mm512_mul_ps(*vector, scales[b]);
                *whole = _mm512_cvtps_epi32(_mm512_mul_ps(product, inverse));
                signs = _mm512_or_si512(signs, *whole);
            }
            for (numbers, plane) in numbers[b].iter_mut().zip(planes(whole)) {
                let numbers = &mut numbers.as_chunks_mut::<16>().0[i];
                // SAFETY: the array has the 64 bytes that are stored
                unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), plane) };
            }
        }
    }
    // no weight and no scale is below zero, and what is not finite becomes the least number
    if _mm512_movepi32_mask(signs) != 0 {
        let mut odd = [_mm512_setzero_ps(); B];
        for (weights, (vector, scales)) in weights.chunks(BLOCK).zip(vectors.iter().zip(scales)) {
            for (odd, scale) in odd.iter_mut().zip(scales) {
                let used = first_ones(weights.len());
                *odd = not_finite(_mm512_maskz_mul_ps(used, *vector, *scale), *odd);
            }
        }
        for (unit, odd) in units.iter_mut().zip(odd) {
            *unit += _mm512_reduce_add_ps(odd);
        }
    }
    units
}

/// A mask of the first `n` elements, 1 to 16.
#[inline(always)]
fn first_ones(n: usize) -> u16 {
    0xffff >> (BLOCK - n)
}

/// The largest element of each of four vectors.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn maxima(v: [__m512; BLOCKS_MAX]) -> [f32; BLOCKS_MAX] {
    let pair = |a, b| _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (x, y) = (pair(v[0], v[1]), pair(v[2], v[3]));
    // in each part of 128 bits the largest of that part, of all four
    let four = _mm512_max_ps(
        _mm512_shuffle_ps::<0x44>(x, y),
        _mm512_shuffle_ps::<0xee>(x, y),
    );
    let two = _mm256_max_ps(
        _mm512_castps512_ps256(four),
        _mm512_extractf32x8_ps::<1>(four),
    );
    let one = _mm_max_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps::<1>(two));
    let mut maxima = [0.0; BLOCKS_MAX];
    // SAFETY: the array has the 16 bytes that are stored
    unsafe { _mm_storeu_ps(maxima.as_mut_ptr(), one) };
    maxima
}

/// The upper and the lower bytes of numbers below 2^16. Element `4 t + i` has elements `4 t..4 t + 4` of vector `i`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn planes(v: [__m512i; 4]) -> [__m512i; 2] {
    let (x, y) = (
        _mm512_packus_epi32(v[0], v[1]),
        _mm512_packus_epi32(v[2], v[3]),
    );
    let byte = _mm512_set1_epi16(255);
    [
        _mm512_packus_epi16(_mm512_srli_epi16::<8>(x), _mm512_srli_epi16::<8>(y)),
        _mm512_packus_epi16(_mm512_and_si512(x, byte), _mm512_and_si512(y, byte)),
    ]
}

/// Where [`write_numbers`] puts the one of positions `4 t..4 t + 4` of block `i`: see [`planes`].
#[inline(always)]
fn place(i: usize, t: usize) -> usize {
    i / 4 * BLOCK + 4 * t + i % 4
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
