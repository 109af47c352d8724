#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;

use glowplug_model::engine::{Priority, SessionFault, SessionState, SessionVerb, Thinking};
use glowplug_model::text::{Message, Role, SamplerParams};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::transport::Qos;

const ROOM: usize = crate::transport::OUTBOX;

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
    let sampler = SamplerParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: vec![],
        seed: 0,
        top_logprobs: None,
    };
    Arrival {
        kind,
        id: id.map(str::to_owned),
        made_id: "made".into(),
        reply: ReplyTo {
            topic: format!("{client}/reply"),
            qos: Qos::AtLeastOnce,
            correlation_data: None,
            content_type: "application/json",
        },
        request: Request {
            client: client.into(),
            session: None,
            priority: Priority::Normal,
            messages: vec![Message {
                role: Role::User,
                content: "hi".into(),
            }],
            raw: false,
            sampler,
            thinking: Thinking {
                enabled: false,
                budget: None,
                visible: false,
            },
            max_tokens: 8,
            stop: vec![],
        },
        ignored: vec![],
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
        marks: Marks {
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
        marks: Marks::default(),
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
            if let Action::Submit(id, _) = a {
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
    a.update(t, ROOM_FOR_LAST, text(id, "a", t), &mut out);
    assert!(out.is_empty());
    // no busy loop while there is no room
    assert_eq!(a.next_tick(), Some(t + STARVED_RETRY));
    a.tick(t + STARVED_RETRY, ROOM_FOR_LAST, &mut out);
    assert_eq!(a.next_tick(), Some(t + 2 * STARVED_RETRY));
    a.update(t + STARVED_RETRY, ROOM_FOR_LAST, text(id, "b", t), &mut out);
    a.tick(t + 2 * STARVED_RETRY, ROOM_FOR_LAST + 1, &mut out);
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
                if let Action::End(id, Finish::Cancelled) = a {
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
        matches!(out[..], [Action::End(id, Finish::Superseded), Action::Submit(..)] if id == old)
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

#[test]
fn one_client_leaves_half_of_the_queue_to_the_others() {
    let (mut a, mut out, t) = (machine_of(6, 2), Vec::new(), Instant::now());
    // two are about to run, three may wait
    for _ in 0..5 {
        a.request(t, ROOM, arrival("c", None, Kind::Chat), &mut out);
    }
    let ids = submitted(&out);
    assert_eq!((ids.len(), out.len()), (5, 5));
    out.clear();
    a.request(t, ROOM, arrival("c", None, Kind::Chat), &mut out);
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(code(&frame), "rate_limited");
    assert!(frame["error"]["retry_after_ms"].as_u64().unwrap() >= 250);
    for client in ["d", "d", "e"] {
        a.request(t, ROOM, arrival(client, None, Kind::Chat), &mut out);
    }
    assert_eq!(submitted(&out).len(), 3);
    out.clear();
    a.request(t, ROOM, arrival("f", None, Kind::Chat), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "overloaded");
    // running is not waiting: the two leave no free stream, and three wait still
    for id in &ids[..2] {
        a.update(t, ROOM, text(*id, "x", t), &mut out);
    }
    a.update(t, ROOM, ended(ids[0], Finish::Stop, t), &mut out);
    out.clear();
    // one left: a stream is free, which the oldest takes, and the last place is not for who has others
    a.request(t, ROOM, arrival("c", None, Kind::Chat), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "rate_limited");
    a.request(t, ROOM, arrival("f", None, Kind::Chat), &mut out);
    assert_eq!(submitted(&out).len(), 1);
    assert_eq!((a.started(), a.queued(), share(6)), (1, 7, 3));
}

#[test]
fn two_clients_cannot_fill_the_queue_either() {
    for (queue, streams) in [(6, 2), (1, 1), (2, 4), (5, 1)] {
        let (mut a, mut out, t) = (machine_of(queue, streams), Vec::new(), Instant::now());
        for _ in 0..queue + streams {
            for client in ["c", "d"] {
                a.request(t, ROOM, arrival(client, None, Kind::Chat), &mut out);
            }
        }
        let taken = submitted(&out).len();
        out.clear();
        a.request(t, ROOM, arrival("e", None, Kind::Chat), &mut out);
        assert_eq!(submitted(&out).len(), usize::from(queue > 2), "{queue}");
        // and not by leaving much of it empty
        assert!((taken - streams) * 3 >= queue, "{taken} of {queue}");
    }
}

#[test]
fn with_several_streams_a_place_is_free_sooner() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let s = |n| t + Duration::from_secs(n);
    let run = |a: &mut Admission, client, at| {
        let mut out = Vec::new();
        a.request(at, ROOM, arrival(client, None, Kind::Chat), &mut out);
        let id = submitted(&out)[0];
        a.update(at, ROOM, text(id, "x", at), &mut out);
        id
    };
    // a turn takes 8 s
    let id = run(&mut a, "c", s(0));
    a.update(s(8), ROOM, ended(id, Finish::Stop, s(8)), &mut out);
    run(&mut a, "c", s(10));
    run(&mut a, "d", s(12));
    for client in ["d", "c", "c", "f"] {
        a.request(s(13), ROOM, arrival(client, None, Kind::Chat), &mut out);
    }
    out.clear();
    let mut wait = |client, at| {
        a.request(at, ROOM, arrival(client, None, Kind::Chat), &mut out);
        let frame = frames(&mut out).pop().unwrap();
        frame["error"]["retry_after_ms"].as_u64().unwrap()
    };
    // the oldest leaves at 18
    assert_eq!(wait("e", s(13)), 5000);
    // it is overdue, the other leaves at 20
    assert_eq!(wait("e", s(19)), 1000);
    // both are: one leaves in half a turn, going by the pace of two streams
    assert_eq!(wait("e", s(30)), 4000);
    let (mut a, mut out) = (machine_of(4, 1), Vec::new());
    let id = run(&mut a, "c", s(0));
    a.update(s(8), ROOM, ended(id, Finish::Stop, s(8)), &mut out);
    run(&mut a, "d", s(10));
    for client in ["d", "c", "c"] {
        a.request(s(13), ROOM, arrival(client, None, Kind::Chat), &mut out);
    }
    out.clear();
    a.request(s(13), ROOM, arrival("c", None, Kind::Chat), &mut out);
    let frame = frames(&mut out).pop().unwrap();
    // 5 s to the end of the running one, then another's turn of 8 s, then its own first one starts
    assert_eq!(
        (code(&frame), frame["error"]["retry_after_ms"].as_u64()),
        ("rate_limited", Some(13_000))
    );
}

#[test]
fn verbs_are_bounded_and_answered_once() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    let call = |client: &str| Call {
        client: client.into(),
        session: "s".into(),
        verb: SessionVerb::Save,
    };
    let to = || arrival("c", None, Kind::Chat).reply;
    for i in 0..=VERBS_MAX {
        a.session(ROOM, call(&format!("c{}", i / 4)), to(), &mut out);
    }
    assert_eq!(a.outstanding(), VERBS_MAX);
    assert_eq!(code(&frames(&mut out)[0]), "overloaded");
    a.session(ROOM, call("c0"), to(), &mut out);
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(code(&frame), "rate_limited");
    assert_eq!(
        (&frame["client"], &frame["verb"]),
        (&"c0".into(), &"save".into())
    );
    let state = SessionState {
        tokens: 40,
        pages: 2,
        turns: 1,
        saved: true,
    };
    a.session_done(1, Ok(state), &mut out);
    assert!(matches!(out[..], [Action::Publish { last: true, .. }]));
    assert_eq!(frames(&mut out)[0]["tokens"], 40);
    a.session_done(1, Ok(state), &mut out);
    a.session_done(2, Err(SessionFault::NotFound), &mut out);
    assert_eq!((out.len(), code(&frames(&mut out)[0])), (1, "not_found"));
    a.drain();
    a.session(ROOM, call("d"), to(), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "draining");
    a.abandon(t, Finish::Failed, &mut out);
    assert_eq!((out.len(), a.outstanding()), (VERBS_MAX - 2, 0));
    assert_eq!(code(&frames(&mut out)[0]), "internal");
}

#[test]
fn a_session_is_cancelled_by_its_own_client() {
    let (mut a, mut out, t) = (machine_of(8, 4), Vec::new(), Instant::now());
    for (client, session) in [
        ("c", Some("s")),
        ("c", Some("r")),
        ("c", None),
        ("d", Some("s")),
    ] {
        let mut r = arrival(client, None, Kind::Chat);
        r.request.session = session.map(Into::into);
        a.request(t, ROOM, r, &mut out);
    }
    let ids = submitted(&out);
    out.clear();
    a.cancel(t, "c", &Cancel::Session("s".into()), &mut out);
    assert!(matches!(out[..], [Action::End(id, Finish::Cancelled)] if id == ids[0]));
    out.clear();
    a.cancel(t, "c", &Cancel::Session("x".into()), &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_thought_is_ended_by_its_owner_and_not_without_end() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    out.clear();
    a.end_thinking("d", "1", &mut out);
    assert!(out.is_empty());
    for _ in 0..2 * END_THINKING_MAX {
        a.end_thinking("c", "1", &mut out);
    }
    assert_eq!(out.len(), END_THINKING_MAX);
    assert!(out.iter().all(|a| matches!(a, Action::EndThinking(_))));
}

#[test]
fn deadlines_end_what_runs_and_refuse_what_never_did() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    let with = |ms| Arrival {
        deadline: Some(Duration::from_millis(ms)),
        ..arrival("c", None, Kind::Chat)
    };
    a.request(t, ROOM, with(0), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "deadline_exceeded");
    a.request(t, ROOM, with(100), &mut out);
    a.request(t, ROOM, with(200), &mut out);
    let ids = submitted(&out);
    out.clear();
    a.update(t, ROOM, text(ids[0], "par", t), &mut out);
    out.clear();
    assert_eq!(a.next_tick(), Some(t + Duration::from_millis(100)));
    a.tick(t + Duration::from_millis(99), ROOM, &mut out);
    assert!(out.is_empty());
    a.tick(t + Duration::from_millis(200), ROOM, &mut out);
    assert!(
        matches!(out[..], [Action::End(x, Finish::DeadlineExceeded), Action::End(y, Finish::DeadlineExceeded)] if [x, y] == ids[..])
    );
    out.clear();
    assert_eq!(a.next_tick(), None);
    a.update(
        t,
        ROOM,
        ended(ids[0], Finish::DeadlineExceeded, t),
        &mut out,
    );
    a.update(
        t,
        ROOM,
        ended(ids[1], Finish::DeadlineExceeded, t),
        &mut out,
    );
    let frames = frames(&mut out);
    assert_eq!(
        frames[0]["choices"][0]["finish_reason"],
        "deadline_exceeded"
    );
    assert_eq!(frames[0]["choices"][0]["message"]["content"], "par");
    assert_eq!(code(&frames[1]), "deadline_exceeded");
    // a deadline no clock can hold is none
    a.request(
        t,
        ROOM,
        Arrival {
            deadline: Some(Duration::MAX),
            ..arrival("c", None, Kind::Chat)
        },
        &mut out,
    );
    assert_eq!(a.next_tick(), None);
}

#[test]
fn loading_draining_and_a_lost_engine() {
    let speaker = Speaker {
        node: "n".into(),
        model: String::new(),
        sha256: None,
    };
    let mut a = Admission::new(4, 1, Duration::ZERO, Duration::from_secs(1), speaker);
    let (mut out, t) = (Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(
        (code(&frame), frame["error"]["retry_after_ms"].as_u64()),
        ("model_loading", Some(1000))
    );
    a.online("m".into(), None, &mut Vec::new());
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    a.request(t, ROOM, arrival("c", Some("2"), Kind::Ask), &mut out);
    out.clear();
    a.abandon(t, Finish::Failed, &mut out);
    let frames = frames(&mut out);
    assert_eq!(code(&frames[0]), "internal");
    assert!(frames[1].as_str().unwrap().starts_with("error: internal: "));
    assert_eq!((a.outstanding(), a.next_tick()), (0, None));
}

#[test]
fn a_refusal_of_the_engine_ends_the_request() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    let end = End::Refused(Refusal::ContextLength {
        tokens: 9,
        limit: 8,
    });
    a.update(
        t,
        ROOM,
        Update {
            end: Some((end, t)),
            ..text(id, "", t)
        },
        &mut out,
    );
    let frame = frames(&mut out).pop().unwrap();
    assert_eq!(
        (code(&frame), frame["error"]["param"].as_str()),
        ("context_length_exceeded", Some("messages"))
    );
    // it was accepted, so its end is remembered
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    assert_eq!(frames(&mut out), [frame]);
}

#[test]
fn an_answer_the_broker_cannot_carry_becomes_an_error() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.frame_max(600);
    a.request(t, ROOM, arrival("c", None, Kind::ChatWhole), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    a.update(t, ROOM, text(id, &"x".repeat(600), t), &mut out);
    a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "internal");
}

/// What can happen, in any order.
#[derive(Debug, Clone)]
enum Step {
    Request {
        client: u8,
        id: u8,
        session: Option<u8>,
        deadline: Option<u16>,
    },
    Text(u8),
    End(u8),
    Cancel {
        client: u8,
        id: Option<u8>,
    },
    EndThinking {
        client: u8,
        id: u8,
    },
    Wait(u16),
    Drain,
    Room(bool),
    Hold,
    Online,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..6_u8, proptest::option::of(0..2_u8), proptest::option::of(1..400_u16))
            .prop_map(|(client, id, session, deadline)| Step::Request { client, id, session, deadline }),
        4 => (0..8_u8).prop_map(Step::Text),
        3 => (0..8_u8).prop_map(Step::End),
        2 => (0..3_u8, proptest::option::of(0..6_u8)).prop_map(|(client, id)| Step::Cancel { client, id }),
        1 => (0..3_u8, 0..6_u8).prop_map(|(client, id)| Step::EndThinking { client, id }),
        3 => (0..500_u16).prop_map(Step::Wait),
        1 => Just(Step::Drain),
        1 => any::<bool>().prop_map(Step::Room),
        1 => Just(Step::Hold),
        1 => Just(Step::Online),
    ]
}

