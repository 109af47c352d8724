#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::inference::messages::Command;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use glowplug_model::engine::{Priority, SessionFault};
use serde_json::Value;

use super::*;
use crate::config::Draft;
use crate::mqtt::{Lane, Properties, Qos};
use crate::requests::answer::Speaker;

mod pool;
mod presets;
mod tools;

struct World {
    intake: Intake,
    admission: Admission,
    tools: Toolbox,
    /// number of the next verb that is accepted
    next: u64,
}

/// What a message led to: frames with their topics, and requests handed to the engine.
struct Outcome {
    frames: Vec<(ReplyTo, Value)>,
    #[allow(clippy::vec_box, reason = "they come boxed")]
    submitted: Vec<Box<Request>>,
    ends: usize,
    calls: Vec<Call>,
    admin: Vec<(Admin, Asker)>,
    forgotten: Vec<String>,
    /// Reply topics of what goes on record.
    recorded: Vec<String>,
}

fn world() -> World {
    world_with("")
}

/// With these lines at the end of the configuration.
fn world_with(lines: &str) -> World {
    let text = "node = 'n'\nbase_topic = 'b'\n[mqtt]\nresponse_topic_allow = ['apps']\n";
    let draft = Draft::from_toml(&format!("{text}{lines}")).unwrap();
    let config = draft.finish("h", PathBuf::new()).unwrap();
    let speaker = Speaker {
        node: "n".into(),
        model: String::new(),
        sha256: None,
    };
    let mut admission = Admission::new(2, 1, Duration::ZERO, Duration::from_secs(9), speaker);
    admission.online("m".into(), None, &mut Vec::new());
    World {
        intake: Intake::new(&config),
        admission,
        tools: Toolbox::new(&config.tools),
        next: 1,
    }
}

impl World {
    fn take(&mut self, message: Publication, oversize: Option<usize>) -> Outcome {
        let mut out = Vec::new();
        let incoming = Incoming {
            message,
            oversize,
            ack: None,
        };
        let mut context = Context {
            admission: &mut self.admission,
            now: Instant::now(),
            room: Lane::Last.capacity(),
            tools: &self.tools,
            out: &mut out,
        };
        self.intake.take(&incoming, &mut context);
        let mut outcome = Outcome {
            frames: vec![],
            submitted: vec![],
            ends: 0,
            calls: vec![],
            admin: vec![],
            forgotten: vec![],
            recorded: vec![],
        };
        for action in out {
            match action {
                Action::Engine(Command::Submit(_, request)) => outcome.submitted.push(request),
                Action::Publish { to, frame, .. } => {
                    let value = serde_json::from_slice(&frame)
                        .unwrap_or_else(|_| String::from_utf8(frame.to_vec()).unwrap().into());
                    outcome.frames.push((to, value));
                }
                Action::Engine(Command::End(..) | Command::EndThinking(_)) => outcome.ends += 1,
                Action::Engine(Command::Session(_, call)) => outcome.calls.push(call),
                Action::Engine(Command::Release(_) | Command::Prepared(..)) | Action::Tools(_) => {
                    unreachable!()
                }
                Action::Record(_, taken) => outcome.recorded.push(taken.topic),
                Action::Admin(asked, asker) => outcome.admin.push((asked, asker)),
                Action::Engine(Command::Forget(_, client)) => {
                    outcome.forgotten.push(client.to_string());
                }
            }
        }
        outcome
    }

    fn send(&mut self, topic: &str, payload: &str) -> Outcome {
        self.take(
            Publication::new(topic, payload.to_owned(), Qos::AtLeastOnce),
            None,
        )
    }

    fn refused(&self, why: &str) -> u64 {
        self.admission
            .counters()
            .refused
            .get(why)
            .copied()
            .unwrap_or(0)
    }
}

const REQUEST: &str = "b/n/chat/c/request";
const HI: &str = r#"{"id":"1","messages":[{"role":"user","content":"hi"}]}"#;

#[test]
fn a_chat_request_reaches_the_engine_with_its_values() {
    let mut w = world();
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0,"max_tokens":5,"seed":7,"thinking":false}"#;
    let o = w.send(REQUEST, body);
    assert!(o.frames.is_empty());
    let r = &o.submitted[0];
    assert_eq!(
        (r.max_tokens, r.sampler.seed, r.thinking.enabled, r.raw),
        (5, 7, false, false)
    );
    assert!(r.sampler.temperature.abs() < 1e-9 && (r.sampler.top_p - 0.95).abs() < 1e-6);
    assert_eq!(r.sampler.top_logprobs, None);
}

