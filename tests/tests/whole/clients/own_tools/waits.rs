//! Waits for tools: in silence, over a restart of the broker, and as often as the owner lets a model go on.

use super::*;

#[test]
fn silence_on_mosquitto() {
    silence(Kind::Mosquitto);
}

#[test]
fn silence_on_the_embedded_broker() {
    silence(Kind::Embedded);
}

/// A house that has died, and one that talks without end but never to us.
fn silence(kind: Kind) {
    let world = world(kind, SCRIPT, &tools(200));
    let mut panel = world.client(Version::V5, "panel");
    ask(&mut panel, "1", &json!({}));
    let answered = reply(&mut panel, "1");
    let mut said = results(&answered);
    said.sort_unstable();
    let silent = "error: no answer within 200 ms; whether it was done is not known";
    let dead = match kind {
        // it knows whether anybody subscribes
        Kind::Mosquitto => ["error: not done: nobody listens to the tool's topic"; 2],
        Kind::Embedded => ["done", silent],
    };
    assert_eq!((answered.finish(), &said[..]), ("stop", &dead[..]));
    let mut house = house(&world);
    ask(&mut panel, "2", &json!({}));
    let called = call(&mut house, "house/bell");
    let response = called.response_topic.unwrap();
    for n in 0..200 {
        let wrong = Message {
            correlation_data: Some(vec![n; 16]),
            qos: 0,
            ..Message::new(response.clone(), vec![b'x'; 1000])
        };
        house.publish(&wrong);
    }
    let answered = reply(&mut panel, "2");
    let mut said = results(&answered);
    said.sort_unstable();
    assert_eq!((answered.finish(), said), ("stop", vec!["done", silent]));
}

#[test]
fn rounds_go_on_as_often_as_the_owner_lets_them_and_a_stop_ends_the_wait() {
    let engine = tools(60_000).replacen("rounds = 1", "rounds = 3", 1);
    let mut world = world(Kind::Mosquitto, SCRIPT, &engine);
    let mut house = house(&world);
    let mut alice = world.client(Version::V5, "alice");
    ask(&mut alice, "1", &json!({}));
    for said in ["one", "two", "three"] {
        call(&mut house, "house/hall/set");
        say(&mut house, "house/hall", said);
    }
    let answered = reply(&mut alice, "1");
    assert_eq!(results(&answered), ["one", "two", "three"]);
    assert_eq!(answered.finish(), "stop");
    let runs = answered.last["tool_results"].as_array().unwrap();
    let mut ids: Vec<&str> = runs.iter().map(|run| run["id"].as_str().unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "{runs:?}");
    // all rounds together have so many tokens: ten in the first, and no call is whole in the second
    let short = lit(
        &mut alice,
        &mut house,
        "2",
        &json!({"max_tokens": 14}),
        b"ON",
    );
    assert_eq!((short.finish(), results(&short)), ("length", vec!["ON"]));
    assert_eq!(short.last["usage"]["completion_tokens"], 14);
    // a daemon that is told to stop ends the wait
    ask(&mut alice, "3", &json!({}));
    call(&mut house, "house/hall/set");
    world.daemon.signal("TERM");
    let stopped = reply(&mut alice, "3");
    assert_eq!(stopped.finish(), "interrupted");
    assert!(world.daemon.ended().success());
}

#[test]
fn a_broker_that_restarts_in_the_wait_has_no_call_made_twice() {
    let mut world = world(Kind::Mosquitto, SCRIPT, &tools(60_000));
    let mut before = house(&world);
    let mut alice = world.client(Version::V5, "alice");
    ask(&mut alice, "1", &json!({}));
    call(&mut before, "house/hall/set");
    world.broker.as_mut().unwrap().kill_and_restart();
    world.online_again();
    let mut house = house(&world);
    let mut alice = world.client(Version::V5, "alice");
    // the request has ended meanwhile, or ends now; asked again it is answered and not run
    ask(&mut alice, "1", &json!({"stream": false}));
    let answered = alice.until("a last frame", |m| {
        frame(m, "1").filter(|f| f["object"] == "chat.completion")
    });
    let lost = "error: the connection to the broker was lost; whether it was done is not known";
    assert_eq!(answered["tool_results"][0]["content"], lost);
    let answered = lit(&mut alice, &mut house, "2", &json!({}), b"ON");
    assert_eq!(results(&answered), ["ON"]);
    let again = house.rest();
    assert!(
        again.iter().all(|m| m.topic != "house/hall/set"),
        "{again:?}"
    );
}
