//! Conversations and whose turn it is, on both brokers.

use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, Reply, World, frame, reply, request, tell, tiny, topic};
use serde_json::{Value, json};
use std::path::Path;

#[test]
fn conversations_on_mosquitto() {
    conversations(Kind::Mosquitto, Version::V5);
}

#[test]
fn conversations_on_the_embedded_broker() {
    conversations(Kind::Embedded, Version::V3);
}

#[test]
fn turns_on_mosquitto() {
    turns(Kind::Mosquitto, Version::V3);
}

#[test]
fn turns_on_the_embedded_broker() {
    turns(Kind::Embedded, Version::V5);
}

#[test]
fn shares_of_the_queue_on_mosquitto() {
    shares(Kind::Mosquitto, Version::V5);
}

#[test]
fn shares_of_the_queue_on_the_embedded_broker() {
    shares(Kind::Embedded, Version::V3);
}

/// A daemon with these lines in its configuration from `[engine]` on, and a model that needs seconds for what is to be
/// seen in the metrics of a second.
fn world(kind: Kind, lines: impl FnOnce(&Path) -> String) -> World {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let slow = Tiny {
        layers: 12,
        ..tiny()
    };
    slow.write(&model).unwrap();
    let lines = lines(folder.path());
    let mut world = World::start(kind, folder, &model, "context = 16384", &lines);
    world.online();
    world
}

/// A turn of a session, answered with so many tokens.
fn turn(client: &mut Client, session: &str, id: &str, said: &str, tokens: u32) -> Reply {
    begin(client, session, id, said, tokens);
    reply(client, id)
}

fn begin(client: &mut Client, session: &str, id: &str, said: &str, tokens: u32) {
    let mut body = World::endless(id, tokens);
    body["session"] = json!(session);
    body["messages"][0]["content"] = json!(said);
    request(client, &body);
}

/// A verb on a session, and its answer.
fn verb(client: &mut Client, session: &str, verb: &str) -> Value {
    let of = |what: &str| topic(&format!("session/{}/{session}/{what}", client.name));
    let result = of("result");
    client.publish(&Message::new(of(verb), ""));
    let answer = client.until(verb, |m| (m.topic == result).then(|| m.json()));
    assert_eq!(answer["verb"], verb, "{answer}");
    answer
}

fn usage(reply: &Reply) -> (u64, u64) {
    let usage = &reply.last["usage"];
    let cached = &usage["prompt_tokens_details"]["cached_tokens"];
    (
        usage["prompt_tokens"].as_u64().unwrap(),
        cached.as_u64().unwrap(),
    )
}

