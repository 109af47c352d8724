//! Requests that wait for the daemon's tools, or have waited: each has one last frame, whatever happens.

use super::*;
use crate::tools::journal::Acted;
use glowplug_model::engine::SessionBound;

#[test]
fn every_end_in_the_wait_is_one_last_frame_at_once() {
    type End = fn(&mut World);
    let ends: [(&str, End); 5] = [
        ("cancelled", |w| {
            w.a.cancel(w.now, "c", &Cancel::Id("r".into()), &mut w.out);
        }),
        ("cancelled", |w| {
            w.a.cancel(w.now, "c", &Cancel::All, &mut w.out);
        }),
        ("deadline_exceeded", |w| {
            w.a.tick(w.now + Duration::from_secs(60), ROOM, &mut w.out);
        }),
        ("interrupted", |w| {
            w.a.end_all(w.now, Finish::Interrupted, &mut w.out);
        }),
        ("interrupted", |w| {
            w.a.abandon(w.now, Finish::Interrupted, &mut w.out);
        }),
    ];
    for (reason, end) in ends {
        for recorded in [false, true] {
            let mut w = world();
            let mut asks = asking("r", None);
            asks.deadline = Some(Duration::from_secs(50));
            w.ask(asks).wants();
            w.says(1, "", &[call("1", "lamp", "on")], Finish::Stop);
            if recorded {
                w.recorded(1);
            }
            w.wants();
            end(&mut w);
            let (wants, frames, _) = w.wants();
            assert_eq!(
                wants,
                [
                    "audit 1: nobody waits for it any more",
                    "forget 1",
                    "ended r"
                ],
                "{reason}"
            );
            let last = frames.last().unwrap();
            assert_eq!(last["choices"][0]["finish_reason"], reason);
            assert_eq!(last["usage"]["completion_tokens"], 2);
            // what comes too late is nothing
            w.recorded(1);
            w.ended(1, "1", "ON");
            assert!(w.wants().0.is_empty() && w.a.outstanding() == 0);
        }
    }
    // a newer request of the session takes its place
    let mut w = world();
    w.ask(asking("r", Some("s"))).wants();
    w.says(1, "", &[call("1", "lamp", "on")], Finish::Stop);
    w.wants();
    let (wants, frames, submitted) = w.ask(asking("t", Some("s"))).wants();
    assert!(wants.contains(&"forget 1".to_owned()) && submitted.len() == 1);
    assert_eq!(code(&frames[0]), "superseded");
}

#[test]
fn a_round_that_was_ended_runs_nothing_more() {
    let mut w = world();
    w.ask(asking("r", None)).wants();
    w.a.cancel(w.now, "c", &Cancel::All, &mut w.out);
    assert_eq!(w.wants().0, ["end 1 Cancelled"]);
    // the engine had ended by itself
    w.says(1, "", &[call("1", "lamp", "on")], Finish::Stop);
    let (wants, frames, _) = w.wants();
    assert!(wants.is_empty() && frames.last().unwrap()["choices"][0]["finish_reason"] == "stop");
}

/// Whoever got an error would ask again, and the tool would act twice.
#[test]
fn a_refusal_after_a_tool_ran_is_an_answer_with_its_result() {
    let refusals = [
        (
            Refusal::ContextLength {
                tokens: 9,
                limit: 8,
            },
            "length",
        ),
        (Refusal::TextLength { bytes: 9, limit: 8 }, "length"),
        (
            Refusal::Memory {
                needed: 9,
                pages: 8,
            },
            "length",
        ),
        (Refusal::Sessions(SessionBound::TextOfClient), "length"),
        (
            Refusal::Overloaded {
                queued: 9,
                limit: 8,
            },
            "interrupted",
        ),
        (
            Refusal::Invalid {
                param: "messages",
                message: "no".to_owned(),
            },
            "interrupted",
        ),
    ];
    for (refusal, reason) in refusals {
        let mut w = world();
        w.ask(asking("r", None)).wants();
        w.says(1, "", &[call("1", "lamp", "on")], Finish::Stop);
        w.recorded(1);
        w.ended(1, "1", "ON");
        w.wants();
        let mut refused = text(1, "", w.now);
        refused.end = Some((End::Refused(refusal), w.now));
        w.a.update(w.now, ROOM, refused, &mut w.out);
        let (wants, frames, _) = w.wants();
        let last = frames.last().unwrap();
        assert_eq!(
            (wants, &last["choices"][0]["finish_reason"]),
            (vec!["ended r".to_owned()], &json!(reason))
        );
        assert_eq!(last["tool_results"][0]["content"], "ON");
        assert_eq!(w.a.counters().refused.values().sum::<u64>(), 1);
    }
}

/// The engine does not know that the session is in use.
#[test]
fn a_session_is_not_taken_away_while_its_request_waits_for_a_tool() {
    let mut w = world();
    w.ask(asking("r", Some("s"))).wants();
    w.says(1, "", &[call("1", "lamp", "on")], Finish::Stop);
    w.recorded(1);
    w.wants();
    let mut verb = |verb, session: &str| {
        let call = Call {
            client: "c".into(),
            session: session.into(),
            verb,
        };
        w.a.session(ROOM, call, arrival("c", None, Kind::Chat).reply, &mut w.out);
        w.out
            .drain(..)
            .any(|action| matches!(action, Action::Engine(_)))
    };
    assert!(!verb(SessionVerb::Reset, "s") && !verb(SessionVerb::Drop, "s"));
    assert!(verb(SessionVerb::Save, "s") && verb(SessionVerb::Drop, "t"));
    w.ended(1, "1", "ON");
    assert_eq!(texts(&w.wants().2[0]), ["tool:ON"]);
}

#[test]
fn what_acted_before_a_restart_ends_as_interrupted_and_never_runs_again() {
    let mut w = world();
    let acted = Acted {
        client: "c".into(),
        ask: false,
        id: "r".into(),
        topic: "apps/c".into(),
        default_topic: None,
        qos: 1,
        correlation: Some(vec![0, 255]),
        ended: false,
    };
    w.a.acted_before(w.now, [&acted].into_iter());
    w.a.interrupted(w.now, &acted, None, &mut w.out);
    let Some(Action::Publish { to, frame, .. }) = w.out.pop() else {
        panic!("no frame");
    };
    assert_eq!(
        (to.topic.as_str(), to.correlation_data.as_deref()),
        ("apps/c", Some(&[0, 255][..]))
    );
    let last: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(
        (&last["choices"][0]["finish_reason"], &last["id"]),
        (&json!("interrupted"), &json!("r"))
    );
    let (wants, frames, submitted) = w.ask(asking("r", None)).wants();
    assert!(wants.is_empty() && submitted.is_empty());
    assert_eq!(frames, [last]);
    assert_eq!(w.ask(asking("t", None)).wants().2.len(), 1);
}
