//! Home Assistant, as far as it meets the daemon: the document that it makes a device of, its templates on what the daemon
//! really says, a question through the notifier, and the end of it all.

use glowplug_tests::world::broker::Mosquitto;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{CONFIG, Kind, World, tiny, topic};
use serde_json::{Value, json};

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

/// What Home Assistant documents for a component of a platform, besides what all have.
fn keys(platform: &str) -> &'static [&'static str] {
    match platform {
        "notify" => &["command_topic", "command_template", "retain"],
        "event" => &[
            "state_topic",
            "event_types",
            "value_template",
            "device_class",
        ],
        "sensor" => &[
            "state_topic",
            "value_template",
            "state_class",
            "device_class",
            "unit_of_measurement",
            "expire_after",
            "force_update",
            "suggested_display_precision",
        ],
        other => panic!("platform `{other}`"),
    }
}

/// Checks the document against Home Assistant's own table of keys.
fn check(document: &Value) {
    let table = |what: &str, value: &Value, required: &[&str], known: &[&str]| {
        let object = value.as_object().unwrap_or_else(|| panic!("{what}"));
        for key in required {
            assert!(object.contains_key(*key), "{what}: no `{key}`");
        }
        for key in object.keys() {
            assert!(known.contains(&key.as_str()), "{what}: `{key}`");
        }
    };
    table(
        "the document",
        document,
        &["device", "origin", "components"],
        &["device", "origin", "components", "availability", "qos"],
    );
    table(
        "device",
        &document["device"],
        &["identifiers", "name"],
        &["identifiers", "name", "sw_version"],
    );
    table(
        "origin",
        &document["origin"],
        &["name"],
        &["name", "sw_version", "support_url"],
    );
    let mut ids = Vec::new();
    for (name, component) in document["components"].as_object().unwrap() {
        let platform = component["platform"].as_str().unwrap();
        let mut known = vec!["platform", "unique_id", "name", "entity_category"];
        known.extend(keys(platform));
        let required: &[&str] = match platform {
            "notify" => &["unique_id", "command_topic"],
            "event" => &["unique_id", "state_topic", "event_types"],
            _ => &["unique_id", "state_topic"],
        };
        table(name, component, required, &known);
        ids.push(component["unique_id"].as_str().unwrap());
        if component["device_class"] == "data_size" {
            assert_eq!(component["unit_of_measurement"], "B");
        }
    }
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

/// A template of Home Assistant on a payload: `value` is its text, `value_json` what it says as JSON.
fn render(template: &Value, payload: &[u8]) -> String {
    let text = std::str::from_utf8(payload).unwrap();
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let mut engine = minijinja::Environment::new();
    engine.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    engine
        .render_str(
            template.as_str().unwrap(),
            json!({"value": text, "value_json": json}),
        )
        .unwrap_or_else(|error| panic!("{template}: {error}"))
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
    for (name, component) in said["components"].as_object().unwrap() {
        if component["platform"] == "sensor" {
            assert_eq!(component["state_topic"], topic("metrics"));
            let value = render(&component["value_template"], metrics.to_string().as_bytes());
            assert!(value.parse::<f64>().is_ok(), "{name}: {value}");
        }
    }
    let has_sensor = metrics["temperature_c"].is_number();
    assert_eq!(
        said["components"].get("temperature").is_some(),
        has_sensor,
        "{metrics}"
    );
    let availability = &said["availability"][0];
    assert_eq!(availability["topic"], topic("status"));
    for (state, is) in [("online", "online"), ("draining", "offline")] {
        let status = json!({"state": state, "boot_id": "b", "since": 1}).to_string();
        let shown = render(&availability["value_template"], status.as_bytes());
        assert_eq!(shown, is);
    }

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
    let event: Value = serde_json::from_str(&render(&answer["value_template"], &spoken)).unwrap();
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
