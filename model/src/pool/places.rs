//! Where a thread of a pool may run, and whether it does: by these a thread that waits for another can fetch it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// Processors that a thread may run on.
#[derive(Clone, Copy)]
pub(super) struct Place(libc::cpu_set_t);

impl Place {
    /// These processors, but for those that no set can name.
    pub(super) fn of(cpus: &[usize]) -> Self {
        const CPUS: usize = libc::CPU_SETSIZE as usize;
        // SAFETY: a `cpu_set_t` is an array of integers, of which all zeros is the empty set
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for cpu in cpus.iter().filter(|cpu| **cpu < CPUS) {
            // SAFETY: cpu < CPU_SETSIZE, the number of bits in a set
            unsafe { libc::CPU_SET(*cpu, &mut set) };
        }
        Self(set)
    }

    /// The processor that the calling thread is on.
    pub(super) fn here() -> Self {
        // SAFETY: it has no arguments; -1 is an error, which is no processor that a set can name
        Self::of(&[unsafe { libc::sched_getcpu() } as usize])
    }

    /// Where the calling thread may run. None: the machine may have more processors than a set can name.
    pub(super) fn current() -> Option<Self> {
        let mut place = Self::of(&[]);
        // SAFETY: 0 is the calling thread, and the pointer is to a set of the size that is given, which lives until the call
        // returns
        let failed =
            unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut place.0) };
        (failed == 0).then_some(place)
    }

    /// Holds a thread to this place; 0 is the calling one. A failure is ignored, because processors may be taken from us at
    /// any time; the system then places the thread.
    pub(super) fn hold(&self, thread: i32) {
        // SAFETY: the pointer is to a set of the size that is given, which lives until the call returns. The thread is one of a
        // pool that lives, and if it were another one, it would only be placed
        unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

thread_local! {
    /// The system's number of this thread, or 0 before it was asked for.
    static THREAD: Cell<i32> = const { Cell::new(0) };
}

fn this_thread() -> i32 {
    if THREAD.get() == 0 {
        // SAFETY: it has no arguments and never fails
        THREAD.set(unsafe { libc::gettid() });
    }
    THREAD.get()
}

/// What the others of a pool need to know of a thread, to fetch it when it stands still.
#[derive(Default)]
pub(super) struct Seat {
    /// Its number, or 0 while nobody sits here.
    thread: AtomicI32,
    /// Whether it works on a run.
    inside: AtomicBool,
    /// Whether it was fetched from its place and has not gone back yet.
    fetched: AtomicBool,
    /// How long it had run when the caller last looked.
    looked: AtomicU64,
}

impl Seat {
    /// The calling thread sits down.
    pub(super) fn take(&self) {
        self.thread.store(this_thread(), Ordering::Relaxed);
    }

    /// Begins a run, if the calling thread is the one that sits here: a pool may be called by another one.
    pub(super) fn enter(&self) {
        self.inside.store(self.is_own(), Ordering::Relaxed);
    }

    /// Whether it is the calling thread that sits here.
    pub(super) fn is_own(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == this_thread()
    }

    /// Ends its part of a run. True: it was fetched meanwhile, and belongs elsewhere.
    pub(super) fn leave(&self) -> bool {
        self.inside.store(false, Ordering::Relaxed);
        self.fetched.load(Ordering::Relaxed) && self.fetched.swap(false, Ordering::Relaxed)
    }

    /// How long the thread has run on a processor in all, in nanoseconds, while it is inside a run. It stands still when two
    /// looks see the same time, even if one processor alone may run us both.
    pub(super) fn ran(&self) -> Option<u64> {
        if cfg!(miri) || !self.inside.load(Ordering::Relaxed) {
            return None;
        }
        // Linux makes the clock of a thread's time on processors from the thread's number so: the same as
        // `pthread_getcpuclockid`, which wants a thread that this process started
        let clock = (!self.thread.load(Ordering::Relaxed) << 3) | 6;
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a time that lives until the call returns; a clock that is not there is an error
        let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
        (failed == 0).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// Fetches the thread to the processor of the calling one, if it has stood still inside a run since the last look.
    pub(super) fn fetch_if_still(&self) {
        let Some(ran) = self.ran() else { return };
        if self.looked.swap(ran, Ordering::Relaxed) == ran {
            self.fetch();
            // behind it, so that a thread which leaves between the two goes back when it leaves the next run
            self.fetched.store(true, Ordering::Relaxed);
        }
    }

    /// Has the thread run on the processor of the calling one.
    pub(super) fn fetch(&self) {
        Place::here().hold(self.thread.load(Ordering::Relaxed));
    }

    /// Holds the thread to a place.
    pub(super) fn hold(&self, place: &Place) {
        place.hold(self.thread.load(Ordering::Relaxed));
    }
}
