//! Control verbs: bounded, answered once, each for its owner.

use super::*;

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
    assert!(matches!(
        out[..],
        [Action::Publish {
            lane: Lane::Last,
            ..
        }]
    ));
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
    assert!(
        matches!(out[..], [Action::Engine(Command::End(id, Finish::Cancelled))] if id == ids[0])
    );
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
    assert!(
        out.iter()
            .all(|a| matches!(a, Action::Engine(Command::EndThinking(_))))
    );
}
