//! Any bytes as what a house tells of itself, and as the arguments of a call. Whatever is read, what a tool publishes is below
//! the owner's filters, and never where no tool may write.

use glowplug::tools::catalogue::{Catalogues, DOMAINS, Terms};
use glowplug::tools::definition::{Definition, Written};
use glowplug::tools::topic::{covers, may_be_a_tools};
use std::time::Duration;

const TOPICS: [&str; 4] = [
    "zigbee2mqtt/bridge/devices",
    "homeassistant/light/x/config",
    "homeassistant/device/x/config",
    "homeassistant/cover/a/b/config",
];

pub(super) fn run(bytes: &[u8]) {
    let owners = ["zigbee2mqtt/+/set", "zigbee2mqtt/+", "house/#"].map(str::to_owned);
    let terms = Terms {
        homeassistant: true,
        zigbee2mqtt: true,
        topics: owners.to_vec(),
        clients: vec!["*".to_owned()],
        domains: DOMAINS.map(str::to_owned).to_vec(),
    };
    let mut all = Catalogues::new(terms, "glowplug", "n1");
    for topic in TOPICS {
        all.take(topic, bytes);
    }
    for tool in all.definitions(|_| true) {
        let schema: serde_json::Value = serde_json::from_str(tool.tool.parameters()).unwrap();
        let values = |name: &str| {
            schema["properties"][name]["enum"]
                .as_array()
                .unwrap()
                .clone()
        };
        for name in values("name") {
            for state in values("state") {
                let call = serde_json::json!({"name": name, "state": state}).to_string();
                let Ok(planned) = tool.plan(&call) else {
                    continue;
                };
                for topic in [Some(planned.topic), planned.reply_topic]
                    .into_iter()
                    .flatten()
                {
                    assert!(
                        owners.iter().any(|filter| covers(filter, &topic)),
                        "{topic}"
                    );
                    assert!(may_be_a_tools(&topic, "glowplug"), "{topic}");
                }
            }
        }
    }
    let Ok(arguments) = std::str::from_utf8(bytes) else {
        return;
    };
    let written = Written {
        name: "light".to_owned(),
        parameters: Some(
            r#"{"properties":{"room":{"enum":["hall","attic"]},"n":{"type":"integer"}},"required":["room"]}"#.to_owned(),
        ),
        topic: "house/{room}/set".to_owned(),
        payload: Some(r#"{"n":"{n}","room":"{room}"}"#.to_owned()),
        timeout: Duration::from_secs(1),
        ..Written::default()
    };
    if let Ok(planned) = Definition::new(written, "glowplug")
        .unwrap()
        .plan(arguments)
    {
        assert!(["house/hall/set", "house/attic/set"].contains(&&*planned.topic));
        assert!(serde_json::from_slice::<serde_json::Value>(&planned.payload).is_ok());
    }
}
