//! The product of a few columns: sixteen rows at a time.

use super::unpack::{
    self, Block32, Block256, first_16, load_4x16, load_16, load_32, load_64, store_64,
};
use crate::pool::RowTile;
use crate::quant::format::activations::{Q8Chunk, Q8kChunk};
use crate::quant::kernels::Product;
use crate::quant::x86::group_scales::Groups;
use crate::quant::x86::panel;
use bytemuck::{cast_mut, cast_ref, cast_slice};
use std::arch::x86_64::*;

/// Rows that share a pass: as many as a vector has elements.
const ROWS: usize = 16;

/// Defines the product of the formats of one trait. `$column` gives the chunks of a column, and `$sixteen` multiplies sixteen
/// rows by one, two or four of them.
macro_rules! product {
    ($product:ident, $Block:ident, $column:ident, $sixteen:ident) => {
        /// The whole result; see [`crate::quant::Kernels::matmul`].
        #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
        pub(super) fn $product<B: $Block>(product: &Product<'_>, out: &mut RowTile<'_>) {
            let (acts, col0) = (product.activations, product.first_column);
            // all of the weights: what follows the rows is what the next call reads
            let (w, blocks) = (cast_slice::<u8, B>(product.weights), product.row_blocks());
            for first in (0..out.rows()).step_by(ROWS) {
                let rows = panel::rows(w, blocks, first, out.rows());
                let n = ROWS.min(out.rows() - first);
                let next = following(w, blocks, first);
                let mut c = 0;
                while c < out.cols() {
                    let x = |i: usize| acts.$column(col0 + c + i);
                    c += match out.cols() - c {
                        1 => store(out, c, first, n, $sixteen(&rows, next, [x(0)])),
                        2 | 3 => store(out, c, first, n, $sixteen(&rows, next, [x(0), x(1)])),
                        _ => {
                            let x = [x(0), x(1), x(2), x(3)];
                            store(out, c, first, n, $sixteen(&rows, next, x))
                        }
                    };
                }
            }
        }
    };
}
product!(matmul_32, Block32, q8, sixteen_32);
product!(matmul_256, Block256, q8k, sixteen_256);

/// Bytes of a row above which nothing is asked for ahead. The hardware follows sixteen long rows well enough by itself,
/// and what is asked for from the next sixteen (80 KB of Q4_K at k = 8960) is in its way. Asking ahead made the kernel 8
/// to 20 % slower there, and 30 to 50 % faster at k = 1536.
const LONG_ROW: usize = 2048;
/// Blocks of 256 to ask for ahead in the same row where rows are long. It gains up to 15 % on Q6_K and nothing on Q4_K.
const AHEAD: usize = 6;

/// The blocks after the sixteen rows that begin with `first`, or none where rows are long: see [`LONG_ROW`].
#[inline(always)]
fn following<B>(w: &[B], blocks: usize, first: usize) -> &[B] {
    match w.get((first + ROWS) * blocks..) {
        Some(next) if blocks * size_of::<B>() <= LONG_ROW => next,
        _ => &[],
    }
}

/// Element `i` of every row.
#[inline(always)]
fn at<'a, T>(rows: &[&'a [T]; ROWS], i: usize) -> [&'a T; ROWS] {
    let mut at = [&rows[0][i]; ROWS];
    for r in 1..ROWS {
        at[r] = &rows[r][i];
    }
    at
}

/// Stores `n` rows of some columns, and returns how many columns that were.
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
        let mut elements = [0.0f32; ROWS];
        // SAFETY: the array has the 64 bytes that are stored
        unsafe { _mm512_storeu_ps(elements.as_mut_ptr(), sums) };
        out.column(col + c)[row..row + n].copy_from_slice(&elements[..n]);
    }
    C
}

