//! The scales and mins of the groups of one block of 256 weights, for both x86-64 levels.

use crate::quant::format::blocks::{self, Half, iq4xs_scales, q3k_scales, scales_and_mins};
use crate::quant::format::grids::OnGrid;
use crate::quant::reference::decode;

/// A block of 256 weights whose groups have scales.
pub(in crate::quant) trait Grouped: decode::Block256 {
    /// What must be subtracted from the unsigned values.
    const OFFSET: i32;
    /// The largest unsigned value.
    const MAX: i32;
    /// How the groups are scaled.
    const GROUPS: Groups;
    /// What `d` is multiplied with.
    const FACTOR: f32 = 1.0;
    /// Everything in the block but its values.
    fn group_scales(&self) -> GroupScales;
}

/// What the bytes of a [`GroupScales`] mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::quant) enum Groups {
    /// Eight unsigned scales and mins, each for 32 values; only the first eight bytes count. The block begins with `d`,
    /// `dmin` and the packed scales.
    Eight,
    /// Sixteen unsigned scales and mins.
    Sixteen,
    /// Sixteen signed scales, and no mins.
    Signed,
}

/// The scales and mins of the groups of a block, one byte each, and what they are multiplied by.
#[derive(Clone, Copy)]
pub(in crate::quant) struct GroupScales {
    pub(in crate::quant) scales: [u8; 16],
    pub(in crate::quant) mins: [u8; 16],
    pub(in crate::quant) d: Half,
    pub(in crate::quant) dmin: Half,
}

macro_rules! grouped {
    ($block:ident, $offset:literal, $max:literal, $groups:ident, |$b:ident| $scales:expr) => {
        impl Grouped for blocks::$block {
            const OFFSET: i32 = $offset;
            const MAX: i32 = $max;
            const GROUPS: Groups = Groups::$groups;
            #[inline(always)]
            fn group_scales(&self) -> GroupScales {
                let $b = self;
                $scales
            }
        }
    };
}

grouped!(Q2K, 0, 3, Sixteen, |b| {
    const LOW: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    let both = u128::from_le_bytes(b.scales);
    GroupScales {
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
grouped!(Iq4Xs, 128, 241, Signed, |b| {
    let scales = iq4xs_scales(b.scales_l, b.scales_h);
    signed(std::array::from_fn(|g| scales[g / 2] as u8), b.d)
});
grouped!(Tq1_0, 1, 2, Signed, |b| signed([1; 16], b.d));
grouped!(Tq2_0, 1, 3, Signed, |b| signed([1; 16], b.d));

/// The offset is a power of two, by which the sums of activations are shifted.
impl<B: OnGrid> Grouped for B {
    const OFFSET: i32 = (B::LARGEST as u32 + 1).next_power_of_two() as i32;
    const MAX: i32 = Self::OFFSET + B::LARGEST;
    const GROUPS: Groups = Groups::Signed;
    const FACTOR: f32 = <B as OnGrid>::FACTOR;
    #[inline(always)]
    fn group_scales(&self) -> GroupScales {
        signed(self.scales(), self.d())
    }
}

#[inline(always)]
fn eight(packed: &[u8; 12], d: Half, dmin: Half) -> GroupScales {
    let (scales, mins) = scales_and_mins(packed);
    GroupScales {
        scales: u128::from(scales).to_le_bytes(),
        mins: u128::from(mins).to_le_bytes(),
        d,
        dmin,
    }
}

#[inline(always)]
fn signed(scales: [u8; 16], d: Half) -> GroupScales {
    GroupScales {
        scales,
        mins: [0; 16],
        d,
        dmin: d,
    }
}
