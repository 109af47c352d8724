//! What requests with tools leave for those that follow: calls that a client may confirm, and results that its session has
//! not got yet. Both are bounded, and the oldest goes first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use glowplug_firmware_config::limits::TOOL_CALLS_MAX;
use glowplug_model::text::{Message, Role, ToolCall};
use serde_json::{Value, json};

/// How long a call can be confirmed.
const CONFIRM_WITHIN: Duration = Duration::from_secs(300);
/// Most calls of all clients that wait to be confirmed, and of one.
const CONFIRM_MAX: usize = 256;
const CONFIRM_PER_CLIENT: usize = TOOL_CALLS_MAX;
/// Longest call that can be confirmed, in bytes.
const CALL_BYTES: usize = 4096;
/// Most sessions whose results are kept, and their bytes together.
const OWED_MAX: usize = 64;
const OWED_BYTES: usize = 256 << 10;

/// Bytes that all of it takes at most.
pub const BYTES_MAX: usize = OWED_BYTES + CONFIRM_MAX * CALL_BYTES;

#[derive(Debug)]
struct Owed {
    client: Arc<str>,
    session: Arc<str>,
    results: Vec<Message>,
}

/// A call that its client was asked to confirm.
#[derive(Debug)]
struct Asked {
    at: Instant,
    client: Arc<str>,
    call: ToolCall,
    /// It was not confirmed yet.
    open: bool,
}

/// Calls to be confirmed, and results of sessions.
#[derive(Debug, Default)]
pub(super) struct Kept {
    calls: VecDeque<Asked>,
    owed: VecDeque<Owed>,
}

impl Kept {
    /// A call was left to a client to confirm. One with long arguments is not kept: it cannot be confirmed.
    pub(super) fn ask(&mut self, now: Instant, client: &Arc<str>, call: &ToolCall) {
        if call.bytes() > CALL_BYTES {
            return;
        }
        let own = |of: &Asked| of.client == *client;
        if self.calls.iter().filter(|of| own(of)).count() >= CONFIRM_PER_CLIENT
            && let Some(oldest) = self.calls.iter().position(own)
        {
            self.calls.remove(oldest);
        } else if self.calls.len() >= CONFIRM_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(Asked {
            at: now,
            client: client.clone(),
            call: call.clone(),
            open: true,
        });
    }

    /// Takes the calls that these messages confirm: each is a result of such a call, and says `confirmed`, or that as JSON. A
    /// call is confirmed once, and in time; a message that confirms one again or too late becomes a result that says so, and
    /// so does one of a call that is not known any more. `asks` tells of a tool's name whether its calls are confirmed.
    pub(super) fn confirmed(
        &mut self,
        now: Instant,
        client: &Arc<str>,
        messages: &mut [Message],
        asks: impl Fn(&str) -> bool,
    ) -> Vec<ToolCall> {
        let end = messages.iter().rposition(|m| m.role != Role::Tool);
        let (before, results) = messages.split_at_mut(end.map_or(0, |at| at + 1));
        let mut confirmed = Vec::new();
        for message in results.iter_mut().filter(|message| confirms(message)) {
            let id = message.tool_call_id.as_deref();
            let own = |of: &&mut Asked| of.client == *client && Some(of.call.id.as_str()) == id;
            let known = self.calls.iter_mut().find(own);
            let called = before.last().map_or(&[][..], |last| &last.tool_calls);
            let named = called.iter().find(|call| Some(call.id.as_str()) == id);
            match known {
                Some(of) if of.open && now.saturating_duration_since(of.at) <= CONFIRM_WITHIN => {
                    of.open = false;
                    confirmed.push(of.call.clone());
                }
                // what another tool says is its own business
                None if !named.is_some_and(|call| asks(&call.name)) => {}
                _ => "error: not done: no such call waits to be confirmed"
                    .clone_into(&mut message.content),
            }
        }
        confirmed
    }

    /// A session's turn ended with calls of the client's and of the daemon's: these are the results of the latter.
    pub(super) fn owe(&mut self, client: &Arc<str>, session: &Arc<str>, results: Vec<Message>) {
        self.settle(client, Some(session));
        self.owed.push_back(Owed {
            client: client.clone(),
            session: session.clone(),
            results,
        });
        let bytes = |owed: &Owed| owed.results.iter().map(Message::bytes).sum::<usize>();
        while self.owed.len() > OWED_MAX || self.owed.iter().map(bytes).sum::<usize>() > OWED_BYTES
        {
            self.owed.pop_front();
        }
    }

