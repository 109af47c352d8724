//! The engine's side of named conversations: whose turn it is, what a client may do to them, and idle work.

use super::files::{Snapshots, Unsaved};
use super::{Session, SessionKey};
use crate::engine::memory::Memory;
use crate::engine::prompt::{Preparing, PromptJob};
use crate::engine::request::{
    Event, Finish, Notice, Priority, Refusal, RequestId, SessionBound, SessionFault, SessionState,
    SessionVerb, Thinking,
};
use crate::engine::sequence::{Sequence, Turn};
use crate::engine::{Engine, Request};
use crate::kv::Pages;
use crate::kv::snapshot::SnapshotError;
use std::io;
use std::sync::Arc;

/// What was said in an engine's sessions, for the engine after it.
#[derive(Debug, Default)]
pub struct Conversations(Vec<(SessionKey, Session)>);

impl Engine {
    /// Does something to a client's session, between two steps.
    ///
    /// # Errors
    /// [`SessionFault`]; nothing has changed.
    pub fn session(
        &mut self,
        client: &str,
        session: &str,
        verb: SessionVerb,
    ) -> Result<SessionState, SessionFault> {
        let key = SessionKey {
            client: client.into(),
            name: session.into(),
        };
        let memory = &mut self.memory;
        let here = memory.sessions.get_mut(&key);
        let in_memory = here.is_some();
        if here.as_ref().is_some_and(|session| session.busy.is_some()) {
            return Err(SessionFault::Busy);
        }
        match (verb, here) {
            (SessionVerb::Save, Some(session)) => {
                let snapshots = memory.snapshots.as_mut().ok_or(SessionFault::NoFolder)?;
                // pages that are only in the file stay there
                if session.tip.is_some() || !session.saved || !snapshots.has(&key) {
                    snapshots.save(&key, session, &memory.pages, &mut self.model.kv)?;
                }
                Ok(state(session, &memory.pages))
            }
            // one that is only in its file is what was to be done
            (SessionVerb::Save, None) => {
                let known = memory.snapshots.as_mut().and_then(|s| s.known(&key));
                let session = known.ok_or(SessionFault::NotFound)?;
                Ok(state(&session, &memory.pages))
            }
            (SessionVerb::Reset | SessionVerb::Drop, _) => {
                // the file first: what is still there is not forgotten
                let in_file = memory.remove_file(&key)?;
                if !in_memory && !in_file {
                    return Err(SessionFault::NotFound);
                }
                self.forget_session(&key);
                if verb == SessionVerb::Reset && in_memory {
                    self.memory.sessions.open(&key);
                }
                Ok(SessionState::default())
            }
        }
    }

