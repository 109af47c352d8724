//! The memory of all KV pages, which is made at start and never grows: one map that is touched, or a device's own memory.

use super::prefix::PageId;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions};
use std::any::Any;
use std::borrow::Cow;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Bytes of the smallest unit in which a kernel hands out memory.
const TOUCH: usize = 4096;

/// Pages in the memory of a device, which its kernels read and write. They have the bytes that pages of a host have, so
/// that a session's file can be read wherever the pages are.
pub trait DevicePages: Send + Sync {
    /// Reads the bytes of a page, when everything that was sent to the device before is done.
    ///
    /// # Errors
    /// [`PageLost`] if the device does not give them any more.
    fn read(&self, page: PageId, bytes: &mut [u8]) -> Result<(), PageLost>;
    /// Writes the bytes of a page, before anything that is sent to the device later begins.
    fn write(&mut self, page: PageId, bytes: &[u8]);
    /// The pages as what they are, for the steps of that device.
    fn as_any(&self) -> &dyn Any;
}

/// The device does not give a page any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device does not give a page of keys and values: {0}")]
pub struct PageLost(pub String);

/// Most threads that touch the arena, which is bound by memory, and the bytes that one takes at a time.
const TOUCHERS: usize = 4;
const PIECE: usize = 16 << 20;

/// Has the kernel clear all of the memory now, on as many threads as there are cores to clear it: where it has to look for large
/// pages first, a thread gets half a gigabyte in a second.
fn touch(map: &mut [u8]) {
    let pieces = map.chunks_mut(PIECE).collect::<Vec<_>>();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(TOUCHERS).min(pieces.len());
    let pieces = Mutex::new(pieces);
    let share = || {
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(piece) = next() {
            piece.iter_mut().step_by(TOUCH).for_each(|byte| *byte = 0);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // where the system refuses a thread, the others do its share
            let _ = thread::Builder::new().spawn_scoped(scope, share);
        }
        share();
    });
}

/// Where the bytes are.
enum Memory {
    Host(MmapMut),
    Device(Box<dyn DevicePages>),
}

