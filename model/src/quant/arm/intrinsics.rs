//! The NEON instructions that the kernels are made of, as safe functions. Apart from `sdot` and `smmla`, this is the only
//! `unsafe` code of the aarch64 levels.

pub(super) use std::arch::aarch64::{
    float32x4_t, int8x8_t, int8x16_t, int16x4_t, int16x8_t, int32x4_t, uint8x16_t, uint16x4_t,
    uint16x8_t, uint32x4_t, uint64x2_t,
};
use std::arch::{aarch64 as arch, asm};

// every aarch64 target of Rust with an operating system has NEON in its baseline
const _: () = assert!(cfg!(target_feature = "neon"));

macro_rules! safe {
    ($($name:ident $(<$N:ident>)? ($($arg:ident: $in:ty),*) -> $out:ty;)*) => {$(
        #[inline(always)]
        pub(in crate::quant) fn $name$(<const $N: i32>)?($($arg: $in),*) -> $out {
            // SAFETY: the instruction works on values in registers, and NEON is in the baseline (asserted above)
            unsafe { arch::$name$(::<$N>)?($($arg),*) }
        }
    )*};
}
safe! {
    vandq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vceqzq_u8(a: uint8x16_t) -> uint8x16_t;
    vcgeq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vcvtq_f32_s32(a: int32x4_t) -> float32x4_t;
    vdup_n_s16(a: i16) -> int16x4_t;
    vdup_n_u16(a: u16) -> uint16x4_t;
    vdupq_laneq_f32<N>(a: float32x4_t) -> float32x4_t;
    vdupq_n_f32(a: f32) -> float32x4_t;
    vdupq_n_s8(a: i8) -> int8x16_t;
    vdupq_n_s16(a: i16) -> int16x8_t;
    vdupq_n_s32(a: i32) -> int32x4_t;
    vdupq_n_u8(a: u8) -> uint8x16_t;
    vdupq_n_u32(a: u32) -> uint32x4_t;
    vdupq_n_u64(a: u64) -> uint64x2_t;
    veorq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vfmaq_f32(acc: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vfmaq_n_f32(acc: float32x4_t, a: float32x4_t, b: f32) -> float32x4_t;
    vfmsq_f32(acc: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vget_high_s16(a: int16x8_t) -> int16x4_t;
    vget_low_s8(a: int8x16_t) -> int8x8_t;
    vget_low_s16(a: int16x8_t) -> int16x4_t;
    vmlal_laneq_s16<N>(acc: int32x4_t, a: int16x4_t, b: int16x8_t) -> int32x4_t;
    vmlaq_s32(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vmovl_high_s8(a: int8x16_t) -> int16x8_t;
    vmovl_high_s16(a: int16x8_t) -> int32x4_t;
    vmovl_s8(a: int8x8_t) -> int16x8_t;
    vmovl_s16(a: int16x4_t) -> int32x4_t;
    vmlsq_s32(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vmlaq_laneq_s32<N>(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vmulq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vmulq_n_f32(a: float32x4_t, b: f32) -> float32x4_t;
    vmulq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vpadalq_s16(acc: int32x4_t, a: int16x8_t) -> int32x4_t;
    vpaddlq_s16(a: int16x8_t) -> int32x4_t;
    vpaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vpaddq_s16(a: int16x8_t, b: int16x8_t) -> int16x8_t;
    vpaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vqtbl1q_s8(table: int8x16_t, at: uint8x16_t) -> int8x16_t;
    vqtbl1q_u8(table: uint8x16_t, at: uint8x16_t) -> uint8x16_t;
    vreinterpretq_f32_u64(a: uint64x2_t) -> float32x4_t;
    vreinterpretq_s32_s16(a: int16x8_t) -> int32x4_t;
    vreinterpretq_s32_u64(a: uint64x2_t) -> int32x4_t;
    vreinterpretq_s8_u64(a: uint64x2_t) -> int8x16_t;
    vreinterpretq_s8_u8(a: uint8x16_t) -> int8x16_t;
    vreinterpretq_u16_u8(a: uint8x16_t) -> uint16x8_t;
    vreinterpretq_u64_f32(a: float32x4_t) -> uint64x2_t;
    vreinterpretq_u64_s32(a: int32x4_t) -> uint64x2_t;
    vreinterpretq_u64_s8(a: int8x16_t) -> uint64x2_t;
    vreinterpretq_u8_s8(a: int8x16_t) -> uint8x16_t;
    vreinterpretq_u8_u16(a: uint16x8_t) -> uint8x16_t;
    vreinterpretq_u8_u32(a: uint32x4_t) -> uint8x16_t;
    vreinterpretq_u8_u64(a: uint64x2_t) -> uint8x16_t;
    vshlq_n_s32<N>(a: int32x4_t) -> int32x4_t;
    vshlq_n_u8<N>(a: uint8x16_t) -> uint8x16_t;
    vshlq_u8(a: uint8x16_t, by: int8x16_t) -> uint8x16_t;
    vshrq_n_s32<N>(a: int32x4_t) -> int32x4_t;
    vshrq_n_u8<N>(a: uint8x16_t) -> uint8x16_t;
    vsliq_n_u8<N>(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vsriq_n_u8<N>(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vsubq_s8(a: int8x16_t, b: int8x16_t) -> int8x16_t;
    vsubq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vzip1q_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t;
    vzip1q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vzip1q_u64(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t;
    vzip1q_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vzip1q_u16(a: uint16x8_t, b: uint16x8_t) -> uint16x8_t;
    vzip2q_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
    vzip2q_u64(a: uint64x2_t, b: uint64x2_t) -> uint64x2_t;
    vzip2q_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vzip2q_u16(a: uint16x8_t, b: uint16x8_t) -> uint16x8_t;
    vtstq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vsubq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t;
    vshrq_n_u32<N>(a: uint32x4_t) -> uint32x4_t;
    vreinterpretq_u32_u8(a: uint8x16_t) -> uint32x4_t;
    vreinterpretq_s8_s32(a: int32x4_t) -> int8x16_t;
    vreinterpretq_s32_u32(a: uint32x4_t) -> int32x4_t;
    vreinterpretq_s32_s8(a: int8x16_t) -> int32x4_t;
    vorrq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t;
    vdupq_laneq_s32<N>(a: int32x4_t) -> int32x4_t;
    vandq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
}

macro_rules! safe_loads {
    ($($name:ident = $from:ident($lane:ty; $elements:literal) -> $out:ty;)*) => {$(
        #[inline(always)]
        pub(in crate::quant) fn $name(a: &[$lane; $elements]) -> $out {
            // SAFETY: the array is as long as the vector, and the instruction needs no more than a lane's alignment;
            // NEON is in the baseline (asserted above)
            unsafe { arch::$from(a.as_ptr()) }
        }
    )*};
}
safe_loads! {
    load_s8 = vld1q_s8(i8; 16) -> int8x16_t;
    load_u8 = vld1q_u8(u8; 16) -> uint8x16_t;
    load_s16 = vld1q_s16(i16; 8) -> int16x8_t;
    load_f32 = vld1q_f32(f32; 4) -> float32x4_t;
    load_u64 = vld1q_u64(u64; 2) -> uint64x2_t;
    load_u16 = vld1_u16(u16; 4) -> uint16x4_t;
}

/// The elements of a vector.
#[inline(always)]
pub(in crate::quant) fn to_array(v: float32x4_t) -> [f32; 4] {
    let mut elements = [0.0; 4];
    // SAFETY: the array is as long as the vector; NEON is in the baseline (asserted above)
    unsafe { arch::vst1q_f32(elements.as_mut_ptr(), v) };
    elements
}

/// Converts four halves to f32. `fcvtl` is in the baseline, though its intrinsic asks for the feature `fp16`.
#[inline(always)]
pub(in crate::quant) fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: an ARMv8.0 instruction that works on registers only
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) bits,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// The products of the lower eight bytes, in int16.
///
/// This and the next three functions do not use the intrinsics. With those the compiler sees that bytes below 128 need no
/// sign, widens the activations once, ahead of the loop and onto the stack, and multiplies int16: twice as many
/// instructions (LLVM 22).
#[inline(always)]
pub(in crate::quant) fn mull_low(a: int8x16_t, b: int8x16_t) -> int16x8_t {
    let products: int16x8_t;
    // SAFETY: an ARMv8.0 instruction that works on registers only
    unsafe {
        asm!("smull {0:v}.8h, {1:v}.8b, {2:v}.8b", lateout(vreg) products, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    products
}

/// The products of the upper eight bytes, in int16.
#[inline(always)]
pub(in crate::quant) fn mull_high(a: int8x16_t, b: int8x16_t) -> int16x8_t {
    let products: int16x8_t;
    // SAFETY: an ARMv8.0 instruction that works on registers only
    unsafe {
        asm!("smull2 {0:v}.8h, {1:v}.16b, {2:v}.16b", lateout(vreg) products, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    products
}

/// Adds the products of the lower eight bytes to `acc`.
#[inline(always)]
pub(in crate::quant) fn mlal_low(mut acc: int16x8_t, a: int8x16_t, b: int8x16_t) -> int16x8_t {
    // SAFETY: an ARMv8.0 instruction that works on registers only
    unsafe {
        asm!("smlal {0:v}.8h, {1:v}.8b, {2:v}.8b", inout(vreg) acc, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Adds the products of the upper eight bytes to `acc`.
#[inline(always)]
pub(in crate::quant) fn mlal_high(mut acc: int16x8_t, a: int8x16_t, b: int8x16_t) -> int16x8_t {
    // SAFETY: an ARMv8.0 instruction that works on registers only
    unsafe {
        asm!("smlal2 {0:v}.8h, {1:v}.16b, {2:v}.16b", inout(vreg) acc, in(vreg) a, in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc + a * b[lane]`, which is one instruction where `lane` is known after inlining.
#[inline(always)]
pub(in crate::quant) fn mla_lane(
    acc: int32x4_t,
    a: int32x4_t,
    b: int32x4_t,
    lane: usize,
) -> int32x4_t {
    match lane {
        0 => vmlaq_laneq_s32::<0>(acc, a, b),
        1 => vmlaq_laneq_s32::<1>(acc, a, b),
        2 => vmlaq_laneq_s32::<2>(acc, a, b),
        _ => vmlaq_laneq_s32::<3>(acc, a, b),
    }
}

/// The element `a[lane]` in every lane.
#[inline(always)]
pub(in crate::quant) fn lane_f32(a: float32x4_t, lane: usize) -> float32x4_t {
    match lane {
        0 => vdupq_laneq_f32::<0>(a),
        1 => vdupq_laneq_f32::<1>(a),
        2 => vdupq_laneq_f32::<2>(a),
        _ => vdupq_laneq_f32::<3>(a),
    }
}

/// Widens elements 0, 2, 4, 6 and elements 1, 3, 5, 7.
#[inline(always)]
pub(in crate::quant) fn low_and_high(a: int16x8_t) -> (int32x4_t, int32x4_t) {
    let a = vreinterpretq_s32_s16(a);
    (
        vshrq_n_s32::<16>(vshlq_n_s32::<16>(a)),
        vshrq_n_s32::<16>(a),
    )
}

/// Applies `f` to each of four. `array::map` is not used because what it is made of is not always inlined, and then every
/// vector goes through memory. For the same reason `f` should be an `inline(always)` function where it is more than a
/// field.
#[inline(always)]
pub(in crate::quant) fn each<T: Copy, U>(a: [T; 4], f: impl Fn(T) -> U) -> [U; 4] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

/// Loads `N` consecutive vectors of `x` from value `at` on.
#[inline(always)]
pub(in crate::quant) fn load_x<const N: usize>(x: &[i8; 256], at: usize) -> [int8x16_t; N] {
    let mut vectors = [vdupq_n_s8(0); N];
    for (v, x) in vectors.iter_mut().zip(x[at..][..16 * N].as_chunks().0) {
        *v = load_s8(x);
    }
    vectors
}