proptest! {
    /// Every accepted request: chunks numbered from 0 without a gap, whose texts are the whole text, then exactly one
    /// last frame; nothing after it but its own repetition. The engine is a map that obeys `End` at its next turn.
    #[test]
    fn exactly_one_last_frame_in_every_interleaving(steps in proptest::collection::vec(step(), 0..80)) {
        let mut a = machine_of(3, 2);
        let mut t = Instant::now();
        let mut room = ROOM;
        // the engine: its requests and the reason they are to end for
        let mut engine: BTreeMap<RequestId, Option<Finish>> = BTreeMap::new();
        let mut seen: HashMap<(String, String), (u64, String, Option<Bytes>)> = HashMap::new();
        let mut newest: HashMap<(Arc<str>, Arc<str>), RequestId> = HashMap::new();
        let mut last_frames = 0;
        for step in steps.into_iter().chain([Step::Drain]) {
            let mut out = Vec::new();
            match step {
                Step::Request { client, id, session, deadline } => {
                    let mut r = arrival(&format!("c{client}"), Some(&format!("i{id}")), Kind::Chat);
                    r.deadline = deadline.map(|ms| Duration::from_millis(ms.into()));
                    r.request.session = session.map(|s| format!("s{s}").into());
                    a.request(t, room, r, &mut out);
                }
                Step::Text(which) => {
                    if let Some(id) = engine.keys().nth(which.into()).copied() {
                        a.update(t, room, text(id, "é", t), &mut out);
                    }
                }
                Step::End(which) => {
                    if let Some((id, why)) = engine.iter().nth(which.into()).map(|(id, why)| (*id, *why)) {
                        engine.remove(&id);
                        a.update(t, room, ended(id, why.unwrap_or(Finish::Stop), t), &mut out);
                    }
                }
                Step::Cancel { client, id } => {
                    let what = id.map_or(Cancel::All, |id| Cancel::Id(format!("i{id}")));
                    a.cancel(t, &format!("c{client}"), &what, &mut out);
                }
                Step::EndThinking { client, id } => a.end_thinking(&format!("c{client}"), &format!("i{id}"), &mut out),
                Step::Wait(ms) => {
                    t += Duration::from_millis(ms.into());
                    a.tick(t, room, &mut out);
                    // a tick has been done once it was done: no busy loop
                    prop_assert!(a.next_tick().is_none_or(|at| at > t));
                }
                Step::Drain => {
                    a.end_all(t, Finish::Interrupted, &mut out);
                }
                Step::Room(there) => room = if there { ROOM } else { ROOM_FOR_LAST },
                Step::Hold => a.hold(),
                // the engine that follows is another
                Step::Online if a.engine_is_idle() => a.online("next".into(), None, &mut out),
                Step::Online => {}
            }
            for action in out {
                match action {
                    Action::Submit(id, request) => {
                        // one request of a session at a time: those before it are ending
                        if let Some(session) = request.session {
                            let key = (request.client, session);
                            let before = newest.insert(key, id);
                            prop_assert!(before.is_none_or(|b| engine.get(&b).is_none_or(Option::is_some)));
                        }
                        engine.insert(id, None);
                    }
                    Action::Session(..) | Action::Forget(..) | Action::Admin(..) => unreachable!(),
                    Action::End(id, why) => {
                        prop_assert_eq!(engine.insert(id, Some(why)), Some(None), "one end for each request");
                    }
                    Action::EndThinking(id) => prop_assert!(engine.contains_key(&id)),
                    Action::Publish { to, frame, last } => {
                        let v: Value = serde_json::from_slice(&frame).unwrap();
                        let key = (to.topic, v["id"].as_str().unwrap().to_owned());
                        let entry = seen.entry(key).or_default();
                        if let Some(before) = &entry.2 {
                            // only its repetition, or the refusal of nothing new
                            prop_assert!(!last && before == &frame);
                            continue;
                        }
                        if !last && v.get("error").is_some() {
                            continue; // refused, so never accepted
                        }
                        prop_assert_eq!(v["seq"].as_u64(), Some(entry.0));
                        entry.0 += 1;
                        if last {
                            last_frames += 1;
                            entry.2 = Some(frame);
                            if let Some(whole) = v["choices"][0]["message"]["content"].as_str() {
                                prop_assert!(whole.starts_with(&entry.1));
                            }
                        } else {
                            entry.1 += v["choices"][0]["delta"]["content"].as_str().unwrap();
                        }
                    }
                }
            }
            prop_assert!(a.outstanding() <= 3 + 2);
            prop_assert_eq!(a.engine_is_idle(), engine.is_empty());
            prop_assert!(a.outstanding() >= engine.len());
        }
        let mut out = Vec::new();
        a.abandon(t, Finish::Interrupted, &mut out);
        last_frames += out.iter().filter(|a| matches!(a, Action::Publish { last: true, .. })).count();
        prop_assert_eq!(a.outstanding(), 0);
        // requests alone were numbered, from 1
        prop_assert_eq!(last_frames as RequestId, a.next - 1);
    }
}