/// Multiplies sixteen rows of blocks of 32 by `C` columns; `next` are the blocks that come after those rows.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sixteen_32<B: Block32, const C: usize>(
    rows: &[&[B]; ROWS],
    next: &[B],
    x: [&[Q8Chunk]; C],
) -> [__m512; C] {
    let mut acc = [_mm512_setzero_ps(); C];
    let parts = rows[0].len() * B::PARTS;
    for n in 0..parts {
        let (chunk, i) = (n / 8, n % 8);
        let (b, part) = (n / B::PARTS, n % B::PARTS);
        if part == 0 {
            prefetch(next.get(ROWS * b..ROWS * (b + 1)));
        }
        let mut first = [_mm512_setzero_si512(); 4];
        let mut sums = [[_mm512_setzero_si512(); 4]; C];
        for j in 0..4 {
            let four = [
                &rows[j][b],
                &rows[4 + j][b],
                &rows[8 + j][b],
                &rows[12 + j][b],
            ];
            first[j] = load_4x16([
                first_16(four[0]),
                first_16(four[1]),
                first_16(four[2]),
                first_16(four[3]),
            ]);
            // SAFETY: this function is compiled with the features that the callee needs
            let bytes = unsafe { B::bytes(four.map(|block| (block, part)), first[j]) };
            for c in 0..C {
                let [low, high] = &cast_ref::<_, [[[u8; 16]; 2]; 8]>(&x[c][chunk].q)[i];
                let sum = _mm512_setzero_si512();
                let sum = _mm512_dpbusd_epi32(sum, bytes[0], _mm512_broadcast_i32x4(load_16(low)));
                sums[c][j] =
                    _mm512_dpbusd_epi32(sum, bytes[1], _mm512_broadcast_i32x4(load_16(high)));
            }
        }
        let [d, m] = first_halves(first);
        // SAFETY: this function is compiled with the features that the callee needs
        let (d, m) = (unsafe { B::d(d) }, _mm512_cvtph_ps(m));
        for c in 0..C {
            let x = &x[c][chunk];
            let offset = _mm512_set1_epi32(B::OFFSET.wrapping_mul(x.sum[i]));
            let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(fold_4(sums[c]), offset));
            acc[c] = _mm512_fmadd_ps(sum, _mm512_mul_ps(d, _mm512_set1_ps(x.scale[i])), acc[c]);
            if B::HAS_MIN {
                acc[c] = _mm512_fmadd_ps(m, _mm512_set1_ps(x.scaled_sum[i]), acc[c]);
            }
        }
    }
    acc
}

/// The first half and the second half of each lane of 128 bits, in the order of [`fold_4`].
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn first_halves(v: [__m512i; 4]) -> [__m256i; 2] {
    let first = _mm512_unpacklo_epi64(
        _mm512_unpacklo_epi32(v[0], v[1]),
        _mm512_unpacklo_epi32(v[2], v[3]),
    );
    [
        _mm512_cvtepi32_epi16(first),
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(first)),
    ]
}