#[test]
fn an_ask_is_one_user_turn_and_hides_its_thought() {
    let mut w = world();
    let o = w.send("b/n/ask/c", "wie spät?");
    let r = &o.submitted[0];
    assert_eq!(
        (r.messages[0].role, r.messages[0].content.as_str()),
        (Role::User, "wie spät?")
    );
    assert!(!r.thinking.visible);
    let o = w.send("b/n/ask/c", "  ");
    assert_eq!(o.frames[0].0.topic, "b/n/ask/c/answer");
    assert_eq!(o.frames[0].0.content_type, "text/plain");
    assert_eq!(
        o.frames[0].1,
        "error: invalid_request: the question is empty"
    );
}

#[test]
fn retained_and_foreign_messages_are_dropped_and_counted() {
    let mut w = world();
    for topic in [
        REQUEST,
        "b/n/ask/c",
        "b/n/chat/c/cancel",
        "b/n/admin/drain/request",
        "b/n/admin/stats/request",
        "b/n/session/c/s/reset",
    ] {
        let mut m = Publication::new(topic, HI, Qos::AtLeastOnce);
        m.retain = true;
        let o = w.take(m, None);
        assert!(o.frames.is_empty() && o.submitted.is_empty());
        assert!(o.calls.is_empty() && o.admin.is_empty());
    }
    assert_eq!(w.refused("retained"), 6);
    assert!(w.send("b/n/chat/c d/request", HI).submitted.is_empty());
    assert_eq!(w.refused("unknown_topic"), 1);
}

#[test]
fn an_oversize_payload_is_answered() {
    let mut w = world();
    let mut m = Publication::new(REQUEST, Bytes::new(), Qos::AtLeastOnce);
    m.properties.correlation_data = Some(Bytes::from_static(b"job"));
    let o = w.take(m, Some(10 << 20));
    let (to, frame) = &o.frames[0];
    assert_eq!(to.topic, "b/n/chat/c/reply");
    assert_eq!(
        (frame["error"]["code"].as_str(), frame["id"].as_str()),
        (Some("payload_too_large"), Some("job"))
    );
    for topic in ["b/n/chat/c/cancel", "b/n/chat/c/control", "b/n/ask/c"] {
        let o = w.take(
            Publication::new(topic, Bytes::new(), Qos::AtMostOnce),
            Some(300_000),
        );
        assert_eq!((o.frames.len(), o.ends), (1, 0), "{topic}");
        assert_eq!(o.frames[0].0.qos, Qos::AtMostOnce);
    }
}

