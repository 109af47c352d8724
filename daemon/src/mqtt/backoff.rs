//! How long to wait before the next connection. A state machine without a clock.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(200);
/// The longest pause within a minute of the last connection that lasted, and the longest after that minute.
const LONGEST: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(10));
const MINUTE: Duration = Duration::from_secs(60);
/// A connection has lasted when it stood for this long, or for twice the pause before it if that is longer. Connections
/// that throw each other out, or that end at the same message, never last.
const LASTED: Duration = Duration::from_secs(1);

/// Pauses double from the shortest to the longest. Half of each is random, so that a fleet does not return all at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
    pause: Duration,
    since: Option<Instant>,
}

impl Backoff {
    /// How long to wait after a connection that ended at `now` and had stood for `stood`; zero if it never stood.
    pub(super) fn ended(&mut self, now: Instant, stood: Duration) -> Duration {
        if self.has_lasted(stood) {
            *self = Self::default();
        }
        let since = *self.since.get_or_insert(now);
        let longest = if now.saturating_duration_since(since) < MINUTE {
            LONGEST.0
        } else {
            LONGEST.1
        };
        self.pause = FIRST
            .saturating_mul(1 << self.attempts.min(10))
            .min(longest);
        self.attempts = self.attempts.saturating_add(1);
        self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(super) fn has_lasted(&self, stood: Duration) -> bool {
        stood >= LASTED.max(2 * self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_four_seconds_in_the_first_minute_and_ten_after_it() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let start = now;
        let mut attempts = 0;
        while now < start + 10 * MINUTE {
            let pause = backoff.ended(now, Duration::ZERO);
            let longest = if now < start + MINUTE {
                LONGEST.0
            } else {
                LONGEST.1
            };
            assert!(pause >= FIRST / 2 && pause <= longest);
            now += pause;
            attempts += 1;
        }
        assert!((60..=150).contains(&attempts), "{attempts}");
    }

    #[test]
    fn connections_that_end_at_once_are_no_success() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..5 {
            backoff.ended(now, Duration::from_millis(30));
        }
        assert!(backoff.ended(now, Duration::from_millis(30)) >= LONGEST.0 / 2);
        // one that stood begins anew
        assert!(backoff.ended(now, Duration::from_secs(9)) <= FIRST);
    }

    /// Two that throw each other out: each connection lasts as long as the other's pause.
    #[test]
    fn two_of_one_name_slow_each_other_down() {
        let (mut pair, mut now) = ([Backoff::default(), Backoff::default()], Instant::now());
        let mut stood = Duration::from_millis(50);
        let start = now;
        let mut swaps = 0;
        while now < start + MINUTE {
            stood = pair[swaps % 2].ended(now, stood);
            now += stood;
            swaps += 1;
        }
        assert!(swaps <= 40, "{swaps}");
    }
}
