//! The memory of all KV pages: one map, which is made and touched at start and never grows.

use super::prefix::PageId;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions};

/// Bytes of the smallest unit in which a kernel hands out memory.
const TOUCH: usize = 4096;

/// The bytes of all pages, one page behind the other.
#[derive(Debug)]
pub struct Arena {
    map: MmapMut,
    page_bytes: usize,
}

/// The system has no memory for what is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system has no memory for {bytes} bytes of KV pages, tables and stacks")]
pub struct NoMemory {
    /// How many bytes were asked for.
    pub bytes: usize,
}

/// The system does not allow this much memory to be locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`memory.lock`: the KV pages have {bytes} bytes, RLIMIT_MEMLOCK lets {limit} be locked; raise it \
     (`LimitMEMLOCK=` of a systemd unit, `ulimit -l`) or take fewer `memory.kv_pages`"
)]
pub struct NotLocked {
    /// How many bytes the arena has.
    pub bytes: usize,
    /// The limit of the process in bytes, as the kernel writes it.
    pub limit: String,
}

impl Arena {
    /// Maps all pages and touches them, so that a lack of memory shows now and not later.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses or the size overflows.
    pub fn new(pages: usize, page_bytes: usize) -> Result<Self, NoMemory> {
        let bytes = pages
            .checked_mul(page_bytes)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(NoMemory { bytes: usize::MAX })?;
        let mut map = MmapOptions::new()
            .len(bytes)
            .map_anon()
            .map_err(|_| NoMemory { bytes })?;
        // A step reads a few KB of each page. With 4 KB to an entry of the TLB, every read would begin with a walk of the
        // page table (`model/ARCHITECTURE.md`). A kernel without large pages refuses, and only that gain is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        map.iter_mut().step_by(TOUCH).for_each(|byte| *byte = 0);
        Ok(Self { map, page_bytes })
    }

    /// Keeps the arena from being swapped out.
    ///
    /// # Errors
    /// [`NotLocked`]: the system's limit of locked memory (`RLIMIT_MEMLOCK`) is below the arena's size.
    pub fn lock(&self) -> Result<(), NotLocked> {
        self.map.lock().map_err(|_| NotLocked {
            bytes: self.map.len(),
            limit: lock_limit(),
        })
    }

    /// The bytes of all pages, one page behind the other.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// How many bytes a page has.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// The bytes of one page.
    ///
    /// # Panics
    /// If there is no such page.
    #[must_use]
    pub fn page(&self, id: PageId) -> &[u8] {
        &self.map[usize::from(id) * self.page_bytes..][..self.page_bytes]
    }

    /// The bytes of one page, to write. A page that was just taken still holds what its last holder wrote.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page_mut(&mut self, id: PageId) -> &mut [u8] {
        &mut self.map[usize::from(id) * self.page_bytes..][..self.page_bytes]
    }

    /// A part of a page to write, such as one head's keys or values.
    ///
    /// # Panics
    /// If there is no such page, or the part is not in it.
    pub fn chunk_mut(&mut self, page: PageId, offset: usize, len: usize) -> &mut [u8] {
        &mut self.page_mut(page)[offset..][..len]
    }

    /// Copies a part of a page to the same place in another.
    ///
    /// # Panics
    /// If there is no such page or no such part of it.
    pub fn copy_part(&mut self, from: PageId, to: PageId, offset: usize, len: usize) {
        assert!(
            offset + len <= self.page_bytes,
            "{len} bytes at {offset} of a page"
        );
        let start = usize::from(from) * self.page_bytes + offset;
        let to = usize::from(to) * self.page_bytes + offset;
        self.map.copy_within(start..start + len, to);
    }
}

/// How many bytes the process may lock, as the kernel writes it.
fn lock_limit() -> String {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|line| line.split_whitespace().next());
    soft.unwrap_or("too few").to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_side_by_side_and_share_no_byte() {
        let mut arena = Arena::new(3, 5000).unwrap();
        assert_eq!(arena.bytes().len(), 15_000);
        assert!(arena.bytes().iter().all(|&b| b == 0));
        for id in 0..3u8 {
            arena.page_mut(PageId::from(id)).fill(id + 1);
        }
        arena.chunk_mut(1, 4990, 10).fill(9);
        assert!(arena.page(0).iter().all(|&b| b == 1));
        assert!(arena.page(2).iter().all(|&b| b == 3));
        assert_eq!(arena.page(1)[4989..], [2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        arena.copy_part(1, 2, 0, 5000);
        arena.copy_part(2, 2, 100, 50);
        assert_eq!(arena.page(1), arena.page(2));
        assert!(arena.page(0).iter().all(|&b| b == 1));
        assert_eq!(arena.bytes()[5000..10_000], *arena.page(1));
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_part_ends_with_its_page() {
        Arena::new(2, 64).unwrap().chunk_mut(0, 32, 33);
    }

    #[test]
    fn every_byte_is_resident_before_it_is_used() {
        let before = resident();
        let arena = Arena::new(16, 1 << 20).unwrap();
        let grown = resident().saturating_sub(before);
        assert!(grown >= arena.bytes().len() / 1024 * 9 / 10, "{grown} kB");
    }

    #[test]
    fn an_impossible_size_is_refused() {
        for (pages, page_bytes) in [(4096, usize::MAX / 2), (1, usize::MAX), (3, usize::MAX / 4)] {
            assert!(Arena::new(pages, page_bytes).is_err());
        }
        // a quarter of an address space: more than any kernel has, unless it is one of 32 bits
        #[cfg(target_pointer_width = "64")]
        assert!(Arena::new(4, usize::MAX / 16).is_err());
    }

    /// Resident memory in kilobytes, because the size of the kernel's pages differs.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
