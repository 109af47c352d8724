//! Requests that come again, and cancels that come first.

use super::*;

fn at(topic: &str, client: &str, id: &str, kind: Kind) -> Arrival {
    let mut r = arrival(client, Some(id), kind);
    r.reply.topic = topic.to_owned();
    r
}

/// Topics of the frames among the actions.
fn topics(out: &[Action]) -> Vec<String> {
    out.iter()
        .filter_map(|action| match action {
            Action::Publish { to, .. } => Some(to.topic.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_repeated_request_is_answered_where_it_asked_last() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.request(t, ROOM, at("c/1", "c", "x", Kind::Chat), &mut out);
    let id = submitted(&out)[0];
    out.clear();
    a.update(t, ROOM, text(id, "Hi", t), &mut out);
    assert_eq!(topics(&out), ["c/1"]);
    out.clear();
    // while it runs
    a.request(t, ROOM, at("c/2", "c", "x", Kind::Chat), &mut out);
    assert!(out.is_empty());
    a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    assert_eq!(topics(&out), ["c/2"]);
    let last = frames(&mut out).pop().unwrap();
    assert_eq!(last["choices"][0]["message"]["content"], "Hi");
    // and afterwards, with the mark that it came with
    let mut again = at("c/3", "c", "x", Kind::Chat);
    again.reply.correlation_data = Some(Bytes::from_static(b"new"));
    a.request(t, ROOM, again, &mut out);
    let [Action::Publish { to, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!(
        (to.topic.as_str(), to.correlation_data.as_deref()),
        ("c/3", Some(&b"new"[..]))
    );
    assert_eq!(frames(&mut out), [last]);
}

#[test]
fn a_chat_and_an_ask_of_the_same_id_are_two_requests() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    a.request(t, ROOM, at("c/reply", "c", "x", Kind::Chat), &mut out);
    a.request(t, ROOM, at("c/answer", "c", "x", Kind::Ask), &mut out);
    let ids = submitted(&out);
    assert_eq!(ids.len(), 2);
    out.clear();
    for id in ids {
        a.update(t, ROOM, text(id, "Hi", t), &mut out);
        a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    }
    out.clear();
    a.request(t, ROOM, at("c/answer", "c", "x", Kind::Ask), &mut out);
    assert_eq!(
        (topics(&out), frames(&mut out)),
        (vec!["c/answer".to_owned()], vec!["Hi".into()])
    );
    // whole or in chunks it is the same question
    a.request(t, ROOM, at("c/reply", "c", "x", Kind::ChatWhole), &mut out);
    assert_eq!(frames(&mut out)[0]["object"], "chat.completion");
    assert_eq!(a.counters().duplicates, 2);
}

#[test]
fn a_cancel_that_comes_first_is_not_lost() {
    let (mut a, mut out, t) = (machine(16), Vec::new(), Instant::now());
    let request = |a: &mut Admission, client, id, kind, out: &mut Vec<Action>| {
        a.request(t, ROOM, at("reply", client, id, kind), out);
        submitted(out).len()
    };
    a.cancel(t, "c", &Cancel::Id("x".into()), &mut out);
    assert!(out.is_empty());
    // another client's of that id, and an `ask`, are others
    assert_eq!(request(&mut a, "d", "x", Kind::Chat, &mut out), 1);
    out.clear();
    assert_eq!(request(&mut a, "c", "x", Kind::Ask, &mut out), 1);
    out.clear();
    assert_eq!(request(&mut a, "c", "x", Kind::Chat, &mut out), 0);
    let last = frames(&mut out).pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "cancelled");
    assert_eq!(last["usage"]["completion_tokens"], 0);
    assert_eq!(a.outstanding(), 2);
    // its repetition is one
    assert_eq!(request(&mut a, "c", "x", Kind::Chat, &mut out), 0);
    assert_eq!(frames(&mut out), [last]);
    // one that is cancelled with all that is there was never meant
    a.cancel(t, "c", &Cancel::All, &mut out);
    out.clear();
    assert_eq!(request(&mut a, "c", "y", Kind::Chat, &mut out), 1);
    // and after the window it is a new one
    a.cancel(t, "c", &Cancel::Id("z".into()), &mut out);
    out.clear();
    let late = t + Duration::from_secs(301);
    a.request(late, ROOM, at("reply", "c", "z", Kind::Chat), &mut out);
    assert_eq!(submitted(&out).len(), 1);
}

#[test]
fn a_cancelled_turn_that_never_came_ends_no_other_turn_of_its_session() {
    let (mut a, mut out, t) = (machine_of(4, 2), Vec::new(), Instant::now());
    let within = |id| {
        let mut r = arrival("c", Some(id), Kind::Chat);
        r.request.session = Some("s".into());
        r
    };
    a.request(t, ROOM, within("1"), &mut out);
    a.cancel(t, "c", &Cancel::Id("2".into()), &mut out);
    out.clear();
    a.request(t, ROOM, within("2"), &mut out);
    assert!(matches!(
        out[..],
        [Action::Publish {
            lane: crate::mqtt::Lane::Last,
            ..
        }]
    ));
}

#[test]
fn an_ask_without_an_answer_says_why() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    for (finish, why) in [
        (Finish::Stop, "error: stop: no answer: "),
        (Finish::Length, "error: length: no answer: "),
        (Finish::Cancelled, "error: cancelled: no answer: "),
        (
            Finish::DeadlineExceeded,
            "error: deadline_exceeded: no answer: ",
        ),
        (Finish::Interrupted, "error: interrupted: no answer: "),
    ] {
        a.request(t, ROOM, arrival("c", None, Kind::Ask), &mut out);
        let id = submitted(&out)[0];
        out.clear();
        a.update(t, ROOM, text(id, " \n", t), &mut out);
        a.update(t, ROOM, ended(id, finish, t), &mut out);
        let frame = frames(&mut out).pop().unwrap();
        let said = frame.as_str().unwrap();
        assert!(said.starts_with(why) && said.len() > why.len(), "{said}");
    }
}
