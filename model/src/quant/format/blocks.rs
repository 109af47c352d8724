//! The storage blocks of GGUF, byte for byte.
//!
//! The layouts are those of `block_q4_0` and the others in `ggml-common.h` (ggml-org/ggml d99724f2). Every field is an array
//! of little-endian bytes, so a block has alignment 1 and no padding, and may lie anywhere in a mapped file.

use bytemuck::{Pod, Zeroable};

/// An IEEE half in little-endian bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Half([u8; 2]);

impl Half {
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
    ($($(#[$doc:meta])* $name:ident: $bytes:literal { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        pub(crate) struct $name { $($(#[$field_doc])* pub(crate) $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == 1);
    )*};
}

blocks! {
    /// `w = d * (q - 8)`; byte `j` holds value `j` (low nibble) and `j + 16` (high)
    Q4_0: 18 { d: Half, qs: [u8; 16] }
    /// `w = d * q + m`; nibbles as in [`Q4_0`]
    Q4_1: 20 { d: Half, m: Half, qs: [u8; 16] }
    /// `w = d * (q - 16)`; nibbles as in [`Q4_0`], bit `j` of `qh` is bit 4 of value `j`
    Q5_0: 22 { d: Half, qh: [u8; 4], qs: [u8; 16] }
    /// `w = d * q + m`; bits as in [`Q5_0`]
    Q5_1: 24 { d: Half, m: Half, qh: [u8; 4], qs: [u8; 16] }
    /// `w = d * q`
    Q8_0: 34 { d: Half, qs: [i8; 32] }
    /// `w = d * IQ4_NL_VALUES[q]`; nibbles as in [`Q4_0`]
    Iq4Nl: 18 { d: Half, qs: [u8; 16] }
    /// 16 groups of 16: `w = d * (scale & 15) * q - dmin * (scale >> 4)`; of each 128 values, bits `2s..2s+2` of byte
    /// `j` are value `32 s + j`
    Q2K: 84 { scales: [u8; 16], qs: [u8; 64], d: Half, dmin: Half }
    /// 16 groups of 16: `w = d * (scale - 32) * (q - 4)`; low two bits as in [`Q2K`]; bit `i` of `hmask[j]` is bit 2
    /// of value `32 i + j`
    Q3K: 110 { hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: Half }
    /// 8 groups of 32: `w = d * scale * q - dmin * min`; of each 64 values, byte `j` holds value `j` (low nibble) and
    /// `j + 32` (high); eight 6-bit scales, eight 6-bit mins
    Q4K: 144 { d: Half, dmin: Half, scales: [u8; 12], qs: [u8; 128] }
    /// as [`Q4K`]; bit `i` of `qh[j]` is bit 4 of value `32 i + j`
    Q5K: 176 { d: Half, dmin: Half, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128] }
    /// 16 groups of 16: `w = d * scale * (q - 32)`; of each 128 values, byte `j` of `ql` holds the low nibbles of
    /// value `j` and `j + 64`, bits `2s..2s+2` of `qh[j]` the high bits of value `32 s + j`
    Q6K: 210 { ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: Half }
    /// `w = d * q`; `d` is an f32, `bsums` (sums of 16) are not needed for weights
    Q8K: 292 { d: [u8; 4], qs: [i8; 256], bsums: [u8; 32] }
}

/// The 16 levels of IQ4_NL (`kvalues_iq4nl`).
pub(crate) const IQ4_NL_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The eight 6-bit scales and the eight 6-bit mins of [`Q4K`] and [`Q5K`], one a byte, first in the lowest byte.
///
/// Bytes 0..4 hold scales 0..4 and 4..8 mins 0..4 in their low six bits; the low nibbles of bytes 8..12 are the low
/// nibbles of scales 4..8, the high ones those of mins 4..8, whose top two bits are the top bits of bytes 0..8.
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

/// The sixteen 6-bit scales of [`Q3K`], still with their offset of 32.
///
/// Low nibbles: byte `j` of the first eight holds those of scale `j` and `j + 8`. Top two bits: bits `2i..2i+2` of
/// byte `8 + j` are those of scale `4 i + j`.
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
