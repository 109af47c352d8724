//! The product by rows: eight rows at a time, and up to four columns that share what is unpacked.

use super::dot::{Dot, run};
use super::unpack::{self, Block32, Block256, first_16, load_2x16, load_16, load_32, signs};
use crate::pool::RowTile;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::kernels::Product;
use bytemuck::cast_ref;
use std::arch::x86_64::*;

/// Rows that share a pass: as many as a vector has elements.
const ROWS: usize = 8;

/// Defines the product of the formats of one trait. `$column` gives the chunks of a column, and `$eight` multiplies eight rows
/// by one, two or four of them.
macro_rules! product {
    ($product:ident, $Block:ident, $column:ident, $eight:ident) => {
        /// The whole result; see [`crate::quant::Kernels::matmul`].
        ///
        /// # Safety
        /// The machine has the features of `D`.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $product<B: $Block, D: Dot>(
            product: &Product<'_>,
            out: &mut RowTile<'_>,
        ) {
            let (w, blocks) = (product.blocks::<B>(out.rows()), product.row_blocks());
            let (acts, col0) = (product.activations, product.first_column);
            for first in (0..out.rows()).step_by(ROWS) {
                let (rows, n) = group(w, blocks, first);
                let mut c = 0;
                while c < out.cols() {
                    let x = |i: usize| acts.$column(col0 + c + i);
                    // SAFETY: the caller vouches for the features of `D`
                    c += unsafe {
                        match out.cols() - c {
                            1 => store(out, c, first, n, $eight::<B, D, 1>(&rows, [x(0)])),
                            2 | 3 => {
                                store(out, c, first, n, $eight::<B, D, 2>(&rows, [x(0), x(1)]))
                            }
                            _ => {
                                let x = [x(0), x(1), x(2), x(3)];
                                store(out, c, first, n, $eight::<B, D, 4>(&rows, x))
                            }
                        }
                    };
                }
            }
        }
    };
}
product!(matmul_32, Block32, q8, eight_32);
product!(matmul_256, Block256, q8k, eight_256);

/// Rows `first..first + n`, with the last one repeated up to eight.
#[inline(always)]
fn group<B>(w: &[B], blocks: usize, first: usize) -> ([&[B]; ROWS], usize) {
    let n = ROWS.min(w.len() / blocks - first);
    let mut rows = [&w[..0]; ROWS];
    for r in 0..ROWS {
        rows[r] = &w[(first + r.min(n - 1)) * blocks..][..blocks];
    }
    (rows, n)
}

/// Stores `n` rows of some columns, and returns how many columns that were.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store<const C: usize>(
    out: &mut RowTile<'_>,
    col: usize,
    row: usize,
    n: usize,
    sums: [__m256; C],
) -> usize {
    for (c, sums) in sums.into_iter().enumerate() {
        let mut elements = [0.0f32; ROWS];
        // SAFETY: the array has the 32 bytes that are stored
        unsafe { _mm256_storeu_ps(elements.as_mut_ptr(), sums) };
        out.column(col + c)[row..row + n].copy_from_slice(&elements[..n]);
    }
    C
}

/// Multiplies eight rows of blocks of 32 by `C` columns.
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight_32<B: Block32, D: Dot, const C: usize>(
    rows: &[&[B]; ROWS],
    x: [&[Q8Chunk]; C],
) -> [__m256; C] {
    let mut acc = [_mm256_setzero_ps(); C];
    let parts = rows[0].len() * B::PARTS;
    for n in 0..parts {
        let (chunk, i) = (n / 8, n % 8);
        let (b, part) = (n / B::PARTS, n % B::PARTS);
        let mut first = [_mm256_setzero_si256(); 4];
        let mut sums = [[_mm256_setzero_si256(); 4]; C];
        // of a format with two scales, those of the last 16 values
        let mut last = [[_mm256_setzero_si256(); 4]; C];
        for j in 0..4 {
            let two = [&rows[j][b], &rows[4 + j][b]];
            first[j] = load_2x16(first_16(two[0]), first_16(two[1]));
            // SAFETY: this function is compiled with the features that the callee needs
            let bytes = unsafe { B::bytes(two.map(|block| (block, part)), first[j]) };
            for c in 0..C {
                let halves = &cast_ref::<_, [[[u8; 16]; 2]; 8]>(&x[c][chunk].q)[i];
                let products = |i: usize, sum: __m256i| {
                    let x = _mm256_broadcastsi128_si256(load_16(&halves[i]));
                    let (w, x) = signs(B::SIGNED, bytes[i], x);
                    // SAFETY: the caller vouches for the features of `D`
                    unsafe { D::more(sum, w, x) }
                };
                let zero = _mm256_setzero_si256();
                // SAFETY: the caller vouches for the features of `D`
                unsafe {
                    let low = products(0, zero);
                    (sums[c][j], last[c][j]) = if B::TWO_SCALES {
                        (D::whole(zero, low), D::whole(zero, products(1, zero)))
                    } else if run::<D>(if B::SIGNED { 1 } else { 2 }, 2) == 1 {
                        (D::whole(D::whole(zero, low), products(1, zero)), zero)
                    } else {
                        // in int16 four products of at most 31 * 127
                        (D::whole(zero, products(1, low)), zero)
                    };
                }
            }
        }
        if B::TWO_SCALES {
            let [d, last_d] = two_scales(rows, b, part);
            for c in 0..C {
                let scale = _mm256_set1_ps(x[c][chunk].scale[i]);
                for (sums, d) in [(sums[c], d), (last[c], last_d)] {
                    let sum = _mm256_cvtepi32_ps(fold_4(sums));
                    acc[c] = _mm256_fmadd_ps(sum, _mm256_mul_ps(d, scale), acc[c]);
                }
            }
            continue;
        }
        let (d, m) = first_halves::<B>(first);
        for c in 0..C {
            let x = &x[c][chunk];
            let offset = _mm256_set1_epi32(B::OFFSET.wrapping_mul(x.sum[i]));
            let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(fold_4(sums[c]), offset));
            acc[c] = _mm256_fmadd_ps(sum, _mm256_mul_ps(d, _mm256_set1_ps(x.scale[i])), acc[c]);
            if B::HAS_MIN {
                acc[c] = _mm256_fmadd_ps(m, _mm256_set1_ps(x.scaled_sum[i]), acc[c]);
            }
        }
    }
    acc
}