#[test]
fn the_id_of_an_error_is_the_best_there_is() {
    let mut w = world();
    let id = |o: &Outcome| o.frames[0].1["id"].as_str().unwrap().to_owned();
    assert_eq!(id(&w.send(REQUEST, r#"{"bogus":1,"id":"7"}"#)), "7");
    let mut m = Publication::new(REQUEST, r#"{"bogus":1}"#, Qos::AtLeastOnce);
    m.properties.correlation_data = Some(Bytes::from_static(b"job"));
    assert_eq!(id(&w.take(m, None)), "job");
    assert_eq!(id(&w.send(REQUEST, "\0")).len(), 32);
}

#[test]
fn correlation_data_is_the_id_of_a_request_without_one() {
    let mut w = world();
    let mut m = Publication::new(
        REQUEST,
        r#"{"messages":[{"role":"user","content":"hi"}]}"#,
        Qos::AtLeastOnce,
    );
    m.properties.correlation_data = Some(Bytes::from_static(b"job"));
    assert_eq!(w.take(m.clone(), None).submitted.len(), 1);
    assert_eq!(
        w.take(m, None).submitted.len(),
        0,
        "the same again is the same request"
    );
    let o = w.send("b/n/chat/c/cancel", r#"{"id":"job"}"#);
    assert_eq!(o.ends, 1);
}

#[test]
fn a_denied_response_topic_is_answered_on_the_default_one() {
    let mut w = world();
    for (topic, code) in [
        ("b/n/chat/other/reply", "response_topic_denied"),
        ("b/n/chat/c/request", "response_topic_denied"),
    ] {
        let mut m = Publication::new(REQUEST, HI, Qos::AtLeastOnce);
        m.properties.response_topic = Some(topic.to_owned());
        let o = w.take(m, None);
        assert!(o.submitted.is_empty());
        assert_eq!(o.frames[0].0.topic, "b/n/chat/c/reply");
        assert_eq!(
            (
                o.frames[0].1["error"]["code"].as_str(),
                o.frames[0].1["id"].as_str()
            ),
            (Some(code), Some("1"))
        );
    }
    let mut m = Publication::new(REQUEST, HI, Qos::AtLeastOnce);
    m.properties = Properties {
        response_topic: Some("apps/x".into()),
        correlation_data: Some(Bytes::from(vec![1; 65])),
        ..Properties::default()
    };
    let o = w.take(m, None);
    assert_eq!(o.frames[0].1["error"]["param"], "correlation_data");
}

#[test]
fn an_expiry_is_a_deadline() {
    let mut w = world();
    let mut m = Publication::new(REQUEST, HI, Qos::AtLeastOnce);
    m.properties.expiry_s = Some(0);
    let o = w.take(m, None);
    assert!(o.submitted.is_empty());
    assert_eq!(o.frames[0].1["error"]["code"], "deadline_exceeded");
}

#[test]
fn every_admin_verb_is_asked_for_on_its_topic() {
    let mut w = world();
    for (verb, body, asked) in [
        ("model", r#"{"name":"b"}"#, Admin::Model(Some("b".into()))),
        ("reload", "", Admin::Reload),
        ("drain", "", Admin::Drain),
        ("inhibit", r#"{"on":false}"#, Admin::Inhibit(Some(false))),
    ] {
        let o = w.send(&format!("b/n/admin/{verb}/request"), body);
        assert!(o.frames.is_empty());
        let [(what, asker)] = &o.admin[..] else {
            panic!("{verb}")
        };
        assert_eq!((what, asker.verb), (&asked, verb));
        assert_eq!(asker.to.topic, format!("b/n/admin/{verb}/response"));
    }
    let o = w.send("b/n/admin/forget/request", r#"{"client":"c"}"#);
    assert_eq!(o.forgotten, ["c"]);
    let o = w.send("b/n/admin/reboot/request", r#"{"transaction":"t1"}"#);
    assert_eq!(o.frames[0].0.topic, "b/n/admin/reboot/response");
    assert_eq!(o.frames[0].1["transaction"], "t1");
    assert_eq!(o.frames[0].1["error"]["code"], "invalid_request");
}

#[test]
fn stats_are_asked_for_with_or_without_a_transaction() {
    let mut w = world();
    let topic = "b/n/admin/stats/request";
    let table = [
        ("", Value::Null),
        ("{}", Value::Null),
        (r#"{"transaction":null}"#, Value::Null),
        (r#"{"transaction":"t1"}"#, "t1".into()),
        (r#"{"transaction":7}"#, 7.into()),
    ];
    for (body, transaction) in table {
        let o = w.send(topic, body);
        assert!(o.frames.is_empty(), "{body}");
        let [(Admin::Stats, asker)] = &o.admin[..] else {
            panic!("{body}")
        };
        assert_eq!(asker.to.topic, "b/n/admin/stats/response");
        assert_eq!(
            asker.transaction.clone().unwrap_or_default(),
            transaction,
            "{body}"
        );
    }
    let long = format!(r#"{{"transaction":"{}"}}"#, "x".repeat(65));
    for body in ["nonsense", "[]", r#"{"transaction":{"a":1}}"#, &long] {
        let o = w.send(topic, body);
        assert!(o.admin.is_empty(), "{body}");
        assert_eq!(o.frames[0].0.topic, "b/n/admin/stats/response");
        assert_eq!(o.frames[0].1["transaction"], Value::Null);
        assert_eq!(o.frames[0].1["error"]["code"], "invalid_request", "{body}");
    }
    let o = w.send(topic, r#"{"transaction":"t2","verbose":true}"#);
    let frame = &o.frames[0].1;
    assert_eq!(
        (&frame["transaction"], &frame["error"]["param"]),
        (&"t2".into(), &"verbose".into())
    );
    let big = Publication::new(topic, Bytes::new(), Qos::AtLeastOnce);
    let o = w.take(big, Some(300_000));
    assert_eq!(o.frames[0].1["error"]["code"], "payload_too_large");
}

#[test]
fn the_verbs_on_a_session_reach_the_engine() {
    let mut w = world();
    for (name, verb) in [
        ("reset", SessionVerb::Reset),
        ("save", SessionVerb::Save),
        ("drop", SessionVerb::Drop),
    ] {
        let o = w.send(&format!("b/n/session/c/s.1/{name}"), "");
        assert!(o.frames.is_empty());
        let call = Call {
            client: "c".into(),
            session: "s.1".into(),
            verb,
        };
        assert_eq!(o.calls, [call]);
    }
    // names that no session has, and a verb there is not
    for topic in [
        "b/n/session/c/s t/drop",
        "b/n/session/c//drop",
        "b/n/session/c/s/load",
        &format!("b/n/session/c/{}/drop", "x".repeat(65)),
    ] {
        let o = w.send(topic, "");
        assert!(o.calls.is_empty() && o.frames.is_empty(), "{topic}");
    }
    assert_eq!(w.refused("unknown_topic"), 4);
    for (payload, oversize, code) in [
        ("now", None, "invalid_request"),
        ("{}", None, "invalid_request"),
        ("", Some(300_000), "payload_too_large"),
    ] {
        let m = Publication::new("b/n/session/c/s/save", payload, Qos::AtLeastOnce);
        let o = w.take(m, oversize);
        assert!(o.calls.is_empty());
        let (to, frame) = &o.frames[0];
        assert_eq!(to.topic, "b/n/session/c/s/result");
        assert_eq!(frame["error"]["code"], code);
        assert_eq!(
            (&frame["client"], &frame["session"], &frame["verb"]),
            (&"c".into(), &"s".into(), &"save".into())
        );
    }
}

#[test]
fn a_verb_is_answered_where_it_asks() {
    let mut w = world();
    let mut m = Publication::new("b/n/session/c/s/save", "", Qos::AtLeastOnce);
    m.properties.correlation_data = Some(Bytes::from_static(b"job"));
    for (topic, goes_to, code) in [
        ("apps/x", "apps/x", "not_found"),
        (
            "b/n/session/c/s/result/7",
            "b/n/session/c/s/result/7",
            "not_found",
        ),
        (
            "b/n/session/d/s/result",
            "b/n/session/c/s/result",
            "response_topic_denied",
        ),
    ] {
        m.properties.response_topic = Some(topic.to_owned());
        let o = w.take(m.clone(), None);
        let mut out = Vec::new();
        w.admission
            .session_done(w.next, Err(SessionFault::NotFound), &mut out);
        w.next += o.calls.len() as u64;
        let published = |action| match action {
            Action::Publish { to, frame, .. } => {
                Some((to, serde_json::from_slice::<Value>(&frame).unwrap()))
            }
            _ => None,
        };
        let (to, frame) = o
            .frames
            .into_iter()
            .chain(out.into_iter().filter_map(published))
            .next()
            .unwrap();
        assert_eq!(to.topic, goes_to);
        assert_eq!(to.correlation_data.as_deref(), Some(&b"job"[..]));
        assert_eq!(frame["error"]["code"], code);
    }
}

#[test]
fn a_request_says_its_session_and_priority() {
    let mut w = world();
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"session":"s","priority":"urgent"}"#;
    let r = w.send(REQUEST, body).submitted.remove(0);
    assert_eq!(
        (&*r.client, r.session.as_deref(), r.priority),
        ("c", Some("s"), Priority::Urgent)
    );
    // a second one takes its place
    let o = w.send(REQUEST, body);
    assert_eq!((o.submitted.len(), o.ends), (1, 1));
    assert_eq!(w.send("b/n/chat/c/cancel", r#"{"session":"s"}"#).ends, 1);
    assert_eq!(w.send("b/n/chat/c/cancel", r#"{"session":"r"}"#).ends, 0);
    let mut w = world();
    let r = w.send("b/n/ask/c", "hello").submitted.remove(0);
    assert_eq!((r.session, r.priority), (None, Priority::Normal));
}

#[test]
fn a_malformed_cancel_is_answered_under_an_id_of_no_request() {
    let mut w = world();
    w.send(REQUEST, HI);
    for topic in ["b/n/chat/c/cancel", "b/n/chat/c/control"] {
        let o = w.send(topic, r#"{"ids":["1"]}"#);
        assert_eq!((o.frames.len(), o.ends), (1, 0));
        assert_ne!(o.frames[0].1["id"], "1");
    }
    assert_eq!(
        w.send(
            "b/n/chat/c/control",
            r#"{"id":"1","action":"end_thinking"}"#
        )
        .ends,
        1
    );
    assert_eq!(w.send("b/n/chat/d/cancel", r#"{"id":"1"}"#).ends, 0);
    assert_eq!(w.send("b/n/chat/c/cancel", r#"{"id":"1"}"#).ends, 1);
}