/// History, save, a restart, supersession, reset and drop: each seen in what a later turn costs.
fn conversations(kind: Kind, version: Version) {
    let mut files = None;
    let mut world = world(kind, |folder| {
        let dir = folder.join("sessions");
        let line = format!("[sessions]\ndir = \"{}\"", dir.display());
        files = Some(dir);
        line
    });
    let saved = || std::fs::read_dir(files.as_ref().unwrap()).unwrap().count();
    let long = "the rain in the plain ".repeat(12);
    let mut alice = world.client(version, "alice");
    let (first, cached) = usage(&turn(&mut alice, "kitchen", "1", &long, 40));
    assert_eq!(cached, 0);
    // all that was said is in the prompt, and computed; a page may be filled anew
    let (second, cached) = usage(&turn(&mut alice, "kitchen", "2", "and now?", 20));
    assert!(
        second > first + 40 && cached + 32 > first + 39,
        "{cached} of {second}"
    );

    let answer = verb(&mut alice, "kitchen", "save");
    assert_eq!(
        (&answer["ok"], &answer["turns"], &answer["saved"]),
        (&json!(true), &json!(2), &json!(true))
    );
    assert!(
        answer["tokens"].as_u64().unwrap() >= second && saved() == 1,
        "{answer}"
    );
    world.kill_and_restart();
    let mut alice = world.client(version, "alice");
    let (third, cached) = usage(&turn(&mut alice, "kitchen", "3", "and then?", 20));
    assert!(
        third > second + 20 && cached + 32 > second + 19,
        "{cached} of {third}"
    );

    // another client's session of this name is another one
    let mut bob = world.client(version, "bob");
    assert_eq!(
        verb(&mut bob, "kitchen", "save")["error"]["code"],
        "not_found"
    );
    let (bobs, _) = usage(&turn(&mut bob, "kitchen", "1", &long, 4));
    assert_eq!(bobs, first);

    // a newer turn takes the place of the one that runs, and goes on from what it said
    begin(&mut alice, "kitchen", "old", "tell me all", 15_000);
    alice.until("a chunk", |m| frame(m, "old"));
    let busy = verb(&mut alice, "kitchen", "reset");
    assert_eq!(busy["error"]["code"], "overloaded", "{busy}");
    begin(&mut alice, "kitchen", "new", "stop", 4);
    let old = last(&mut alice, "old");
    assert_eq!(old["error"]["code"], "superseded", "{old}");
    let new = reply(&mut alice, "new");
    assert_eq!((new.finish(), new.completion_tokens()), ("length", 4));
    assert!(usage(&new).0 > third + 20);

    let answer = verb(&mut alice, "kitchen", "reset");
    assert_eq!((&answer["ok"], &answer["turns"]), (&json!(true), &json!(0)));
    assert_eq!(saved(), 0);
    let (anew, _) = usage(&turn(&mut alice, "kitchen", "anew", &long, 4));
    assert_eq!(anew, first);
    assert_eq!(verb(&mut alice, "kitchen", "save")["ok"], true);
    assert_eq!(verb(&mut alice, "kitchen", "drop")["ok"], true);
    assert_eq!(
        verb(&mut alice, "kitchen", "drop")["error"]["code"],
        "not_found"
    );
    assert_eq!(saved(), 0);
    world.metrics("bob's session alone", |m| m["sessions"] == 1);
}

