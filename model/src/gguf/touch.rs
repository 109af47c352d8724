//! Reading all of a file on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many bytes a thread takes at once. A page that is in memory costs a fault and 64 KB of checksum some microseconds, so this
/// is a millisecond or less.
pub(super) const PIECE: usize = 4 << 20;

/// Does `work` with each piece on up to `threads` threads, this one among them, and gives what came of each. Where the system
/// refuses a thread, the others do its share.
pub(super) fn each<T: Default + Send>(
    pieces: &[&[u8]],
    threads: usize,
    work: &(dyn Fn(&[u8]) -> T + Sync),
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut done = Vec::new();
        while let Some((at, piece)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            pieces.get(at).map(|piece| (at, piece))
        } {
            done.push((at, work(piece)));
        }
        done
    };
    let mut all: Vec<T> = pieces.iter().map(|_| T::default()).collect();
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(pieces.len()))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, share).ok())
            .collect();
        let mut done = vec![share()];
        for helper in helpers {
            done.push(
                helper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        for (at, value) in done.into_iter().flatten() {
            all[at] = value;
        }
    });
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_read_once_in_its_place() {
        let bytes: Vec<u8> = (0..=255).collect();
        for size in [1, 7, 256, 300] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let sums: Vec<u32> = pieces
                .iter()
                .map(|p| p.iter().map(|b| u32::from(*b)).sum())
                .collect();
            for threads in [0, 1, 2, 5] {
                let found = each(&pieces, threads, &|p| {
                    p.iter().map(|b| u32::from(*b)).sum::<u32>()
                });
                assert_eq!(found, sums, "{size} {threads}");
            }
        }
        assert_eq!(each(&[], 4, &|p| p.len()), [0; 0]);
    }
}
