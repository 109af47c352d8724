//! An allocator that counts, for tests that are a program of their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, which counts.
#[derive(Debug, Default)]
pub struct Counting {
    in_use: AtomicUsize,
    peak: AtomicUsize,
    calls: AtomicUsize,
}

impl Counting {
    pub const fn new() -> Self {
        Self {
            in_use: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
        }
    }

    /// How many bytes are in use.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// The most bytes that were in use since this was asked before.
    pub fn peak(&self) -> usize {
        self.peak.swap(self.in_use(), Relaxed)
    }

    /// How often memory was asked for.
    pub fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }
}

// SAFETY: every call is the system allocator's own; the counters are beside it
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.calls.fetch_add(1, Relaxed);
        let in_use = self.in_use.fetch_add(layout.size(), Relaxed) + layout.size();
        self.peak.fetch_max(in_use, Relaxed);
        // SAFETY: the caller's layout
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.in_use.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's pointer and layout
        unsafe { System.dealloc(ptr, layout) }
    }
}
