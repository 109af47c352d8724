//! A persistent thread pool with bounded spin, and the disjoint output tiles that its tasks write.
//!
//! One file, because it is one line of reasoning: who may touch a run's job and output, and when.
//!
//! A decode step crosses five or six barriers in each layer, so the cost of a barrier is the cost of the pool. Four choices
//! keep it small, and keep it safe on a shared board:
//!
//! * **Nobody waits for a thread that never came.** A worker enters a run by a compare-and-swap on one state word;
//!   when the tasks are all claimed the caller closes the run and waits only for the workers inside. A worker that is
//!   asleep, or pre-empted by the audio driver, costs its share of the work and nothing more.
//! * **Threads spin, but not for long.** Between two runs a worker spins for 75 µs and then parks; the caller does the same
//!   when it waits for the last task. As llama.cpp#13079 measured, spinning gains 8 % of decode on a Raspberry Pi 5, and
//!   unbounded spinning with more threads than cores loses 99 %.
//! * **Nobody idles for a thread that another process has put off its processor.** Whoever waits for a task of such a thread
//!   fetches it to its own processor, which has nothing else to do, and where the caller itself was put off, a worker gives
//!   it its place. Otherwise all threads stand still for a slice of the scheduler, 4 ms, while a run takes a fraction of one:
//!   two threads beside a process that kept one of two cores busy were no faster than one.
//! * **Each run has its own number of threads.** Decode saturates the memory bus with fewer threads than prefill can use.
//!
//! Medians on a 2-core x86-64 VM with two threads: a run that both threads must enter and leave takes 1.0 µs, and a run so
//! short that the caller did it alone 60 ns. With the worker parked it is 18 µs, nearly all of it for the system call that
//! wakes it. On one thread it is 24 ns.
#![allow(
    unsafe_code,
    reason = "threads share a run's job and write disjoint parts of its output"
)]

mod places;
mod rows;
mod tile;

pub use tile::RowTile;

use places::{Place, Seat};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{hint, io, thread};

/// Most threads that a pool may have. Boards have up to 16 cores, and a build machine has a few hundred.
pub const MAX_THREADS: usize = 1024;

/// How long a thread spins before it parks. The gaps between the runs of one decode step are far shorter, and the gap
/// between two requests is far longer. On a Raspberry Pi 5 the gain of spinning saturates at this order of magnitude
/// (llama.cpp#13079).
const SPIN: Duration = Duration::from_micros(75);
/// How long a thread sleeps before it looks again whether those for whom it waits run: a fraction of the slice that another
/// process may have instead of them.
const LOOK: Duration = Duration::from_micros(500);

/// Has all threads of this process allocate from one heap. Otherwise glibc reserves 64 MiB of addresses for each thread, and
/// keeps what one has freed from the others, so that a process that runs for months grows. Call it before threads are started.
/// Other systems' allocators have no such heaps.
pub fn share_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers, and holds the lock of the first heap while it stores one
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// The fields of the state word, which alone decides who may touch the job.
mod state {
    /// The bit of an open run, which workers may enter.
    pub(super) const OPEN: u64 = 1;
    /// The bit that says that the pool is being dropped.
    pub(super) const STOP: u64 = 1 << 1;
    /// One worker inside the run, in a field of 16 bits.
    pub(super) const INSIDE: u64 = 1 << 8;
    const THREADS_SHIFT: u32 = 24;
    const EPOCH_SHIFT: u32 = 40;
    /// How many workers are inside the run.
    pub(super) fn inside(s: u64) -> u64 {
        (s >> 8) & 0xffff
    }
    /// The threads of the run: worker `i` may enter when `i < threads(s)`.
    pub(super) fn threads(s: u64) -> usize {
        ((s >> THREADS_SHIFT) & 0xffff) as usize
    }
    /// The number of the run modulo 2^24, which keeps a worker from entering one run twice. After a wrap a worker may miss a
    /// run, which costs nothing but its help.
    pub(super) fn epoch(s: u64) -> u64 {
        s >> EPOCH_SHIFT
    }
    /// The state of the next run: open, with nobody inside yet.
    pub(super) fn open(last: u64, threads: usize) -> u64 {
        (epoch(last).wrapping_add(1) << EPOCH_SHIFT) | ((threads as u64) << THREADS_SHIFT) | OPEN
    }
}

