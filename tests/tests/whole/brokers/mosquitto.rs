//! The daemon on a broker of the kind it has in production, and what happens when either dies.

use crate::brokers::scenarios;
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{Kind, World, frame, reply, request, tell, tiny, topic};
use glowplug_tests::{Real, Think, Tiny, real_model};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

const KIND: Kind = Kind::Mosquitto;

#[test]
fn conversation_v5() {
    scenarios::conversation(KIND, Version::V5);
}

#[test]
fn conversation_v3() {
    scenarios::conversation(KIND, Version::V3);
}

#[test]
fn refusals_v3() {
    scenarios::refusals(KIND, Version::V3);
}

#[test]
fn refusals_v5() {
    scenarios::refusals(KIND, Version::V5);
}

#[test]
fn duplicates_v5() {
    scenarios::duplicates(KIND, Version::V5);
}

#[test]
fn cancels_v3() {
    scenarios::cancels(KIND, Version::V3);
}

#[test]
fn deadlines_v5() {
    scenarios::deadlines(KIND, Version::V5);
}

#[test]
fn it_says_starting_then_online_and_a_killed_one_is_offline_by_its_will() {
    // a vocabulary of 49,152 takes longer to load than a broker to be connected to
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::start(KIND, folder, &real_model(Real::Smol), "context = 256", "");
    let (states, boot_id) = world.states_until("online");
    assert_eq!(states, ["starting", "online"]);
    world.daemon.signal("KILL");
    world.daemon.ended();
    let (states, will_boot_id) = world.states_until("offline");
    assert_eq!(states, ["offline"]);
    assert_eq!(will_boot_id, boot_id);
}

#[test]
fn told_to_end_it_drains_says_so_and_exits_with_0() {
    let mut world = World::new(KIND);
    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &World::endless("long", 16_000));
    request(&mut alice, &World::endless("waits", 16_000));
    alice.until("a chunk", |m| frame(m, "long"));
    world.daemon.signal("TERM");
    let mut finals = BTreeMap::new();
    while finals.len() < 2 {
        let last = alice.until("a final frame", |m| {
            Some(m.json()).filter(|f| f["object"] == "chat.completion")
        });
        let id = last["id"].as_str().unwrap().to_owned();
        let again = finals.insert(id, last["choices"][0]["finish_reason"].clone());
        assert_eq!(again, None, "one final frame for each");
    }
    assert_eq!(finals["waits"], "interrupted");
    let (states, _) = world.states_until("offline");
    assert_eq!(states, ["draining", "offline"]);
    let status = world.daemon.ended();
    assert_eq!(status.code(), Some(0), "{}", world.daemon.said());
    // when the broker answers this, it has said all of the daemon that it had to say, and the will is no part of it
    world.watch.subscribe(&topic("info"));
    let more = world.watch.rest();
    assert!(more.iter().all(|m| m.topic != topic("status")), "{more:?}");
}

#[test]
fn a_broker_killed_mid_answer_loses_nothing_and_nothing_runs_twice() {
    let mut world = World::new(KIND);
    let boot_id = world.online_again();
    let body = World::endless("long", 6000);
    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &body);
    let first = alice.until("a chunk", |m| frame(m, "long"));
    let killed = Instant::now();
    world.broker.as_mut().unwrap().kill_and_restart();
    let gone_ms = killed.elapsed().as_secs_f64() * 1e3;

    // as a client does that cannot know whether its request arrived; the broker forgot its subscriptions
    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &body);
    let mut frames: BTreeMap<u64, Value> = BTreeMap::new();
    let last = alice.until("the final frame", |m| {
        let frame = frame(m, "long")?;
        let seq = frame["seq"].as_u64().unwrap();
        let before = frames.insert(seq, frame.clone());
        assert!(
            before.is_none_or(|before| before == frame),
            "one seq, two frames"
        );
        (frame["object"] == "chat.completion").then_some(frame)
    });
    assert_eq!(last["usage"]["completion_tokens"], 6000);
    let decoding_ms = last["timings"]["predicted_ms"].as_f64().unwrap();
    assert!(
        decoding_ms > gone_ms,
        "answered in {decoding_ms} ms, before the broker was back after {gone_ms} ms"
    );
    let content = last["choices"][0]["message"]["content"].as_str().unwrap();
    let beginning = first["choices"][0]["delta"]["content"].as_str().unwrap();
    assert!(content.starts_with(beginning) && content.len() > beginning.len());
    assert_eq!(world.online_again(), boot_id, "it is the same daemon");
    let metrics = world.metrics("the end", |m| m["running"] == 0 && m["queued"] == 0);
    assert_eq!(metrics["finished"], 1, "it ran once: {metrics}");
    for frame in alice.rest().iter().filter_map(|m| frame(m, "long")) {
        assert!(
            frame["object"] != "chat.completion" || frame == last,
            "{frame}"
        );
    }
}