/// Multiplies sixteen rows of blocks of 256 by `C` columns; `next` are the blocks that come after those rows.
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sixteen_256<B: Block256, const C: usize>(
    rows: &[&[B]; ROWS],
    next: &[B],
    x: [&[Q8kChunk]; C],
) -> [__m512; C] {
    let mut acc = [_mm512_setzero_ps(); C];
    let mut sums = [[_mm512_setzero_si512(); 4]; C];
    let mut min_sums = [[_mm512_setzero_si512(); 4]; C];
    let blocks = rows[0].len();
    for b in 0..blocks {
        let row_blocks = at(rows, b);
        let scales_of = Scales256::read(&row_blocks);
        let mut arranged = [[_mm512_setzero_si512(); 4]; C];
        for c in 0..C {
            let q = cast_ref::<_, [[u8; 64]; 4]>(&x[c][b].q);
            arranged[c] = unpack::arrange::<B>([
                load_64(&q[0]),
                load_64(&q[1]),
                load_64(&q[2]),
                load_64(&q[3]),
            ]);
        }
        for quarter in 0..4 {
            let mut four = [[_mm512_setzero_si512(); 4]; C];
            let mut four_mins = [[_mm512_setzero_si512(); 4]; C];
            for j in 0..4 {
                let r = 4 * quarter + j;
                let i = ROWS * b + r;
                prefetch(next.get(i..i + 1).or(rows[r].get(b + AHEAD..b + AHEAD + 1)));
                // SAFETY: this function is compiled with the features that the callee needs
                let bytes = unsafe { row_blocks[r].bytes() };
                let scales = scales_of.scales(&row_blocks, r);
                let spread = unpack::spread::<B>(&scales);
                for c in 0..C {
                    let x16 = load_32(cast_ref(&x[c][b].sums));
                    let mut sum = _mm512_setzero_si512();
                    if B::OFFSET != 0 {
                        // the offset, times the scale, times the sum of the activations of each group
                        let extra = _mm256_madd_epi16(unpack::groups::<B>(&scales), x16);
                        let extra = _mm256_sll_epi32(
                            extra,
                            _mm_cvtsi32_si128(B::OFFSET.trailing_zeros() as i32),
                        );
                        sum = _mm512_sub_epi32(sum, _mm512_zextsi256_si512(extra));
                    }
                    for i in 0..4 {
                        let dot =
                            _mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes[i], arranged[c][i]);
                        sum = if B::MAX > 64 {
                            let scale = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(spread[i]));
                            _mm512_add_epi32(sum, _mm512_mullo_epi32(dot, scale))
                        } else {
                            // at most 4 * 64 * 127: an int16 in every int32
                            dpwssd(sum, dot, spread[i])
                        };
                    }
                    four[c][j] = sum;
                    if B::HAS_MIN && B::GROUPS == Groups::Sixteen {
                        let mins = unpack::groups::<B>(&row_blocks[r].group_scales().mins);
                        four_mins[c][j] = _mm512_zextsi256_si512(_mm256_madd_epi16(mins, x16));
                    }
                }
            }
            for c in 0..C {
                sums[c][quarter] = fold_4(four[c]);
                if B::HAS_MIN && B::GROUPS == Groups::Sixteen {
                    min_sums[c][quarter] = fold_4(four_mins[c]);
                }
            }
        }
        for c in 0..C {
            let x = &x[c][b];
            let scale = _mm512_mul_ps(scales_of.d, _mm512_set1_ps(x.scale));
            acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(fold(sums[c])), scale, acc[c]);
            if B::HAS_MIN {
                let sums = match B::GROUPS {
                    Groups::Eight => scales_of.min_sums(x),
                    _ => fold(min_sums[c]),
                };
                let scale = _mm512_mul_ps(scales_of.dmin, _mm512_set1_ps(x.scale));
                acc[c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(sums), scale, acc[c]);
            }
        }
    }
    acc
}

/// The scales and mins of sixteen blocks of 256, one of each row.
struct Scales256 {
    d: __m512,
    dmin: __m512,
    /// With [`Groups::Eight`], the eight scales and eight mins of row `4 i + j` in `packed[j][i]`.
    packed: [[[u8; 16]; 4]; 4],
}

impl Scales256 {
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn read<B: Block256>(blocks: &[&B; ROWS]) -> Self {
        let mut packed = [[[0; 16]; 4]; 4];
        if B::GROUPS == Groups::Eight {
            // d, dmin and the packed scales are the first 16 bytes: four blocks in a vector
            let mut four = [_mm512_setzero_si512(); 4];
            for j in 0..4 {
                four[j] = load_4x16([
                    first_16(blocks[j]),
                    first_16(blocks[4 + j]),
                    first_16(blocks[8 + j]),
                    first_16(blocks[12 + j]),
                ]);
                store_64(
                    cast_mut(&mut packed[j]),
                    unpack::four_scales_and_mins(four[j]),
                );
            }
            let [d, dmin] = first_halves(four);
            let (d, dmin) = (_mm512_cvtph_ps(d), _mm512_cvtph_ps(dmin));
            Self { d, dmin, packed }
        } else {
            let (mut d, mut dmin) = ([0; ROWS], [0; ROWS]);
            for r in 0..ROWS {
                d[r] = blocks[r].group_scales().d.bits();
                dmin[r] = blocks[r].group_scales().dmin.bits();
            }
            Self {
                d: _mm512_mul_ps(widen(&d), _mm512_set1_ps(B::FACTOR)),
                dmin: widen(&dmin),
                packed,
            }
        }
    }

    /// The scales of row `r`.
    #[inline(always)]
    fn scales<B: Block256>(&self, blocks: &[&B; ROWS], r: usize) -> [u8; 16] {
        if B::GROUPS == Groups::Eight {
            self.packed[r % 4][r / 4]
        } else {
            blocks[r].group_scales().scales
        }
    }