type Task<'a> = &'a (dyn Fn(usize) + Sync);
type Panic = Box<dyn Any + Send>;

/// What the workers of a run need to know.
struct Job {
    task: Task<'static>,
    tasks: usize,
    /// How many threads share the tasks.
    threads: usize,
}

/// Keeps what one thread writes off the cache line that others spin on. It is two lines long, because the prefetcher takes
/// pairs.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    state: Line<AtomicU64>,
    /// For each thread, the next task of its share to claim: see [`drain`].
    next: Box<[Line<AtomicUsize>]>,
    /// For each worker, at its index minus 1, whether it is parked or about to be.
    parked: Box<[Line<AtomicBool>]>,
    /// For each thread, the one that made the pool first, what the others need to know to fetch it.
    seats: Box<[Line<Seat>]>,
    /// Where each thread belongs. The lock is taken only when one of them was fetched.
    places: Mutex<Vec<Place>>,
    /// Whether the caller sleeps on `done`.
    caller_parked: AtomicBool,
    done: (Mutex<()>, Condvar),
    /// How many rounds of `spin_loop` fit in [`SPIN`].
    spins: u32,
    /// The first panic of the run.
    panic: Mutex<Option<Panic>>,
    /// Written by the caller while no run is open and nobody is inside, and read by workers inside a run.
    job: UnsafeCell<Job>,
}

// SAFETY: every field but `job` is Sync. `job` is written only by the one caller that holds `Pool::gate`, while the
// state word says closed and nobody inside, and read only by workers between their entry (compare-and-swap, Acquire,
// on an OPEN word) and their exit (Release): never both at once. Its task is `Sync`.
unsafe impl Sync for Shared {}

/// Worker threads that live as long as the pool. The caller of [`Pool::run`] is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Where the thread that made the pool might run before.
    before: Option<Place>,
    /// Held during a run, so that a second caller waits.
    gate: Mutex<()>,
}

