//! The read-only map of a model file, and the check that its pages can still be read.
#![allow(
    unsafe_code,
    reason = "mapping a file is unsafe, and so are signal handlers"
)]

use bytes::Bytes;
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Opens a regular file for reading. What is then checked and mapped is this file, whatever its name leads to later.
///
/// # Errors
/// The file cannot be opened, or is not a regular file (a FIFO would block, and a device has no length).
pub fn open(path: &Path) -> io::Result<File> {
    // so that a FIFO to which nobody writes is not waited for
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    regular(&file)?;
    Ok(file)
}

fn regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        return Ok(());
    }
    let why = "not a regular file";
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Maps a whole regular file for reading. Pages are read when they are touched, and shared with every other reader.
///
/// The file must not be changed in place while it is mapped; replace a model by writing a new file and renaming it. If the
/// file is shortened under the map, or its disk fails, the next touch of the lost part ends the process with SIGBUS. After
/// [`guard`] that part is read as zeros instead, and the map's [`Watch`] tells.
///
/// # Errors
/// The file cannot be mapped, or is not a regular file.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    regular(file)?;
    // SAFETY: the map is only ever read, through slices bounded by the length that memmap2 takes from this same descriptor.
    // Bytes that somebody else changes under it are wrong data, which every reader here already expects.
    let map = unsafe { Mmap::map(file)? };
    // Where the file system can, pages of 2 MiB are read and mapped, and decoding reads them without walks of the page table
    // (`model/ARCHITECTURE.md`). What is in memory already stays as it is, see [`super::Large`].
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    let slot = MAPS.iter().find(|slot| slot.take(&map));
    Ok(Bytes::from_owner(Guarded { map, slot }))
}

/// How many maps of a process can be guarded at a time: a model and its packed file, and those that replace them.
const SLOTS: usize = 8;

static MAPS: [Slot; SLOTS] = [const { Slot::empty() }; SLOTS];

/// How many bytes a page has, or 0 while nothing is guarded.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Where a map lies, for the signal handler, which may neither lock nor allocate.
struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    /// The length of the map, or 0 while there is none.
    bytes: AtomicUsize,
    lost: AtomicBool,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Takes the slot for a map, and returns false if another map has it.
    fn take(&self, map: &[u8]) -> bool {
        let free = !self.taken.swap(true, Ordering::Acquire);
        if free {
            self.lost.store(false, Ordering::Relaxed);
            self.start.store(map.as_ptr().addr(), Ordering::Relaxed);
            self.bytes.store(map.len(), Ordering::Release);
        }
        free
    }

    fn free(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.start.store(0, Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
    }
}

/// A map that the signal handler knows for as long as it lives.
struct Guarded {
    map: Mmap,
    slot: Option<&'static Slot>,
}

impl AsRef<[u8]> for Guarded {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // nobody reads the map any more, and it is unmapped only after this
        if let Some(slot) = self.slot {
            slot.free();
        }
    }
}

/// Tells whether all of a mapped file is still there, and keeps the map alive.
#[derive(Clone)]
pub struct Watch {
    slot: Option<&'static Slot>,
    _map: Bytes,
}

impl Watch {
    pub(super) fn new(map: &Bytes) -> Self {
        let start = map.as_ptr().addr();
        let ours = |slot: &&Slot| {
            slot.bytes.load(Ordering::Relaxed) == map.len()
                && slot.start.load(Ordering::Relaxed) == start
        };
        Self {
            slot: MAPS.iter().find(ours),
            _map: map.clone(),
        }
    }

    /// Whether a part of the file was touched that is lost or cannot be read, so that zeros were read in its place.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.slot
            .is_some_and(|slot| slot.lost.load(Ordering::Acquire))
    }
}

/// Installs a handler of SIGBUS, so that a lost part of a mapped file is read as zeros from now on. Without it the process
/// ends. Whoever calls this must look at [`Watch::lost`] before a result is used.
///
/// # Errors
/// The system refuses the handler.
pub fn guard() -> io::Result<()> {
    // SAFETY: `sysconf` takes a number and gives one; no memory is involved
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).map_err(io::Error::other)?;
    PAGE.store(page, Ordering::Relaxed);
    // SAFETY: all zeros are a valid `sigaction`: no handler, no flags, no signals
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is a whole `sigaction` that lives until the call returns, the old action is not asked for, and the
    // handler only loads and stores atomics and calls `mmap` and `sigaction`, which a signal handler may do
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Handles a page of a map that is not there: zeros take its place and that of all pages behind it, since the model is given
/// up anyway. Any other fault ends the process as it would have done without us.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a pointer to a `siginfo_t` that is valid until the handler returns
    let at = unsafe { (*info).si_addr() }.addr();
    let page = PAGE.load(Ordering::Relaxed);
    for slot in &MAPS {
        let bytes = slot.bytes.load(Ordering::Acquire);
        let (start, end) = (
            slot.start.load(Ordering::Relaxed),
            bytes.next_multiple_of(page),
        );
        if at.wrapping_sub(start) >= end {
            continue;
        }
        let lost = at / page * page;
        // SAFETY: the pages from `lost` to the end lie in a map of ours, which lives because somebody is reading it, and the
        // map is only ever read
        let zeros = unsafe {
            libc::mmap(
                std::ptr::without_provenance_mut(lost),
                start + end - lost,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if zeros != libc::MAP_FAILED {
            slot.lost.store(true, Ordering::Release);
            return;
        }
    }
    // SAFETY: all zeros are a valid `sigaction`, which lives until the call returns, and the old action is not asked for. The
    // instruction is then tried again, and ends the process
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, &raw const default, std::ptr::null_mut());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn a_file_is_mapped_whole_and_outlives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"abc").unwrap();
        let bytes = map(&open(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(&bytes[..], b"abc");
        assert_eq!(&bytes.slice(1..)[..], b"bc");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri opens no file without waiting")]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            open(dir.path()).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            open(Path::new("/dev/zero")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            open(&dir.path().join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no signals")]
    fn a_part_that_is_lost_is_zeros_and_is_told_of_this_map_alone() {
        guard().unwrap();
        let page = PAGE.load(Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let mapped = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, vec![7; 4 * page - 100]).unwrap();
            (map(&open(&path).unwrap()).unwrap(), path)
        };
        let ((lost, path), (whole, _)) = (mapped("a"), mapped("b"));
        let (watch, other) = (Watch::new(&lost), Watch::new(&whole));
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(page as u64 + 10).unwrap();
        assert!(!watch.lost());
        // the first two pages are there, the rest of the second was cut to zeros by the kernel
        assert_eq!((lost[0], lost[page + 9], lost[page + 10]), (7, 7, 0));
        assert!(!watch.lost());
        assert_eq!(
            (lost[3 * page], lost[2 * page], lost[4 * page - 101]),
            (0, 0, 0)
        );
        assert!(watch.lost() && !other.lost());
        assert_eq!(whole[4 * page - 101], 7);
        // its slot is free again, and has forgotten the loss
        drop((lost, watch));
        let maps: Vec<_> = (0..2 * SLOTS).map(|n| mapped(&n.to_string()).0).collect();
        assert!(maps.iter().all(|map| !Watch::new(map).lost()));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn an_empty_file_is_an_empty_slice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"").unwrap();
        assert!(map(&open(&path).unwrap()).unwrap().is_empty());
    }
}