#[test]
fn a_strained_board_takes_half_as_many_and_keeps_what_it_took() {
    let mut a = machine_of(8, 4);
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut ask = |a: &mut Admission, n: u64| {
        let client = format!("c{n}");
        a.request(now, ROOM, arrival(&client, None, Kind::Chat), &mut out);
        match out.pop() {
            Some(Action::Submit(..)) => None,
            Some(Action::Publish { frame, .. }) => {
                let frame: Value = serde_json::from_slice(&frame).unwrap();
                Some(frame["error"]["code"].as_str().unwrap().to_owned())
            }
            other => panic!("{other:?}"),
        }
    };
    for n in 0..5 {
        assert_eq!(ask(&mut a, n), None);
    }
    a.one_at_a_time(true);
    // four that wait and one that runs are what it holds now
    assert_eq!(ask(&mut a, 5).as_deref(), Some("overloaded"));
    assert_eq!(a.outstanding(), 5);
    a.one_at_a_time(false);
    for n in 5..12 {
        assert_eq!(ask(&mut a, n), None);
    }
    assert_eq!(ask(&mut a, 12).as_deref(), Some("overloaded"));
    // what was taken before the strain is more than it would take now, and stays
    a.one_at_a_time(true);
    assert_eq!(ask(&mut a, 12).as_deref(), Some("overloaded"));
    assert_eq!(a.outstanding(), 12);
}

