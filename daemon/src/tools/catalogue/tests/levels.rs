//! Lamps that are dimmed and covers that are moved.

use super::*;

/// What a call publishes, in short: `topic payload` for each part, or why nothing.
fn says(all: &Catalogues, tool: &str, arguments: &Value) -> String {
    let part = |topic: &str, said: &[u8]| format!("{topic} {}", String::from_utf8_lossy(said));
    match planned(all, tool, arguments) {
        Err(why) => why,
        Ok(p) => {
            let before = p.before.iter().map(|(topic, said)| part(topic, said));
            let parts = before.chain([part(&p.topic, &p.payload)]);
            parts.collect::<Vec<_>>().join("; ")
        }
    }
}

/// All domains, of a house whose owner wants them.
fn whole() -> Catalogues {
    let domains = DOMAINS.iter().map(|d| (*d).to_owned()).collect();
    Catalogues::new(Terms { domains, ..terms() }, "glowplug", "n1")
}

#[test]
fn a_lamp_is_dimmed_and_a_blind_is_moved_in_the_range_that_the_list_tells() {
    let mut all = whole();
    let mut list = zigbee(&["Lamp", "Plain"]);
    let features = &mut list[0]["definition"]["exposes"][0]["features"];
    *features = json!([
        numeric("brightness", 0, 254),
        numeric("color_temp", 150, 500),
        features[1]
    ]);
    let blind = json!({"friendly_name": "Blind", "definition": {"exposes": [{"type": "cover", "features": [
        {"type": "enum", "name": "state", "property": "state", "access": 3, "values": ["OPEN", "CLOSE", "STOP"]},
        numeric("position", 0, 100)]}]}});
    list.as_array_mut().unwrap().push(blind);
    assert!(take(&mut all, zigbee2mqtt::TOPIC, &list));
    let made = tools(&all);
    assert_eq!(
        made[0].1["properties"],
        json!({"name": {"enum": ["Lamp", "Plain"]}, "state": {"enum": ["off", "on"]},
            "brightness": {"type": "integer", "minimum": 0, "maximum": 254},
            "color_temp_kelvin": {"type": "integer", "minimum": 2000, "maximum": 6666}})
    );
    assert_eq!(made[0].1["required"], json!(["name", "state"]));
    assert_eq!(
        made[1].1["properties"],
        json!({"name": {"enum": ["Blind"]}, "state": {"enum": ["close", "open", "stop"]},
            "position": {"type": "integer", "minimum": 0, "maximum": 100}})
    );
    for (tool, arguments, published) in [
        (
            "set_light",
            json!({"name": "Lamp", "state": "on", "brightness": 100, "color_temp_kelvin": 4000}),
            r#"zigbee2mqtt/Lamp/set {"state":"ON","brightness":100,"color_temp":250}"#,
        ),
        (
            "set_light",
            json!({"name": "Lamp", "state": "on", "brightness": 255}),
            "`brightness` is out of its range",
        ),
        (
            "set_light",
            json!({"name": "Lamp", "state": "on", "brightness": 1.5}),
            "`brightness` is not of type integer",
        ),
        (
            "set_light",
            json!({"name": "Plain", "state": "on", "brightness": 7}),
            "`Plain` has no `brightness`",
        ),
        (
            "set_cover",
            json!({"name": "Blind", "state": "open", "position": 30}),
            r#"zigbee2mqtt/Blind/set {"position":30}"#,
        ),
        (
            "set_cover",
            json!({"name": "Blind", "state": "close"}),
            r#"zigbee2mqtt/Blind/set {"state":"CLOSE"}"#,
        ),
    ] {
        assert_eq!(says(&all, tool, &arguments), published);
    }
    // a feature that cannot be set, or whose range is not told, is no argument
    let features = &mut list[0]["definition"]["exposes"][0]["features"];
    features[0]["access"] = json!(5);
    features[1].as_object_mut().unwrap().remove("value_max");
    assert!(take(&mut all, zigbee2mqtt::TOPIC, &list));
    let left = tools(&all)[0].1["properties"].as_object().unwrap().len();
    assert_eq!(left, 2);
}

