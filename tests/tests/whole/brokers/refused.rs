//! What the broker does not take, and a name that two daemons have: each costs what it must, and nothing else.

use glowplug_tests::world::broker::Mosquitto;
use glowplug_tests::world::client::{Message, PATIENCE, Version};
use glowplug_tests::world::daemon::Daemon;
use glowplug_tests::world::{
    CONFIG, Kind, World, frame, reply, request, tiny, topic, wrong_request,
};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// The log has each connection that is lost, and not each reason once.
fn every_loss() -> [(&'static str, &'static Path); 1] {
    [("GLOWPLUG_LOG", Path::new("warn,glowplug=debug"))]
}

fn world(lines: &str, rules: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = tiny();
    model.write(&path).unwrap();
    let broker = Mosquitto::start_with(folder.path(), lines, rules);
    let context = format!("context = {}", model.context);
    let mut world = World::start_on(Some(broker), folder, &path, &context, "", &every_loss());
    world.online();
    world
}

#[test]
fn a_reply_that_the_broker_finds_too_large_costs_that_reply() {
    // an acknowledgement with a reason code that the standard does not have there
    let mut world = world("message_size_limit 2000", "");
    let mut alice = world.client(Version::V5, "alice");
    let mut bob = world.client(Version::V3, "bob");
    for id in ["one", "two", "three"] {
        let mut body = World::endless(id, 4000);
        body["stream"] = json!(false);
        request(&mut alice, &body);
        let error = alice.until("an error frame", |m| {
            frame(m, id).filter(|f| f.get("error").is_some())
        });
        assert_eq!(error["error"]["code"], "internal", "{error}");
        assert!(error["seq"].is_u64() && error["node"] == "n1", "{error}");
        request(&mut bob, &World::endless(id, 5));
        assert_eq!(reply(&mut bob, id).completion_tokens(), 5);
    }
    let metrics = world.metrics("counted", |m| m["running"] == 0);
    let refused = &metrics["refused"]["broker_too_large"];
    assert!(refused.as_u64().is_some_and(|n| n >= 1), "{metrics}");
    let said = world.daemon.said();
    let lost = said.matches("no connection to the broker").count();
    // two for each length that is shorter than all before it: the times in a frame have more digits or fewer
    assert!(lost <= 6, "{said}");
}

#[test]
fn a_response_topic_that_the_broker_denies_is_answered_on_the_default_one() {
    let rules = "\nuser glowplug\ntopic deny glowplug/+/chat/+/reply/denied\n";
    let world = world("", rules);
    let mut alice = world.client(Version::V5, "alice");
    let mut message = Message::new(
        topic("chat/alice/request"),
        World::endless("there", 5).to_string(),
    );
    message.response_topic = Some(topic("chat/alice/reply/denied"));
    alice.publish(&message);
    let error = alice.until("an error frame", |m| {
        (m.topic == topic("chat/alice/reply"))
            .then(|| frame(m, "there"))
            .flatten()
    });
    assert_eq!(error["error"]["code"], "response_topic_denied", "{error}");
}

/// Each way that a Response Topic could cost the daemon its connection is refused before.
#[test]
fn no_response_topic_ends_the_connection() {
    let mut world = World::new(Kind::Mosquitto);
    let own = topic("chat/alice/");
    for (i, tail) in ["x/".repeat(201), "x/".repeat(127), "y".repeat(600)]
        .into_iter()
        .enumerate()
    {
        let mut alice = world.client(Version::V5, "alice");
        let id = i.to_string();
        let body = World::endless(&id, 5).to_string();
        let mut message = Message::new(topic("chat/alice/request"), body);
        message.response_topic = Some(format!("{own}{tail}"));
        alice.publish(&message);
        match alice.until_closed("a refusal", |m| frame(m, &id)) {
            Some(error) => {
                assert_eq!(error["error"]["code"], "response_topic_denied", "{error}");
            }
            // a newer Mosquitto (seen: 2.0.21) throws out the client itself
            None => assert!(tail.split('/').count() > 200, "{tail}: no refusal"),
        }
    }
    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &World::endless("well", 5));
    assert_eq!(reply(&mut alice, "well").completion_tokens(), 5);
    let said = world.daemon.said();
    assert!(!said.contains("no connection to the broker"), "{said}");
}

/// A cloned card: the broker lets the newer connection throw the older one out, and says nothing to either.
#[test]
fn of_two_daemons_of_one_name_one_stays_and_answers_once() {
    let mut world = world("", "");
    world.watch.rest();
    let folder = world.folder().to_owned();
    let mut second = Daemon::serve(&folder.join(CONFIG), &folder.join("second"), &every_loss());
    let until = Instant::now() + PATIENCE;
    let (mut one, mut two) = (String::new(), String::new());
    while !(one.contains("stays away") || two.contains("stays away")) {
        assert!(Instant::now() < until, "{one}\n{two}");
        std::thread::sleep(Duration::from_millis(20));
        (one, two) = (world.daemon.said(), second.said());
    }
    let loser = if one.contains("stays away") {
        &one
    } else {
        &two
    };
    assert!(
        loser.contains("the same node name on this broker, `n1`") && loser.contains("`node`"),
        "{loser}"
    );
    // who stays says so, last of all
    world.online_again();
    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &World::endless("once", 5));
    assert_eq!(reply(&mut alice, "once").completion_tokens(), 5);
    let mut finals = 0;
    wrong_request(&mut alice, &json!({"id": "after", "messages": []}));
    alice.until("the refusal of what came after", |m| {
        finals += usize::from(frame(m, "once").is_some_and(|f| f["object"] == "chat.completion"));
        frame(m, "after")
    });
    assert_eq!(finals, 0, "a second answer");
    let said = [world.daemon.said(), second.said()].join("\n");
    let lost = said.matches("no connection to the broker").count();
    assert!(lost <= 8, "{said}");
}
