//! Named conversations in memory: what was said, and which pages hold it.

pub(super) mod files;
pub(super) mod stored;
pub(super) mod unsaved;
pub(super) mod verbs;
pub(super) mod wear;
pub(super) mod window;

use super::request::{RequestId, SessionBound};
use crate::kv::PageId;
use crate::text::{Message, Role, ToolCall};
use glowplug_firmware_config::limits::{
    SESSION_TEXT_MAX, SESSION_TEXT_PER_CLIENT, SESSIONS_MAX, SESSIONS_PER_CLIENT,
};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

/// The key of a session. A session belongs to one client: the same name of another client is another session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey {
    pub(super) client: Arc<str>,
    pub(super) name: Arc<str>,
}

/// What was said in one conversation, and where its pages are.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) messages: Vec<Message>,
    /// the configuration's text before them in the last turn; a file does not have it
    pub(super) system: Option<Arc<str>>,
    pub(super) turns: usize,
    /// the last of the pages that hold it; all of them are pinned
    pub(super) tip: Option<PageId>,
    /// the request that is its turn now, if there is one
    pub(super) busy: Option<RequestId>,
    /// whether its last answer is to be computed again in idle time, because a thought was cut out of it
    pub(super) stale: bool,
    /// whether its file has all that was said
    pub(super) saved: bool,
    /// whether the pages in its file can be used, as far as is known
    pub(super) paged: bool,
    /// whether its file was not written with the newest key
    pub(super) stale_file: bool,
    /// bytes of text of the request that is its turn now
    asked: usize,
    /// [`Sessions::clock`] when it was last used
    used: u64,
    /// when it was last used, in seconds of the clock of [`super::Engine::expire`]; below 0 before that clock began
    pub(super) seen: i64,
}

impl Session {
    /// A session as it was saved.
    pub(super) fn restored(messages: Vec<Message>, turns: usize) -> Self {
        Self {
            messages,
            turns,
            saved: true,
            paged: true,
            ..Self::default()
        }
    }

    /// Bytes of its text, those that are being asked included.
    pub(super) fn text(&self) -> usize {
        text(&self.messages) + self.asked
    }
}

/// What a request adds to its session when it ends.
pub(super) struct Turn {
    pub(super) session: SessionKey,
    /// the new messages of the request
    pub(super) messages: Vec<Message>,
    /// the answer so far, without the thought
    pub(super) answer: String,
    /// the tools that were called so far
    pub(super) calls: Vec<ToolCall>,
    /// whether tools were offered
    pub(super) offered: bool,
}

/// Bytes that messages cost: each its text and its own size.
pub(super) fn text(messages: &[Message]) -> usize {
    let bytes = |m: &Message| m.bytes() + size_of::<Message>();
    messages.iter().map(bytes).sum()
}

/// The conversations in memory. Their number and their text are bounded for each client and in all: see [`SessionBound`].
#[derive(Debug, Default)]
pub(super) struct Sessions {
    map: BTreeMap<SessionKey, Session>,
    /// bytes of text of all sessions
    text: usize,
    /// counts the uses of all sessions, to order them
    clock: u64,
    /// seconds of the clock of [`super::Engine::expire`]
    now: i64,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Notes that the pages of all sessions are gone.
    pub(super) fn forget_pages(&mut self) {
        self.map.values_mut().for_each(|session| session.tip = None);
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.map.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.map.get_mut(key)
    }

    /// The bound that `text` more bytes in this session would break; a session that is not there would be made.
    pub(super) fn bound(&self, key: &SessionKey, text: usize) -> Option<SessionBound> {
        let new = !self.map.contains_key(key);
        let own = self.of(&key.client).map(|(_, session)| session.text());
        let (count, own) = own.fold((0, 0), |(n, sum), text| (n + 1, sum + text));
        if new && count >= SESSIONS_PER_CLIENT {
            Some(SessionBound::OfClient)
        } else if own + text > SESSION_TEXT_PER_CLIENT {
            Some(SessionBound::TextOfClient)
        } else if new && self.map.len() >= SESSIONS_MAX {
            Some(SessionBound::All)
        } else {
            (self.text + text > SESSION_TEXT_MAX).then_some(SessionBound::TextOfAll)
        }
    }

