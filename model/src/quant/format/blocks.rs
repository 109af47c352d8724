//! The storage blocks of GGUF, byte for byte.
//!
//! The layouts are those of `block_q4_0` and the others in `ggml-common.h` (ggml-org/ggml d99724f2). Every field is an array
//! of little-endian bytes, so a block has alignment 1 and no padding, and may lie anywhere in a mapped file.

use crate::gguf::GgmlType;
use bytemuck::{Pod, Zeroable};

/// An IEEE half in little-endian bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Half([u8; 2]);

impl Half {
    /// The half that has these bits.
    #[inline(always)]
    pub(crate) fn from_bits(bits: u16) -> Self {
        Self(bits.to_le_bytes())
    }

    /// The bits of the half.
    #[inline(always)]
    pub(crate) fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// The value of the half.
    #[inline(always)]
    pub(crate) fn to_f32(self) -> f32 {
        half::f16::from_bits(self.bits()).to_f32()
    }

    /// The half that is nearest to a value.
    pub(crate) fn from_f32(value: f32) -> Self {
        Self(half::f16::from_f32(value).to_le_bytes())
    }
}

macro_rules! blocks {
    ($($(#[$doc:meta])* $name:ident: $ty:ident { $($field:ident: $field_ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $field_ty),* }
        const _: () = assert!(
            size_of::<$name>() == GgmlType::$ty.block_bytes() && align_of::<$name>() == 1
        );
    )*};
}

blocks! {
    /// `w = d * (q - 8)`. Byte `j` holds value `j` (low nibble) and value `j + 16` (high nibble).
    Q4_0: Q4_0 { d: Half, qs: [u8; 16] }
    /// `w = d * q + m`. The nibbles are as in [`Q4_0`].
    Q4_1: Q4_1 { d: Half, m: Half, qs: [u8; 16] }
    /// `w = d * (q - 16)`. The nibbles are as in [`Q4_0`], and bit `j` of `qh` is bit 4 of value `j`.
    Q5_0: Q5_0 { d: Half, qh: [u8; 4], qs: [u8; 16] }
    /// `w = d * q + m`. The bits are as in [`Q5_0`].
    Q5_1: Q5_1 { d: Half, m: Half, qh: [u8; 4], qs: [u8; 16] }
    /// `w = d * q`, with one value in each byte.
    Q8_0: Q8_0 { d: Half, qs: [i8; 32] }
    /// `w = d * IQ4_NL_VALUES[q]`. The nibbles are as in [`Q4_0`].
    Iq4Nl: IQ4_NL { d: Half, qs: [u8; 16] }
    /// 16 groups of 16: `w = d * (scale & 15) * q - dmin * (scale >> 4)`. Of each 128 values, bits `2s..2s+2` of byte `j`
    /// are value `32 s + j`.
    Q2K: Q2_K { scales: [u8; 16], qs: [u8; 64], d: Half, dmin: Half }
    /// 16 groups of 16: `w = d * (scale - 32) * (q - 4)`. The low two bits are as in [`Q2K`], and bit `i` of `hmask[j]` is
    /// bit 2 of value `32 i + j`.
    Q3K: Q3_K { hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: Half }
    /// 8 groups of 32: `w = d * scale * q - dmin * min`. Of each 64 values, byte `j` holds value `j` (low nibble) and value
    /// `j + 32` (high nibble). `scales` has eight scales and eight mins of 6 bits: see [`scales_and_mins`].
    Q4K: Q4_K { d: Half, dmin: Half, scales: [u8; 12], qs: [u8; 128] }
    /// 8 groups of 32, as in [`Q4K`]. Bit `i` of `qh[j]` is bit 4 of value `32 i + j`.
    Q5K: Q5_K { d: Half, dmin: Half, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128] }
    /// 16 groups of 16: `w = d * scale * (q - 32)`. Of each 128 values, byte `j` of `ql` holds the low nibbles of values `j`
    /// and `j + 64`, and bits `2s..2s+2` of `qh[j]` are the high bits of value `32 s + j`.
    Q6K: Q6_K { ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: Half }
    /// 8 groups of 32: `w = d * (scale - 32) * IQ4_NL_VALUES[q]`. The nibbles of each group are as in [`Q4_0`]. Nibble `g` of
    /// `scales_l` is the low part of scale `g`, and bits `2 g..2 g + 2` of `scales_h` are its high part.
    Iq4Xs: IQ4_XS { d: Half, scales_h: [u8; 2], scales_l: [u8; 4], qs: [u8; 128] }
    /// `w = d * (t - 1)`, with `t` from 0 to 2. Byte `b` holds digits of base 3 as a fraction: digit `n` is the whole part of
    /// `3 * (b * 3^n mod 256) / 256`. Of the first 32 bytes, digit `n` of byte `j` is value `32 n + j`; of the 16 bytes after
    /// them, value `160 + 16 n + j`; of `qh`, whose bytes have four digits, value `240 + 4 n + j`.
    Tq1_0: TQ1_0 { qs: [u8; 48], qh: [u8; 4], d: Half }
    /// `w = d * (q - 1)`. The bits are as in [`Q2K`].
    Tq2_0: TQ2_0 { qs: [u8; 64], d: Half }
    /// `w = 2^(e - 128) * FP4_VALUES[q]`: see [`e8m0`]. The nibbles are as in [`Q4_0`].
    Mxfp4: MXFP4 { e: u8, qs: [u8; 16] }
    /// 4 groups of 16: `w = d * FP4_VALUES[q]`: see [`ue4m3`]. Byte `j` of a group's eight holds value `j` (low nibble) and
    /// value `j + 8` (high nibble).
    Nvfp4: NVFP4 { d: [u8; 4], qs: [[u8; 8]; 4] }
    /// `w = d` where the bit is set, and `w = -d` where it is not. Bit `k` of byte `j` is value `8 j + k`.
    Q1_0: Q1_0 { d: Half, qs: [[u8; 4]; 4] }
    /// `w = d * (q - 1)`. Bits `2 k..2 k + 2` of byte `j` are value `4 j + k`.
    Q2_0: Q2_0 { d: Half, qs: [[u8; 8]; 2] }
    /// `w = d * q`, where `d` is an f32. `bsums`, the sums of 16 values each, are not needed for weights.
    Q8K: Q8_K { d: [u8; 4], qs: [i8; 256], bsums: [u8; 32] }
    /// `w = d * (0.5 + scale) * 0.25 * q`, each 32 values with a scale. Of their eight bytes the first four are rows of the grid,
    /// and the others a u32: from its lowest bits on four signs of seven bits, and the scale on top. See [`super::grids`].
    Iq2Xxs: IQ2_XXS { d: Half, qs: [u8; 64] }
    /// `w = d * (0.5 + scale) * 0.25 * q`, each 16 values with a nibble as their scale. Eight values are a u16: nine bits for a row
    /// of the grid, and seven signs.
    Iq2Xs: IQ2_XS { d: Half, qs: [u8; 64], scales: [u8; 8] }
    /// `w = d * (0.5 + scale) * 0.5 * q`, each 32 values with a scale. `qs` are rows of the grid, of four values each, and of
    /// each 32 values there is a u32 as in [`Iq2Xxs`].
    Iq3Xxs: IQ3_XXS { d: Half, qs: [u8; 64], words: [u8; 32] }
    /// `w = d * (2 * scale + 1) * (q ± 0.125)`. Each 32 values have a u16: from its lowest bits on the high three bits of four rows
    /// of the grid, the scale in three bits, and one bit that says minus.
    Iq1S: IQ1_S { d: Half, qs: [u8; 32], qh: [u8; 16] }
    /// `w = d * (2 * scale + 1) * q`, each 32 values with a nibble as their scale. Four values are a row of the grid: the bits of
    /// `qh` are the ninth bits of eight rows. Every value has a bit of `signs`.
    Iq3S: IQ3_S { d: Half, qs: [u8; 64], qh: [u8; 8], signs: [u8; 32], scales: [u8; 4] }
    /// `w = d * (0.5 + scale) * 0.25 * q`, each 16 values with a nibble as their scale. Eight values are a row of the grid: `qh` has
    /// two bits more of four rows. Every value has a bit of `signs`.
    Iq2S: IQ2_S { d: Half, qs: [u8; 32], signs: [u8; 32], qh: [u8; 8], scales: [u8; 8] }
    /// `w = d * (2 * scale + 1) * (q ± 0.125)`. Eight values have a nibble of `qh`: the high three bits of a row of the grid, and
    /// one bit that says minus. `scales` are four u16 of four scales each, for 16 values, in three bits; their top nibbles are the
    /// half `d`, the lowest first.
    Iq1M: IQ1_M { qs: [u8; 32], qh: [u8; 16], scales: [u8; 8] }
}

