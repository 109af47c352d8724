use super::*;
use crate::tools::definition::Planned;
use serde_json::{Value, json};

mod levels;

fn terms() -> Terms {
    Terms {
        homeassistant: true,
        zigbee2mqtt: true,
        topics: vec!["zigbee2mqtt/+/set".into(), "house/#".into()],
        clients: vec!["panel".into()],
        domains: DOMAINS[..DEFAULT_DOMAINS]
            .iter()
            .map(|d| (*d).to_owned())
            .collect(),
    }
}

fn catalogues() -> Catalogues {
    Catalogues::new(terms(), "glowplug", "n1")
}

fn take(all: &mut Catalogues, topic: &str, document: &Value) -> bool {
    all.take(topic, document.to_string().as_bytes())
}

/// The tools with their schemas.
fn tools(all: &Catalogues) -> Vec<(String, Value)> {
    let tools = all.definitions(|_| true);
    tools
        .iter()
        .map(|t| {
            (
                t.tool.name().to_owned(),
                serde_json::from_str(t.tool.parameters()).unwrap(),
            )
        })
        .collect()
}

fn names(schema: &Value) -> &Value {
    &schema["properties"]["name"]["enum"]
}

/// What the daemon makes of a call.
fn planned(all: &Catalogues, tool: &str, arguments: &Value) -> Result<Planned, String> {
    let tools = all.definitions(|_| true);
    let tool = tools.iter().find(|t| t.tool.name() == tool);
    tool.ok_or("no tool")?.plan(&arguments.to_string())
}

/// What a call publishes: topic, payload, reply topic.
fn plan(
    all: &Catalogues,
    tool: &str,
    name: &str,
    state: &str,
) -> Option<(String, String, Option<String>)> {
    let planned = planned(all, tool, &json!({"name": name, "state": state})).ok()?;
    Some((
        planned.topic,
        String::from_utf8(planned.payload.to_vec()).unwrap(),
        planned.reply_topic,
    ))
}

fn some(
    topic: &str,
    payload: &str,
    reply: Option<&str>,
) -> Option<(String, String, Option<String>)> {
    Some((
        topic.to_owned(),
        payload.to_owned(),
        reply.map(str::to_owned),
    ))
}

fn zigbee(names: &[&str]) -> Value {
    let state = json!({"type": "binary", "name": "state", "property": "state", "access": 7,
        "value_on": "ON", "value_off": "OFF", "value_toggle": "TOGGLE"});
    let brightness =
        json!({"type": "numeric", "name": "brightness", "property": "brightness", "access": 7});
    let light = |name: &&str| {
        json!({"ieee_address": "0x1", "type": "Router", "friendly_name": name, "supported": true,
            "definition": {"model": "m", "exposes": [{"type": "light", "features": [brightness, state]}, {"type": "numeric", "name": "linkquality"}]}})
    };
    let mut all: Vec<Value> = names.iter().map(light).collect();
    all.push(json!({"friendly_name": "Coordinator", "type": "Coordinator", "definition": null}));
    Value::Array(all)
}

#[test]
fn zigbee_devices_become_one_tool_for_each_domain() {
    let mut all = catalogues();
    assert!(all.is_one(zigbee2mqtt::TOPIC) && !all.is_one("zigbee2mqtt/lamp"));
    let mut list = zigbee(&["Lamp", "Table lamp"]);
    list[1]["definition"]["exposes"][0]["type"] = json!("switch");
    list[1]["definition"]["exposes"][0]["endpoint"] = json!("left");
    list[1]["definition"]["exposes"][0]["features"][1]["property"] = json!("state_left");
    assert!(take(&mut all, zigbee2mqtt::TOPIC, &list));
    assert!(!take(&mut all, zigbee2mqtt::TOPIC, &list), "the same again");
    let made = tools(&all);
    assert_eq!(
        made.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["set_light", "set_switch"]
    );
    assert_eq!(
        made[0].1["properties"],
        json!({"name": {"enum": ["Lamp"]}, "state": {"enum": ["off", "on"]}})
    );
    assert_eq!(
        plan(&all, "set_light", "Lamp", "on"),
        some(
            "zigbee2mqtt/Lamp/set",
            r#"{"state":"ON"}"#,
            Some("zigbee2mqtt/Lamp")
        )
    );
    assert_eq!(
        plan(&all, "set_switch", "Table lamp left", "off"),
        some(
            "zigbee2mqtt/Table lamp/set",
            r#"{"state_left":"OFF"}"#,
            Some("zigbee2mqtt/Table lamp")
        )
    );
    assert_eq!(plan(&all, "set_light", "Attic", "on"), None);
    // a device that is gone, one that is disabled, one that cannot be set
    list[0]["disabled"] = json!(true);
    list[1]["definition"]["exposes"][0]["features"][1]["access"] = json!(5);
    assert!(take(&mut all, zigbee2mqtt::TOPIC, &list));
    assert!(tools(&all).is_empty());
}

