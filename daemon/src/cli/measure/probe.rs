//! How fast this machine reads memory, and how much of it we hold: `bench` compares the model with these.

use crate::cli::failure::Failure;
use crate::machine::kernel_files;
use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// The size of the buffer that is read: far larger than any cache.
const BUFFER_MAX: u64 = 1 << 30;
const BUFFER_MIN: u64 = 64 << 20;

/// Passes over the buffer. The best one counts, because others on the machine can only slow a pass down.
const PASSES: usize = 7;

/// Read bandwidth in GB/s (1e9 bytes). `threads` threads stream through a buffer of 1 GiB, or of half the available
/// memory if that is less.
pub(crate) fn read_gbps(threads: usize) -> Result<f64, Failure> {
    let available = bytes("/proc/meminfo", "MemAvailable")?;
    let len = (available / 2).clamp(BUFFER_MIN, BUFFER_MAX);
    // ones and not zeros, because the kernel would map all of an untouched buffer to one page
    let buffer = vec![1u8; len as usize];
    let barrier = Barrier::new(threads);
    let share = buffer.len().div_ceil(threads);
    let seconds = thread::scope(|scope| {
        let readers: Vec<_> = buffer
            .chunks(share)
            .map(|part| {
                let barrier = &barrier;
                scope.spawn(move || {
                    (0..PASSES)
                        .map(|_| {
                            barrier.wait();
                            let start = Instant::now();
                            black_box(scan(black_box(part)));
                            barrier.wait();
                            start.elapsed().as_secs_f64()
                        })
                        .fold(f64::INFINITY, f64::min)
                })
            })
            .collect();
        readers
            .into_iter()
            .filter_map(|reader| reader.join().ok())
            .fold(0.0, f64::max)
    });
    Ok(buffer.len() as f64 / seconds / 1e9)
}

/// Reads every byte, by looking for one that is not there with the widest vectors of this machine.
fn scan(part: &[u8]) -> bool {
    memchr::memchr(0, part).is_none()
}

/// Most bytes of resident memory that this process has had so far (`VmHWM`: anonymous memory and mapped file pages).
pub(crate) fn peak_rss_bytes() -> Result<u64, Failure> {
    bytes("/proc/self/status", "VmHWM")
}

/// Reads a line `name: 123 kB` in bytes.
fn bytes(file: &str, name: &str) -> Result<u64, Failure> {
    kernel_files::bytes(Path::new(file), name)
        .ok_or_else(|| Failure::Run(format!("{file} does not say `{name}`")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn peak_follows_what_is_touched() {
        let before = peak_rss_bytes().unwrap();
        let held = black_box(vec![1u8; 64 << 20]);
        assert!(peak_rss_bytes().unwrap() >= (64 << 20).max(before));
        drop(held);
        assert!(peak_rss_bytes().unwrap() >= 64 << 20, "the peak stays");
        assert!(
            bytes("/proc/self/status", "VmNone")
                .unwrap_err()
                .to_string()
                .contains("VmNone")
        );
    }

    #[test]
    fn every_byte_is_read() {
        let mut part = vec![1; 100_003];
        assert!(scan(&part));
        for end in [0, 50_000, 100_002] {
            part[end] = 0;
            assert!(!scan(&part));
            part[end] = 1;
        }
    }
}
