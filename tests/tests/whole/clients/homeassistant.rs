//! Home Assistant, as far as it meets the daemon: the document that it makes a device of, its templates on what the daemon
//! really says, a question through the notifier, and the end of it all.

use glowplug_tests::world::broker::Mosquitto;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{CONFIG, Kind, World, tiny, topic};
use serde_json::{Value, json};
use std::process::Command;

const DOCUMENT: &str = "homeassistant/device/glowplug_n1/config";

/// The access rules that the page gives for it.
fn rules() -> &'static str {
    let page = include_str!("../../../../daemon/docs/operations.md");
    let mut blocks = page.split("```text\n").skip(1);
    let found = blocks.find(|block| block.contains("homeassistant/status"));
    found.unwrap().split("```").next().unwrap()
}

fn world(kind: Kind) -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = tiny();
    model.write(&path).unwrap();
    let broker = (kind == Kind::Mosquitto)
        .then(|| Mosquitto::start_with(folder.path(), "", &format!("\n{}", rules())));
    let context = format!("context = {}", model.context);
    let on = "max_tokens = 8\n[homeassistant]\ndiscovery = true";
    let mut world = World::start_on(broker, folder, &path, &context, on, &[]);
    world.online();
    world
}

/// The keys that Home Assistant's own schemas require and know, as `cross/homeassistant/schemas.py` has found them.
const KEYS: &str = include_str!("../../../../daemon/tests/data/homeassistant_keys.json");

/// Checks the document against Home Assistant's own keys.
fn check(document: &Value) {
    let keys: Value = serde_json::from_str(KEYS).unwrap();
    let table = |kind: &str, value: &Value, all: &[&str]| {
        let object = value.as_object().unwrap_or_else(|| panic!("{kind}"));
        let listed = |list: &str| {
            let names = keys[kind][list].as_array().unwrap().iter();
            names.map(|name| name.as_str().unwrap()).collect::<Vec<_>>()
        };
        let (required, optional) = (listed("required"), listed("optional"));
        for key in required.iter().chain(all) {
            assert!(object.contains_key(*key), "{kind}: no `{key}`");
        }
        for key in object.keys().map(String::as_str) {
            let known = required.contains(&key) || optional.contains(&key);
            assert!(known || key == "platform", "{kind}: `{key}`");
        }
    };
    table("document", document, &[]);
    // one of two that a device must have
    table("device", &document["device"], &["identifiers"]);
    table("origin", &document["origin"], &[]);
    table("availability", &document["availability"][0], &[]);
    let mut ids = Vec::new();
    for component in document["components"].as_object().unwrap().values() {
        let platform = component["platform"].as_str().unwrap();
        // entities of a device document have one
        table(platform, component, &["unique_id"]);
        ids.push(component["unique_id"].as_str().unwrap());
        if let Some(class) = component["device_class"].as_str() {
            let units = keys["units"][class].as_array().unwrap();
            assert!(units.contains(&component["unit_of_measurement"]), "{class}");
        }
    }
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

/// Templates of Home Assistant on payloads, by the engine that it has too.
fn render(all: &[(&Value, &[u8])]) -> Vec<String> {
    let all: Vec<_> = all
        .iter()
        .map(|(template, payload)| (template, std::str::from_utf8(payload).unwrap()))
        .collect();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/whole/clients/homeassistant_templates.py"
    );
    let out = Command::new("python3")
        .args([script, &json!(all).to_string()])
        .output()
        .unwrap_or_else(|e| panic!("{e}: this test needs python3"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "{said}: this test needs Python's package jinja2, which `tests/run.sh` unpacks"
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

fn is_discovered_asked_and_forgotten(kind: Kind) {
    let mut world = world(kind);
    let connect = |world: &World, name: &str| {
        let mut home = world.connect(Version::V5, name);
        home.subscribe("homeassistant/+/+/config");
        home
    };
    let document = |home: &mut Client| {
        home.until("the document", |m| {
            (m.topic == DOCUMENT).then(|| m.payload.clone())
        })
    };
    let mut home = connect(&world, "homeassistant");
    let first = document(&mut home);
    let said: Value = serde_json::from_slice(&first).unwrap();
    check(&said);

    // the templates, on what the daemon says of itself
    let metrics = world.metrics("numbers", |_| true);
    let (said_of_itself, mut templates) = (metrics.to_string(), Vec::new());
    for component in said["components"].as_object().unwrap().values() {
        if component["platform"] == "sensor" {
            assert_eq!(component["state_topic"], topic("metrics"));
            templates.push((&component["value_template"], said_of_itself.as_bytes()));
        }
    }
    for (value, (template, _)) in render(&templates).iter().zip(&templates) {
        assert!(value.parse::<f64>().is_ok(), "{template}: {value}");
    }
    let has_sensor = metrics["temperature_c"].is_number();
    assert_eq!(
        said["components"].get("temperature").is_some(),
        has_sensor,
        "{metrics}"
    );
    let availability = &said["availability"][0];
    assert_eq!(availability["topic"], topic("status"));
    let states = ["online", "draining"]
        .map(|state| json!({"state": state, "boot_id": "b", "since": 1}).to_string());
    let shown = render(
        &states
            .each_ref()
            .map(|status| (&availability["value_template"], status.as_bytes())),
    );
    assert_eq!(shown, ["online", "offline"]);

    // a question by the notifier, and its answer as an event
    let (ask, answer) = (&said["components"]["ask"], &said["components"]["answer"]);
    home.subscribe(answer["state_topic"].as_str().unwrap());
    home.publish(&Message::new(
        ask["command_topic"].as_str().unwrap(),
        "the rain",
    ));
    let spoken = home.until("the answer", |m| {
        (Some(m.topic.as_str()) == answer["state_topic"].as_str()).then(|| m.payload.clone())
    });
    let event = render(&[(&answer["value_template"], &spoken)]).remove(0);
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["event_type"], answer["event_types"][0]);
    assert_eq!(event["text"].as_str().unwrap().as_bytes(), spoken);

    // it starts again
    home.publish(&Message::new("homeassistant/status", "offline"));
    home.publish(&Message::new("homeassistant/status", "online"));
    assert_eq!(document(&mut home), first);

    // it is there after a new connection too, until it is switched off
    home = connect(&world, "homeassistant");
    assert_eq!(document(&mut home), first);
    let file = world.folder().join(CONFIG);
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        config.replace("discovery = true", "discovery = false"),
    )
    .unwrap();
    world.daemon.signal("TERM");
    world.daemon.ended();
    world.restart();
    if kind == Kind::Embedded {
        // this broker forgot, and lets nobody write there any more
        let mut home = world.connect(Version::V5, "homeassistant");
        assert!(!home.try_subscribe("homeassistant/+/+/config"));
        return;
    }
    assert_eq!(document(&mut home), b"");
    // and once is enough: the next run needs no right to the topic
    world.daemon.signal("TERM");
    world.daemon.ended();
    let state = world.folder().join("state/glowplug");
    let marks = std::fs::read_dir(state).unwrap();
    let names = marks.map(|mark| mark.unwrap().file_name().into_string().unwrap());
    assert!(
        names
            .into_iter()
            .all(|name| !name.contains("homeassistant"))
    );
}

#[test]
fn home_assistant_finds_the_daemon_on_mosquitto() {
    is_discovered_asked_and_forgotten(Kind::Mosquitto);
}

#[test]
fn home_assistant_finds_the_daemon_on_the_embedded_broker() {
    is_discovered_asked_and_forgotten(Kind::Embedded);
}
