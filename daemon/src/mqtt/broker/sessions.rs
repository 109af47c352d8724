//! Which sessions the embedded broker keeps: those of connected clients, and those of a number of clients that are
//! away.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use super::guard::owner;

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
    /// A client connects. Returns the identifier of a client that is away, if its session has to be forgotten for this one:
    /// of the user that has most sessions the one that is away longest.
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
        let mut of = HashMap::<&str, usize>::new();
        for id in self.0.keys() {
            *of.entry(owner(id)).or_default() += 1;
        }
        let away = self.0.iter().filter(|(_, one)| one.connections == 0);
        let longest = away.max_by_key(|(id, one)| (of.get(owner(id)), Reverse(one.left)));
        let longest = longest?.0.clone();
        self.0.remove(&longest);
        Some(longest)
    }

    /// How many connections the user of this client has, besides those of this client.
    pub(in crate::mqtt) fn connected_besides(&self, id: &str) -> usize {
        let own = |other: &str| owner(other) == owner(id) && other != id;
        let own = self.0.iter().filter(|(other, _)| own(other));
        own.map(|(_, one)| one.connections).sum()
    }

    /// Forgets the sessions of a further user's clients that are away, and gives their identifiers.
    pub(in crate::mqtt) fn forget_user(&mut self, name: &str) -> Vec<String> {
        let gone = |id: &String, one: &mut Session| owner(id) == name && one.connections == 0;
        self.0.extract_if(gone).map(|(id, _)| id).collect()
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
    fn the_user_that_has_most_sessions_gives_way() {
        let begin = Instant::now();
        let mut sessions = Sessions::default();
        let own = |name: &str, n: usize| format!("{name}\u{e000}{n}");
        // of a little and the owner's one first, then one that takes all it gets
        let few = [own("a", 0), own("a", 1), "local".to_owned()];
        for id in &few {
            sessions.arrive(id, true, begin);
            sessions.leave(id, begin);
        }
        for n in 0..1000 {
            let later = begin + Duration::from_secs(1 + n as u64);
            let forgotten = sessions.arrive(&own("b", n), true, later);
            assert!(forgotten.is_none_or(|id| owner(&id) == "b"), "{n}");
            sessions.leave(&own("b", n), later);
        }
        assert_eq!(sessions.0.len(), SESSIONS_MAX);
        sessions.arrive(&few[0], true, begin);
        sessions.arrive(&own("b", 999), true, begin);
        assert_eq!(sessions.connected_besides(&few[1]), 1);
        assert_eq!(sessions.connected_besides(&few[0]), 0);
        // who is there is not forgotten, and nobody else's session is
        assert_eq!(sessions.forget_user("a"), [few[1].clone()]);
        assert_eq!(sessions.forget_user("b").len(), SESSIONS_MAX - 4);
        assert_eq!(sessions.0.len(), 3);
    }

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
