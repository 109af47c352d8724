//! What the log says of a connection: a line for each state, and none for each try. A state machine without a clock.

use std::time::{Duration, Instant};

/// Reasons that are said before the connection has lasted. Those after them are not.
const REASONS_MAX: usize = 8;
/// A connection that stood this long ends an outage: what comes after it is news.
const LASTED: Duration = Duration::from_secs(60);

/// What was said of a connection.
#[derive(Debug, Default)]
pub struct Journal {
    /// Why there was no connection, since one that lasted.
    reasons: Vec<String>,
    since: Option<Instant>,
    /// The last thing that was said is that it stands.
    said_up: bool,
}

impl Journal {
    /// The connection stands. True if that is to be said.
    pub fn up(&mut self, now: Instant) -> bool {
        self.since = Some(now);
        !std::mem::replace(&mut self.said_up, true)
    }

    /// The connection has ended or was not made. True if the reason is to be said: two reasons in turn are two lines, and
    /// a connection that is lost again and again for one reason is one.
    pub fn down(&mut self, now: Instant, reason: &str) -> bool {
        let stood = self.since.take();
        if stood.is_some_and(|since| now.saturating_duration_since(since) >= LASTED) {
            self.reasons.clear();
        }
        let news = self.reasons.len() < REASONS_MAX && !self.reasons.iter().any(|r| r == reason);
        if news {
            self.reasons.push(reason.to_owned());
            self.said_up = false;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_until_a_connection_has_lasted() {
        let (mut journal, mut now) = (Journal::default(), Instant::now());
        // no name, then no route, then nobody listens; and the last two in turn, as a router restarts
        let said = ["name", "name", "route", "refused", "route", "refused"]
            .map(|reason| journal.down(now, reason));
        assert_eq!(said, [true, false, true, true, false, false]);
        assert!(journal.up(now));
        now += LASTED;
        assert!(journal.down(now, "refused"));
        assert!(journal.up(now));
    }

    #[test]
    fn a_connection_that_flaps_is_two_lines() {
        let (mut journal, now) = (Journal::default(), Instant::now());
        let lines = (0..100).map(|_| {
            usize::from(journal.up(now)) + usize::from(journal.down(now, "closed by the broker"))
        });
        // that it stands, that it was closed, and that it stands again
        assert_eq!(lines.sum::<usize>(), 3);
    }

    #[test]
    fn reasons_without_end_are_not_said_without_end() {
        let (mut journal, now) = (Journal::default(), Instant::now());
        let said = (0..1000).filter(|n| journal.down(now, &n.to_string()));
        assert_eq!(said.count(), REASONS_MAX);
        assert_eq!(journal.reasons.len(), REASONS_MAX);
    }
}
