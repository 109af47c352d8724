//! The whole daemon on a board that is a folder of files. A program of its own, because it prints how fast the daemon was: the
//! tests of `whole` run several daemons at once.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod heat;
mod supervisor;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time, also here.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
