//! Verbs on sessions, from their acceptance to their answer. Each is answered exactly once, as a request is.

use glowplug_model::engine::{RequestId, SessionFault, SessionState};

use super::gate::RETRY_MIN_MS;
use super::{Action, Admission, Phase};
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::ReplyTo;
use crate::wire::session::Call;

/// Verbs on their way, of all clients. Each may write a file between two steps, so few.
pub const VERBS_MAX: usize = 16;
/// And of one client.
const VERBS_PER_CLIENT: usize = 4;

/// One on its way.
pub(super) struct Verb {
    call: Call,
    to: ReplyTo,
}

impl Admission {
    /// A verb came in. `room` is the outbox's.
    pub fn session(&mut self, room: usize, call: Call, to: ReplyTo, out: &mut Vec<Action>) {
        let own = self.verbs.values().filter(|v| v.call.client == call.client);
        let (own, all) = (own.count(), self.verbs.len());
        let waiting = |n| format!("{n} verbs on sessions are on their way, which is the limit");
        let fault = match self.phase {
            Phase::Online if own >= VERBS_PER_CLIENT => {
                Some(Fault::new(Code::RateLimited, waiting(own)).retry_after(RETRY_MIN_MS))
            }
            Phase::Online if all >= VERBS_MAX || room <= self.outstanding() => {
                Some(Fault::new(Code::Overloaded, waiting(all)).retry_after(RETRY_MIN_MS))
            }
            _ => self.closed(),
        };
        if let Some(fault) = fault {
            return self.refuse_session(&call, to, &fault, out);
        }
        let number = self.number();
        out.push(Action::Session(number, call.clone()));
        self.verbs.insert(number, Verb { call, to });
    }

    /// Answers a verb that was never accepted.
    pub fn refuse_session(
        &mut self,
        call: &Call,
        to: ReplyTo,
        fault: &Fault,
        out: &mut Vec<Action>,
    ) {
        self.count_refused(fault.code.name());
        out.push(Action::Publish {
            to,
            frame: call.refused(fault),
            last: false,
        });
    }

    /// The engine has done it, or has not.
    pub fn session_done(
        &mut self,
        number: RequestId,
        result: Result<SessionState, SessionFault>,
        out: &mut Vec<Action>,
    ) {
        let Some(Verb { call, to }) = self.verbs.remove(&number) else {
            return;
        };
        let frame = match result {
            Ok(state) => call.done(&state),
            Err(fault) => {
                let fault = Fault::from(fault);
                self.count_refused(fault.code.name());
                call.refused(&fault)
            }
        };
        out.push(Action::Publish {
            to,
            frame,
            last: true,
        });
    }
}