/// The bytes of all pages, one page behind the other.
pub struct Arena {
    memory: Memory,
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
        touch(&mut map);
        Ok(Self {
            memory: Memory::Host(map),
            page_bytes,
        })
    }

    /// Takes the pages of a device, each of `page_bytes`.
    #[must_use]
    pub fn on_device(pages: Box<dyn DevicePages>, page_bytes: usize) -> Self {
        Self {
            memory: Memory::Device(pages),
            page_bytes,
        }
    }

    /// The pages as the device's own steps know them, or `None` where they are on the host.
    #[must_use]
    pub fn device(&self) -> Option<&dyn Any> {
        match &self.memory {
            Memory::Host(_) => None,
            Memory::Device(pages) => Some(pages.as_any()),
        }
    }

    /// The map of a host's pages.
    fn map(&self) -> &MmapMut {
        match &self.memory {
            Memory::Host(map) => map,
            Memory::Device(_) => panic!("pages on a device reached a step of the host"),
        }
    }

    /// The map of a host's pages, to change.
    fn map_mut(&mut self) -> &mut MmapMut {
        match &mut self.memory {
            Memory::Host(map) => map,
            Memory::Device(_) => panic!("pages on a device reached a step of the host"),
        }
    }

    /// Keeps the arena from being swapped out. A device does as it does.
    ///
    /// # Errors
    /// [`NotLocked`]: the system's limit of locked memory (`RLIMIT_MEMLOCK`) is below the arena's size.
    pub fn lock(&self) -> Result<(), NotLocked> {
        let Memory::Host(map) = &self.memory else {
            return Ok(());
        };
        map.lock().map_err(|_| NotLocked {
            bytes: map.len(),
            limit: lock_limit(),
        })
    }

    /// The bytes of all pages of a host, one page behind the other.
    ///
    /// # Panics
    /// If the pages are on a device.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.map()
    }

    /// How many bytes a page has.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// The bytes of one page, which are read from the device if they are there.
    ///
    /// # Errors
    /// [`PageLost`] if the device does not give them any more.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page(&self, id: PageId) -> Result<Cow<'_, [u8]>, PageLost> {
        match &self.memory {
            Memory::Host(map) => Ok(Cow::Borrowed(
                &map[usize::from(id) * self.page_bytes..][..self.page_bytes],
            )),
            Memory::Device(pages) => {
                let mut bytes = vec![0; self.page_bytes];
                pages.read(id, &mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// The bytes of a device's page, to change and write back. Those of a page that is lost do not matter: no step can read
    /// them any more.
    fn copied(&self, id: PageId) -> Vec<u8> {
        let bytes = self.page(id).map(Cow::into_owned);
        bytes.unwrap_or_else(|_| vec![0; self.page_bytes])
    }

    /// Lets the bytes of one page be changed. A page that was just taken still holds what its last holder wrote.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn change_page<R>(&mut self, id: PageId, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut bytes = match &mut self.memory {
            Memory::Host(_) => return change(self.host_page_mut(id)),
            Memory::Device(_) => self.copied(id),
        };
        let result = change(&mut bytes);
        self.write_page(id, &bytes);
        result
    }

    /// Writes all bytes of one page.
    ///
    /// # Panics
    /// If there is no such page, or the bytes are not a page's.
    pub fn write_page(&mut self, id: PageId, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes, "the bytes of a page");
        match &mut self.memory {
            Memory::Host(_) => self.host_page_mut(id).copy_from_slice(bytes),
            Memory::Device(pages) => pages.write(id, bytes),
        }
    }

    /// Fills a page with zeros.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn clear(&mut self, id: PageId) {
        match &mut self.memory {
            Memory::Host(_) => self.host_page_mut(id).fill(0),
            Memory::Device(pages) => pages.write(id, &vec![0; self.page_bytes]),
        }
    }

    /// Copies parts of a page, each a first byte and a length, to the same places in another.
    ///
    /// # Panics
    /// If there is no such page or no such part of it.
    pub fn copy_parts(
        &mut self,
        from: PageId,
        to: PageId,
        parts: impl Iterator<Item = (usize, usize)>,
    ) {
        let page_bytes = self.page_bytes;
        let checked = parts.inspect(|(offset, len)| {
            assert!(
                offset + len <= page_bytes,
                "{len} bytes at {offset} of a page"
            );
        });
        match &mut self.memory {
            Memory::Host(map) => {
                let [from, to] = [from, to].map(|page| usize::from(page) * page_bytes);
                for (offset, len) in checked {
                    let start = from + offset;
                    map.copy_within(start..start + len, to + offset);
                }
            }
            Memory::Device(_) => {
                let source = self.copied(from);
                self.change_page(to, |bytes| {
                    for (offset, len) in checked {
                        bytes[offset..][..len].copy_from_slice(&source[offset..][..len]);
                    }
                });
            }
        }
    }

    fn host_page_mut(&mut self, id: PageId) -> &mut [u8] {
        let (start, len) = (usize::from(id) * self.page_bytes, self.page_bytes);
        &mut self.map_mut()[start..][..len]
    }

    /// A part of a host's page to write, such as one head's keys or values.
    ///
    /// # Panics
    /// If there is no such page, the part is not in it, or the pages are on a device.
    pub fn chunk_mut(&mut self, page: PageId, offset: usize, len: usize) -> &mut [u8] {
        &mut self.host_page_mut(page)[offset..][..len]
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
            arena.change_page(PageId::from(id), |page| page.fill(id + 1));
        }
        arena.chunk_mut(1, 4990, 10).fill(9);
        assert!(arena.page(0).unwrap().iter().all(|&b| b == 1));
        assert!(arena.page(2).unwrap().iter().all(|&b| b == 3));
        assert_eq!(
            arena.page(1).unwrap()[4989..],
            [2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]
        );
        arena.copy_parts(1, 2, [(0, 5000)].into_iter());
        assert_eq!(arena.page(1), arena.page(2));
        assert!(arena.page(0).unwrap().iter().all(|&b| b == 1));
        assert_eq!(arena.bytes()[5000..10_000], *arena.page(1).unwrap());
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
