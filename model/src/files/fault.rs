//! Faults of the disk for tests: one happens at the nth operation of a thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What happens at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// it fails with this error number
    Errno(i32),
    /// a write takes half of its bytes; any other operation works
    Short,
    /// nothing is done any more, not even the handling of an error
    Kill,
}

struct Killed;

thread_local! {
    static NEXT: Cell<Option<(usize, Fault)>> = const { Cell::new(None) };
    static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Does `work` with a fault at its `nth` operation, counted from 0. Gives its result, none if it was killed, and whether the
/// fault happened at all.
pub(crate) fn at<T>(nth: usize, fault: Fault, work: impl FnOnce() -> T) -> (Option<T>, bool) {
    NEXT.set(Some((nth, fault)));
    let done = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(end) if end.is::<Killed>() => None,
        Err(panic) => resume_unwind(panic),
    };
    (done, NEXT.take().is_none())
}

/// The operations that `work` does, in their order.
pub(crate) fn operations(work: impl FnOnce()) -> Vec<&'static str> {
    LOG.take();
    work();
    LOG.take()
}

/// The fault that happens at this operation, if it is due.
fn due(what: &'static str) -> io::Result<Option<Fault>> {
    LOG.with_borrow_mut(|log| log.push(what));
    let Some((left, fault)) = NEXT.get() else {
        return Ok(None);
    };
    NEXT.set(left.checked_sub(1).map(|left| (left, fault)));
    match fault {
        _ if left > 0 => Ok(None),
        Fault::Errno(number) => Err(io::Error::from_raw_os_error(number)),
        Fault::Short => Ok(Some(fault)),
        Fault::Kill => resume_unwind(Box::new(Killed)),
    }
}

pub(crate) fn operation(what: &'static str) -> io::Result<()> {
    due(what).map(|_| ())
}

pub(crate) fn writable(bytes: &[u8]) -> io::Result<&[u8]> {
    Ok(match due("write")? {
        Some(_) => &bytes[..bytes.len().div_ceil(2)],
        None => bytes,
    })
}
