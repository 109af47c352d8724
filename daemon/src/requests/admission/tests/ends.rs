//! How requests end: deadlines, refusals, a lost engine, in any order of events.

use super::*;

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
        matches!(out[..], [Action::Engine(Command::End(x, Finish::DeadlineExceeded)), Action::Engine(Command::End(y, Finish::DeadlineExceeded))] if [x, y] == ids[..])
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

#[test]
fn a_chunk_the_broker_cannot_carry_leaves_no_gap() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.frame_max(400);
    a.request(t, ROOM, arrival("c", None, Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    a.update(t, ROOM, text(id, &"x".repeat(400), t), &mut out);
    assert!(frames(&mut out).is_empty());
    let later = t + Duration::from_secs(1);
    a.update(later, ROOM, text(id, "y", later), &mut out);
    a.tick(later, ROOM, &mut out);
    let chunks = frames(&mut out);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0]["seq"], 0);
    assert_eq!(chunks[0]["choices"][0]["delta"]["content"], "y");
}

/// What can happen, in any order.

#[derive(Debug, Clone)]
enum Step {
    Request {
        client: u8,
        id: u8,
        /// not where it asked before
        elsewhere: bool,
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
        4 => (0..3_u8, 0..6_u8, any::<bool>(), proptest::option::of(0..2_u8), proptest::option::of(1..400_u16))
            .prop_map(|(client, id, elsewhere, session, deadline)| Step::Request { client, id, elsewhere, session, deadline }),
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
    /// last frame; nothing after it but its own repetition. Of the pool's each is on record until that frame. The engine is a map that obeys `End` at its next turn.
    #[test]
    fn exactly_one_last_frame_in_every_interleaving(steps in proptest::collection::vec(step(), 0..80)) {
        let mut a = machine_of(3, 2);
        let mut t = Instant::now();
        let mut room = ROOM;
        // the engine: its requests and the reason they are to end for
        let mut engine: BTreeMap<RequestId, Option<Finish>> = BTreeMap::new();
        let mut seen: HashMap<(String, String), (u64, String, Option<Bytes>)> = HashMap::new();
        let mut asked: HashMap<(String, String), String> = HashMap::new();
        let mut cancelled: HashSet<(String, String)> = HashSet::new();
        let mut newest: HashMap<(Arc<str>, Arc<str>), RequestId> = HashMap::new();
        let mut last_frames = 0;
        let mut on_record = HashSet::new();
        for step in steps.into_iter().chain([Step::Drain]) {
            let mut out = Vec::new();
            match step {
                Step::Request { client, id, elsewhere, session, deadline } => {
                    let mut r = arrival(&format!("c{client}"), Some(&format!("i{id}")), Kind::Chat);
                    if elsewhere {
                        r.reply.topic += "/new";
                    }
                    asked.insert((format!("c{client}"), format!("i{id}")), r.reply.topic.clone());
                    r.deadline = deadline.map(|ms| Duration::from_millis(ms.into()));
                    r.request.session = session.map(|s| format!("s{s}").into());
                    r.pooled = client == 1;
                    a.request(t, ROOM, r, &mut out);
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
                    if let Some(id) = id {
                        cancelled.insert((format!("c{client}"), format!("i{id}")));
                    }
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
                Step::Room(there) => room = if there { ROOM } else { 0 },
                Step::Hold => a.hold(),
                // the engine that follows is another
                Step::Online if a.engine_is_idle() => a.online("next".into(), None, &mut out),
                Step::Online => {}
            }
            for action in out {
                match action {
                    Action::Engine(Command::Submit(id, request)) => {
                        let key = &a.live[&id].key.clone().unwrap();
                        prop_assert!(!cancelled.contains(&(key.client.to_string(), key.id.clone())), "it was cancelled");
                        // one request of a session at a time: those before it are ending
                        if let Some(session) = request.session {
                            let key = (request.client, session);
                            let before = newest.insert(key, id);
                            prop_assert!(before.is_none_or(|b| engine.get(&b).is_none_or(Option::is_some)));
                        }
                        engine.insert(id, None);
                    }
                    Action::Engine(Command::Release(_) | Command::Prepared(..) | Command::Session(..) | Command::Forget(..)) | Action::Admin(..) | Action::Tools(_) => unreachable!(),
                    Action::Engine(Command::End(id, why)) => {
                        prop_assert_eq!(engine.insert(id, Some(why)), Some(None), "one end for each request");
                    }
                    Action::Engine(Command::EndThinking(id)) => prop_assert!(engine.contains_key(&id)),
                    Action::Record(number, taken) => prop_assert!(taken.client == "c1" && on_record.insert(number)),
                    Action::Publish { to, frame, lane } => {
                        if lane == Lane::Last {
                            let of_pool = to.topic.starts_with("c1/");
                            prop_assert_eq!(to.record.is_some_and(|number| on_record.remove(&number)), of_pool);
                        }
                        let v: Value = serde_json::from_slice(&frame).unwrap();
                        let client = to.topic.split('/').next().unwrap().to_owned();
                        let key = (client, v["id"].as_str().unwrap().to_owned());
                        prop_assert_eq!(&asked[&key], &to.topic, "answered where it was asked last");
                        let entry = seen.entry(key).or_default();
                        if let Some(before) = &entry.2 {
                            // only its repetition, or the refusal of nothing new
                            prop_assert!(lane != Lane::Last && before == &frame);
                            continue;
                        }
                        if lane == Lane::Refusal && v.get("error").is_some() {
                            continue; // refused, so never accepted
                        }
                        prop_assert_eq!(v["seq"].as_u64(), Some(entry.0));
                        entry.0 += 1;
                        if lane == Lane::Last {
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
        for action in out {
            if let Action::Publish { to, lane: Lane::Last, .. } = action {
                last_frames += 1;
                on_record.retain(|number| to.record != Some(*number));
            }
        }
        prop_assert!(on_record.is_empty());
        prop_assert_eq!(a.outstanding(), 0);
        // requests alone were numbered, from 1
        prop_assert_eq!(last_frames as RequestId, a.next - 1);
    }
}