    /// Forgets a client: its sessions, their files, and what of its text is in pages that nobody holds; where all clients
    /// share them, all such pages go. Its requests are to be ended before ([`Self::end`]); gives how many sessions it had.
    ///
    /// # Errors
    /// [`SessionFault::Failed`]: files could not be removed; all else is forgotten.
    pub fn forget(
        &mut self,
        client: &str,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Result<usize, SessionFault> {
        self.finish_ended(sink);
        let owner = self.owner(client);
        let client: Arc<str> = client.into();
        let sessions = self.memory.sessions.of(&client);
        let sessions: Vec<SessionKey> = sessions.map(|(key, _)| key.clone()).collect();
        for key in &sessions {
            self.forget_session(key);
        }
        self.memory.pages.forget_cached(owner);
        let in_files = match &mut self.memory.snapshots {
            Some(snapshots) => snapshots.remove_client(&client, &sessions)?,
            None => 0,
        };
        Ok(sessions.len() + in_files)
    }

    /// Forgets a session in memory, and the idle work on it, whose end would bring its pages back.
    fn forget_session(&mut self, key: &SessionKey) {
        self.end_tidying(key);
        self.memory.forget(key);
    }

    /// Ends the idle work on a session: it must not end after the session has become another.
    pub(in crate::engine) fn end_tidying(&mut self, key: &SessionKey) {
        self.drop_chores(key);
        let of = |sequence: &&Sequence| {
            let turn = sequence.turn.as_ref().filter(|_| sequence.is_own());
            turn.is_some_and(|turn| turn.session == *key)
        };
        while let Some(id) = self.sequences.values().find(of).map(|sequence| sequence.id) {
            self.finish(id, Finish::Cancelled, &mut |_, _| {});
        }
    }

    /// What an operator should know of the files of sessions, since this was asked last.
    pub fn notices(&mut self) -> Vec<Notice> {
        let snapshots = self.memory.snapshots.as_mut();
        snapshots.map(Snapshots::notices).unwrap_or_default()
    }

    /// The end of an engine that another takes the place of: what was said in its sessions.
    #[must_use]
    pub fn into_conversations(mut self) -> Conversations {
        Conversations(self.memory.sessions.take())
    }

    /// Goes on with the conversations of the engine before, whatever its model was: they are computed again, or found in
    /// their files.
    pub fn adopt(&mut self, before: Conversations) {
        let memory = &mut self.memory;
        for (key, mut session) in before.0 {
            session.saved &= (memory.snapshots.as_ref()).is_some_and(|s| s.has(&key));
            memory.forget(&key);
            if memory.sessions.bound(&key, session.text()).is_none() {
                memory.sessions.restore(key, session);
            }
        }
    }

    /// Ends the sessions that nobody used for `seconds`; `now` is of the caller's clock, in seconds. Those that are only in
    /// files are as old as their files were when the folder was first read, and end a few at a time.
    pub fn expire(&mut self, now: u64, seconds: u64) {
        let expired = self.memory.sessions.expired(now, seconds);
        for key in &expired {
            self.forget_session(key);
        }
        let Memory {
            sessions,
            snapshots: Some(snapshots),
            ..
        } = &mut self.memory
        else {
            return;
        };
        snapshots.at(now);
        for key in &expired {
            // it may be there still: it is as old as this, and tried again
            let _ = snapshots.remove(key);
        }
        snapshots.expire(seconds, &sessions.keys());
    }

    /// Saves every session that has changed, if there is a folder, whatever was written today: it is the end. Gives how many
    /// could not be saved.
    pub fn save_all(&mut self) -> usize {
        let memory = &mut self.memory;
        let Some(snapshots) = &mut memory.snapshots else {
            return 0;
        };
        let mut failed = 0;
        for key in memory.sessions.keys() {
            if let Some(session) = memory.sessions.get_mut(&key)
                && !session.saved
            {
                failed += usize::from(
                    snapshots
                        .save_now(&key, session, &memory.pages, &mut self.model.kv)
                        .is_err(),
                );
            }
        }
        failed
    }

    /// Makes sure that a session is in memory if it is anywhere, and has room for so many more bytes of text. At a bound,
    /// others make room (see `Sessions::leaver`): what was said in them is in their files from then on.
    ///
    /// # Errors
    /// [`Refusal::Sessions`]: who would have to make room has no file, and would be lost.
    pub(in crate::engine) fn room_for(
        &mut self,
        key: &SessionKey,
        text: usize,
    ) -> Result<(), Refusal> {
        let known = match self.memory.sessions.get(key) {
            Some(_) => None,
            None => (self.memory.snapshots.as_mut()).and_then(|snapshots| snapshots.known(key)),
        };
        let text = text + known.as_ref().map_or(0, Session::text);
        while let Some(bound) = self.memory.sessions.bound(key, text) {
            let leaver = self.memory.leaver(bound, key);
            let Some(leaver) = leaver.filter(|leaver| self.memory.shelve(leaver)) else {
                return Err(Refusal::Sessions(bound));
            };
            self.forget_session(&leaver);
        }
        if let Some(session) = known {
            self.memory.sessions.restore(key.clone(), session);
        }
        Ok(())
    }

    /// A request has ended: its session is free again, and has what was answered.
    pub(in crate::engine) fn settle(&mut self, id: RequestId, turn: Option<Turn>) {
        let sessions = &mut self.memory.sessions;
        sessions.release(id);
        if let Some(turn) = turn {
            sessions.settle(turn, self.info.thinks);
        }
    }

    /// Work for when there is nothing else to do: the last answer of a session, which was computed after a thought that is
    /// no part of the conversation any more, is computed again without it. Its prompt is to be prepared and handed to
    /// [`Self::accept`]. None if there is no such work.
    pub fn chore(&mut self) -> Option<PromptJob> {
        let key = self.memory.sessions.victim(|session| session.stale)?;
        let session = self.memory.sessions.get_mut(&key)?;
        session.stale = false;
        let history = session.messages.clone();
        let request = Request {
            priority: Priority::Background,
            thinking: Thinking {
                enabled: true,
                ..Thinking::default()
            },
            ..Request::new(&key.client, Vec::new(), 0)
        };
        let id = self.own;
        self.own -= 1;
        self.preparing.insert(id, Preparing::own(key));
        Some(PromptJob::new(id, request, history))
    }

    /// A [`Self::chore`] that is prepared and accepted at once. False if there is none.
    pub fn tidy(&mut self) -> bool {
        while let Some(job) = self.chore() {
            let id = job.id();
            let prepared = self.prompts.prepare(job);
            if self.accept(prepared).is_ok() && self.sequences.contains_key(&id) {
                return true;
            }
        }
        false
    }
}

impl Memory {
    /// Would nothing of a session be lost if it left the memory?
    fn kept(&self, key: &SessionKey, session: &Session) -> bool {
        let in_file = || self.snapshots.as_ref().is_some_and(|s| s.has(key));
        session.messages.is_empty() || session.saved && in_file()
    }

