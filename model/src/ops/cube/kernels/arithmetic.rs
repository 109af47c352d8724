//! Arithmetic that gives the bits of the host: CubeCL contracts `a * b + c`, and a driver may contract, reorder and round it in ways
//! that the host does not.

use cubecl::prelude::*;

/// How `a * b + c` is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) enum Fma {
    /// Once, by an instruction of the device.
    Once,
    /// Once, by several operations, because the device's own rounds twice.
    Composed,
    /// Twice, as in the scalar level of the host.
    Twice,
}

/// Zero, which no compiler knows: all grids here are one cube deep.
#[cube]
fn zero() -> u32 {
    CUBE_POS_Z
}

/// Gives `x`, of which a compiler cannot know that it was made by the operation before. So neither is a product contracted with
/// the sum that it goes into, nor is `(a + b) - a` taken for `b`, nor `(a + b) + 1` for `(a + 1) + b`.
#[cube]
pub(in crate::ops::cube) fn keep(x: f32) -> f32 {
    f32::from_bits(u32::reinterpret(x) ^ zero())
}

/// [`keep`] for each value of a vector.
#[cube]
pub(in crate::ops::cube) fn keep_all<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    Vector::<f32, N>::reinterpret(Vector::<u32, N>::reinterpret(x) ^ Vector::new(zero()))
}

/// `a * b + c`.
#[cube]
pub(in crate::ops::cube) fn multiply_add(a: f32, b: f32, c: f32, #[comptime] how: Fma) -> f32 {
    match comptime!(how) {
        Fma::Once => fma(a, b, c),
        Fma::Composed => composed(a, b, c),
        Fma::Twice => keep(keep(a * b) + c),
    }
}

/// `a * b + c`, rounded once. The product is split into what f32 holds of it and the rest, and so is the sum with `c`; of the
/// two rests the sum is rounded to odd, so that it rounds the last addition the right way. (Boldo and Melquiond, "Emulation of
/// a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008.)
#[cube]
fn composed(a: f32, b: f32, c: f32) -> f32 {
    // halves of twelve bits, so that their products are exact
    let a_high = f32::from_bits(u32::reinterpret(a) & 0xffff_f000u32);
    let b_high = f32::from_bits(u32::reinterpret(b) & 0xffff_f000u32);
    let (a_low, b_low) = (a - a_high, b - b_high);
    let product = keep(a * b);
    let rest = keep(a_high * b_high - product);
    let rest = keep(rest + a_high * b_low);
    let rest = keep(rest + a_low * b_high) + a_low * b_low;

    let sum = keep(product + c);
    let added = keep(sum - product);
    let lost = (product - keep(sum - added)) + (c - added);

    let both = keep(rest + lost);
    let added = keep(both - rest);
    let still_lost = (rest - keep(both - added)) + (lost - added);
    let bits = u32::reinterpret(both);
    let other_sign = (bits ^ u32::reinterpret(still_lost)) >> 31u32;
    let odd = select(
        still_lost != 0.0f32 && (bits & 1u32) == 0u32,
        bits + 1u32 - 2u32 * other_sign,
        bits,
    );
    keep(sum + f32::from_bits(odd))
}

/// `a / b`. Devices divide to within a few of the last bits; the rest of the division corrects that. One that cannot round a
/// product and a sum at once is a processor, which divides as the host does.
#[cube]
pub(in crate::ops::cube) fn divide(a: f32, b: f32, #[comptime] exact: Fma) -> f32 {
    let quotient = a / b;
    match comptime!(exact) {
        Fma::Once => fma(fma(-quotient, b, a), 1.0f32 / b, quotient),
        _ => quotient,
    }
}

/// The square root, corrected as [`divide`] is.
#[cube]
pub(in crate::ops::cube) fn root(x: f32, #[comptime] exact: Fma) -> f32 {
    let root = x.sqrt();
    match comptime!(exact) {
        Fma::Once => fma(fma(-root, root, x), 0.5f32 / root, root),
        _ => root,
    }
}

/// `x` rounded to the nearest whole number, ties to even, where that is at most 2^22.
#[cube]
pub(in crate::ops::cube) fn whole(x: f32) -> i32 {
    // 1.5 * 2^23 leaves no fraction bits: the addition itself rounds, and the low bits hold the number
    i32::reinterpret(keep(x) + 12_582_912.0f32) - 0x4b40_0000i32
}

/// e^x by the steps of [`crate::exp::exp`].
#[cube]
pub(in crate::ops::cube) fn exp(x: f32, #[comptime] how: Fma) -> f32 {
    let x = select(x < -87.0f32, -87.0f32, x);
    let x = select(x > 88.0f32, 88.0f32, x);
    let log2_e = comptime!(std::f32::consts::LOG2_E);
    let shifted = i32::reinterpret(multiply_add(x, log2_e, 12_582_912.0f32, how)) - 0x4b40_0000i32;
    let n = f32::cast_from(shifted);
    let r = multiply_add(n, -0.693_359_4f32, x, how);
    let r = multiply_add(n, 2.121_944_4e-4f32, r, how);
    let mut p = 1.987_569_1e-4f32.runtime();
    let mut c = Array::<f32>::new(5usize);
    c[0usize] = 1.398_2e-3f32;
    c[1usize] = 8.333_452e-3f32;
    c[2usize] = 4.166_579_6e-2f32;
    c[3usize] = 1.666_666_5e-1f32;
    c[4usize] = 0.5f32;
    // where the product is composed the loop keeps the kernel small
    #[unroll(comptime!(how == Fma::Once))]
    for i in 0..5usize {
        p = multiply_add(p, r, c[i], how);
    }
    let y = multiply_add(p, r * r, r, how) + 1.0f32;
    y * f32::from_bits((u32::reinterpret(shifted) << 23u32) + 0x3f80_0000u32)
}

/// Adds sixteen sums, the upper half to the lower one, until one is left.
#[cube]
pub(in crate::ops::cube) fn fold(sums: &Shared<[f32]>) -> f32 {
    let mut four = Array::<f32>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        four[i] =
            (sums[i] + sums[comptime!(i + 8)]) + (sums[comptime!(i + 4)] + sums[comptime!(i + 12)]);
    }
    (four[0usize] + four[2usize]) + (four[1usize] + four[3usize])
}

/// Writes to the words of `out` whether the device rounds `a * b + c` once: the last of it is 2^-24 then, and otherwise zero.
#[cube(launch)]
pub(in crate::ops::cube) fn round_once(numbers: &[f32], out: &mut [f32]) {
    out[0usize] = fma(numbers[0usize], numbers[1usize], numbers[2usize]);
}