thread_local! {
    /// Whether this thread is inside a task of some pool.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Makes a pool of `threads` threads including the calling one, so `threads - 1` are spawned. They run wherever the
    /// system puts them.
    ///
    /// # Errors
    /// `threads` is 0 or above [`MAX_THREADS`], or the system refuses a thread (those begun are joined again).
    pub fn new(threads: usize) -> io::Result<Self> {
        Self::placed(threads, &[])
    }

    /// Makes a pool as [`Self::new`] does, with thread `i` held to the processors `places[i]`; thread 0 is the calling one.
    /// A thread without a place runs wherever the system puts it. So does one whose place the system refuses, because the
    /// processors may have been taken from us since they were counted.
    ///
    /// # Errors
    /// As those of [`Self::new`].
    pub fn placed(threads: usize, places: &[Vec<usize>]) -> io::Result<Self> {
        if threads == 0 || threads > MAX_THREADS {
            let what = format!("a pool of {threads} threads: 1 to {MAX_THREADS} are possible");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: (0..threads).map(|_| Line(AtomicUsize::new(0))).collect(),
            parked: (1..threads).map(|_| Line(AtomicBool::new(false))).collect(),
            seats: (0..threads).map(|_| Line(Seat::default())).collect(),
            places: Mutex::new(vec![Place::of(&[]); threads]),
            caller_parked: AtomicBool::new(false),
            done: (Mutex::new(()), Condvar::new()),
            spins: spins_in(SPIN),
            panic: Mutex::new(None),
            job: UnsafeCell::new(Job {
                task: &|_| {},
                tasks: 0,
                threads: 0,
            }),
        });
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
            before: Place::current(),
            gate: Mutex::new(()),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("kernel-{index}"));
            let place = places.get(index).cloned().unwrap_or_default();
            pool.workers.push(worker.spawn(move || {
                shared.sit_down(index, &place);
                shared.work(index);
            })?);
        }
        // after the others, because a new thread inherits the place of the one that spawns it
        let place = places.first().map_or(&[][..], Vec::as_slice);
        pool.shared.sit_down(0, place);
        Ok(pool)
    }

    /// How many threads the pool has, including the calling one.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0..tasks)`, each index exactly once, on at most `threads` threads, and returns when all have ended.
    /// Each thread claims the indices of its own share one by one in ascending order, then what is left of the others', so
    /// that a thread streams through one piece of memory. A task should take some microseconds. Nothing is allocated.
    ///
    /// A run inside a task runs inline, on that thread. A second caller waits for the first.
    ///
    /// # Panics
    /// With the first panic of a task, after all the others have ended. The pool stays usable.
    pub fn run(&self, threads: usize, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let threads = threads.min(self.threads()).min(tasks);
        let panic = if threads <= 1 || IN_TASK.get() {
            drain(&[Line(AtomicUsize::new(0))], 0, tasks, task)
        } else {
            let _gate = lock(&self.gate);
            self.run_shared(threads, tasks, task)
        };
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// The parallel case: `2 <= threads <= self.threads()`, and the gate is held. It must not unwind before `close`.
    fn run_shared(&self, threads: usize, tasks: usize, task: Task<'_>) -> Option<Panic> {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The reference is used only by workers inside this run, and `close` below
        // returns when the run is closed and nobody is inside; nothing unwinds before it (`drain` catches).
        let task_static = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: the gate is held and the previous run ended closed and with nobody inside, so no one reads the job.
        unsafe {
            *shared.job.get() = Job {
                task: task_static,
                tasks,
                threads,
            }
        };
        for (share, next) in shared.next[..threads].iter().enumerate() {
            next.0
                .store(share_start(share, threads, tasks), Ordering::Relaxed);
        }
        // SeqCst, here and in `wait_for_run`: either the worker sees this run or we see its flag
        shared.state.0.store(
            state::open(shared.state.0.load(Ordering::Relaxed), threads),
            Ordering::SeqCst,
        );
        for (parked, worker) in shared.parked.iter().zip(&self.workers).take(threads - 1) {
            if parked.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let seat = &shared.seats[0].0;
        seat.enter();
        IN_TASK.set(true);
        let own = drain(&shared.next[..threads], 0, tasks, task);
        IN_TASK.set(false);
        seat.leave();
        shared.close();
        let theirs = lock(&shared.panic).take();
        theirs.or(own)
    }

    /// Splits `out` into consecutive chunks of `chunk` elements (the last may be shorter) and runs
    /// `task(index of the chunk, chunk)`. Threads and panics are as in [`Pool::run`].
    ///
    /// # Panics
    /// If `chunk` is 0.
    pub fn run_chunks<T: Send>(
        &self,
        threads: usize,
        out: &mut [T],
        chunk: usize,
        task: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        assert!(chunk > 0, "run_chunks: chunks of 0 elements");
        let len = out.len();
        let base = Base(out.as_mut_ptr());
        self.run(threads, len.div_ceil(chunk), &|i| {
            let begin = i * chunk;
            // SAFETY: begin < len because i < len.div_ceil(chunk), and the length is cut at len. `run` gives each i
            // to one task, so no two slices overlap; `out` is borrowed mutably until `run` returns; T is Send.
            let part = unsafe {
                std::slice::from_raw_parts_mut(base.get().add(begin), chunk.min(len - begin))
            };
            task(i, part);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(state::STOP, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // a worker catches the panics of its tasks, so there is nothing to learn here
            let _ = worker.join();
        }
        // threads that it spawns from now on are to run anywhere again. Behind the workers, of which one may just be moving the caller
        // because it stood still
        if let Some(before) = self.before
            && self.shared.seats[0].0.is_own()
        {
            before.hold(0);
        }
    }
}

impl Shared {
    /// What worker `index` does for all of its life.
    fn work(&self, index: usize) {
        IN_TASK.set(true);
        let mut seen = 0;
        while let Some(entered) = self.wait_for_run(index, seen) {
            seen = entered;
            let seat = &self.seats[index].0;
            seat.enter();
            // SAFETY: between entry and exit nobody writes the job (see `Sync for Shared`)
            let job = unsafe { &*self.job.get() };
            let next = &self.next[..job.threads];
            if let Some(panic) = drain(next, index, job.tasks, job.task) {
                keep_first(&mut lock(&self.panic), panic);
            }
            let fetched = seat.leave();
            let before = self.state.0.fetch_sub(state::INSIDE, Ordering::SeqCst);
            let last = before & state::OPEN == 0 && state::inside(before) == 1;
            if last && self.caller_parked.load(Ordering::SeqCst) {
                // the lock orders this after the caller's last look at the state, or before it
                drop(lock(&self.done.0));
                self.done.1.notify_one();
            }
            if fetched {
                seat.hold(&lock(&self.places)[index]);
            }
        }
    }

    /// Holds the calling thread, which is the one of this index, to these processors. If there are none, or the system refuses
    /// them, it stays where it may run now.
    fn sit_down(&self, index: usize, cpus: &[usize]) {
        Place::of(cpus).hold(0);
        if let Some(place) = Place::current() {
            lock(&self.places)[index] = place;
            self.seats[index].0.take();
        }
    }

    /// Has the caller, which stands still inside a run, go on here, where worker `index` has nothing to do. The two change their
    /// places, because where the caller was, other work goes on.
    fn relieve_caller(&self, index: usize) {
        let (caller, own) = (&self.seats[0].0, &self.seats[index].0);
        caller.fetch();
        let mut places = lock(&self.places);
        places.swap(0, index);
        caller.hold(&places[0]);
        own.hold(&places[index]);
    }

    /// Spins and then parks until there is a run that worker `index` may enter and whose epoch is not `seen`. It enters that
    /// run and returns its epoch, or `None` when the pool stops. Runs with fewer threads do not keep the worker awake.
    fn wait_for_run(&self, index: usize, seen: u64) -> Option<u64> {
        let (parked, caller) = (&self.parked[index - 1].0, &self.seats[0].0);
        let wanted =
            |s: u64| s & state::OPEN != 0 && state::epoch(s) != seen && index < state::threads(s);
        let (mut spins, mut caller_ran) = (0, None);
        loop {
            let s = self.state.0.load(Ordering::SeqCst);
            if s & state::STOP != 0 {
                return None;
            }
            if wanted(s) {
                let entry = self.state.0.compare_exchange_weak(
                    s,
                    s + state::INSIDE,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                );
                if entry.is_ok() {
                    return Some(state::epoch(s));
                }
            } else if spins < self.spins {
                spins += 1;
                if spins == self.spins / 2 {
                    caller_ran = caller.ran();
                }
                hint::spin_loop();
            } else {
                let ran = caller.ran();
                let still = ran.is_some() && ran == caller_ran;
                if still {
                    self.relieve_caller(index);
                }
                // one that was moved has some time before it is looked at again
                caller_ran = ran.filter(|_| !still);
                parked.store(true, Ordering::SeqCst);
                let s = self.state.0.load(Ordering::SeqCst);
                if !wanted(s) && s & state::STOP == 0 {
                    // the caller may be put off its processor later
                    match ran {
                        Some(_) => thread::park_timeout(LOOK),
                        None => thread::park(),
                    }
                }
                parked.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Ends a run: lets no worker enter any more, and returns when those inside have left.
    fn close(&self) {
        let mut s = self.state.0.fetch_and(!state::OPEN, Ordering::SeqCst);
        // in two halves, because a thread stands still if two looks at it see that it has not run in between
        for _ in 0..2 {
            let mut spins = 0;
            while state::inside(s) != 0 && spins < self.spins / 2 {
                spins += 1;
                hint::spin_loop();
                s = self.state.0.load(Ordering::Acquire);
            }
            if state::inside(s) == 0 {
                // pairs with the Release of the last exit, also when the first look found nobody inside
                return;
            }
            self.fetch_workers();
        }
        let mut guard = lock(&self.done.0);
        self.caller_parked.store(true, Ordering::SeqCst);
        while state::inside(self.state.0.load(Ordering::SeqCst)) != 0 {
            let waited = self.done.1.wait_timeout(guard, LOOK);
            guard = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.fetch_workers();
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    /// Fetches workers that stand still inside a run to the processor of the caller, who waits for them. They go back to their
    /// places when they leave the run.
    fn fetch_workers(&self) {
        for seat in &self.seats[1..] {
            seat.0.fetch_if_still();
        }
    }
}

/// How many rounds of `spin_loop` fit in `time`. A round takes 5 to 50 ns depending on the core (10 ns on the VM above),
/// which is as long as reading the clock takes. So rounds are counted, and timed only once, here. The quickest of several
/// batches counts, so that an interruption of this thread is not taken for a slow core.
fn spins_in(time: Duration) -> u32 {
    const BATCH: u32 = 100;
    let batch = || {
        let begin = Instant::now();
        (0..BATCH).for_each(|_| hint::spin_loop());
        begin.elapsed()
    };
    let quickest = (0..8).map(|_| batch()).min().unwrap_or(time).as_nanos();
    let spins = time.as_nanos() * u128::from(BATCH) / quickest.max(1);
    // the limit is for a clock that is too slow to see a batch, and for Miri, whose clock stands almost still
    spins.clamp(1, if cfg!(miri) { 4 } else { 20_000 }) as u32
}

/// The first task of a thread's share; the share of thread `threads` would begin at `tasks`.
fn share_start(share: usize, threads: usize, tasks: usize) -> usize {
    // in 128 bits any number of tasks times `MAX_THREADS` fits
    (share as u128 * tasks as u128 / threads as u128) as usize
}

/// Claims and runs tasks until none is left, those of share `home` first, and returns the first panic, if there was one. It
/// never unwinds. `next` has the next task of each share; a claim adds 1, so each task is claimed once.
fn drain(next: &[Line<AtomicUsize>], home: usize, tasks: usize, task: Task<'_>) -> Option<Panic> {
    let threads = next.len();
    let mut first = None;
    for share in (home..threads).chain(0..home) {
        let end = share_start(share + 1, threads, tasks);
        loop {
            let i = next[share].0.fetch_add(1, Ordering::Relaxed);
            if i >= end {
                break;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| task(i))) {
                keep_first(&mut first, panic);
            }
        }
    }
    first
}

/// Keeps the first panic and drops later ones, with care, because a payload's destructor may itself panic and nothing may
/// unwind out of a run. What such a destructor throws is forgotten.
fn keep_first(slot: &mut Option<Panic>, panic: Panic) {
    if slot.is_none() {
        *slot = Some(panic);
    } else if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(thrown);
    }
}

/// Locks a mutex, even a poisoned one, because what these guard is never left half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The start of an output whose parts are divided among tasks.
struct Base<T>(*mut T);

// SAFETY: only the address is shared. Whoever makes a reference from it states why that is exclusive, and because of
// `T: Send` no value goes to a thread that may not have it.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    /// The address. This is a method so that closures capture the `Sync` wrapper and not the bare pointer.
    fn get(&self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
