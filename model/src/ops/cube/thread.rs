//! The one thread that calls into the driver of the device.
//!
//! A driver that hangs, or that waits for a device which does not answer, keeps whoever called it, and nothing can end that
//! call. So everybody hands work to this thread and waits for a bounded time. What was lent to work that never ends is lost
//! with it, and so is the thread: there is no second one in a process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::ThreadId;
use std::time::Duration;

type Work = Box<dyn FnOnce() + Send>;

/// Pieces of work that wait. Each engine hands over one at a time, and a daemon has one engine.
const WAITING_MAX: usize = 64;

/// Why work was not done, or nobody knows whether it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// The time is over.
    #[error("it did not answer within {:.1} s", .0.as_secs_f64())]
    Late(Duration),
    /// The runtime panicked, as it does where a driver refuses what it had promised.
    #[error("its runtime failed")]
    Panicked,
    /// The thread has not taken anything for long.
    #[error("{WAITING_MAX} pieces of work wait for it")]
    Full,
}

/// The sender of work to the thread, which ends with the last of these.
#[derive(Debug, Clone)]
pub struct DriverThread {
    work: SyncSender<Work>,
    id: ThreadId,
}

impl DriverThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start() -> io::Result<Self> {
        let (work, taken) = mpsc::sync_channel::<Work>(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("gpu driver".to_owned())
            .spawn(move || {
                for work in taken {
                    // who waits for the result finds that there is none
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            })?;
        let id = thread.thread().id();
        Ok(Self { work, id })
    }

    /// Has the thread do `work` and waits for it, for no longer than `longest` from now. Work that is a part of other work is
    /// done at once.
    ///
    /// # Errors
    /// [`NotDone`]; if it is late, it may still be done, and its result is dropped then.
    pub fn run<T: Send + 'static>(
        &self,
        longest: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        if std::thread::current().id() == self.id {
            return Ok(work());
        }
        let (done, result) = mpsc::sync_channel(1);
        let work = move || {
            // nobody may be waiting any more
            let _ = done.send(work());
        };
        self.work
            .try_send(Box::new(work))
            .map_err(|_| NotDone::Full)?;
        result.recv_timeout(longest).map_err(|error| match error {
            RecvTimeoutError::Timeout => NotDone::Late(longest),
            RecvTimeoutError::Disconnected => NotDone::Panicked,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Nothing here waits for so long.
    const PATIENCE: Duration = Duration::from_secs(600);

    #[test]
    fn work_is_done_in_order_and_a_panic_ends_its_own_work_alone() {
        let thread = DriverThread::start().unwrap();
        assert_eq!(thread.run(PATIENCE, || 7), Ok(7));
        let inner = thread.clone();
        let nested = thread.run(PATIENCE, move || inner.run(PATIENCE, || 9));
        assert_eq!(nested, Ok(Ok(9)));
        assert_eq!(
            thread.run(PATIENCE, || -> u8 { panic!("a bug") }),
            Err(NotDone::Panicked)
        );
        assert_eq!(thread.run(PATIENCE, || 8), Ok(8));
    }

    #[test]
    fn a_thread_that_hangs_holds_nobody_up_and_takes_a_bounded_amount_of_work() {
        let thread = DriverThread::start().unwrap();
        let (release, hangs) = mpsc::sync_channel::<()>(0);
        let (began, begins) = mpsc::sync_channel(1);
        let hang = move || {
            began.send(()).unwrap();
            hangs.recv().is_ok()
        };
        let late = thread.run(Duration::ZERO, hang);
        assert_eq!(late, Err(NotDone::Late(Duration::ZERO)));
        // it has taken this work, so that all places are free
        begins.recv().unwrap();
        for _ in 0..WAITING_MAX {
            let late = thread.run(Duration::ZERO, || ());
            assert_eq!(late, Err(NotDone::Late(Duration::ZERO)));
        }
        assert_eq!(thread.run(Duration::ZERO, || ()), Err(NotDone::Full));
        release.send(()).unwrap();
        // the results of what was given up are dropped, and the thread goes on
        while thread.run(PATIENCE, || ()) == Err(NotDone::Full) {
            std::thread::yield_now();
        }
    }
}
