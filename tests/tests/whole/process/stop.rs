//! A daemon that is told to end while it changes its model.

use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{Kind, World, frame, request, tiny, topic};
use serde_json::json;

const CLIENTS: usize = 4;
const SESSIONS: usize = 25;

/// The old engine saves its sessions on its way out, which takes a while: whoever stops the daemon then waits for it.
#[test]
fn told_to_end_while_the_model_changes_it_saves_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let [model, other] = ["model.gguf", "other.gguf"].map(|name| folder.path().join(name));
    tiny().write(&model).unwrap();
    Tiny { seed: 2, ..tiny() }.write(&other).unwrap();
    let sessions = folder.path().join("sessions");
    let engine = format!(
        "max_streams = 4\nqueue = 16\n[sessions]\ndir = \"{}\"",
        sessions.display()
    );
    let mut world = World::start(Kind::Mosquitto, folder, &model, "context = 1024", &engine);
    world.online();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|n| world.client(Version::V5, &format!("c{n}")))
        .collect();
    for session in 0..SESSIONS {
        for client in &mut clients {
            let mut asked = World::endless(&format!("{session}"), 2);
            asked["session"] = json!(format!("s{session}"));
            request(client, &asked);
        }
        for client in &mut clients {
            let last = client.until("an answer", |m| {
                frame(m, &session.to_string()).filter(|f| f["object"] == "chat.completion")
            });
            assert_eq!(last["choices"][0]["finish_reason"], "length", "{last}");
        }
    }
    let mut operator = world.operator();
    operator.publish(&Message::new(
        topic("admin/model/request"),
        json!({"name": "other"}).to_string(),
    ));
    // from here on the engine may be on its way out at any moment
    world.daemon.line("that the model was asked for", |line| {
        line.contains("the engine ends").then_some(())
    });
    world.daemon.signal("TERM");
    assert_eq!(world.daemon.ended().code(), Some(0));
    world.restart();
    for (n, client) in clients.iter_mut().enumerate() {
        for session in 0..SESSIONS {
            let verb = topic(&format!("session/c{n}/s{session}"));
            client.publish(&Message::new(format!("{verb}/save"), ""));
            let result = client.until("a result", |m| {
                (m.topic == format!("{verb}/result")).then(|| m.json())
            });
            assert_eq!(
                (&result["ok"], &result["turns"]),
                (&json!(true), &json!(1)),
                "{result}"
            );
        }
    }
}
