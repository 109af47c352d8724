//! Home Assistant's discovery over MQTT: one document from which it makes a device of the daemon, with the numbers of
//! `metrics` as sensors, a notifier that asks, and an event for each answer.
//!
//! An answer is an event, because a state of Home Assistant has at most 255 characters.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::chat::reply::encode;
use super::topics::Topics;
use crate::hex::hex;

/// Where Home Assistant says `online` when it has started, and `offline` when it ends.
pub const STATUS: &str = "homeassistant/status";
/// The client segment of Home Assistant, and its user on a broker whose access rules go by users.
const CLIENT: &str = "homeassistant";
/// A sensor is unavailable when this many metrics in a row did not come, but never sooner than [`EXPIRE_MIN_S`].
const MISSED: u64 = 6;
/// Shortest time in seconds after which a sensor is unavailable.
const EXPIRE_MIN_S: u64 = 60;

/// By what Home Assistant knows the daemon: `glowplug_` and the node. It takes only `a-z A-Z 0-9 _ -`; a node with other
/// characters has `_` for them and ends in a part of its hash, so that no two nodes are one device.
#[must_use]
pub fn device_id(node: &str) -> String {
    let taken = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let plain = node.replace(|c| !taken(c), "_");
    if plain == node {
        format!("glowplug_{node}")
    } else {
        let hash = hex(&Sha256::digest(node));
        format!("glowplug_{plain}_{}", &hash[..8])
    }
}

/// Where the document is retained.
#[must_use]
pub fn config_topic(node: &str) -> String {
    format!("homeassistant/device/{}/config", device_id(node))
}

/// Encodes the document. `metrics_every` is the time between two metrics; without a sensor there is no `temperature`.
#[must_use]
pub fn document(node: &str, topics: &Topics, metrics_every: Duration, sensor: bool) -> Bytes {
    let id = device_id(node);
    let expire_after = (MISSED * metrics_every.as_secs()).max(EXPIRE_MIN_S);
    let metrics = topics.metrics();
    let number = |key: &str, name: &str, template: &str, more: Value| {
        let mut sensor = json!({
            "platform": "sensor",
            "unique_id": format!("{id}_{key}"),
            "name": name,
            "state_topic": metrics,
            "value_template": template,
            "state_class": "measurement",
            "expire_after": expire_after,
            "entity_category": "diagnostic",
        });
        if let (Value::Object(sensor), Value::Object(more)) = (&mut sensor, more) {
            sensor.extend(more);
        }
        sensor
    };
    let mut components = json!({
        "ask": {
            "platform": "notify",
            "unique_id": format!("{id}_ask"),
            "name": "Ask",
            "command_topic": topics.ask(CLIENT),
        },
        "answer": {
            "platform": "event",
            "unique_id": format!("{id}_answer"),
            "name": "Answer",
            "state_topic": topics.answer(CLIENT),
            "event_types": ["answer"],
            "value_template": "{{ {'event_type': 'answer', 'text': value} | tojson }}",
        },
        "queued": number("queued", "Queued", "{{ value_json.queued }}", json!({})),
        "tokens_per_second": number(
            "tokens_per_second",
            "Tokens per second",
            "{{ value_json.tokens_per_second | round(1) }}",
            json!({"unit_of_measurement": "tokens/s"}),
        ),
        "resident": number(
            "resident",
            "Memory",
            "{{ value_json.bytes.resident }}",
            json!({"device_class": "data_size", "unit_of_measurement": "B"}),
        ),
    });
    if sensor {
        components["temperature"] = number(
            "temperature",
            "Temperature",
            "{{ value_json.temperature_c }}",
            json!({"device_class": "temperature", "unit_of_measurement": "°C"}),
        );
    }
    encode(&json!({
        "device": {
            "identifiers": [id],
            "name": format!("glowplug {node}"),
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": {"name": "glowplug", "sw_version": env!("CARGO_PKG_VERSION")},
        "availability": [{
            "topic": topics.status(),
            "value_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
        }],
        "qos": 1,
        "components": components,
    }))
}

/// The embedded broker's rule for the topics of discovery: the daemon writes documents and hears Home Assistant's
/// status, everybody else the other way round. `topic` is a topic to publish on, or else a filter to subscribe to.
#[must_use]
pub fn may(daemon: bool, topic: &str, publish: bool) -> bool {
    let documents = topic.starts_with("homeassistant/device/") && topic.ends_with("/config");
    match (daemon, publish) {
        (true, true) => documents,
        (true, false) | (false, true) => topic == STATUS,
        (false, false) => topic.starts_with("homeassistant/"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use glowplug_tests::world::contract::CONTRACT;

    #[test]
    fn a_node_of_any_characters_is_one_device_of_its_own() {
        assert_eq!(device_id("kitchen-2_a"), "glowplug_kitchen-2_a");
        let ids: Vec<String> = ["a.b", "a_b", "a:b", "küche", "k_che", ""]
            .iter()
            .map(|node| device_id(node))
            .collect();
        for (n, id) in ids.iter().enumerate() {
            let taken = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
            assert!(id.bytes().all(taken), "{id}");
            assert!(!ids[..n].contains(id), "{id}");
        }
        assert_eq!(
            config_topic("kitchen"),
            "homeassistant/device/glowplug_kitchen/config"
        );
    }

    #[test]
    fn without_a_sensor_there_is_no_temperature_and_slow_metrics_expire_late() {
        let topics = Topics::new("a/b", "n");
        let document = |seconds, sensor| -> Value {
            let bytes = document("n", &topics, Duration::from_secs(seconds), sensor);
            serde_json::from_slice(&bytes).unwrap()
        };
        let (with, without) = (document(10, true), document(3600, false));
        CONTRACT.wrote("Discovery", &[with.clone(), without.clone()]);
        assert!(with["components"]["temperature"].is_object());
        assert!(without["components"].get("temperature").is_none());
        assert_eq!(with["components"]["queued"]["expire_after"], 60);
        assert_eq!(without["components"]["queued"]["expire_after"], 21_600);
        assert_eq!(
            with["components"]["ask"]["command_topic"],
            "a/b/n/ask/homeassistant"
        );
    }

    /// The captured one has passed Home Assistant's own schemas (`cross/homeassistant/schemas.py`): whoever changes the document
    /// captures it again and holds it to them again.
    #[test]
    fn the_document_is_the_one_that_home_assistant_takes() {
        let captured = include_str!("../../tests/data/homeassistant.json");
        let mut captured: Value = serde_json::from_str(captured).unwrap();
        let captured = &mut captured["document"];
        for place in ["device", "origin"] {
            captured[place]["sw_version"] = env!("CARGO_PKG_VERSION").into();
        }
        let topics = Topics::new("glowplug", "n1");
        let document = document("n1", &topics, Duration::from_secs(10), true);
        let document: Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(&document, captured);
    }

    #[test]
    fn each_side_of_discovery_has_its_topics() {
        let document = "homeassistant/device/glowplug_n/config";
        for (topic, publish, daemon, others) in [
            (document, true, true, false),
            (document, false, false, true),
            (STATUS, true, false, true),
            (STATUS, false, true, true),
            ("homeassistant/+/+/config", false, false, true),
            ("homeassistant/sensor/x/config", true, false, false),
            ("#", false, false, false),
            ("zigbee2mqtt/lamp", true, false, false),
        ] {
            assert_eq!(may(true, topic, publish), daemon, "{topic}");
            assert_eq!(may(false, topic, publish), others, "{topic}");
        }
    }
}