fn asker(verb: &'static str) -> Asker {
    Asker {
        to: arrival("c", None, Kind::Chat).reply,
        verb,
        transaction: Some(7.into()),
    }
}

#[test]
fn what_comes_while_the_model_changes_is_the_next_ones_and_ends_as_ever() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("old"), Kind::Chat), &mut out);
    let old = submitted(&out)[0];
    out.clear();
    assert!(!a.engine_is_idle());
    a.hold();
    let mut late = arrival("c", Some("late"), Kind::Chat);
    late.deadline = Some(Duration::from_millis(5));
    a.request(t, ROOM, late, &mut out);
    for (client, id) in [("d", "1"), ("d", "2")] {
        let mut r = arrival(client, Some(id), Kind::Chat);
        r.request.session = Some("s".into());
        a.request(t, ROOM, r, &mut out);
    }
    // the older turn of the session has its end at once, and nothing went to the engine
    let [
        Action::Publish {
            frame, last: true, ..
        },
    ] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(code(&serde_json::from_slice(frame).unwrap()), "superseded");
    out.clear();
    for client in ["e", "f"] {
        a.request(t, ROOM, arrival(client, Some("3"), Kind::Chat), &mut out);
    }
    a.end_thinking("d", "2", &mut out);
    assert!(out.is_empty());
    // no more may wait than ever
    a.request(t, ROOM, arrival("g", None, Kind::Chat), &mut out);
    a.request(t, ROOM, arrival("h", None, Kind::Chat), &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "overloaded");
    let call = Call {
        client: "d".into(),
        session: "s".into(),
        verb: SessionVerb::Save,
    };
    a.session(ROOM, call, arrival("d", None, Kind::Chat).reply, &mut out);
    assert_eq!(code(&frames(&mut out)[0]), "model_loading");
    // a cancel and a deadline are answered though there is no engine
    a.cancel(t, "e", &Cancel::All, &mut out);
    assert_eq!(a.next_tick(), Some(t + Duration::from_millis(5)));
    a.tick(t + Duration::from_millis(5), ROOM, &mut out);
    let ends = frames(&mut out);
    assert_eq!(ends[0]["choices"][0]["finish_reason"], "cancelled");
    assert_eq!(code(&ends[1]), "deadline_exceeded");
    a.update(t, ROOM, ended(old, Finish::Stop, t), &mut out);
    assert!(a.engine_is_idle());
    assert_eq!(frames(&mut out)[0]["model"], "m");
    a.online("next".into(), Some("ab".into()), &mut out);
    let next = submitted(&out);
    assert_eq!(next.len(), 3, "d's newer turn, f's and g's");
    assert!(next.is_sorted() && !a.engine_is_idle());
    out.clear();
    a.update(t, ROOM, ended(next[0], Finish::Stop, t), &mut out);
    let last = frames(&mut out).pop().unwrap();
    assert_eq!(
        (&last["model"], &last["system_fingerprint"]),
        (&"next".into(), &"ab".into())
    );
}

