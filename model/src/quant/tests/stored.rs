//! What is stored of keys and values in pages, against f64 and against the definition.

use super::pages::read;
use super::{Random, levels, store_kv};
use crate::quant::hadamard_transform;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// What is read back from each slot is near enough, and all other bytes are as before.
#[test]
fn stored_rows_are_within_their_ceiling() {
    let mut random = Random(9);
    for format in [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0] {
        for d in [32, 64, 80, 96, 128, 256]
            .into_iter()
            .filter(|d| format.takes(*d))
        {
            for slot in 0..PAGE_TOKENS {
                // blocks of every size, down to scales without all their bits
                let size = 10f32.powi(slot as i32 % 8 - 4);
                let row: Vec<f32> = (0..d).map(|_| random.unit() * size).collect();
                let before: Vec<u8> = (0..format.head_bytes(d)).map(|_| random.byte()).collect();
                let mut chunk = before.clone();
                store_kv(levels()[0], format, &mut chunk, slot, &row);
                for (row, got) in row.chunks(32).zip(read(format, &chunk, slot, d).chunks(32)) {
                    within(format, row, got);
                }
                for other in (0..PAGE_TOKENS).filter(|other| *other != slot) {
                    let bits = |chunk| read(format, chunk, other, d).into_iter().map(f64::to_bits);
                    assert!(
                        bits(&chunk).eq(bits(&before)),
                        "{format:?} {d}: {slot} changed {other}"
                    );
                }
            }
        }
    }
}

/// Checks that the values are off by half a step of the quants, and by what the rounding of the scale adds.
fn within(format: KvFormat, row: &[f32], got: &[f64]) {
    let off_half = |x: f64| x.abs() / 2048.0 + 2f64.powi(-25);
    let largest = row
        .iter()
        .copied()
        .fold(0.0f32, |m, x| if x.abs() > m.abs() { x } else { m });
    let largest = f64::from(largest);
    for (x, got) in row.iter().zip(got) {
        let x = f64::from(*x);
        let ceiling = match format {
            KvFormat::F16 => off_half(x),
            KvFormat::Q8_0 => {
                let step = largest.abs() / 120.0;
                step * 0.500_01 + 127.0 * off_half(step)
            }
            KvFormat::Q4_0 => {
                let step = largest / -8.0;
                // there is no 8 opposite of the -8
                let clipped = (x / step - 7.0).max(0.500_01);
                step.abs() * clipped + 8.0 * off_half(step)
            }
        };
        assert!(
            (x - got).abs() <= ceiling,
            "{format:?} {x}: {got}, largest {largest}"
        );
    }
}

#[test]
fn every_level_stores_and_rotates_to_the_same_bits() {
    let mut random = Random(11);
    for d in [32, 64, 80, 96, 128, 256] {
        let row: Vec<f32> = (0..d).map(|_| random.unit() * 3.0).collect();
        for kernels in levels() {
            for format in [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0] {
                if format.takes(d) {
                    let mut chunks = [(); 2].map(|()| vec![0; format.head_bytes(d)]);
                    store_kv(levels()[0], format, &mut chunks[0], 3, &row);
                    store_kv(kernels, format, &mut chunks[1], 3, &row);
                    assert_eq!(chunks[0], chunks[1], "{:?} {format:?} {d}", kernels.isa());
                }
            }
            let mut rotated = [row.clone(), row.clone()];
            hadamard_transform(&mut rotated[0]);
            kernels.rotate(&mut rotated[1]);
            let [want, got] = rotated.map(|row| row.into_iter().map(f32::to_bits));
            assert!(want.eq(got), "{:?} {d}", kernels.isa());
        }
    }
}

#[test]
fn stored_rows_keep_what_is_special() {
    let store = |format: KvFormat, row: &[f32]| {
        let mut chunk = vec![0xff; format.head_bytes(row.len())];
        store_kv(levels()[0], format, &mut chunk, 5, row);
        read(format, &chunk, 5, row.len())
    };
    for format in [KvFormat::F16, KvFormat::Q8_0, KvFormat::Q4_0] {
        let mut row = [0.0; 64];
        assert!(store(format, &row).iter().all(|x| *x == 0.0));
        row[..3].copy_from_slice(&[1e-31, -1e-38, f32::MIN_POSITIVE / 2.0]);
        assert!(store(format, &row).iter().all(|x| *x == 0.0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            row[40] = bad;
            let got = store(format, &row);
            assert!(!got[40].is_finite(), "{format:?} {bad}");
            assert!(got[..32].iter().all(|x| *x == 0.0), "{format:?} {bad}");
        }
    }
    // halves: to nearest, ties to even
    let row = [
        1.0,
        -2.0,
        65504.0,
        65520.0,
        1.000_488_3,
        1.001_464_8,
        5.9e-8,
        2.9e-8,
    ];
    let bits = [0x3c00, 0xc000, 0x7bff, 0x7c00, 0x3c00, 0x3c02, 1, 0];
    let want = bits.map(|bits| half::f16::from_bits(bits).to_f64());
    assert_eq!(store(KvFormat::F16, &row), want);
    // quants: the steps themselves are kept
    let row: [f32; 32] = std::array::from_fn(|i| (i as f32 * 8.0 - 127.0) * 0.5);
    assert_eq!(store(KvFormat::Q8_0, &row), row.map(f64::from));
    let row: [f32; 32] = std::array::from_fn(|i| (i % 16) as f32 * 0.25 - 2.0);
    assert_eq!(store(KvFormat::Q4_0, &row), row.map(f64::from));
}