    /// Lane `r`: the sum of min times sum of activations over the eight groups of row `r`.
    #[inline]
    #[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn min_sums(&self, x: &Q8kChunk) -> __m512i {
        let sums = _mm512_broadcast_i32x4(load_16(cast_ref(&x.sums32)));
        let mut products = [_mm512_setzero_si512(); 4];
        for (product, packed) in products.iter_mut().zip(&self.packed) {
            let packed = load_64(cast_ref(packed));
            let mins = _mm512_unpackhi_epi8(packed, _mm512_setzero_si512());
            *product = _mm512_madd_epi16(mins, sums);
        }
        fold_4(products)
    }
}

/// What `_mm512_dpwssd_epi32` computes. The compiler makes two instructions of the intrinsic, multiply and add, for a
/// shorter latency that nobody waits for here. That would cost 10 % of Q4_K's decode.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn dpwssd(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: the instruction works on registers only, and this function is compiled with avx512vnni
    unsafe {
        std::arch::asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) acc, in(zmm_reg) a, in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// [`dpwssd`] with the same two int16 in every element, as the instruction can take them from memory. Of a broadcast and an
/// asm block the compiler would make a load, a move and a copy.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn dpwssd_every(mut acc: __m512i, a: __m512i, b: &[u8; 4]) -> __m512i {
    // SAFETY: the instruction reads the four bytes of the array, and this function is compiled with avx512vnni
    unsafe {
        std::arch::asm!("vpdpwssd {0}, {1}, dword ptr [{2}]{{1to16}}", inout(zmm_reg) acc, in(zmm_reg) a,
            in(reg) b.as_ptr(), options(pure, readonly, nostack, preserves_flags));
    }
    acc
}

/// `vpdpbusd` with the same four bytes in every element, for one of `C` columns. With several these stay in the order in which they are
/// written: the compiler would finish one column's sum and then the next one's, and each product would wait for the one before
/// it. Of Q4_K from L2 (Zen 5), four columns went from 250 to 375 GMAC/s and two from 213 to 332. One column has no other to wait
/// for, and from memory it is 5 % faster in the compiler's order.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn dpbusd_every<const C: usize>(mut acc: __m512i, w: __m512i, x: &[u8; 4]) -> __m512i {
    if C == 1 {
        return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(i32::from_le_bytes(*x)));
    }
    // SAFETY: the instruction reads the four bytes of the array, and this function is compiled with avx512vnni. That it is not
    // called pure keeps its place among its like
    unsafe {
        std::arch::asm!("vpdpbusd {0}, {1}, dword ptr [{2}]{{1to16}}", inout(zmm_reg) acc, in(zmm_reg) w,
            in(reg) x.as_ptr(), options(readonly, nostack, preserves_flags));
    }
    acc
}

/// Asks for some blocks ahead, in the order of memory.
#[inline(always)]
pub(super) fn prefetch<B>(blocks: Option<&[B]>) {
    if let Some(blocks) = blocks {
        let first = blocks.as_ptr().cast::<i8>();
        for line in 0..size_of_val(blocks).div_ceil(64) {
            // SAFETY: a prefetch reads nothing and cannot fault, whatever its address
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64 * line)) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn widen(halves: &[u16; ROWS]) -> __m512 {
    _mm512_cvtph_ps(load_32(cast_ref(halves)))
}

/// Sums the elements within each lane of 128 bits: lane `i` of vector `j` goes to lane `4 i + j` of int32.
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

/// Elements 0 + 1 and 2 + 3 (of 128 bits) of `a`, then of `b`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold_lanes(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(
        _mm512_shuffle_i64x2::<0x88>(a, b),
        _mm512_shuffle_i64x2::<0xdd>(a, b),
    )
}

/// From [`fold_4`] of rows 0..4, 4..8, 8..12 and 12..16: lane `r` is the sum of all elements of row `r`.
#[inline]
#[target_feature(enable = "avx512bw,avx512vl,avx512dq,avx512vnni")]
fn fold(v: [__m512i; 4]) -> __m512i {
    fold_lanes(fold_lanes(v[0], v[1]), fold_lanes(v[2], v[3]))
}