/// F11 and F12 where the tests run without rights: a folder for sessions that cannot be one costs nothing but files.
#[test]
fn a_daemon_without_its_sessions_folder_serves_and_says_so_once() {
    let mut world = world(Kind::Embedded, |folder| {
        std::fs::write(folder.join("sessions"), "no folder").unwrap();
        format!(
            "[sessions]\ndir = \"{}\"",
            folder.join("sessions").display()
        )
    });
    let mut alice = world.client(Version::V5, "alice");
    let (first, _) = usage(&turn(&mut alice, "kitchen", "1", "hi", 4));
    let (second, _) = usage(&turn(&mut alice, "kitchen", "2", "and now?", 4));
    assert!(second > first + 4);
    for _ in 0..3 {
        let refused = verb(&mut alice, "kitchen", "save");
        assert_eq!(refused["error"]["code"], "internal", "{refused}");
    }
    assert_eq!(verb(&mut alice, "kitchen", "drop")["ok"], true);
    let warned = |said: &str| said.matches("session files cannot be written").count();
    assert_eq!(warned(&world.daemon.said()), 1);
    // what was in the way is gone
    let dir = world.folder().join("sessions");
    std::fs::remove_file(&dir).unwrap();
    turn(&mut alice, "kitchen", "3", "hi", 4);
    assert_eq!(verb(&mut alice, "kitchen", "save")["saved"], true);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    // a disk without a byte for the next one
    let file = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap();
    let part = dir.join(format!("~{}", file.file_name().to_str().unwrap()));
    std::os::unix::fs::symlink("/dev/full", part).unwrap();
    turn(&mut alice, "kitchen", "4", "hi", 4);
    let refused = verb(&mut alice, "kitchen", "save");
    assert_eq!(refused["error"]["code"], "overloaded", "{refused}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    assert_eq!(verb(&mut alice, "kitchen", "save")["turns"], 2);
}

/// Urgent work goes before background work, which is parked and finishes as if nothing had been.
fn turns(kind: Kind, version: Version) {
    let mut world = world(kind, |_| "max_streams = 1".to_owned());
    let mut alice = world.client(version, "alice");
    let mut bob = world.client(version, "bob");
    let mut body = World::endless("background", 3000);
    body["priority"] = json!("background");
    request(&mut alice, &body);
    alice.until("a chunk", |m| frame(m, "background"));
    // one stream, and it is bob's until he ends it; there are pages for both
    let mut urgent = World::endless("urgent", 12_000);
    urgent["priority"] = json!("urgent");
    request(&mut bob, &urgent);
    bob.until("a chunk", |m| frame(m, "urgent"));
    world.metrics("who is parked", |m| m["parked"] == 1 && m["running"] == 1);
    tell(&mut bob, "cancel", &json!({"id": "urgent"}));
    assert_eq!(
        last(&mut bob, "urgent")["choices"][0]["finish_reason"],
        "cancelled"
    );
    let heard = alice.rest();
    let ended =
        |m: &Message| frame(m, "background").is_some_and(|f| f["object"] == "chat.completion");
    assert!(!heard.iter().any(ended), "background work did not yield");
    let parked = last(&mut alice, "background");
    assert_eq!(parked["usage"]["completion_tokens"], 3000);
    request(&mut alice, &World::endless("alone", 3000));
    let alone = reply(&mut alice, "alone");
    assert_eq!(parked["choices"][0]["message"], *alone.message());
    world.metrics("the end", |m| m["parked"] == 0 && m["finished"] == 3);
}

/// The final frame, when some chunks were read.
fn last(client: &mut Client, id: &str) -> Value {
    client.until(id, |m| {
        frame(m, id).filter(|f| f["object"] != "chat.completion.chunk")
    })
}

/// One client cannot fill the queue, and who is refused is told when to come again.
fn shares(kind: Kind, version: Version) {
    let mut world = world(kind, |_| "max_streams = 1\nqueue = 4".to_owned());
    let names = ["mallory", "bob", "carol", "dave"];
    let [mut mallory, mut bob, mut carol, mut dave] = names.map(|name| world.client(version, name));
    let refused = |client: &mut Client, id: &str, code: &str| {
        let refused = reply(client, id);
        assert_eq!(refused.error(), code);
        let wait = &refused.last["error"]["retry_after_ms"];
        assert!(
            wait.as_u64().is_some_and(|ms| ms >= 250),
            "{}",
            refused.last
        );
    };
    request(&mut mallory, &World::endless("runs", 15_000));
    mallory.until("a chunk", |m| frame(m, "runs"));
    for id in ["first", "second", "third"] {
        request(&mut mallory, &World::endless(id, 15_000));
    }
    refused(&mut mallory, "third", "rate_limited");
    let waiting = |n: u64| move |m: &Value| m["queued"] == n;
    request(&mut bob, &World::endless("his", 3));
    world.metrics("three wait", waiting(3));
    request(&mut carol, &World::endless("hers", 3));
    world.metrics("four wait", waiting(4));
    request(&mut dave, &World::endless("his", 3));
    refused(&mut dave, "his", "overloaded");
    tell(&mut mallory, "cancel", &json!({}));
    for (client, id) in [(&mut bob, "his"), (&mut carol, "hers")] {
        assert_eq!(reply(client, id).completion_tokens(), 3);
    }
    // refused is not done: the same request is taken when there is room
    for (client, id) in [(&mut mallory, "third"), (&mut dave, "his")] {
        request(client, &World::endless(id, 3));
        assert_eq!(reply(client, id).completion_tokens(), 3);
    }
    let metrics = world.metrics("the end", |m| m["running"] == 0 && m["queued"] == 0);
    assert_eq!(
        metrics["refused"],
        json!({"overloaded": 1, "rate_limited": 1})
    );
}
