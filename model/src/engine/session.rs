//! Named conversations: what was said, and which pages hold it.

use super::request::RequestId;
use super::sequence::Turn;
use crate::kv::PageId;
use crate::text::{Message, Role};
use glowplug_firmware_config::limits::{SESSION_TEXT_MAX, SESSIONS_MAX};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A session belongs to one client: the same name of another client is another session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    pub(super) client: Arc<str>,
    pub(super) name: Arc<str>,
}

/// One conversation.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) messages: Vec<Message>,
    pub(super) turns: usize,
    /// the last of the pages that hold it; they are pinned
    pub(super) tip: Option<PageId>,
    /// the request that is its turn now
    pub(super) busy: Option<RequestId>,
    /// a thought was cut out of it: its last answer is to be computed again, in idle time
    pub(super) stale: bool,
    /// the snapshot in the folder is what it is now
    pub(super) saved: bool,
    /// of [`Sessions::clock`]
    used: u64,
    /// seconds, of whoever calls [`super::Engine::expire`]
    seen: u64,
}

impl Session {
    /// One that was saved.
    pub(super) fn restored(messages: Vec<Message>, turns: usize) -> Self {
        Self {
            messages,
            turns,
            saved: true,
            ..Self::default()
        }
    }

    fn text(&self) -> usize {
        text(&self.messages)
    }
}

fn text(messages: &[Message]) -> usize {
    // a message costs its text and itself
    let bytes = |m: &Message| m.content.len() + size_of::<Message>();
    messages.iter().map(bytes).sum()
}