    fn leaver(&self, bound: SessionBound, asks: &SessionKey) -> Option<SessionKey> {
        let kept = |key: &SessionKey, session: &Session| self.kept(key, session);
        self.sessions.leaver(bound, asks, kept)
    }

    /// Sees to it that what was said in a session is in its file. False: it is not.
    fn shelve(&mut self, key: &SessionKey) -> bool {
        let kept = self.sessions.get(key).is_some_and(|s| self.kept(key, s));
        let (Some(snapshots), Some(session)) = (&mut self.snapshots, self.sessions.get_mut(key))
        else {
            return kept;
        };
        if !kept && snapshots.save_text(key, session).is_err() {
            return false;
        }
        snapshots.shelved(key, session);
        true
    }

    /// Forgets a session's file; gives if there was one.
    fn remove_file(&mut self, key: &SessionKey) -> Result<bool, SessionFault> {
        match &mut self.snapshots {
            Some(snapshots) => Ok(snapshots.remove(key)?),
            None => Ok(false),
        }
    }
}

impl From<Unsaved> for SessionFault {
    fn from(unsaved: Unsaved) -> Self {
        match unsaved {
            Unsaved::Worn(per_day) => Self::Worn { per_day },
            Unsaved::Full | Unsaved::File(SnapshotError::TooLarge { .. }) => Self::Full,
            Unsaved::File(SnapshotError::Io(error)) => error.into(),
            Unsaved::File(error) => Self::Failed(error.to_string()),
        }
    }
}

impl From<io::Error> for SessionFault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full,
            _ => Self::Failed(error.to_string()),
        }
    }
}

fn state(session: &Session, pages: &Pages) -> SessionState {
    let chain = || session.tip.into_iter().flat_map(|tip| pages.chain(tip));
    SessionState {
        tokens: chain().map(|page| pages.tokens(page).len()).sum(),
        pages: chain().count(),
        turns: session.turns,
        saved: session.saved,
    }
}
