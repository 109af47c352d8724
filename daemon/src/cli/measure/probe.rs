//! How fast this machine reads memory, and how much of it we hold: `bench` compares the model with these.

use crate::cli::failure::Failure;
use crate::machine::kernel_files;
use bytemuck::cast_slice_mut;
use glowplug_model::read::read;
use memmap2::{Advice, MmapMut};
use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

/// The size of the buffer that is read: far larger than any cache.
const BUFFER_MAX: u64 = 1 << 30;
const BUFFER_MIN: u64 = 64 << 20;

/// Places that a thread reads from in turn. Some processors fetch ahead for one place at a time, others for many: two cores of an
/// Intel server with 480 MB of L3 read 23 GB/s from one place each and 26 from eight, two of Zen 4 are fastest with one.
const STREAMS: [usize; 4] = [1, 2, 4, 8];

/// Passes for each number of places and each size of pages. The best one of all counts, because others on the machine can only
/// slow a pass down.
const PASSES: usize = 3;

/// The fastest that this machine reads memory, in GB/s (1e9 bytes). `threads` threads read a buffer of 1 GiB, or of half the
/// available memory if that is less, from different numbers of places and in small and large pages.
pub(crate) fn read_gbps(threads: usize) -> Result<f64, Failure> {
    let available = bytes("/proc/meminfo", "MemAvailable")?;
    let len = (available / 2).clamp(BUFFER_MIN, BUFFER_MAX) as usize;
    let mut best = 0.0f64;
    for pages in [Advice::NoHugePage, Advice::HugePage] {
        let mut buffer = MmapMut::map_anon(len).map_err(|error| {
            Failure::Run(format!(
                "no {len} bytes of memory to read for comparison: {error}"
            ))
        })?;
        // a kernel without large pages gives small ones
        let _ = buffer.advise(pages);
        let words: &mut [u64] = cast_slice_mut(&mut buffer);
        let share = words.len().div_ceil(threads);
        thread::scope(|scope| {
            for (seed, part) in (1..).zip(words.chunks_mut(share)) {
                scope.spawn(move || fill(part, seed));
            }
        });
        for streams in STREAMS {
            best = best.max(len as f64 / seconds(words, share, streams) / 1e9);
        }
    }
    Ok(best)
}

/// Fills a part with numbers that look random: the host of a virtual machine may merge pages that are alike, and reads them at
/// any speed.
fn fill(part: &mut [u64], seed: u64) {
    let mut state = seed;
    for word in part {
        // the constants of Knuth's MMIX, and a shift that mixes the high bits into the low ones
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *word = state ^ (state >> 29);
    }
}

/// The time of the best pass over all words, of which each thread reads a share.
fn seconds(words: &[u64], share: usize, streams: usize) -> f64 {
    let barrier = Barrier::new(words.len().div_ceil(share));
    thread::scope(|scope| {
        let readers: Vec<_> = words
            .chunks(share)
            .map(|part| {
                let barrier = &barrier;
                scope.spawn(move || {
                    (0..PASSES)
                        .map(|_| {
                            barrier.wait();
                            let start = Instant::now();
                            black_box(read(black_box(part), streams));
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
    })
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
    fn no_two_pages_are_alike() {
        let mut words = vec![0; 64 * 512];
        fill(&mut words, 1);
        let pages: std::collections::HashSet<_> = words.chunks(512).collect();
        assert_eq!(pages.len(), 64);
    }
}