/// The 16 values that a nibble of IQ4_NL and IQ4_XS may stand for (`kvalues_iq4nl`).
pub(crate) const IQ4_NL_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The 16 values that a nibble of MXFP4 and NVFP4 may stand for (`kvalues_mxfp4`): twice the floats of four bits, E2M1.
pub(crate) const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the power of two that a byte stands for as E8M0, `2^(e - 128)`, because [`FP4_VALUES`] are twice what they are meant
/// to be. The two smallest are subnormal; 255, which OCP makes NaN of, is a power of two here as it is in ggml.
#[inline(always)]
pub(crate) fn e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 {
        0x0020_0000 << e
    } else {
        (u32::from(e) - 1) << 23
    })
}

/// Half of the float that a byte stands for as E4M3 without a sign: four bits of exponent above three. The highest bit does not
/// count, and 0x7f, which OCP makes NaN of, is 0 as it is in ggml; 0xff is not.
#[inline(always)]
pub(crate) fn ue4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), f32::from(byte & 7));
    if byte == 0x7f {
        0.0
    } else if exponent == 0 {
        mantissa / 1024.0
    } else {
        // 2^(exponent - 7 - 1 - 3)
        (8.0 + mantissa) * f32::from_bits((exponent + 116) << 23)
    }
}

/// Unpacks the eight 6-bit scales and the eight 6-bit mins of [`Q4K`] and [`Q5K`] to one byte each, the first in the lowest
/// byte.
///
/// The low six bits of bytes 0..4 are scales 0..4, and those of bytes 4..8 are mins 0..4. The low nibbles of bytes 8..12
/// are the low nibbles of scales 4..8, and their high nibbles those of mins 4..8. The top two bits of scales 4..8 and mins
/// 4..8 are the top bits of bytes 0..8.
#[inline(always)]
pub(crate) fn scales_and_mins(s: &[u8; 12]) -> (u64, u64) {
    let a = u32::from_le_bytes([s[0], s[1], s[2], s[3]]);
    let b = u32::from_le_bytes([s[4], s[5], s[6], s[7]]);
    let c = u32::from_le_bytes([s[8], s[9], s[10], s[11]]);
    let scales_high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let mins_high = ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030);
    (
        u64::from(a & 0x3f3f_3f3f) | (u64::from(scales_high) << 32),
        u64::from(b & 0x3f3f_3f3f) | (u64::from(mins_high) << 32),
    )
}

