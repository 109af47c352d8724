//! What brokers and networks do to a link. Everything is counted; time is stopped where it matters.

use super::fake::{Do, Fake, Got, publish};
use super::*;

/// Takes the events up to the given number of refusals.
async fn refusals(events: &mut Events, n: usize) -> Vec<(Outgoing, Rejection)> {
    let mut all = Vec::new();
    while all.len() < n {
        if let Event::Refused(out, why) = event(events).await {
            all.push((*out, why));
        }
    }
    all
}

fn topic_is(got: &Got, name: &str) -> bool {
    matches!(got, Got::Publish { topic, .. } if topic == name)
}

fn is_publish(got: &Got) -> bool {
    matches!(got, Got::Publish { .. })
}

/// On one connection: 64 acknowledgements, whatever waits to be sent, and 64 again.
#[tokio::test]
async fn acknowledgements_have_room_of_their_own() {
    let messages = (1..=128).map(|id| publish("in", Some(id), 10)).collect();
    // no publish of ours is ever acknowledged
    let fake = Fake::start(messages, |got| {
        if is_publish(got) {
            Do::Nothing
        } else {
            Do::Well
        }
    })
    .await;
    let (link, mut events) = connect(fake.options(&["in"]));
    let mut acks = Vec::new();
    up(&mut events).await;
    for lane in [
        Lane::Last,
        Lane::Chunk,
        Lane::Refusal,
        Lane::Admin,
        Lane::State,
    ] {
        for i in 0.. {
            let message = qos1(&format!("out/{i}"), "x");
            if link.publish(Outgoing::new(lane, message)).is_err() {
                break;
            }
        }
    }
    while acks.len() < usize::from(client::RECEIVE_MAX) {
        if let Event::Incoming(incoming) = event(&mut events).await {
            acks.push(incoming.ack.unwrap());
        }
    }
    for ack in acks {
        link.ack(ack).unwrap();
    }
    fake.until(|f| f.count(|g| *g == Got::Ack) == 64).await;
    for _ in 0..64 {
        message(&link, &mut events).await;
    }
    fake.until(|f| f.count(|g| *g == Got::Ack) == 128).await;
    assert_eq!(fake.count(|g| *g == Got::Connect), 1);
}

/// A message that the broker never takes, in the middle of others, in every way that brokers say so.
#[tokio::test]
async fn no_message_can_cost_the_others_their_connection() {
    for (todo, why, connections) in [
        (Do::Code(0x87), Rejection::Denied, 1),
        (Do::Code(0x97), Rejection::Quota, 1),
        // not in the standard for PUBACK; Mosquitto's `message_size_limit`
        (Do::Code(0x95), Rejection::TooLarge, 3),
        (Do::Disconnect(0x90), Rejection::Topic, 4),
        (Do::Disconnect(0x81), Rejection::Closed, 4),
        (Do::ShortDisconnect(0x81), Rejection::Closed, 6),
        (Do::Close, Rejection::Closed, 6),
    ] {
        let fake = Fake::start(vec![], move |got| {
            if topic_is(got, "out/7") {
                todo
            } else {
                Do::Well
            }
        })
        .await;
        let (link, mut events) = connect(fake.options(&[]));
        for i in 0..20 {
            link.publish(out(qos1(&format!("out/{i}"), "x"))).unwrap();
        }
        let (refused, reason) = refusals(&mut events, 1).await.remove(0);
        assert_eq!((refused.message.topic.as_str(), reason), ("out/7", why));
        fake.until(|f| f.topics().len() == 20).await;
        let expected: Vec<String> = (0..20).map(|i| format!("out/{i}")).collect();
        assert_eq!(fake.topics(), expected, "in order");
        let made = fake.count(|g| *g == Got::Connect);
        assert!(made <= connections, "{todo:?}: {made} connections");
        fake.until(|_| link.room(Lane::Last) == Lane::Last.capacity())
            .await;
    }
}