#[test]
fn discovery_documents_are_read_in_their_long_and_short_form() {
    let mut all = catalogues();
    let lamp = json!({"name": null, "device": {"name": "Lamp"}, "command_topic": "house/lamp/set", "state_topic": "house/lamp", "schema": "json"});
    assert!(take(&mut all, "homeassistant/light/x/lamp/config", &lamp));
    let plug = json!({"~": "house/plug", "name": "Plug", "cmd_t": "~/cmd", "stat_t": "~", "pl_on": "1", "pl_off": 0});
    assert!(take(&mut all, "homeassistant/switch/plug/config", &plug));
    let device = json!({"dev": {"name": "Box"}, "cmps": {
        "fan": {"p": "fan", "name": "Fan", "command_topic": "house/box/fan"},
        "night": {"platform": "scene", "command_topic": "house/box/scene", "payload_on": "night"},
        "door": {"p": "lock", "command_topic": "house/box/door"},
        "warmth": {"p": "sensor", "state_topic": "house/box/warmth"},
        "clever": {"p": "light", "schema": "template", "command_topic": "house/box/clever"},
    }});
    assert!(take(&mut all, "homeassistant/device/box/config", &device));
    let made = tools(&all);
    assert_eq!(
        made.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(),
        ["set_light", "set_switch", "set_fan", "set_scene"]
    );
    assert_eq!(
        plan(&all, "set_light", "Lamp", "off"),
        some("house/lamp/set", r#"{"state":"OFF"}"#, Some("house/lamp"))
    );
    assert_eq!(
        plan(&all, "set_switch", "Plug", "off"),
        some("house/plug/cmd", "0", Some("house/plug"))
    );
    assert_eq!(
        plan(&all, "set_fan", "Box Fan", "on"),
        some("house/box/fan", "ON", None)
    );
    assert_eq!(
        plan(&all, "set_scene", "Box", "on"),
        some("house/box/scene", "night", None)
    );
    // locks only where the owner names them
    let mut named = Catalogues::new(
        Terms {
            domains: vec!["lock".into()],
            ..terms()
        },
        "glowplug",
        "n1",
    );
    assert!(take(&mut named, "homeassistant/device/box/config", &device));
    assert_eq!(
        plan(&named, "set_lock", "Box", "unlock"),
        some("house/box/door", "UNLOCK", None)
    );
    // an empty document takes it back, and a new connection all of them
    assert!(all.take("homeassistant/light/x/lamp/config", b""));
    assert!(!all.take("homeassistant/light/x/lamp/config", b""));
    assert_eq!(plan(&all, "set_light", "Lamp", "off"), None);
    all.clear();
    assert!(tools(&all).is_empty());
}

fn numeric(name: &str, least: i64, most: i64) -> Value {
    json!({"type": "numeric", "name": name, "property": name, "access": 7, "value_min": least, "value_max": most})
}

#[test]
fn a_lie_makes_no_topic_be_written_or_heard_that_the_owner_did_not_name() {
    for topic in [
        "other/lamp/set",
        "zigbee2mqtt/bridge/set",
        "zigbee2mqtt/bridge/request/permit_join",
        "glowplug/n1/admin/model/request",
        "homeassistant/light/x/config",
        "$SYS/x",
        "house/+/set",
        "house/#",
        "house/{name}",
        "house//x",
        "",
    ] {
        let mut all = catalogues();
        let lie = json!({"name": "Lamp", "command_topic": topic});
        assert!(
            !take(&mut all, "homeassistant/light/x/config", &lie),
            "{topic}"
        );
        assert!(tools(&all).is_empty());
    }
    // what a client is told is no answer to a lamp
    for state in [
        "glowplug/n1/chat/alice/reply",
        "secrets/x",
        "house/#",
        "$SYS/x",
        "house/lamp/set",
    ] {
        let mut all = catalogues();
        let lie = json!({"name": "Lamp", "command_topic": "house/lamp/set", "state_topic": state});
        assert!(take(&mut all, "homeassistant/light/x/config", &lie));
        assert_eq!(
            plan(&all, "set_light", "Lamp", "on").unwrap().2,
            None,
            "{state}"
        );
    }
    // more states, longer payloads than anything has
    for values in [
        vec!["X".repeat(300)],
        (0..9).map(|n| n.to_string()).collect(),
    ] {
        let mut all = catalogues();
        let mut list = zigbee(&["Lamp"]);
        let feature = &mut list[0]["definition"]["exposes"][0]["features"][1];
        *feature = json!({"name": "state", "property": "state", "access": 7, "values": values});
        assert!(!take(&mut all, zigbee2mqtt::TOPIC, &list));
    }
    // nor do all of them together become long
    for (property, taken) in [(100, true), (180, false)] {
        let mut all = catalogues();
        let mut list = zigbee(&[&"x".repeat(480)]);
        let values: Vec<String> = (0..8).map(|n| format!("{n}{}", "v".repeat(50))).collect();
        list[0]["definition"]["exposes"][0]["features"][1] = json!({"name": "state", "property": "p".repeat(property), "access": 7, "values": values});
        assert_eq!(take(&mut all, zigbee2mqtt::TOPIC, &list), taken);
    }
    // our own document, and what is none
    let mut all = catalogues();
    let own = json!({"dev": {"name": "glowplug"}, "cmps": {"a": {"p": "switch", "command_topic": "house/a"}}});
    assert!(!take(
        &mut all,
        "homeassistant/device/glowplug_n1/config",
        &own
    ));
    for broken in [
        &b"{"[..],
        b"[]",
        b"\xff",
        b"7",
        b"{\"cmps\":[]}",
        b"{\"command_topic\":7}",
    ] {
        assert!(!all.take("homeassistant/device/x/config", broken));
        assert!(!all.take("homeassistant/light/x/config", broken));
        assert!(!all.take(zigbee2mqtt::TOPIC, broken));
    }
}

#[test]
fn a_house_fits_and_a_flood_is_cut_at_its_end() {
    let rooms: Vec<String> = (0..60)
        .map(|n| format!("Light of the room number {n:02}"))
        .collect();
    let mut list = zigbee(&rooms.iter().map(String::as_str).collect::<Vec<_>>());
    for lamp in list.as_array_mut().unwrap().iter_mut().take(60) {
        let features = &mut lamp["definition"]["exposes"][0]["features"];
        *features = json!([
            numeric("brightness", 0, 254),
            numeric("color_temp", 150, 500),
            features[1]
        ]);
    }
    let mut all = catalogues();
    assert!(take(&mut all, zigbee2mqtt::TOPIC, &list));
    assert_eq!(names(&tools(&all)[0].1).as_array().unwrap().len(), 60);
    // the order: the owner's domains, then the names
    let fits = |tools: &[Definition]| tools.iter().map(|t| t.tool.bytes()).sum::<usize>() <= 1000;
    let plug = json!({"name": "A plug", "command_topic": "house/plug"});
    assert!(take(&mut all, "homeassistant/switch/plug/config", &plug));
    let cut = all.definitions(fits);
    assert!(fits(&cut) && cut.len() == 1, "{}", cut.len());
    let schema: Value = serde_json::from_str(cut[0].tool.parameters()).unwrap();
    let kept = names(&schema).as_array().unwrap();
    assert!((10..60).contains(&kept.len()), "{}", kept.len());
    assert!(kept.iter().zip(&rooms).all(|(kept, name)| kept == name));
    // a flood of documents
    for n in 0..2 * THINGS_MAX {
        let thing = json!({"name": format!("{n:04} {}", "x".repeat(50)), "command_topic": format!("house/{n}")});
        take(&mut all, &format!("homeassistant/light/{n}/config"), &thing);
    }
    let things: usize = all.documents.values().map(Vec::len).sum();
    assert_eq!(things, THINGS_MAX);
    let bytes: usize = all
        .definitions(|_| true)
        .iter()
        .map(|t| t.tool.bytes())
        .sum();
    assert!((SCHEMAS_MAX / 2..=SCHEMAS_MAX).contains(&bytes), "{bytes}");
    assert!(all.definitions(|_| false).is_empty());
}

#[test]
fn a_thing_of_both_catalogues_is_one_and_a_name_twice_is_two() {
    let mut all = catalogues();
    assert!(take(&mut all, zigbee2mqtt::TOPIC, &zigbee(&["Lamp"])));
    let same = json!({"name": "Lamp", "command_topic": "zigbee2mqtt/Lamp/set", "schema": "json"});
    assert!(take(
        &mut all,
        "homeassistant/light/0x1/light/config",
        &same
    ));
    assert_eq!(names(&tools(&all)[0].1), &json!(["Lamp"]));
    let other = json!({"name": "Lamp", "command_topic": "house/lamp"});
    assert!(take(&mut all, "homeassistant/light/other/config", &other));
    assert_eq!(names(&tools(&all)[0].1), &json!(["Lamp", "Lamp 2"]));
}

proptest::proptest! {
    /// Whatever a document says, what a tool publishes is below the owner's filters and nothing that is never a tool's.
    #[test]
    fn no_document_leaves_the_owners_filters(own in "house/[a-z]{1,3}|[a-z$+#/~]{0,8}", topic in "[a-z$+#/{}~]{0,24}|(house|glowplug|zigbee2mqtt/bridge)/[a-z+#/]{0,8}", prefix in "[a-z/$#+]{0,8}") {
        let mut all = catalogues();
        let document = json!({"name": "x", "~": prefix, "command_topic": own, "brightness_command_topic": topic, "state_topic": topic});
        take(&mut all, "homeassistant/light/x/config", &document);
        let dimmed = json!({"name": "x", "state": "on", "brightness": 7});
        let plain = json!({"name": "x", "state": "on"});
        for planned in [dimmed, plain].iter().filter_map(|call| planned(&all, "set_light", call).ok()) {
            let before = planned.before.into_iter().map(|(topic, _)| topic);
            for topic in before.chain([planned.topic]).chain(planned.reply_topic) {
                proptest::prop_assert!(terms().topics.iter().any(|f| covers(f, &topic)), "{}", topic);
                proptest::prop_assert!(may_be_a_tools(&topic, "glowplug"));
            }
        }
    }
}