/// Unpacks the sixteen 6-bit scales of [`Q3K`], still with their offset of 32.
///
/// Byte `j` of the first eight holds the low nibbles of scales `j` and `j + 8`. Bits `2i..2i+2` of byte `8 + j` are the top
/// two bits of scale `4 i + j`.
#[inline(always)]
pub(crate) fn q3k_scales(s: &[u8; 12]) -> [u8; 16] {
    let low = u64::from_le_bytes([s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]]);
    let high = u64::from(u32::from_le_bytes([s[8], s[9], s[10], s[11]]));
    let halves = [0, 4].map(|shift| {
        let (low, high) = (low >> shift, high >> shift);
        let top = (high & 0x0303_0303) | (((high >> 2) & 0x0303_0303) << 32);
        ((low & 0x0f0f_0f0f_0f0f_0f0f) | (top << 4)).to_le_bytes()
    });
    bytemuck::cast(halves)
}

/// Unpacks the eight scales of [`Iq4Xs`].
#[inline(always)]
pub(crate) fn iq4xs_scales(low: [u8; 4], high: [u8; 2]) -> [i8; 8] {
    // a nibble, or two bits, to each byte
    let low = u64::from(u32::from_le_bytes(low));
    let low = (low | (low << 16)) & 0x0000_ffff_0000_ffff;
    let low = (low | (low << 8)) & 0x00ff_00ff_00ff_00ff;
    let low = (low | (low << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let high = u64::from(u16::from_le_bytes(high));
    let high = (high | (high << 24)) & 0x0000_00ff_0000_00ff;
    let high = (high | (high << 12)) & 0x000f_000f_000f_000f;
    let high = (high | (high << 6)) & 0x0303_0303_0303_0303;
    let scales = (low | (high << 4)).to_le_bytes();
    scales.map(|scale| scale as i8 - 32)
}