    /// The results that a session has not got yet.
    pub(super) fn owed(&self, client: &str, session: Option<&Arc<str>>) -> Vec<Message> {
        let of = self
            .owed
            .iter()
            .find(|o| *o.client == *client && Some(&o.session) == session);
        of.map_or_else(Vec::new, |of| of.results.clone())
    }

    /// A session has its results, or has forgotten what they answer; without a name, all of a client.
    pub(super) fn settle(&mut self, client: &str, session: Option<&Arc<str>>) {
        self.owed
            .retain(|o| !(*o.client == *client && session.is_none_or(|name| *name == o.session)));
    }

    /// Forgets everything of a client.
    pub(super) fn forget(&mut self, client: &str) {
        self.calls.retain(|of| *of.client != *client);
        self.settle(client, None);
    }
}

/// Whether a result says that a call is confirmed.
fn confirms(message: &Message) -> bool {
    let said = message.content.trim();
    let json =
        || serde_json::from_str::<Value>(said).is_ok_and(|v| v == json!({"confirmed": true}));
    said == "confirmed" || said.contains("confirmed") && json()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str) -> ToolCall {
        ToolCall {
            id: id.to_owned(),
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
        }
    }

    fn result(id: &str, content: &str) -> Message {
        Message {
            tool_call_id: Some(id.to_owned()),
            ..Message::new(Role::Tool, content)
        }
    }

    fn ids(calls: &[ToolCall]) -> Vec<&str> {
        calls.iter().map(|call| call.id.as_str()).collect()
    }

    #[test]
    fn a_call_is_confirmed_once_by_its_client_and_in_time() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        for id in ["1", "2", "3"] {
            kept.ask(now, &a, &call(id));
        }
        const NO: &str = "error: not done: no such call waits to be confirmed";
        let yes = r#" {"confirmed": true} "#;
        let mut messages = [
            result("0", yes),
            Message::user("x"),
            result("1", yes),
            result("2", "no"),
            result("3", "confirmed"),
        ];
        let asks = |name: &str| name == "f";
        assert!(kept.confirmed(now, &b, &mut messages, asks).is_empty());
        assert_eq!(
            ids(&kept.confirmed(now, &a, &mut messages, asks)),
            ["1", "3"]
        );
        assert_eq!((&*messages[0].content, &*messages[3].content), (yes, "no"));
        assert!(kept.confirmed(now, &a, &mut messages, asks).is_empty());
        assert_eq!((&*messages[2].content, &*messages[4].content), (NO, NO));
        let late = now + CONFIRM_WITHIN + Duration::from_secs(1);
        let mut messages = [result("2", yes)];
        assert!(kept.confirmed(late, &a, &mut messages, asks).is_empty());
        assert_eq!(messages[0].content, NO);
        // of a call that nobody knows, only the name tells whether it would have had to be confirmed
        for (name, says) in [("f", NO), ("mine", yes)] {
            let called = ToolCall {
                name: name.to_owned(),
                ..call("7")
            };
            let said = Message {
                tool_calls: vec![called],
                ..Message::new(Role::Assistant, "")
            };
            let mut messages = [said, result("7", yes)];
            assert!(kept.confirmed(now, &a, &mut messages, asks).is_empty());
            assert_eq!(messages[1].content, says);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let a: Arc<str> = "a".into();
        for n in 0..2 * CONFIRM_PER_CLIENT {
            kept.ask(now, &a, &call(&n.to_string()));
        }
        assert_eq!(kept.calls.len(), CONFIRM_PER_CLIENT);
        for n in 0..2 * CONFIRM_MAX {
            kept.ask(now, &n.to_string().into(), &call("1"));
        }
        assert_eq!(kept.calls.len(), CONFIRM_MAX);
        for n in 0..2 * OWED_MAX {
            kept.owe(&a, &n.to_string().into(), vec![result("1", "x")]);
        }
        assert_eq!(kept.owed.len(), OWED_MAX);
        assert!(kept.owed("a", Some(&"0".into())).is_empty());
        assert_eq!(kept.owed("a", Some(&"127".into())).len(), 1);
        kept.owe(&a, &"s".into(), vec![result("1", &"x".repeat(OWED_BYTES))]);
        assert!(kept.owed.is_empty());
        kept.owe(&a, &"s".into(), vec![result("1", "x")]);
        kept.forget("a");
        assert!(kept.owed.is_empty() && kept.calls.iter().all(|of| *of.client != *"a"));
    }
}