#[tokio::test]
async fn a_response_topic_that_costs_connections_is_not_written_on_again() {
    let fake = Fake::start(vec![], |got| {
        if topic_is(got, "bad") {
            Do::Close
        } else {
            Do::Well
        }
    })
    .await;
    let (link, mut events) = connect(fake.options(&[]));
    let reply = |qos| Outgoing {
        default_topic: Some("good".to_owned()),
        ..out(Publication::new("bad", "x", qos))
    };
    // of QoS 0 the first one is gone with its connection; the next is found to be at fault
    for qos in [Qos::AtMostOnce, Qos::AtMostOnce] {
        up(&mut events).await;
        link.publish(reply(qos)).unwrap();
        while !matches!(event(&mut events).await, Event::Down { .. }) {}
    }
    refusals(&mut events, 1).await;
    let made = fake.count(|g| *g == Got::Connect);
    assert!(made <= 6, "{made}");
    for _ in 0..10 {
        link.publish(reply(Qos::AtMostOnce)).unwrap();
        link.publish(reply(Qos::AtLeastOnce)).unwrap();
    }
    let refused = refusals(&mut events, 20).await;
    assert!(refused.iter().all(|(_, why)| *why == Rejection::Closed));
    link.publish(out(qos1("good", "x"))).unwrap();
    fake.until(|f| f.count(|g| topic_is(g, "good")) == 1).await;
    assert!(fake.count(|g| *g == Got::Connect) <= made + 1);
}

#[tokio::test]
async fn a_subscription_that_is_refused_costs_nothing_else_and_is_asked_for_again() {
    let granted = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let later = granted.clone();
    let fake = Fake::start(vec![], move |got| match got {
        Got::Subscribe(filter)
            if filter == "no" && !later.load(std::sync::atomic::Ordering::Acquire) =>
        {
            Do::Code(0x87)
        }
        _ => Do::Well,
    })
    .await;
    let (link, mut events) = connect(fake.options(&["yes", "no", "too"]));
    match event(&mut events).await {
        Event::Unsubscribed { filter, reason } => {
            assert_eq!((filter.as_str(), reason.as_str()), ("no", "NotAuthorized"));
        }
        other => panic!("{other:?}"),
    }
    up(&mut events).await;
    link.publish(out(qos1("x", "x"))).unwrap();
    fake.until(|f| f.count(is_publish) == 1).await;
    granted.store(true, std::sync::atomic::Ordering::Release);
    let asked = |f: &Fake| f.count(|g| *g == Got::Subscribe("no".to_owned()));
    assert_eq!(asked(&fake), 1);
    // after ten seconds, or whenever the machine comes to it
    fake.until(|f| asked(f) == 2).await;
    assert_eq!(fake.count(|g| *g == Got::Connect), 1);
}

/// A flood of QoS 0 of the largest payloads, which nobody reads: what waits is bounded in bytes.
#[tokio::test]
async fn what_came_in_and_was_not_read_is_bounded_in_bytes() {
    const MESSAGES: usize = 200;
    let flood = vec![publish("in", None, 1 << 18); MESSAGES];
    let fake = Fake::start(flood, |_| Do::Well).await;
    let options = fake.options(&["in"]);
    let bound = intake_bytes(options.payload_max);
    let (_link, mut events) = connect(options);
    let (mut came, mut most) = (0, 0);
    while came < MESSAGES {
        // one that comes, and all that came with it; nothing else runs while they are counted
        let mut waiting = vec![events.0.recv().await.unwrap()];
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        while let Ok(event) = events.0.try_recv() {
            waiting.push(event);
        }
        let bytes: usize = waiting
            .iter()
            .map(|(event, _)| match event {
                Event::Incoming(incoming) => incoming.message.payload.len(),
                _ => 0,
            })
            .sum();
        most = most.max(bytes);
        came += waiting.iter().filter(|(_, room)| room.is_some()).count();
    }
    assert!(most <= bound, "{most} of {bound}");
    assert!(most > bound / 2, "the test floods");
}