#[test]
fn a_client_that_dies_mid_answer_harms_nobody() {
    let mut world = World::new(KIND);
    let mut alice = world.client(Version::V5, "alice");
    let mut bob = world.client(Version::V3, "bob");
    request(&mut alice, &World::endless("hers", 2000));
    alice.until("a chunk", |m| frame(m, "hers"));
    request(&mut bob, &World::endless("his", 50));
    drop(alice);
    assert_eq!(reply(&mut bob, "his").completion_tokens(), 50);
    world.metrics("both ended", |m| m["finished"] == 2);
    // she comes back: her answer is kept for a while
    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &World::endless("hers", 2000));
    let hers = alice.until("her answer", |m| frame(m, "hers"));
    assert_eq!(hers["usage"]["completion_tokens"], 2000);
}

#[test]
fn a_cancel_stops_decoding_within_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let smol = real_model(Real::Smol);
    // every token is a frame of its own
    let mut world = World::start(KIND, folder, &smol, "context = 512", "chunk_ms = 0");
    world.online();
    let mut alice = world.client(Version::V5, "alice");
    let mut late = Vec::new();
    for round in 0..5 {
        let id = format!("c{round}");
        let question =
            json!([{"role": "user", "content": "Tell me a very long story of a lighthouse."}]);
        request(
            &mut alice,
            // nothing that repeats, or drafts would come true while the cancel is on its way; and no end by itself, for
            // which the model has two tokens
            &json!({"id": id, "messages": question, "temperature": 1.5, "max_tokens": 400,
                "logit_bias": {"0": -100, "2": -100}}),
        );
        for _ in 0..5 {
            alice.until("a chunk", |m| frame(m, &id));
        }
        tell(&mut alice, "cancel", &json!({"id": id}));
        // the broker forwards the cancel to her too: what came before it left the daemon before the cancel got there
        let mut before = 5;
        alice.until("the cancel itself", |m| {
            before += u64::from(frame(m, &id).is_some());
            m.topic.ends_with("/cancel").then_some(())
        });
        let last = alice.until("the end", |m| {
            frame(m, &id).filter(|f| f["object"] == "chat.completion")
        });
        assert_eq!(last["choices"][0]["finish_reason"], "cancelled");
        late.push(last["usage"]["completion_tokens"].as_u64().unwrap() - before);
    }
    eprintln!("tokens decoded after a cancel: {late:?}");
    late.sort_unstable();
    // one was being decoded when the cancel arrived, one was on its way through the broker; the median forgives a
    // machine that had other things to do
    assert!(late[2] <= 2, "{late:?}");
}

#[test]
fn a_thought_ends_when_its_reader_has_had_enough() {
    let model = Tiny {
        think: Think::Prompt,
        ..tiny()
    };
    let world = World::with(KIND, &model, "");
    let mut alice = world.client(Version::V3, "alice");
    // it would think for ever
    let mut body = World::endless("deep", 8000);
    body["thinking"] = json!({"budget": 16_000, "visible": true});
    body["logit_bias"] = json!({"280": -100, "281": -100, "282": -100, "283": -100, "284": -100});
    request(&mut alice, &body);
    let mut first = String::new();
    alice.until("a thought", |m| {
        first = frame(m, "deep")?["choices"][0]["delta"]["reasoning_content"]
            .as_str()?
            .to_owned();
        Some(())
    });
    tell(
        &mut alice,
        "control",
        &json!({"id": "deep", "action": "end_thinking"}),
    );
    let last = alice.until("the answer", |m| {
        frame(m, "deep").filter(|f| f["object"] == "chat.completion")
    });
    let message = &last["choices"][0]["message"];
    let thought = message["reasoning_content"].as_str().unwrap();
    assert!(thought.starts_with(&first) && !thought.contains("think>"));
    let content = message["content"].as_str().unwrap();
    assert!(!content.is_empty() && !content.contains("think>"), "{last}");
    let reasoning = &last["usage"]["completion_tokens_details"]["reasoning_tokens"];
    assert!(
        (1..8000).contains(&reasoning.as_u64().unwrap()),
        "{reasoning}"
    );
}

#[test]
fn a_model_that_cannot_be_served_is_named_at_home_and_not_on_the_wire() {
    let whole = tiny().bytes();
    let mut flipped = whole.clone();
    // the number of tensors, the second field after magic and version
    flipped[13] ^= 0x40;
    let mut unsupported = tiny().writer();
    // Q4_0_4_4, which ggml itself has taken out
    unsupported.tensors[3].ty = 31;
    let name = unsupported.tensors[3].name.clone();
    // half of one may be a copy that is under way: another start may find all of it
    let table = [
        (whole[..whole.len() / 2].to_vec(), "the file", 1),
        (flipped, "tensors", 2),
        (unsupported.build(), name.as_str(), 2),
    ];
    for (bytes, says, code) in table {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.gguf");
        std::fs::write(&path, bytes).unwrap();
        let mut world = World::start(KIND, folder, &path, "", "");
        assert_eq!(world.daemon.ended().code(), Some(code), "{says}");
        let said = world.daemon.said();
        let last = said.lines().last().unwrap();
        assert!(
            last.starts_with("glowplug: ") && last.contains(says),
            "{said}"
        );
        assert!(!said.contains("panicked"), "{said}");
        // it may not have been connected for long enough to say anything
        let heard: Vec<Message> = world.watch.rest();
        for message in heard {
            assert!(
                !String::from_utf8_lossy(&message.payload).contains("damaged"),
                "{message:?}"
            );
        }
    }
}
