//! Tools that are made of what a house tells of itself.

use super::*;

#[test]
fn a_house_tells_of_itself_on_mosquitto() {
    told(Kind::Mosquitto);
}

#[test]
fn a_house_tells_of_itself_on_the_embedded_broker() {
    told(Kind::Embedded);
}

/// The tool `set_light`, made of what is retained; and lies, of which none is written to.
fn told(kind: Kind) {
    // the schema forces the first key, and after its colon the script goes on
    const CALLS: [&str; 5] = [
        "<tool_call>\n",
        r#"{"name": "set_light", "arguments": "#,
        ":",
        r#" "Lamp", "state": "on", "brightness": 99}}"#,
        "\n</tool_call>",
    ];
    let from = "tools_max_rounds = 1\n[tools_from]\nhomeassistant = true\nzigbee2mqtt = true\n\
        topics = [\"zigbee2mqtt/+/set\", \"house/#\"]\nclients = [\"alice\"]\n";
    let world = world(kind, CALLS, from);
    let mut house = world.connect(Version::V5, HOUSE);
    house.subscribe("zigbee2mqtt/+/set");
    house.subscribe("house/#");
    let mut keep = |on: &str, what: Value| {
        let id = house.publish(&Message {
            retain: true,
            ..Message::new(on, what.to_string())
        });
        house.ack(id).unwrap();
    };
    let light = |topic: &str| json!({"name": "Lamp", "command_topic": topic, "state_topic": "glowplug/n1/chat/carol/reply"});
    keep(
        "homeassistant/light/lie/config",
        light("glowplug/n1/admin/drain/request"),
    );
    keep(
        "homeassistant/light/lie2/config",
        light("zigbee2mqtt/bridge/request/restart"),
    );
    keep("homeassistant/light/lie3/config", light("other/lamp/set"));
    let mut alice = world.client(Version::V5, "alice");
    // nothing that may be a tool yet
    ask(&mut alice, "0", &json!({}));
    let none = reply(&mut alice, "0");
    assert_eq!(
        (none.finish(), none.last.get("tool_results")),
        ("stop", None),
        "{}",
        none.last
    );
    keep(
        "zigbee2mqtt/bridge/devices",
        json!([{"friendly_name": "Lamp", "definition": {"exposes": [{"type": "light", "features": [
            {"name": "state", "property": "state", "access": 7, "value_on": "ON", "value_off": "OFF"},
            {"name": "brightness", "property": "brightness", "access": 7, "value_min": 0, "value_max": 254}]}]}}]),
    );
    keep("homeassistant/light/true/config", light("house/lamp/set"));
    ask(&mut alice, "1", &json!({}));
    let called = call(&mut house, "zigbee2mqtt/Lamp/set");
    assert_eq!(called.json(), json!({"state": "ON", "brightness": 99}));
    let answer = Message {
        correlation_data: called.correlation_data,
        ..Message::new(called.response_topic.unwrap(), "it is on")
    };
    house.publish(&answer);
    let answered = reply(&mut alice, "1");
    assert_eq!(
        (answered.finish(), results(&answered)),
        ("stop", vec!["it is on"])
    );
    // only for whom the owner names
    let mut bob = world.client(Version::V5, "bob");
    ask(&mut bob, "1", &json!({}));
    assert_eq!(reply(&mut bob, "1").last.get("tool_results"), None);
}