#[tokio::test]
async fn a_broker_that_closes_again_and_again_gets_a_hint_and_longer_pauses() {
    let fake = Fake::start(vec![], |got| match got {
        Got::Publish { .. } => Do::Close,
        _ => Do::Well,
    })
    .await;
    let (link, mut events) = connect(fake.options(&[]));
    let mut reasons = Vec::new();
    while reasons.len() < 4 {
        match event(&mut events).await {
            Event::Up { .. } => link.publish(out(qos1("x", "x"))).unwrap(),
            Event::Down { reason, .. } => reasons.push(reason),
            _ => {}
        }
    }
    assert!(!reasons[1].contains("identifier"), "{reasons:?}");
    assert!(
        reasons[3].contains("client identifier `glowplug-n`"),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn who_leaves_says_nothing_and_drops_what_it_had() {
    let fake = Fake::start(vec![], |got| {
        if topic_is(got, "held") {
            Do::Nothing
        } else {
            Do::Well
        }
    })
    .await;
    let (link, mut events) = connect(fake.options(&[]));
    up(&mut events).await;
    for _ in 0..100 {
        link.publish(out(qos1("held", "x"))).unwrap();
    }
    fake.until(|f| f.count(is_publish) > 0).await;
    link.leave();
    match event(&mut events).await {
        Event::Left { pause } => assert_eq!(pause, Duration::from_secs(60)),
        other => panic!("{other:?}"),
    }
    assert_eq!(link.room(Lane::Last), Lane::Last.capacity());
    assert_eq!(fake.count(|g| *g == Got::Connect), 1);
    fake.until(|f| f.count(|g| *g == Got::Disconnect) == 1)
        .await;
}

#[tokio::test]
async fn a_full_lane_says_so_and_the_others_go_on() {
    let fake = Fake::start(vec![], |_| Do::Close).await;
    let (link, _events) = connect(fake.options(&[]));
    let chunk = || Outgoing::new(Lane::Chunk, qos1("x", "x"));
    for _ in 0..Lane::Chunk.capacity() {
        link.publish(chunk()).unwrap();
    }
    assert_eq!(
        (link.room(Lane::Chunk), link.publish(chunk())),
        (0, Err(Full))
    );
    link.publish(out(qos1("x", "x"))).unwrap();
}

/// A call of a tool that was on its way when the connection ended is told to be lost, and so is one that still waited:
/// neither is sent on the next connection. What else was on its way is.
#[tokio::test]
async fn a_call_is_never_sent_twice() {
    let fake = Fake::start(vec![], |got| {
        if topic_is(got, "call/0") {
            Do::Close
        } else {
            Do::Well
        }
    })
    .await;
    let (link, mut events) = connect(fake.options(&["in"]));
    up(&mut events).await;
    link.publish(out(qos1("frame", "x"))).unwrap();
    let calls = Lane::Tool.capacity();
    for n in 0..calls {
        let message = qos1(&format!("call/{n}"), "x");
        let call = Outgoing {
            token: Some(n as u64),
            ..Outgoing::new(Lane::Tool, message)
        };
        link.publish(call).unwrap();
    }
    let lost = refusals(&mut events, calls).await;
    assert!(
        lost.iter()
            .all(|(out, why)| out.token.is_some() && *why == Rejection::Lost)
    );
    assert_eq!(link.room(Lane::Tool), calls);
    link.publish(out(qos1("after", "x"))).unwrap();
    fake.until(|f| f.count(|got| topic_is(got, "after")) > 0)
        .await;
    assert_eq!(fake.count(|got| topic_is(got, "call/0")), 1);
    let sent =
        fake.count(|got| matches!(got, Got::Publish { topic, .. } if topic.starts_with("call/")));
    assert!(sent <= calls);
}

/// Who publishes a call is told when the broker has it, that nobody hears it, or that the broker refuses it; and how a
/// subscription went.
#[tokio::test]
async fn the_fate_of_a_call_is_told() {
    let fake = Fake::start(vec![], |got| match got {
        got if topic_is(got, "unheard") => Do::Code(0x10),
        got if topic_is(got, "denied") => Do::Code(0x87),
        Got::Subscribe(filter) if filter == "secret" => Do::Code(0x87),
        _ => Do::Well,
    })
    .await;
    let (link, mut events) = connect(fake.options(&["in"]));
    up(&mut events).await;
    for (token, topic) in [(1, "lamp"), (2, "unheard"), (3, "denied")] {
        link.publish(Outgoing {
            token: Some(token),
            ..Outgoing::new(Lane::Tool, qos1(topic, "x"))
        })
        .unwrap();
    }
    link.subscribe(4, "secret".to_owned(), false).unwrap();
    link.subscribe(5, "state".to_owned(), false).unwrap();
    let mut told = Vec::new();
    while told.len() < 5 {
        told.push(match event(&mut events).await {
            Event::Delivered(lane, token) => format!("{token} delivered {lane:?}"),
            Event::Refused(out, why) => format!("{} {}", out.token.unwrap(), why.name()),
            Event::Subscribed { token, refused, .. } => format!("{token} {}", refused.is_none()),
            other => panic!("{other:?}"),
        });
    }
    told.sort();
    assert_eq!(
        told,
        [
            "1 delivered Tool",
            "2 unheard",
            "3 broker_denied",
            "4 false",
            "5 true"
        ]
    );
    // what nobody asks about is told only if it is refused
    link.publish(out(qos1("unheard", "x"))).unwrap();
    link.publish(out(qos1("denied", "x"))).unwrap();
    let Event::Refused(refused, _) = event(&mut events).await else {
        panic!("nothing was refused");
    };
    assert_eq!(refused.message.topic, "denied");
}
