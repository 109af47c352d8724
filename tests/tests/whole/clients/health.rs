//! `glowplug health` beside work that takes minutes.

use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::daemon::glowplug;
use glowplug_tests::world::{Kind, NODE, STATE, World, frame, request, tiny, topic};
use serde_json::{Value, json};

/// Exit code, what it printed, and why not.
fn health(world: &World, wait: &str) -> (Option<i32>, Value, String) {
    let broker = format!("mqtt://127.0.0.1:{}", world.port);
    let args = [
        "health", "--json", "--broker", &broker, "--node", NODE, "--wait", wait,
    ];
    let output = glowplug(&args)
        .env("XDG_STATE_HOME", world.folder().join(STATE))
        .output()
        .unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said, why)
}

#[test]
fn a_busy_daemon_answers_it_and_a_full_one_says_that_it_does_not() {
    let slow = Tiny {
        layers: 12,
        ..tiny()
    };
    let world = World::with(Kind::Embedded, &slow, "max_streams = 1\nqueue = 2");
    let mut a = world.client(Version::V5, "a");
    request(&mut a, &World::endless("long", 16_000));
    a.until("a chunk", |m| frame(m, "long"));
    // the only stream is taken: ours parks it
    let (code, said, why) = health(&world, "600");
    assert_eq!(code, Some(0), "{why}");
    assert_eq!(said["healthy"], json!(true));
    assert!(
        ["stop", "length"].contains(&said["answer"].as_str().unwrap()),
        "{said}"
    );
    // every place is taken: a refusal is no answer of the model
    for id in ["b", "c"] {
        let mut client = world.client(Version::V5, id);
        let body = World::endless(id, 16_000).to_string();
        let message = Message::new(topic(&format!("chat/{id}/request")), body);
        let packet = client.publish(&message);
        // it is accepted
        assert_eq!(client.ack(packet).unwrap(), 0);
    }
    let (code, _, why) = health(&world, "1");
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("overloaded"), "{why}");
}