#[test]
fn a_forgotten_client_is_cancelled_and_told_nothing_again() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    a.request(t, ROOM, arrival("c", Some("1"), Kind::Chat), &mut out);
    a.request(t, ROOM, arrival("d", Some("1"), Kind::Chat), &mut out);
    let ids = submitted(&out);
    for id in &ids[1..] {
        a.update(t, ROOM, ended(*id, Finish::Stop, t), &mut out);
    }
    out.clear();
    a.forget(t, ROOM, "c".to_owned(), asker("forget"), &mut out);
    let [
        Action::End(end, Finish::Cancelled),
        Action::Forget(number, _),
    ] = out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(end, ids[0]);
    out.clear();
    a.update(t, ROOM, ended(end, Finish::Cancelled, t), &mut out);
    a.forgotten(number, Ok(3), &mut out);
    assert_eq!(
        frames(&mut out)[1],
        serde_json::json!({"transaction": 7, "forget": {"client": "c", "sessions": 3}})
    );
    // its request is a new one now, the other client's is not
    for (client, new) in [("c", 1), ("d", 0)] {
        a.request(t, ROOM, arrival(client, Some("1"), Kind::Chat), &mut out);
        assert_eq!(submitted(&out).len(), new, "{client}");
        out.clear();
    }
    a.forget(t, ROOM, "c".to_owned(), asker("forget"), &mut out);
    out.clear();
    a.abandon(t, Finish::Failed, &mut out);
    let last = frames(&mut out).pop().unwrap();
    assert_eq!((code(&last), &last["transaction"]), ("internal", &7.into()));
}
