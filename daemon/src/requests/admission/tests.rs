#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{HashMap, HashSet};

use glowplug_model::engine::{Outcome, Refusal, SessionFault, SessionState, SessionVerb};
use glowplug_model::text::Message;
use proptest::prelude::*;
use serde_json::Value;

use super::progress::STARVED_RETRY;
use super::*;
use crate::inference::messages::{END_THINKING_MAX, Text, Timestamps, Update};
use crate::mqtt::Qos;
use crate::wire::chat::request::Cancel;
use crate::wire::session::Call;

const ROOM: usize = Lane::Last.capacity();

mod changes;
mod driven;
mod ends;
mod places;
mod pool;
mod repeats;
mod rounds;
mod share;
mod speech;
mod thoughts;
mod verbs;

fn machine(queue: usize) -> Admission {
    machine_of(queue, 1)
}

fn machine_of(queue: usize, streams: usize) -> Admission {
    let speaker = Speaker {
        node: "n".into(),
        model: String::new(),
        sha256: None,
    };
    let mut a = Admission::new(
        queue,
        streams,
        Duration::from_millis(40),
        Duration::from_secs(300),
        speaker,
    );
    a.online("m".into(), None, &mut Vec::new());
    a
}

fn arrival(client: &str, id: Option<&str>, kind: Kind) -> Arrival {
    Arrival {
        kind,
        id: id.map(str::to_owned),
        made_id: "made".into(),
        pooled: false,
        reply: ReplyTo {
            client: client.into(),
            default_topic: None,
            topic: format!("{client}/reply"),
            qos: Qos::AtLeastOnce,
            correlation_data: None,
            content_type: "application/json",
            record: None,
        },
        request: Request::new(client, vec![Message::user("hi")], 8),
        spoken: false,
        ignored: vec![],
        own: vec![],
        deadline: None,
    }
}

fn outcome(finish: Finish) -> Outcome {
    Outcome {
        finish,
        prompt_tokens: 3,
        cached_tokens: 1,
        completion_tokens: 2,
        reasoning_tokens: 0,
        forgotten_messages: 0,
    }
}

fn text(id: RequestId, content: &str, now: Instant) -> Update {
    let text = Text {
        content: content.into(),
        ..Text::default()
    };
    Update {
        id,
        text,
        times: Timestamps {
            started: Some(now),
            prefilled: Some(now),
            first_token: Some(now),
        },
        end: None,
    }
}

fn ended(id: RequestId, finish: Finish, now: Instant) -> Update {
    let end = Some((End::Finished(outcome(finish)), now));
    Update {
        id,
        text: Text::default(),
        times: Timestamps::default(),
        end,
    }
}

/// The frames among the actions, as JSON; a text frame is a JSON string.
fn frames(out: &mut Vec<Action>) -> Vec<Value> {
    out.drain(..)
        .filter_map(|a| match a {
            Action::Publish { frame, .. } => Some(
                serde_json::from_slice(&frame)
                    .unwrap_or_else(|_| Value::String(String::from_utf8(frame.to_vec()).unwrap())),
            ),
            _ => None,
        })
        .collect()
}

fn submitted(out: &[Action]) -> Vec<RequestId> {
    out.iter()
        .filter_map(|a| {
            if let Action::Engine(Command::Submit(id, _)) = a {
                Some(*id)
            } else {
                None
            }
        })
        .collect()
}

fn code(frame: &Value) -> &str {
    frame["error"]["code"].as_str().unwrap_or("")
}

