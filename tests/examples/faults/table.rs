//! What a row of the table is, and how it is run and told.

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A fault of the table.
pub(crate) struct Row {
    /// as on the command line
    pub(crate) name: &'static str,
    pub(crate) fault: &'static str,
    /// the figure that is asked
    pub(crate) asked: &'static str,
    pub(crate) run: fn(&Run, &Tally) -> Outcome,
}

/// What was found beside the counts, in a line; or why the fault cannot be injected here.
pub(crate) type Outcome = Result<String, NotRun>;

/// What is missing on this machine.
pub(crate) struct NotRun(pub(crate) String);

/// How the table is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) long: bool,
    pub(crate) times: bool,
}

impl Run {
    /// One number of the short form, one of the long.
    pub(crate) fn of(&self, short: usize, long: usize) -> usize {
        if self.long { long } else { short }
    }
}

/// Reasons that are kept of a row, and characters of each.
const SHORT_MAX: usize = 3;
const WHY_MAX: usize = 700;

/// Counts that outlive a row that panics.
#[derive(Default)]
pub(crate) struct Tally {
    injected: AtomicU64,
    survived: AtomicU64,
    /// why, of the first few that were not survived
    short: Mutex<Vec<String>>,
}

impl Tally {
    /// A fault is about to be injected.
    pub(crate) fn injected(&self, n: u64) {
        self.injected.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts `n` faults that were survived.
    pub(crate) fn survived(&self, n: u64) {
        self.survived.fetch_add(n, Ordering::Relaxed);
    }

    /// One that was injected, and whether it was survived.
    pub(crate) fn check(&self, survived: bool, why: impl FnOnce() -> String) {
        self.injected(1);
        if survived {
            self.survived(1);
        } else {
            self.fell_short(why());
        }
    }

    /// What is asked was not met.
    pub(crate) fn fell_short(&self, mut why: String) {
        if let Some((end, _)) = why.char_indices().nth(WHY_MAX) {
            why.truncate(end);
        }
        let mut short = self.short.lock().unwrap();
        if short.len() < SHORT_MAX {
            short.push(why);
        }
    }
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Survived,
    Short,
    NotRun,
}

/// Runs a row and prints its line.
pub(crate) fn run(row: &Row, how: &Run) -> Verdict {
    let tally = Tally::default();
    let begin = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| (row.run)(how, &tally)));
    let short = tally.short.into_inner().unwrap();
    let (injected, survived) = (tally.injected.into_inner(), tally.survived.into_inner());
    let (verdict, found) = match ended {
        Ok(Err(NotRun(why))) => (Verdict::NotRun, why),
        Ok(Ok(found)) if short.is_empty() && injected == survived && injected > 0 => {
            (Verdict::Survived, found)
        }
        Ok(Ok(found)) => (Verdict::Short, found),
        Err(panic) => (Verdict::Short, said(&*panic)),
    };
    let mut line = format!("{:<6}{}: ", row.name, row.fault);
    // writing to a String does not fail
    let _ = match verdict {
        Verdict::NotRun => write!(line, "NOT RUN: {found}"),
        Verdict::Survived => write!(line, "{survived} of {injected} survived; {found}"),
        Verdict::Short => write!(
            line,
            "FELL SHORT, {survived} of {injected} survived; {found}"
        ),
    };
    for why in short {
        let _ = write!(line, "\n      {why}");
    }
    println!(
        "{line}\n      asked: {} ({:.1} s)",
        row.asked,
        begin.elapsed().as_secs_f64()
    );
    verdict
}

/// The text of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a thread of it panicked").to_owned()
}
