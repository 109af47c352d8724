//! Requests that came to whichever daemon of the pool.

use super::*;
use crate::pool::membership::Places;

fn pooled(client: &str, id: &str) -> Arrival {
    let mut arrival = arrival(client, Some(id), Kind::Chat);
    arrival.pooled = true;
    arrival
}

/// Numbers and ids of what goes on record.
fn recorded(out: &[Action]) -> Vec<(RequestId, String)> {
    let records = out.iter().filter_map(|action| match action {
        Action::Record(number, taken) => Some((*number, taken.id.clone())),
        _ => None,
    });
    records.collect()
}

#[test]
fn what_is_accepted_goes_on_record_until_its_last_frame() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.request(t, ROOM, pooled("c", "x"), &mut out);
    let id = submitted(&out)[0];
    assert_eq!(recorded(&out), [(id, "x".to_owned())]);
    out.clear();
    // the client goes on at the daemon's own topics, and asks again there
    a.request(t, ROOM, arrival("c", Some("x"), Kind::Chat), &mut out);
    assert!(out.is_empty(), "{out:?}");
    a.update(t, ROOM, text(id, "Hi", t), &mut out);
    a.update(t, ROOM, ended(id, Finish::Stop, t), &mut out);
    let tokens: Vec<Option<u64>> = out
        .drain(..)
        .filter_map(|action| match action {
            Action::Publish { to, frame, lane } => Some(to.outgoing(frame, lane).token),
            _ => None,
        })
        .collect();
    assert_eq!(tokens, [None, Some(id)], "the chunk, and the last frame");
    // what ended is sent again and is not on record; neither is what never was for the pool
    a.request(t, ROOM, pooled("c", "x"), &mut out);
    a.request(t, ROOM, arrival("c", Some("y"), Kind::Chat), &mut out);
    assert!(recorded(&out).is_empty());
    assert!(out.iter().all(|action| match action {
        Action::Publish { to, .. } => to.record.is_none(),
        _ => true,
    }));
}

#[test]
fn a_drain_takes_what_comes_until_it_has_left_and_sends_the_rest_elsewhere() {
    let (mut a, mut out, t) = (machine(4), Vec::new(), Instant::now());
    a.in_pool(true);
    a.drain();
    a.request(t, ROOM, arrival("c", Some("own"), Kind::Chat), &mut out);
    let refused = frames(&mut out);
    assert_eq!(code(&refused[0]), "draining");
    assert!(refused[0]["error"]["retry_after_ms"].is_null());
    a.request(t, ROOM, pooled("c", "on its way"), &mut out);
    assert_eq!(submitted(&out).len(), 1);
    out.clear();
    a.in_pool(false);
    a.request(t, ROOM, pooled("c", "late"), &mut out);
    let refused = frames(&mut out);
    assert_eq!(code(&refused[0]), "draining");
    assert!(refused[0]["error"]["retry_after_ms"].as_u64() > Some(0));
    assert_eq!((a.outstanding(), recorded(&out).len()), (1, 0));
}

#[test]
fn a_full_daemon_refuses_with_a_time_and_says_how_full_it_is() {
    let (mut a, mut out, t) = (machine_of(3, 1), Vec::new(), Instant::now());
    a.in_pool(true);
    let mut free = Vec::new();
    for n in 0..4 {
        free.push(a.places(ROOM));
        a.request(t, ROOM, pooled(&format!("c{n}"), "x"), &mut out);
    }
    let counted = [4, 3, 2, 1].map(|free| Places { free, all: 4 });
    assert_eq!(free, counted);
    assert_eq!(a.places(ROOM).free, 0);
    assert_eq!(submitted(&out).len(), 4);
    out.clear();
    a.request(t, ROOM, pooled("late", "x"), &mut out);
    let refused = frames(&mut out);
    assert_eq!(code(&refused[0]), "overloaded");
    assert!(refused[0]["error"]["retry_after_ms"].as_u64() > Some(0));
    // an outbox that is not emptied is as good as a queue that is full
    assert_eq!(machine_of(3, 1).places(2).free, 2);
}

#[test]
fn what_the_run_before_had_taken_ends_once_and_does_not_run_again() {
    let (mut before, mut out, t) = (machine(4), Vec::new(), Instant::now());
    before.request(t, ROOM, pooled("c", "x"), &mut out);
    let taken = out.into_iter().find_map(|action| match action {
        Action::Record(_, taken) => Some(*taken),
        _ => None,
    });
    let taken = taken.unwrap();
    let (mut a, mut out) = (machine(4), Vec::new());
    a.acted_before(t, std::iter::once(&taken));
    let number = a.number();
    a.interrupted(t, &taken, Some(number), &mut out);
    let [Action::Publish { to, lane, .. }] = &out[..] else {
        panic!("{out:?}")
    };
    assert_eq!((to.topic.as_str(), *lane), ("c/reply", Lane::Last));
    assert_eq!(to.record, Some(number));
    let last = frames(&mut out).remove(0);
    assert_eq!(last["choices"][0]["finish_reason"], "interrupted");
    assert_eq!(last["id"], "x");
    a.request(t, ROOM, pooled("c", "x"), &mut out);
    assert!(submitted(&out).is_empty());
    assert_eq!(
        frames(&mut out)[0]["choices"][0]["finish_reason"],
        "interrupted"
    );
}