/// The scales of the first and of the last 16 values of a part, of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_scales<B: Block32>(rows: &[&[B]; ROWS], b: usize, part: usize) -> [__m256; 2] {
    let mut scales = [[0.0f32; ROWS]; 2];
    for r in 0..ROWS {
        [scales[0][r], scales[1][r]] = rows[r][b].scales(part);
    }
    // SAFETY: the arrays have the 32 bytes that are loaded
    unsafe {
        [
            _mm256_loadu_ps(scales[0].as_ptr()),
            _mm256_loadu_ps(scales[1].as_ptr()),
        ]
    }
}

/// Multiplies eight rows of blocks of 256 by `C` columns.
///
/// # Safety
/// The machine has the features of `D`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn eight_256<B: Block256, D: Dot, const C: usize>(
    rows: &[&[B]; ROWS],
    x: [&[Q8kChunk]; C],
) -> [__m256; C] {
    let mut acc = [_mm256_setzero_ps(); C];
    let mut sums = [[_mm256_setzero_si256(); ROWS]; C];
    let mut min_sums = [[_mm256_setzero_si256(); ROWS]; C];
    let (mut d, mut dmin) = ([0u16; ROWS], [0u16; ROWS]);
    let blocks = rows[0].len();
    for b in 0..blocks {
        for r in 0..ROWS {
            let block = &rows[r][b];
            let groups = block.group_scales();
            (d[r], dmin[r]) = (groups.d.bits(), groups.dmin.bits());
            let scales = unpack::groups::<B>(&groups.scales);
            let mins = unpack::groups::<B>(&groups.mins);
            // SAFETY: this function is compiled with the features that the callee needs
            let bytes = unsafe { block.bytes() };
            let spread = unpack::spread(scales);
            for c in 0..C {
                let x16 = load_32(cast_ref(&x[c][b].sums));
                let mut sum = _mm256_setzero_si256();
                if B::ADDED != 0 {
                    // the offset, times the scale, times the sum of the activations of each group
                    let extra = _mm256_madd_epi16(scales, x16);
                    let extra = _mm256_sll_epi32(
                        extra,
                        _mm_cvtsi32_si128(B::ADDED.trailing_zeros() as i32),
                    );
                    sum = _mm256_sub_epi32(sum, extra);
                }
                let q = cast_ref::<_, [[u8; 32]; 8]>(&x[c][b].q);
                for i in 0..8 {
                    // two products of at most 128 * 127
                    let (w, x) = signs(B::SIGNED, bytes[i], load_32(&q[i]));
                    let dot = _mm256_maddubs_epi16(w, x);
                    // SAFETY: the caller vouches for the features of `D`
                    sum = unsafe { D::pairs(sum, dot, spread[i]) };
                }
                sums[c][r] = sum;
                if B::HAS_MIN {
                    min_sums[c][r] = _mm256_madd_epi16(mins, x16);
                }
            }
        }
        for c in 0..C {
            let scale = _mm256_set1_ps(x[c][b].scale);
            let d = _mm256_mul_ps(widen(&d), _mm256_set1_ps(B::FACTOR));
            let d = _mm256_mul_ps(d, scale);
            acc[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(fold_8(&sums[c])), d, acc[c]);
            if B::HAS_MIN {
                let dmin = _mm256_mul_ps(widen(&dmin), scale);
                acc[c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(fold_8(&min_sums[c])), dmin, acc[c]);
            }
        }
    }
    acc
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(halves: &[u16; ROWS]) -> __m256 {
    _mm256_cvtph_ps(load_16(cast_ref(halves)))
}

/// The scale that the first two bytes of each lane of 128 bits are, and the half after it, in the order of [`fold_4`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn first_halves<B: Block32>(v: [__m256i; 4]) -> (__m256, __m256) {
    let first = _mm256_unpacklo_epi64(
        _mm256_unpacklo_epi32(v[0], v[1]),
        _mm256_unpacklo_epi32(v[2], v[3]),
    );
    let narrow =
        |v: __m256i| _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let d = narrow(_mm256_and_si256(first, _mm256_set1_epi32(0xffff)));
    (
        // SAFETY: this function is compiled with the features that the callee needs
        unsafe { B::d(d) },
        _mm256_cvtph_ps(narrow(_mm256_srli_epi32::<16>(first))),
    )
}

/// Sums the elements within each lane of 128 bits: lane `i` of vector `j` goes to lane `4 i + j` of int32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fold_4(v: [__m256i; 4]) -> __m256i {
    _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]))
}

/// Lane `r` is the sum of the elements of vector `r`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fold_8(v: &[__m256i; ROWS]) -> __m256i {
    let (a, b) = (
        fold_4([v[0], v[1], v[2], v[3]]),
        fold_4([v[4], v[5], v[6], v[7]]),
    );
    _mm256_add_epi32(
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x31>(a, b),
    )
}