#[test]
fn text_is_put_together_and_repeated_at_the_end() {
    let (mut a, mut out, t) = (machine(2), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("x"), Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    let ms = |n| t + Duration::from_millis(n);
    // the first token leaves at once, the next ones together when 40 ms are over
    a.update(ms(100), ROOM, text(id, "He", ms(100)), &mut out);
    a.update(ms(110), ROOM, text(id, "ll", ms(110)), &mut out);
    a.update(ms(120), ROOM, text(id, "o", ms(120)), &mut out);
    assert_eq!(a.next_tick(), Some(ms(140)));
    a.tick(ms(139), ROOM, &mut out);
    a.tick(ms(140), ROOM, &mut out);
    assert_eq!(a.next_tick(), None);
    a.update(ms(150), ROOM, text(id, "!", ms(150)), &mut out);
    a.update(ms(160), ROOM, ended(id, Finish::Stop, ms(160)), &mut out);
    let frames = frames(&mut out);
    let deltas: Vec<&str> = frames
        .iter()
        .filter_map(|f| f["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(deltas, ["He", "llo", "!"]);
    assert_eq!(
        frames
            .iter()
            .map(|f| f["seq"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert_eq!(frames[0]["choices"][0]["delta"]["role"], "assistant");
    let last = &frames[3];
    assert_eq!(last["object"], "chat.completion");
    assert_eq!(last["choices"][0]["message"]["content"], "Hello!");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (
            last["timings"]["queue_ms"].as_f64(),
            last["timings"]["first_token_ms"].as_f64()
        ),
        (Some(100.0), Some(100.0))
    );
    assert_eq!(a.outstanding(), 0);
}

#[test]
fn without_streaming_there_is_one_frame_and_an_ask_gets_text() {
    let (mut a, mut out, t) = (machine(2), Vec::new(), Instant::now());
    for kind in [Kind::ChatWhole, Kind::Ask] {
        a.request(t, ROOM, arrival("c", None, kind), &mut out);
        let id = submitted(&out)[0];
        out.clear();
        a.update(t, ROOM, text(id, "Hi", t), &mut out);
        assert!(out.is_empty() && a.next_tick().is_none());
        a.update(t, ROOM, ended(id, Finish::Length, t), &mut out);
        let frames = frames(&mut out);
        assert_eq!(frames.len(), 1);
        if kind == Kind::Ask {
            assert_eq!(frames[0], "Hi");
        } else {
            assert_eq!(
                (frames[0]["id"].as_str(), frames[0]["seq"].as_u64()),
                (Some("made"), Some(0))
            );
        }
    }
}

#[test]
fn the_same_request_is_not_run_twice() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("x"), Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    // while it waits or runs
    a.request(t, ROOM, arrival("c", Some("x"), Kind::Chat), &mut out);
    assert!(out.is_empty());
    // the same id of another client is another request
    a.request(t, ROOM, arrival("d", Some("x"), Kind::Chat), &mut out);
    assert_eq!(submitted(&out).len(), 1);
    out.clear();
    a.update(t, ROOM, text(id, "Hi", t), &mut out);
    a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    let first = frames(&mut out).pop().unwrap();
    // afterwards: the last frame again, even while the daemon drains
    a.drain();
    let within = t + Duration::from_secs(300);
    a.request(within, ROOM, arrival("c", Some("x"), Kind::Chat), &mut out);
    assert!(submitted(&out).is_empty());
    assert_eq!(frames(&mut out), [first]);
    // beyond the window it is a new one, and refused here as such
    a.request(
        t + Duration::from_secs(301),
        ROOM,
        arrival("c", Some("x"), Kind::Chat),
        &mut out,
    );
    assert_eq!(code(&frames(&mut out)[0]), "draining");
    assert_eq!(a.counters().duplicates, 2);
}

#[test]
fn a_refused_request_may_come_again() {
    let (mut a, mut out, t) = (machine(1), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    a.request(t, ROOM, arrival("c", Some("2"), Kind::Chat), &mut out);
    let first = submitted(&out)[0];
    out.clear();
    a.request(t, ROOM, arrival("c", Some("3"), Kind::Chat), &mut out);
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(code(&frame), "overloaded");
    assert!(frame["error"]["retry_after_ms"].as_u64().unwrap() >= 250);
    a.update(t, ROOM, ended(first, Finish::Stop, t), &mut out);
    out.clear();
    a.request(t, ROOM, arrival("c", Some("3"), Kind::Chat), &mut out);
    assert_eq!(submitted(&out).len(), 1);
    assert_eq!(a.counters().refused, BTreeMap::from([("overloaded", 1)]));
}

#[test]
fn the_time_to_retry_follows_the_time_a_turn_takes() {
    let (mut a, mut out, t) = (machine(1), Vec::new(), Instant::now());
    let s = |n| t + Duration::from_secs(n);
    for i in 0..40_u64 {
        a.request(s(i * 10), ROOM, arrival("c", None, Kind::Chat), &mut out);
        let id = submitted(&out)[0];
        a.update(s(i * 10), ROOM, text(id, "x", s(i * 10)), &mut out);
        a.update(
            s(i * 10 + 8),
            ROOM,
            ended(id, Finish::Stop, s(i * 10 + 8)),
            &mut out,
        );
        out.clear();
    }
    a.request(s(1000), ROOM, arrival("c", None, Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    a.update(s(1000), ROOM, text(id, "x", s(1000)), &mut out);
    a.request(s(1000), ROOM, arrival("c", None, Kind::Chat), &mut out);
    out.clear();
    a.request(s(1003), ROOM, arrival("c", None, Kind::Chat), &mut out);
    let wait = frames(&mut out).pop().unwrap()["error"]["retry_after_ms"]
        .as_u64()
        .unwrap();
    assert!((4900..=5100).contains(&wait), "{wait}");
}

#[test]
fn a_full_outbox_takes_no_new_work_and_starves_chunks_but_never_the_last_frame() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.request(t, 1, arrival("c", Some("1"), Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    a.request(t, 1, arrival("c", Some("2"), Kind::Chat), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "overloaded");
    a.update(t, 0, text(id, "a", t), &mut out);
    assert!(out.is_empty());
    // no busy loop while there is no room
    assert_eq!(a.next_tick(), Some(t + STARVED_RETRY));
    a.tick(t + STARVED_RETRY, 0, &mut out);
    assert_eq!(a.next_tick(), Some(t + 2 * STARVED_RETRY));
    a.update(t + STARVED_RETRY, 0, text(id, "b", t), &mut out);
    a.tick(t + 2 * STARVED_RETRY, 1, &mut out);
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(
        (
            frame["choices"][0]["delta"]["content"].as_str(),
            frame["seq"].as_u64()
        ),
        (Some("ab"), Some(0))
    );
    a.update(t, 0, text(id, "c", t), &mut out);
    a.update(t, 0, ended(id, Finish::Stop, t), &mut out);
    let frames = frames(&mut out);
    assert_eq!(
        (
            frames.len(),
            frames[0]["choices"][0]["message"]["content"].as_str()
        ),
        (1, Some("abc"))
    );
}

#[test]
fn a_client_ends_its_own_work_only() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    for (client, id) in [("c", "1"), ("c", "2"), ("d", "1")] {
        a.request(t, ROOM, arrival(client, Some(id), Kind::Chat), &mut out);
    }
    let ids = submitted(&out);
    out.clear();
    let ends = |out: &mut Vec<Action>| -> Vec<RequestId> {
        out.drain(..)
            .filter_map(|a| {
                if let Action::Engine(Command::End(id, Finish::Cancelled)) = a {
                    Some(id)
                } else {
                    None
                }
            })
            .collect()
    };
    a.cancel(t, "e", &Cancel::All, &mut out);
    a.cancel(t, "c", &Cancel::Id("3".into()), &mut out);
    assert!(out.is_empty());
    a.cancel(t, "d", &Cancel::Id("1".into()), &mut out);
    assert_eq!(ends(&mut out), [ids[2]]);
    a.cancel(t, "c", &Cancel::All, &mut out);
    assert_eq!(ends(&mut out), [ids[0], ids[1]]);
    // again: it is ending already
    a.cancel(t, "c", &Cancel::All, &mut out);
    assert!(out.is_empty());
    a.update(t, ROOM, ended(ids[0], Finish::Cancelled, t), &mut out);
    assert_eq!(
        frames(&mut out)[0]["choices"][0]["finish_reason"],
        "cancelled"
    );
    // after the end, and a thought that is over
    a.cancel(t, "c", &Cancel::Id("1".into()), &mut out);
    a.end_thinking("c", "1", &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_newer_request_of_a_session_takes_the_place_of_the_older() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let within = |client, session: &str| {
        let mut r = arrival(client, None, Kind::Chat);
        r.request.session = Some(session.into());
        r
    };
    a.request(t, ROOM, within("c", "s"), &mut out);
    let old = submitted(&out)[0];
    // another session, another client's of the same name, and none at all are left alone
    a.request(t, ROOM, within("c", "r"), &mut out);
    a.request(t, ROOM, within("d", "s"), &mut out);
    a.request(t, ROOM, arrival("c", None, Kind::Chat), &mut out);
    out.clear();
    a.update(t, ROOM, text(old, "so far", t), &mut out);
    out.clear();
    a.request(t, ROOM, within("c", "s"), &mut out);
    // the engine hears of the end first
    assert!(
        matches!(out[..], [Action::Engine(Command::End(id, Finish::Superseded)), Action::Engine(Command::Submit(..))] if id == old)
    );
    out.clear();
    a.update(t, ROOM, ended(old, Finish::Superseded, t), &mut out);
    assert_eq!(code(frames(&mut out).last().unwrap()), "superseded");
    assert_eq!(a.counters().refused, BTreeMap::from([("superseded", 1)]));
    // one that is refused takes nobody's place
    let (mut a, mut out) = (machine(1), Vec::new());
    a.request(t, ROOM, within("c", "s"), &mut out);
    a.request(t, ROOM, within("c", "r"), &mut out);
    out.clear();
    a.request(t, ROOM, within("c", "s"), &mut out);
    assert_eq!((out.len(), code(&frames(&mut out)[0])), (1, "overloaded"));
}
