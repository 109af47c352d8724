//! The verbs on a session: their names in topics, and their answers.

use std::sync::Arc;

use bytes::Bytes;
use glowplug_model::engine::{SessionState, SessionVerb};
use serde::Serialize;

use super::chat::reply::{ErrorBody, encode};
use super::fault::Fault;

/// A verb, and the session that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub client: Arc<str>,
    pub session: Arc<str>,
    pub verb: SessionVerb,
}

/// The verb of this name in a topic.
#[must_use]
pub fn verb(name: &str) -> Option<SessionVerb> {
    match name {
        "reset" => Some(SessionVerb::Reset),
        "save" => Some(SessionVerb::Save),
        "drop" => Some(SessionVerb::Drop),
        _ => None,
    }
}

impl Call {
    /// The verb's name in a topic.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.verb {
            SessionVerb::Reset => "reset",
            SessionVerb::Save => "save",
            SessionVerb::Drop => "drop",
        }
    }

    fn envelope(&self) -> Envelope<'_> {
        Envelope {
            client: &self.client,
            session: &self.session,
            verb: self.name(),
        }
    }

    /// Encodes the answer to a verb that was done.
    #[must_use]
    pub fn done(&self, state: &SessionState) -> Bytes {
        encode(&Done {
            envelope: self.envelope(),
            ok: true,
            tokens: state.tokens,
            pages: state.pages,
            turns: state.turns,
            saved: state.saved,
        })
    }

    /// Encodes the answer to a verb that was refused or has failed.
    #[must_use]
    pub fn refused(&self, fault: &Fault) -> Bytes {
        encode(&Refused {
            envelope: self.envelope(),
            error: ErrorBody::of(fault),
        })
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    client: &'a str,
    session: &'a str,
    verb: &'static str,
}

#[derive(Serialize)]
struct Done<'a> {
    #[serde(flatten)]
    envelope: Envelope<'a>,
    ok: bool,
    tokens: usize,
    pages: usize,
    turns: usize,
    saved: bool,
}

#[derive(Serialize)]
struct Refused<'a> {
    #[serde(flatten)]
    envelope: Envelope<'a>,
    error: ErrorBody<'a>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::wire::fault::Code;
    use glowplug_tests::world::contract::CONTRACT;
    use serde_json::{Value, json};

    #[test]
    fn every_verb_has_its_name_and_its_answers() {
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for name in ["reset", "save", "drop"] {
            let call = Call {
                client: "c".into(),
                session: "s".into(),
                verb: verb(name).unwrap(),
            };
            let state = SessionState {
                tokens: 70,
                pages: 3,
                turns: 2,
                saved: true,
            };
            let value = |frame: Bytes| serde_json::from_slice::<Value>(&frame).unwrap();
            assert_eq!(
                value(call.done(&state)),
                json!({"client": "c", "session": "s", "verb": name, "ok": true,
                    "tokens": 70, "pages": 3, "turns": 2, "saved": true})
            );
            assert_eq!(
                value(call.refused(&Fault::new(Code::NotFound, "no"))),
                json!({"client": "c", "session": "s", "verb": name,
                    "error": {"code": "not_found", "message": "no"}})
            );
            done.push(value(call.done(&state)));
            refused.extend(Code::ALL.map(|code| {
                let param = Some("id".to_owned());
                let fault = Fault::new(code, "no").retry_after(7);
                value(call.refused(&Fault { param, ..fault }))
            }));
        }
        CONTRACT.wrote("SessionDone", &done);
        CONTRACT.wrote("SessionRefused", &refused);
        assert_eq!(verb("load"), None);
    }
}
