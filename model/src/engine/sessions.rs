//! The engine's side of named conversations: whose turn it is, what a client may do to them, and idle work.

use super::memory::Memory;
use super::request::{
    Event, Finish, Refusal, RequestId, SessionFault, SessionState, SessionVerb, Thinking,
};
use super::scheduler::{Job, Priority};
use super::sequence::{Sequence, Turn};
use super::session::{Session, SessionKey};
use super::snapshots::Unsaved;
use super::{Engine, Request};
use crate::kv::Pages;
use glowplug_firmware_config::limits::{PAGE_TOKENS, SESSIONS_MAX};

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
        let session = memory
            .sessions
            .get_mut(&key)
            .ok_or(SessionFault::NotFound)?;
        if session.busy.is_some() {
            return Err(SessionFault::Busy);
        }
        match verb {
            SessionVerb::Save => {
                let snapshots = memory.snapshots.as_mut().ok_or(SessionFault::NoFolder)?;
                snapshots
                    .save(&key, session, &memory.pages, &mut self.model.kv)
                    .map_err(|unsaved| match unsaved {
                        Unsaved::Worn(per_day) => SessionFault::Worn { per_day },
                        Unsaved::File(error) => SessionFault::Failed(error.to_string()),
                    })?;
                Ok(state(session, &memory.pages))
            }
            SessionVerb::Reset | SessionVerb::Drop => {
                memory.forget(&key);
                memory.remove_file(&key);
                if verb == SessionVerb::Reset {
                    memory.sessions.open(&key);
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
        for sequence in self.sequences.values_mut().filter(|s| s.is_own()) {
            if (sequence.turn.as_ref()).is_some_and(|turn| *turn.session.client == *client) {
                sequence.ended = Some(Finish::Cancelled);
            }
        }
        self.finish_ended(sink);
        let owner = self.owner(client);
        let memory = &mut self.memory;
        let mut sessions = memory.sessions.keys();
        sessions.retain(|key| *key.client == *client);
        for key in &sessions {
            memory.forget(key);
        }
        memory.pages.forget_cached(owner);
        if let Some(snapshots) = &memory.snapshots {
            snapshots
                .remove_client(client)
                .map_err(|error| SessionFault::Failed(error.to_string()))?;
        }
        Ok(sessions.len())
    }

    /// The end of an engine that another takes the place of: what was said in its sessions.
    #[must_use]
    pub fn into_conversations(mut self) -> Conversations {
        Conversations(self.memory.sessions.take())
    }

    /// Goes on with the conversations of the engine before, whatever its model was: they are computed again. One that was
    /// saved and is known from its file is that already.
    pub fn adopt(&mut self, before: Conversations) {
        let memory = &mut self.memory;
        for (key, mut session) in before.0 {
            if session.saved && memory.sessions.get(&key).is_some() {
                continue;
            }
            memory.forget(&key);
            session.saved = false;
            if memory.sessions.has_room(&key) {
                memory.sessions.restore(key, session);
            }
        }
    }

    /// Ends the sessions that nobody used for `seconds`; `now` is of the caller's clock, in seconds.
    pub fn expire(&mut self, now: u64, seconds: u64) {
        if let Some(snapshots) = &mut self.memory.snapshots {
            snapshots.at(now);
        }
        for key in self.memory.sessions.expired(now, seconds) {
            self.memory.forget(&key);
            self.memory.remove_file(&key);
        }
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

    /// Is there a place for this session? The longest idle one makes room if it must.
    pub(super) fn room_for(&mut self, key: &SessionKey) -> Result<(), Refusal> {
        while !self.memory.sessions.has_room(key) || self.memory.sessions.overlong() {
            let Some(oldest) = self.memory.sessions.victim(|_| true) else {
                return Err(Refusal::Sessions {
                    limit: SESSIONS_MAX,
                });
            };
            self.memory.unload(&mut self.model.kv, &oldest);
            self.memory.forget(&oldest);
        }
        Ok(())
    }

    /// A request has ended: its session is free again, and has what was answered.
    pub(super) fn settle(&mut self, id: RequestId, turn: Option<Turn>) {
        let sessions = &mut self.memory.sessions;
        sessions.release(id);
        if let Some(turn) = turn {
            sessions.settle(turn, self.info.thinks);
        }
    }

    /// Idle time: the last answer of a session, which was computed after a thought that is no part of the conversation any
    /// more, is computed again without it. False if there is none.
    pub(super) fn tidy(&mut self) -> bool {
        let Some(key) = self.memory.sessions.victim(|session| session.stale) else {
            return false;
        };
        let Some(session) = self.memory.sessions.get_mut(&key) else {
            return false;
        };
        session.stale = false;
        let request = Request {
            client: key.client.clone(),
            session: None,
            priority: Priority::Background,
            messages: session.messages.clone(),
            raw: false,
            sampler: self.info.sampler.clone(),
            thinking: Thinking {
                enabled: true,
                budget: None,
                visible: false,
            },
            max_tokens: 0,
            stop: Vec::new(),
        };
        let Ok(prompt) = self.prompt(&request) else {
            return false;
        };
        let limit = self.info.context;
        if prompt.tokens.len() + 1 > limit
            || prompt.tokens.len().div_ceil(PAGE_TOKENS) > self.memory.pages.total()
        {
            return false;
        }
        let (id, client) = (self.own, self.share(&key.client));
        let owner = self.owner(&key.client);
        self.own -= 1;
        let job = Job {
            id,
            client,
            priority: Priority::Background,
        };
        if self.scheduler.submit(job).is_err() {
            return false;
        }
        let mut sequence = Sequence::new(id, owner, request, prompt, self.info.vocab, limit);
        sequence.turn = Some(Turn {
            session: key,
            messages: Vec::new(),
            answer: String::new(),
        });
        self.sequences.insert(id, sequence);
        true
    }
}

impl Memory {
    /// Forgets a session's file.
    fn remove_file(&mut self, key: &SessionKey) {
        if let Some(snapshots) = &self.snapshots {
            snapshots.remove(key);
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