    /// The session that leaves the memory at a bound to make room for the one that `asks`: an idle one of the same client,
    /// or, where the bound is on all sessions, of another. One that is `kept` elsewhere goes first, then the one that was
    /// used longest ago.
    pub(super) fn leaver(
        &self,
        bound: SessionBound,
        asks: &SessionKey,
        kept: impl Fn(&SessionKey, &Session) -> bool,
    ) -> Option<SessionKey> {
        let first = |of: &mut dyn Iterator<Item = (&SessionKey, &Session)>| {
            let idle = of.filter(|(key, s)| s.busy.is_none() && *key != asks);
            let first = idle.min_by_key(|(key, s)| (!kept(key, s), s.used));
            first.map(|(key, _)| key.clone())
        };
        first(&mut self.of(&asks.client)).or_else(|| {
            let all = matches!(bound, SessionBound::All | SessionBound::TextOfAll);
            all.then(|| first(&mut self.map.iter()))?
        })
    }

    /// The sessions of a client.
    pub(super) fn of(&self, client: &Arc<str>) -> impl Iterator<Item = (&SessionKey, &Session)> {
        let first = SessionKey {
            client: client.clone(),
            name: "".into(),
        };
        let from = self.map.range((Bound::Included(first), Bound::Unbounded));
        from.take_while(move |(key, _)| key.client == *client)
    }

    /// Notes that a session is used now, and makes it if it is not there.
    pub(super) fn open(&mut self, key: &SessionKey) -> &mut Session {
        self.clock += 1;
        let session = self.map.entry(key.clone()).or_default();
        (session.used, session.seen) = (self.clock, self.now);
        session
    }

    /// Makes a request of `asked` bytes the turn of a session, which is busy from now on.
    pub(super) fn begin(&mut self, key: &SessionKey, id: RequestId, asked: usize) -> &mut Session {
        let before = self.map.get(key).map_or(0, |session| session.asked);
        self.text = self.text + asked - before;
        let session = self.open(key);
        (session.busy, session.asked) = (Some(id), asked);
        session
    }

    /// Takes in a session that was read from its file, or that comes from another engine.
    pub(super) fn restore(&mut self, key: SessionKey, session: Session) {
        self.text += session.text();
        self.clock = self.clock.max(session.used);
        self.map.insert(key, session);
    }

    /// Adds what was asked and answered to the conversation. Does nothing if the session is gone.
    pub(super) fn settle(&mut self, turn: Turn, thinks: bool) {
        let Some(session) = self.map.get_mut(&turn.session) else {
            return;
        };
        let before = session.text();
        session.messages.extend(turn.messages);
        session.messages.push(Message {
            tool_calls: turn.calls,
            ..Message::new(Role::Assistant, turn.answer)
        });
        session.turns += 1;
        // the tools that the next turn offers are not known, and they stand before all that was said
        (session.stale, session.saved) = (thinks && !turn.offered, false);
        self.text += session.text() - before;
    }

    /// Takes these messages out of a conversation.
    pub(super) fn cut(&mut self, key: &SessionKey, messages: Range<usize>) {
        if let Some(session) = self.map.get_mut(key) {
            self.text -= text(&session.messages[messages.clone()]);
            session.messages.drain(messages);
            session.saved = false;
        }
    }

    /// Frees the session of a request that has ended.
    pub(super) fn release(&mut self, id: RequestId) {
        if let Some(session) = self.map.values_mut().find(|s| s.busy == Some(id)) {
            session.busy = None;
            self.text -= std::mem::take(&mut session.asked);
        }
    }

    /// Forgets a session. The caller unpins its pages.
    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<Session> {
        let session = self.map.remove(key)?;
        self.text -= session.text();
        Some(session)
    }

    /// The idle session that was used longest ago, of those that are `wanted`.
    pub(super) fn idle(&self, wanted: impl Fn(&Session) -> bool) -> Option<SessionKey> {
        let idle = self
            .map
            .iter()
            .filter(|(_, s)| s.busy.is_none() && wanted(s));
        idle.min_by_key(|(_, s)| s.used).map(|(key, _)| key.clone())
    }

    /// The session whose pages go first: the idle one that was used longest ago, or if none is idle, the one whose waiting
    /// turn came last. The pages of a turn that runs are held by its sequence.
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

    /// The sessions that nobody used in the last `expire` seconds before `now`.
    pub(super) fn expired(&mut self, now: u64, expire: u64) -> Vec<SessionKey> {
        let seconds = |seconds| i64::try_from(seconds).unwrap_or(i64::MAX);
        let (now, expire) = (seconds(now), seconds(expire));
        self.now = now;
        let old = |s: &Session| s.busy.is_none() && now.saturating_sub(s.seen) >= expire;
        let keys = self.map.iter().filter(|(_, s)| old(s));
        keys.map(|(key, _)| key.clone()).collect()
    }

