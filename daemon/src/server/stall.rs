//! Whether what waits gets on. A state machine without a clock. A thread that reports and a queue that moves are two
//! things, and a daemon works only with both.

use std::time::{Duration, Instant};

/// Remembers since when the engine's work has not got on.
#[derive(Debug, Default)]
pub struct Stall {
    progress: u64,
    since: Option<Instant>,
}

impl Stall {
    /// Takes note of the engine's count of progress, and of whether it has anything to do.
    pub fn look(&mut self, now: Instant, waits: bool, progress: u64) {
        if !waits {
            self.since = None;
        } else if self.since.is_none() || progress != self.progress {
            self.since = Some(now);
        }
        self.progress = progress;
    }

    /// How long the work has stood still; 0 while it gets on or there is none.
    #[must_use]
    pub fn lasts(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_stands_still_while_something_waits_and_nothing_is_done() {
        let start = Instant::now();
        let mut stall = Stall::default();
        // (second, does something wait, progress, how long it has lasted then)
        for (second, waits, progress, lasts) in [
            (0, false, 7, 0),
            (100, false, 7, 0),
            (101, true, 7, 0),
            (111, true, 7, 10),
            (112, true, 8, 0),
            (115, true, 8, 3),
            (116, false, 8, 0),
            (117, true, 8, 0),
            (120, true, 8, 3),
            // another engine counts from the beginning
            (121, true, 0, 0),
            (181, true, 0, 60),
        ] {
            let now = start + Duration::from_secs(second);
            stall.look(now, waits, progress);
            assert_eq!(stall.lasts(now), Duration::from_secs(lasts), "{second}");
        }
        assert_eq!(
            stall.lasts(start + Duration::from_secs(200)),
            Duration::from_secs(79)
        );
    }
}
