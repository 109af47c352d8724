//! What a strained board, a change of models and a forgotten client do to admission.

use super::*;

#[test]
fn a_strained_board_takes_half_as_many_and_keeps_what_it_took() {
    let mut a = machine_of(8, 4);
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut ask = |a: &mut Admission, n: u64| {
        let client = format!("c{n}");
        a.request(now, ROOM, arrival(&client, None, Kind::Chat), &mut out);
        match out.pop() {
            Some(Action::Engine(Command::Submit(..))) => None,
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
            frame,
            lane: Lane::Last,
            ..
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
        Action::Engine(Command::End(end, Finish::Cancelled)),
        Action::Engine(Command::Forget(number, _)),
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