    /// Takes all sessions out, without their pages. Their times count from a clock that begins now.
    pub(super) fn take(&mut self) -> Vec<(SessionKey, Session)> {
        self.text = 0;
        let now = self.now;
        let all = std::mem::take(&mut self.map).into_iter();
        all.map(|(key, session)| {
            let said = Session {
                messages: session.messages,
                turns: session.turns,
                saved: session.saved,
                paged: session.paged,
                stale_file: session.stale_file,
                used: session.used,
                seen: session.seen.saturating_sub(now),
                ..Session::default()
            };
            (key, said)
        })
        .collect()
    }

    /// The keys of all sessions.
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
            messages: vec![Message::new(Role::User, said)],
            answer: answer.to_owned(),
            calls: Vec::new(),
            offered: false,
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
        assert_eq!(sessions.idle(|_| true), Some(keys[1].clone()));
        sessions.get_mut(&keys[1]).unwrap().busy = Some(7);
        assert_eq!(sessions.idle(|_| true), Some(keys[2].clone()));
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

    fn fill(sessions: &mut Sessions, client: &str, n: usize) {
        for i in 0..n {
            let key = key(client, &i.to_string());
            assert_eq!(sessions.bound(&key, 0), None);
            sessions.open(&key);
        }
    }

    #[test]
    fn sessions_are_bounded_for_a_client_and_in_all() {
        let mut sessions = Sessions::default();
        let kept = |_: &SessionKey, _: &Session| true;
        for c in 0..SESSIONS_MAX / SESSIONS_PER_CLIENT {
            fill(&mut sessions, &c.to_string(), SESSIONS_PER_CLIENT);
            let more = key(&c.to_string(), "one more");
            let bound = sessions.bound(&more, 0).unwrap();
            assert_eq!(bound, SessionBound::OfClient);
            // its own, the oldest; one that is nowhere else only after those that are
            let leaver = |kept: &dyn Fn(&SessionKey, &Session) -> bool| {
                sessions.leaver(bound, &more, kept).unwrap()
            };
            assert_eq!(leaver(&kept), key(&c.to_string(), "0"));
            let seven = key(&c.to_string(), "7");
            assert_eq!(leaver(&|key, _| *key == seven), seven);
        }
        let late = key("late", "s");
        let bound = sessions.bound(&late, 0).unwrap();
        assert_eq!(bound, SessionBound::All);
        assert_eq!(sessions.leaver(bound, &late, kept), Some(key("0", "0")));
        assert_eq!(sessions.bound(&key("0", "7"), 0), None);
        sessions.remove(&key("5", "5"));
        assert_eq!(sessions.bound(&late, 0), None);
    }

    #[test]
    fn text_is_bounded_for_a_client_and_in_all_and_never_at_the_cost_of_who_asks() {
        let mut sessions = Sessions::default();
        let kept = |_: &SessionKey, _: &Session| true;
        let says = |sessions: &mut Sessions, key: &SessionKey, bytes: usize| {
            sessions.begin(key, 1, bytes);
            assert_eq!(sessions.bound(key, 0), None);
            sessions.release(1);
            let message = turn(key, &"x".repeat(bytes - 2 * size_of::<Message>()), "");
            sessions.settle(message, false);
        };
        for c in 0..SESSION_TEXT_MAX / SESSION_TEXT_PER_CLIENT {
            let key = key(&c.to_string(), "s");
            says(&mut sessions, &key, SESSION_TEXT_PER_CLIENT);
            let bound = sessions.bound(&key, 1).unwrap();
            assert_eq!(bound, SessionBound::TextOfClient);
            assert_eq!(sessions.leaver(bound, &key, kept), None);
        }
        assert_eq!(sessions.text, SESSION_TEXT_MAX);
        let late = key("late", "s");
        let bound = sessions.bound(&late, 1).unwrap();
        assert_eq!(bound, SessionBound::TextOfAll);
        assert_eq!(sessions.leaver(bound, &late, kept), Some(key("0", "s")));
        sessions.cut(&key("0", "s"), 0..1);
        assert_eq!(sessions.get(&key("0", "s")).unwrap().messages.len(), 1);
        assert_eq!(sessions.bound(&late, 1), None);
        // what is asked counts from its acceptance on
        sessions.begin(&late, 7, 500_000);
        sessions.begin(&late, 8, SESSION_TEXT_PER_CLIENT / 2);
        let others = SESSION_TEXT_MAX - SESSION_TEXT_PER_CLIENT + size_of::<Message>();
        assert_eq!(sessions.text, others + SESSION_TEXT_PER_CLIENT / 2);
        sessions.release(8);
        for c in 0..8 {
            sessions.remove(&key(&c.to_string(), "s"));
        }
        assert_eq!((sessions.text, sessions.len()), (0, 1));
    }
}
