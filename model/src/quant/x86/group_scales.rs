//! What a block of 256 weights says about its groups: shared by the x86-64 levels.

use crate::quant::format::blocks::{self, Half, q3k_scales, scales_and_mins};
use crate::quant::reference::scalar;

/// A block of 256 weights whose groups have scales. (Q8_K has none, and is in no file.)
pub(in crate::quant) trait Grouped: scalar::Block256 {
    /// what must be taken from the unsigned values
    const OFFSET: i32;
    /// largest unsigned value
    const MAX: i32;
    /// how the groups are scaled
    const GROUPS: Groups;
    /// Everything but the values.
    fn head(&self) -> Head;
}

/// What the bytes of a [`Head`] mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::quant) enum Groups {
    /// the first eight unsigned scales and mins count, each for 32 values; the block begins with d, dmin and them
    Eight,
    /// sixteen unsigned scales and mins
    Sixteen,
    /// sixteen signed scales, no mins
    Signed,
}

/// What a block of 256 weights says about its groups.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Head {
    pub(in crate::quant) scales: [u8; 16],
    pub(in crate::quant) mins: [u8; 16],
    pub(in crate::quant) d: Half,
    pub(in crate::quant) dmin: Half,
}

macro_rules! grouped {
    ($block:ident, $offset:literal, $max:literal, $groups:ident, |$b:ident| $head:expr) => {
        impl Grouped for blocks::$block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const GROUPS: Groups = Groups::$groups;
            #[inline(always)]
            fn head(&self) -> Head {
                let $b = self;
                $head
            }
        }
    };
}

grouped!(Q2K, 0, 3, Sixteen, |b| {
    const LOW: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    let both = u128::from_le_bytes(b.scales);
    Head {
        scales: (both & LOW).to_le_bytes(),
        mins: ((both >> 4) & LOW).to_le_bytes(),
        d: b.d,
        dmin: b.dmin,
    }
});
grouped!(Q3K, 4, 7, Signed, |b| signed(
    q3k_scales(&b.scales).map(|s| s.wrapping_sub(32)),
    b.d
));
grouped!(Q4K, 0, 15, Eight, |b| eight(&b.scales, b.d, b.dmin));
grouped!(Q5K, 0, 31, Eight, |b| eight(&b.scales, b.d, b.dmin));
grouped!(Q6K, 32, 63, Signed, |b| signed(
    bytemuck::cast(b.scales),
    b.d
));

#[inline(always)]
fn eight(packed: &[u8; 12], d: Half, dmin: Half) -> Head {
    let (scales, mins) = scales_and_mins(packed);
    Head {
        scales: u128::from(scales).to_le_bytes(),
        mins: u128::from(mins).to_le_bytes(),
        d,
        dmin,
    }
}

#[inline(always)]
fn signed(scales: [u8; 16], d: Half) -> Head {
    Head {
        scales,
        mins: [0; 16],
        d,
        dmin: d,
    }
}
