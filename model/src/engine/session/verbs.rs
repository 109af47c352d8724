//! What the engine does with named conversations: what a client may do to them, how they make room for each other, and
//! the work on them in idle time.

use super::files::Snapshots;
use super::{Session, SessionKey, Turn};
use crate::engine::memory::Memory;
use crate::engine::prompt::{Preparing, PromptJob};
use crate::engine::request::{
    Event, Finish, Notice, Priority, Refusal, RequestId, SessionBound, SessionFault, SessionState,
    SessionVerb, Thinking,
};
use crate::engine::sequence::Sequence;
use crate::engine::{Engine, Request};
use crate::kv::Pages;
use std::sync::Arc;

/// What was said in an engine's sessions, on its way to the engine that replaces it.
#[derive(Debug, Default)]
pub struct Conversations(Vec<(SessionKey, Session)>);

impl Engine {
    /// Does what a client asks for its session, between two steps.
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
                let kept = session.saved && !session.stale_file && snapshots.has(&key);
                if session.tip.is_some() || !kept {
                    snapshots.save(&key, session, &memory.pages, &self.model.kv)?;
                }
                Ok(state(session, &memory.pages))
            }
            // the session is in its file alone: there is nothing left to do, unless that was written with an older key
            (SessionVerb::Save, None) => {
                let snapshots = memory.snapshots.as_mut().ok_or(SessionFault::NotFound)?;
                let known = snapshots.known(&key).map_err(|why| SessionFault::Closed {
                    session: key.name.clone(),
                    why: why.to_string(),
                })?;
                let mut session = known.ok_or(SessionFault::NotFound)?;
                if session.stale_file {
                    // what cannot be written now stays as it is, and is no less saved
                    let _ = snapshots.save_text(&key, &mut session);
                }
                Ok(state(&session, &memory.pages))
            }
            (SessionVerb::Reset | SessionVerb::Drop, _) => {
                // the file first: if it cannot be removed, the session must not look forgotten
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

    /// Forgets a client: its sessions, their files, and its text in pages that nobody holds. Where all clients share pages,
    /// all such pages go. The caller ends the client's requests before ([`Self::end`]). Gives how many sessions it had.
    ///
    /// # Errors
    /// [`SessionFault::Failed`] if files could not be removed; all else is forgotten.
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
        self.model.kv.states_mut().forget(owner);
        self.forget_said(&client);
        let in_files = match &mut self.memory.snapshots {
            Some(snapshots) => snapshots.remove_client(&client, &sessions)?,
            None => 0,
        };
        Ok(sessions.len() + in_files)
    }

    /// Forgets a session in memory, and first the idle work on it, whose end would bring its pages back.
    fn forget_session(&mut self, key: &SessionKey) {
        self.end_tidying(key);
        self.memory.forget(key);
        self.forget_said(&key.client);
    }

    /// Forgets what drafts for a client are guessed from, because a part of it is to be forgotten.
    fn forget_said(&mut self, client: &str) {
        let owner = self.owner(client);
        if let Some(drafts) = &mut self.drafts {
            drafts.forget_owner(owner);
        }
    }

    /// Ends the idle work on a session, which must not end later, when the session may have become another.
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

    /// What an operator should know of the files of sessions: everything since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        let snapshots = self.memory.snapshots.as_mut();
        snapshots.map(Snapshots::notices).unwrap_or_default()
    }

    /// Ends an engine that another one replaces, and gives what was said in its sessions.
    #[must_use]
    pub fn into_conversations(mut self) -> Conversations {
        Conversations(self.memory.sessions.take())
    }

    /// Goes on with the conversations of the engine before, whatever its model was. Their pages are computed again, or read
    /// from their files.
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

    /// Ends the sessions that nobody used in the last `seconds`; `now` is the time of the caller's clock, in seconds.
    /// Sessions that are only in files are as old as their files were when the folder was first read; they end a few at a
    /// time.
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
            // a file that could not be removed is as old as this one and is tried again
            let _ = snapshots.remove(key);
        }
        snapshots.expire(seconds, &sessions.keys());
    }

    /// Saves every session that has changed, or whose file has not the newest key, if there is a folder. The daily limit of writes does not count, because the
    /// daemon stops. Gives how many sessions could not be saved.
    pub fn save_all(&mut self) -> usize {
        let memory = &mut self.memory;
        let Some(snapshots) = &mut memory.snapshots else {
            return 0;
        };
        let mut failed = 0;
        for key in memory.sessions.keys() {
            if let Some(session) = memory.sessions.get_mut(&key)
                && (!session.saved || session.stale_file)
            {
                failed += usize::from(
                    snapshots
                        .save_now(&key, session, &memory.pages, &self.model.kv)
                        .is_err(),
                );
            }
        }
        failed
    }

    /// Brings a session into memory if it has a file, and makes room for `text` more bytes in it. At a bound other sessions
    /// leave the memory (see `Sessions::leaver`); they are in their files from then on.
    ///
    /// # Errors
    /// [`Refusal::Sessions`] if the session that would have to leave has no file and would be lost, and [`Refusal::Closed`]
    /// if the session's own file does not open.
    pub(in crate::engine) fn room_for(
        &mut self,
        key: &SessionKey,
        text: usize,
    ) -> Result<(), Refusal> {
        let known = match self.memory.sessions.get(key) {
            Some(_) => None,
            None => match &mut self.memory.snapshots {
                Some(snapshots) => snapshots.known(key).map_err(|why| Refusal::Closed {
                    session: key.name.clone(),
                    why: why.to_string(),
                })?,
                None => None,
            },
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

    /// Frees the session of a request that has ended, and adds the turn that was answered.
    pub(in crate::engine) fn settle(&mut self, id: RequestId, turn: Option<Turn>) {
        let sessions = &mut self.memory.sessions;
        sessions.release(id);
        if let Some(turn) = turn {
            sessions.settle(turn, self.info.thinks);
        }
    }

    /// Gives work for when there is nothing else to do. The last answer of a session was computed after a thought that is no
    /// part of the conversation any more; it is computed again without the thought, so that the next turn finds its pages.
    /// The caller prepares the prompt and hands it to [`Self::accept`]. Gives none if there is no such work.
    pub fn chore(&mut self) -> Option<PromptJob> {
        let key = self.memory.sessions.idle(|session| session.stale)?;
        let session = self.memory.sessions.get_mut(&key)?;
        session.stale = false;
        let (history, system) = (session.messages.clone(), session.system.clone());
        let request = Request {
            system,
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

    /// Prepares and accepts a [`Self::chore`] at once. Gives false if there is none.
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
    /// Whether nothing of a session would be lost if it left the memory.
    fn kept(&self, key: &SessionKey, session: &Session) -> bool {
        let in_file = || self.snapshots.as_ref().is_some_and(|s| s.has(key));
        session.messages.is_empty() || session.saved && in_file()
    }

    fn leaver(&self, bound: SessionBound, asks: &SessionKey) -> Option<SessionKey> {
        let kept = |key: &SessionKey, session: &Session| self.kept(key, session);
        self.sessions.leaver(bound, asks, kept)
    }

    /// Sees to it that what was said in a session is in its file. Gives false if it is not.
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

    /// Removes a session's file. Gives whether there was one.
    fn remove_file(&mut self, key: &SessionKey) -> Result<bool, SessionFault> {
        match &mut self.snapshots {
            Some(snapshots) => Ok(snapshots.remove(key)?),
            None => Ok(false),
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
