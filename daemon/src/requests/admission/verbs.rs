//! Verbs that the engine does between two steps, from their acceptance to their answer: verbs on sessions, and the
//! forgetting of a client. Like a request, each is answered exactly once.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use glowplug_model::engine::{RequestId, SessionFault, SessionState, SessionVerb};
use serde_json::json;

use super::gate::RETRY_MIN_MS;
use super::{Action, Admission, Live, Phase};
use crate::inference::messages::{Command, VERBS_MAX};
use crate::mqtt::Lane;
use crate::wire::admin::Asker;
use crate::wire::chat::request::Cancel;
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::ReplyTo;
use crate::wire::session::Call;

/// Verbs of one client that the engine has not answered yet.
const VERBS_PER_CLIENT: usize = 4;

/// A verb that the engine has not answered yet.
pub(super) enum Verb {
    /// A verb on a session, and where it is answered.
    Session(Call, ReplyTo),
    /// A client that should be forgotten.
    Forget(Arc<str>, Asker),
}

impl Verb {
    fn client(&self) -> &Arc<str> {
        match self {
            Self::Session(call, _) => &call.client,
            Self::Forget(client, _) => client,
        }
    }
}

impl Admission {
    /// A verb on a session came in. `room` is how many last frames the outbox can take.
    pub fn session(&mut self, room: usize, call: Call, to: ReplyTo, out: &mut Vec<Action>) {
        if let Some(fault) = self.too_many_verbs(room, &call.client) {
            return self.refuse_verb(to, fault.code, call.refused(&fault), out);
        }
        // the engine does not know of a request that waits for tools, whose calls would be answered to nobody
        let waits = |live: &Live| {
            live.is_waiting()
                && live.client == call.client
                && live.session.as_ref() == Some(&call.session)
        };
        if call.verb != SessionVerb::Save && self.live.values().any(waits) {
            let fault = Fault::from(SessionFault::Busy);
            return self.refuse_verb(to, fault.code, call.refused(&fault), out);
        }
        if call.verb != SessionVerb::Save {
            self.kept.settle(&call.client, Some(&call.session));
        }
        let number = self.number();
        out.push(Action::Engine(Command::Session(number, call.clone())));
        self.verbs.insert(number, Verb::Session(call, to));
    }

    /// A client should be forgotten: its requests end, then the engine forgets what it holds of it.
    pub fn forget(
        &mut self,
        now: Instant,
        room: usize,
        client: String,
        asker: Asker,
        out: &mut Vec<Action>,
    ) {
        let client: Arc<str> = client.into();
        if let Some(fault) = self.too_many_verbs(room, &client) {
            let frame = asker.refused(&fault);
            return self.refuse_verb(asker.to, fault.code, frame, out);
        }
        self.cancel(now, &client, &Cancel::All, out);
        self.kept.forget(&client);
        let number = self.number();
        out.push(Action::Engine(Command::Forget(number, client.clone())));
        self.verbs.insert(number, Verb::Forget(client, asker));
    }

    fn too_many_verbs(&self, room: usize, client: &Arc<str>) -> Option<Fault> {
        let own = self.verbs.values().filter(|verb| verb.client() == client);
        let (own, all) = (own.count(), self.verbs.len());
        let waiting = |n| format!("{n} verbs are on their way, which is the limit");
        match self.phase {
            Phase::Online if self.held.is_some() => Some(
                Fault::new(Code::ModelLoading, "the model is being changed")
                    .retry_after(RETRY_MIN_MS),
            ),
            Phase::Online if own >= VERBS_PER_CLIENT => {
                Some(Fault::new(Code::RateLimited, waiting(own)).retry_after(RETRY_MIN_MS))
            }
            Phase::Online if all >= VERBS_MAX || room <= self.outstanding() => {
                Some(Fault::new(Code::Overloaded, waiting(all)).retry_after(RETRY_MIN_MS))
            }
            _ => self.closed(),
        }
    }

    /// Answers a verb that was never accepted, on a session or an administrator's.
    pub fn refuse_verb(&mut self, to: ReplyTo, code: Code, frame: Bytes, out: &mut Vec<Action>) {
        self.count_refused(code.name());
        out.push(Action::Publish {
            to,
            frame,
            lane: Lane::Refusal,
        });
    }

    /// The engine has done a verb on a session, or has failed to.
    pub fn session_done(
        &mut self,
        number: RequestId,
        result: Result<SessionState, SessionFault>,
        out: &mut Vec<Action>,
    ) {
        let Some(Verb::Session(call, to)) = self.verbs.remove(&number) else {
            return;
        };
        let frame = match result {
            Ok(state) => call.done(&state),
            Err(fault) => call.refused(&self.failed(fault)),
        };
        out.push(Action::Publish {
            to,
            frame,
            lane: Lane::Last,
        });
    }

    /// The engine has forgotten so many sessions of a client and everything else of it, or has failed to.
    pub fn forgotten(
        &mut self,
        number: RequestId,
        result: Result<usize, SessionFault>,
        out: &mut Vec<Action>,
    ) {
        let Some(Verb::Forget(client, asker)) = self.verbs.remove(&number) else {
            return;
        };
        self.done.forget(&client);
        let frame = match result {
            Ok(sessions) => asker.done(&json!({"client": &*client, "sessions": sessions})),
            Err(fault) => asker.refused(&self.failed(fault)),
        };
        out.push(Action::Publish {
            to: asker.to,
            frame,
            lane: Lane::Last,
        });
    }

    /// Answers all verbs, because the engine will do none of them any more.
    pub(super) fn abandon_verbs(&mut self, out: &mut Vec<Action>) {
        while let Some((&number, verb)) = self.verbs.first_key_value() {
            let gone = SessionFault::Failed("the engine is gone".to_owned());
            match verb {
                Verb::Session(..) => self.session_done(number, Err(gone), out),
                Verb::Forget(..) => self.forgotten(number, Err(gone), out),
            }
        }
    }

    fn failed(&mut self, fault: SessionFault) -> Fault {
        let fault = Fault::from(fault);
        self.count_refused(fault.code.name());
        fault
    }
}