/// All conversations: at most [`SESSIONS_MAX`] of them, and [`SESSION_TEXT_MAX`] bytes of text in all.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    map: BTreeMap<SessionKey, Session>,
    text: usize,
    /// counts uses
    clock: u64,
    now: u64,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.map.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.map.get_mut(key)
    }

    /// May a session of this key be begun? At the bound, the longest idle one has to go first: see [`Self::victim`].
    pub(super) fn has_room(&self, key: &SessionKey) -> bool {
        self.map.contains_key(key) || self.map.len() < SESSIONS_MAX
    }

    /// Takes note of a use; makes the session if it is not there.
    pub(super) fn open(&mut self, key: &SessionKey) -> &mut Session {
        self.clock += 1;
        let session = self.map.entry(key.clone()).or_default();
        (session.used, session.seen) = (self.clock, self.now);
        session
    }

    /// A session read from its file, or of another engine.
    pub(super) fn restore(&mut self, key: SessionKey, session: Session) {
        self.text += session.text();
        self.clock = self.clock.max(session.used);
        self.map.insert(key, session);
    }

    /// What was asked and answered becomes part of the conversation. Nothing if the session is gone.
    pub(super) fn settle(&mut self, turn: Turn, thinks: bool) {
        let Some(session) = self.map.get_mut(&turn.session) else {
            return;
        };
        let before = session.text();
        session.messages.extend(turn.messages);
        session.messages.push(Message {
            role: Role::Assistant,
            content: turn.answer,
        });
        session.turns += 1;
        (session.stale, session.saved) = (thinks, false);
        self.text += session.text() - before;
    }

    /// Takes messages out of a conversation.
    pub(super) fn cut(&mut self, key: &SessionKey, messages: Range<usize>) {
        if let Some(session) = self.map.get_mut(key) {
            self.text -= text(&session.messages[messages.clone()]);
            session.messages.drain(messages);
            session.saved = false;
        }
    }

    /// A request has ended.
    pub(super) fn release(&mut self, id: RequestId) {
        if let Some(session) = self.map.values_mut().find(|s| s.busy == Some(id)) {
            session.busy = None;
        }
    }

    /// Forgets a session; its pages are to be unpinned.
    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<Session> {
        let session = self.map.remove(key)?;
        self.text -= session.text();
        Some(session)
    }

    /// Is there more text than may be?
    pub(super) fn overlong(&self) -> bool {
        self.text > SESSION_TEXT_MAX
    }

    /// The idle session that was used longest ago, of those that `also` names.
    pub(super) fn victim(&self, also: impl Fn(&Session) -> bool) -> Option<SessionKey> {
        let idle = self.map.iter().filter(|(_, s)| s.busy.is_none() && also(s));
        idle.min_by_key(|(_, s)| s.used).map(|(key, _)| key.clone())
    }

    /// The session whose pages go first: of the idle ones the one used longest ago, else of those whose turn waits the
    /// one that came last. Where a turn runs, its sequence holds the pages.
    pub(super) fn holder(&self) -> Option<SessionKey> {
        let holders = self.map.iter().filter(|(_, s)| s.tip.is_some());
        let order = |s: &Session| match s.busy {
            None => (false, s.used),
            Some(_) => (true, u64::MAX - s.used),
        };
        holders
            .min_by_key(|(_, s)| order(s))
            .map(|(key, _)| key.clone())
    }

    /// The sessions that nobody used for `expire` seconds before `now`.
    pub(super) fn expired(&mut self, now: u64, expire: u64) -> Vec<SessionKey> {
        self.now = now;
        let old = |s: &Session| s.busy.is_none() && now.saturating_sub(s.seen) >= expire;
        let keys = self.map.iter().filter(|(_, s)| old(s));
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// Takes what was said out of all of them; the pages stay behind.
    pub(super) fn take(&mut self) -> Vec<(SessionKey, Session)> {
        self.text = 0;
        let all = std::mem::take(&mut self.map).into_iter();
        all.map(|(key, session)| {
            let said = Session {
                messages: session.messages,
                turns: session.turns,
                saved: session.saved,
                used: session.used,
                ..Session::default()
            };
            (key, said)
        })
        .collect()
    }

    /// All of them.
    pub(super) fn keys(&self) -> Vec<SessionKey> {
        self.map.keys().cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn key(client: &str, name: &str) -> SessionKey {
        SessionKey {
            client: client.into(),
            name: name.into(),
        }
    }

    fn turn(key: &SessionKey, said: &str, answer: &str) -> Turn {
        Turn {
            session: key.clone(),
            messages: vec![Message {
                role: Role::User,
                content: said.to_owned(),
            }],
            answer: answer.to_owned(),
        }
    }

    #[test]
    fn what_was_said_is_kept_apart_by_client_and_counted() {
        let mut sessions = Sessions::default();
        let (a, b) = (key("a", "s"), key("b", "s"));
        for k in [&a, &b] {
            sessions.open(k);
        }
        sessions.settle(turn(&a, "canary", "yes"), false);
        assert_eq!(sessions.get(&a).unwrap().messages.len(), 2);
        assert!(sessions.get(&b).unwrap().messages.is_empty());
        assert!(sessions.text > "canaryyes".len());
        // gone: nothing is added, nothing is made
        sessions.remove(&a).unwrap();
        sessions.settle(turn(&a, "canary", "yes"), false);
        assert!(sessions.get(&a).is_none() && sessions.text == 0);
    }

    #[test]
    fn the_longest_idle_goes_first_and_a_busy_one_never() {
        let mut sessions = Sessions::default();
        let keys = ["1", "2", "3"].map(|n| key("c", n));
        for k in &keys {
            sessions.open(k);
        }
        sessions.open(&keys[0]);
        assert_eq!(sessions.victim(|_| true), Some(keys[1].clone()));
        sessions.get_mut(&keys[1]).unwrap().busy = Some(7);
        assert_eq!(sessions.victim(|_| true), Some(keys[2].clone()));
        assert_eq!(sessions.expired(10, 11), []);
        sessions.open(&keys[2]);
        assert_eq!(sessions.expired(15, 10), [keys[0].clone()]);
    }

    #[test]
    fn who_waits_gives_its_pages_after_the_idle_and_the_oldest_turn_last() {
        let mut sessions = Sessions::default();
        let keys = ["1", "2", "3", "4", "5"].map(|n| key("c", n));
        for (i, k) in keys.iter().enumerate() {
            sessions.open(k).tip = (i != 4).then_some(0);
        }
        for (id, at) in [(10, 2), (11, 0)] {
            sessions.open(&keys[at]).busy = Some(id);
        }
        for at in [1, 3, 0, 2] {
            assert_eq!(sessions.holder(), Some(keys[at].clone()));
            sessions.get_mut(&keys[at]).unwrap().tip = None;
        }
        assert_eq!(sessions.holder(), None);
    }

    #[test]
    fn sessions_and_their_text_are_bounded() {
        let mut sessions = Sessions::default();
        for i in 0..SESSIONS_MAX {
            assert!(sessions.has_room(&key("c", &i.to_string())));
            sessions.open(&key("c", &i.to_string()));
        }
        assert!(!sessions.has_room(&key("c", "one more")) && sessions.has_room(&key("c", "7")));
        sessions.settle(
            turn(&key("c", "7"), &"x".repeat(SESSION_TEXT_MAX), ""),
            false,
        );
        assert!(sessions.overlong());
        sessions.cut(&key("c", "7"), 1..2);
        assert_eq!(sessions.get(&key("c", "7")).unwrap().messages.len(), 1);
        assert!(sessions.overlong());
        sessions.remove(&key("c", "7"));
        assert!(!sessions.overlong() && sessions.text == 0);
    }
}