#[test]
fn a_document_tells_how_a_lamp_is_dimmed_and_how_far_a_cover_opens() {
    let mut all = whole();
    let documents = [
        (
            "light",
            json!({"name": "json", "schema": "json", "cmd_t": "house/a", "brightness": true, "bri_scl": 100,
            "sup_clrm": ["color_temp"], "min_mirs": 200, "max_mirs": 400}),
        ),
        (
            "light",
            json!({"name": "kelvin", "schema": "json", "cmd_t": "house/k", "sup_clrm": ["color_temp"],
            "clr_temp_k": true, "min_k": 2200}),
        ),
        (
            "light",
            json!({"name": "topics", "~": "house/b", "cmd_t": "~/set", "bri_cmd_t": "~/bri", "clr_temp_cmd_t": "~/ct"}),
        ),
        (
            "light",
            json!({"name": "dimmer", "~": "house/c", "cmd_t": "~/set", "bri_cmd_t": "~/bri", "on_cmd_type": "brightness"}),
        ),
        (
            "cover",
            json!({"name": "blind", "~": "house/d", "cmd_t": "~/set", "set_pos_t": "~/pos", "pos_open": 0, "pos_clsd": 50}),
        ),
    ];
    for (n, (domain, document)) in documents.iter().enumerate() {
        assert!(take(
            &mut all,
            &format!("homeassistant/{domain}/{n}/config"),
            document
        ));
    }
    let on = |name: &str, more: &Value| {
        let mut arguments = json!({"name": name, "state": "on"});
        arguments
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        says(&all, "set_light", &arguments)
    };
    let both = json!({"brightness": 7, "color_temp_kelvin": 4000});
    let dim = json!({"brightness": 7});
    assert_eq!(
        on("json", &both),
        r#"house/a {"state":"ON","brightness":7,"color_temp":250}"#
    );
    assert_eq!(
        on("json", &json!({"brightness": 101})),
        "`brightness` of `json` must be from 1 to 100"
    );
    assert_eq!(
        on("kelvin", &both),
        r#"house/k {"state":"ON","brightness":7,"color_temp":4000}"#
    );
    assert_eq!(
        on("topics", &both),
        "house/b/bri 7; house/b/ct 250; house/b/set ON"
    );
    assert_eq!(on("dimmer", &dim), "house/c/bri 7");
    assert_eq!(on("dimmer", &json!({})), "house/c/set ON");
    assert_eq!(on("dimmer", &both), "`dimmer` has no `color_temp_kelvin`");
    let cover = json!({"name": "blind", "state": "open", "position": 50});
    assert_eq!(says(&all, "set_cover", &cover), "house/d/pos 50");
    // a program to run, a lamp that has to be on first, a topic that is nobody's to name, what is no range
    let bare = [
        json!({"bri_cmd_t": "house/x/bri", "bri_cmd_tpl": "{{ value }}"}),
        json!({"bri_cmd_t": "house/x/bri", "on_cmd_type": "first"}),
        json!({"bri_cmd_t": "glowplug/n1/admin/drain/request"}),
        json!({"bri_cmd_t": "other/x", "clr_temp_cmd_t": "zigbee2mqtt/bridge/set"}),
        json!({"bri_cmd_t": "house/x/bri", "bri_scl": 1}),
        json!({"bri_cmd_t": "house/x/bri", "bri_scl": "255"}),
        json!({"bri_cmd_t": "house/x/bri", "bri_scl": i64::MAX}),
        json!({"clr_temp_cmd_t": "house/x/ct", "min_mirs": 0}),
    ];
    for more in bare {
        let mut all = whole();
        let mut document = json!({"name": "x", "cmd_t": "house/x"});
        document
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        assert!(take(&mut all, "homeassistant/light/x/config", &document));
        assert_eq!(
            tools(&all)[0].1["properties"].as_object().unwrap().len(),
            2,
            "{more}"
        );
    }
    let template = json!({"name": "x", "cmd_t": "house/x", "cmd_tpl": "{{ value }}"});
    assert!(!take(&mut all, "homeassistant/switch/x/config", &template));
    // nobody is heard where he is told something
    let echo =
        json!({"name": "x", "cmd_t": "house/x/set", "bri_cmd_t": "house/x", "stat_t": "house/x"});
    assert!(take(&mut all, "homeassistant/light/x/config", &echo));
    assert_eq!(plan(&all, "set_light", "x", "on").unwrap().2, None);
}
