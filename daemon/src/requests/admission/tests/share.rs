//! How much of the queue one client can take, and how long another waits.

use super::*;

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
