//! The RMS norm of a layer input.

use cubecl::prelude::*;

/// Units that work on a column.
pub(in crate::ops::cube) const UNITS: u32 = 64;

/// `out[c] = x[from + c] / rms * weight`, with columns of `4 * quads` values. A cube of [`UNITS`] has a column. There are
/// `from + 1` along y, of which the last one works.
#[cube(launch)]
pub(in crate::ops::cube) fn rms_norm<N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    quads: u32,
    eps: f32,
) {
    let quads = quads as usize;
    let column = CUBE_POS_X as usize;
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    let start = (CUBE_POS_Y as usize + column) * quads;
    let mut own = Vector::<f32, N>::new(0.0f32);
    let mut i = unit;
    while i < quads {
        let values = x[start + i];
        own = fma(values, values, own);
        i += units;
    }
    let mut sums = Shared::<[f32]>::new_slice(comptime!(UNITS as usize));
    sums[unit] = Vector::vector_sum(own);
    sync_cube();
    let mut all = 0.0f32;
    for i in 0..units {
        all += sums[i];
    }
    let mean = all / f32::cast_from(4u32 * quads as u32);
    let inverse = Vector::new(1.0f32 / (mean + eps).sqrt());
    if CUBE_POS_Y + 1u32 == CUBE_COUNT_Y {
        let mut i = unit;
        while i < quads {
            out[column * quads + i] = x[start + i] * inverse * weight[i];
            i += units;
        }
    }
}
