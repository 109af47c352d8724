//! Which sessions the embedded broker keeps: those of connected clients, and those of a number of clients that are
//! away.

use std::collections::HashMap;
use std::time::Instant;

/// Most sessions at a time, of clients that are connected or away.
pub(in crate::mqtt) const SESSIONS_MAX: usize = 64;

#[derive(Debug)]
struct Session {
    /// More than one only while a connection takes the place of another.
    connections: usize,
    /// Whether the session outlives its connections.
    keeps: bool,
    left: Instant,
}

/// The sessions by their clients' identifiers.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Sessions(HashMap<String, Session>);

impl Sessions {
    /// A client connects. Returns the identifier of the client that is away longest, if its session has to be forgotten
    /// for this one.
    pub(in crate::mqtt) fn arrive(
        &mut self,
        id: &str,
        keeps: bool,
        now: Instant,
    ) -> Option<String> {
        let session = self.0.entry(id.to_owned()).or_insert(Session {
            connections: 0,
            keeps,
            left: now,
        });
        session.connections += 1;
        session.keeps = keeps;
        if self.0.len() <= SESSIONS_MAX {
            return None;
        }
        let away = self.0.iter().filter(|(_, one)| one.connections == 0);
        let longest = away.min_by_key(|(_, one)| one.left)?.0.clone();
        self.0.remove(&longest);
        Some(longest)
    }

    /// One of the client's connections ended.
    pub(in crate::mqtt) fn leave(&mut self, id: &str, now: Instant) {
        if let Some(session) = self.0.get_mut(id) {
            session.connections = session.connections.saturating_sub(1);
            session.left = now;
            if session.connections == 0 && !session.keeps {
                self.0.remove(id);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_was_away_longest_gives_way_and_nobody_who_is_there() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut sessions = Sessions::default();
        let most = u64::try_from(SESSIONS_MAX).unwrap();
        for n in 0..most {
            assert_eq!(sessions.arrive(&n.to_string(), true, at(n)), None);
        }
        // 5 goes, then 3; 4 is taken over, so that its first connection's end is not its own
        sessions.leave("5", at(100));
        sessions.leave("3", at(101));
        sessions.arrive("4", true, at(102));
        sessions.leave("4", at(103));
        assert_eq!(sessions.arrive("new", true, at(104)).unwrap(), "5");
        // who comes back takes nobody's place
        assert_eq!(sessions.arrive("3", true, at(105)), None);
        sessions.leave("3", at(106));
        assert_eq!(sessions.arrive("5", true, at(107)).unwrap(), "3");
        // all are there
        assert_eq!(sessions.arrive("more", false, at(108)), None);
        // without a session that stays, leaving is the end
        sessions.leave("more", at(109));
        assert_eq!(sessions.0.len(), SESSIONS_MAX);
        for n in 0..10_000 {
            let id = format!("other {n}");
            sessions.arrive(&id, true, at(110 + n));
            sessions.leave(&id, at(110 + n));
        }
        assert!(sessions.0.len() <= SESSIONS_MAX + 1);
        assert!(sessions.0.contains_key("4"));
    }
}
