//! daemon/docs/asyncapi.yaml: it is made here, and is the one that is made. That its schemas are those of the daemon is tested
//! beside what reads and writes messages in daemon/src, and by every message of the tests with a whole daemon.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(
    clippy::needless_pass_by_value,
    reason = "schemas are made where they are handed over"
)]

mod channels;
mod frames;
mod messages;
mod requests;
mod schema;
mod state;

use channels::{Channel, Side};
use glowplug::mqtt::PACKET_MAX;
use glowplug::wire::chat::request::{
    ChatDefaults, parse_ask, parse_cancel, parse_chat, parse_control,
};
use glowplug::wire::homeassistant;
use glowplug_model::engine::Thinking;
use glowplug_tests::check_page;
use glowplug_tests::world::contract::CONTRACT;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/asyncapi.yaml");
const HEAD: &str = "# The contract of protocol.md for programs. It is made: `GLOWPLUG_WRITE_PAGES=1 cargo test --release -p glowplug --test asyncapi`\n\
    # writes it, and what is changed here by hand is lost.\n";

fn document() -> Value {
    let channels = channels::all();
    let mut schemas = requests::schemas();
    schemas.extend(frames::schemas());
    schemas.extend(state::schemas());
    let correlations: Map<String, Value> = messages::CORRELATION_IDS
        .into_iter()
        .map(|(name, location, about)| {
            (
                name.to_owned(),
                json!({"location": location, "description": about}),
            )
        })
        .collect();
    json!({
        "asyncapi": "3.1.0",
        "info": {
            "title": "glowplug",
            "version": "1.1",
            "description": "A language model behind MQTT topics. The version is that of the contract, which may only grow: clients pass over fields that they do not know. `protocol.md` says what is promised.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": servers(),
        "channels": channels::channels(&channels),
        "operations": channels::operations(&channels),
        "components": {
            "parameters": channels::all_parameters(),
            "messages": messages::all(),
            "schemas": schemas,
            "correlationIds": correlations,
            "securitySchemes": {
                "user": {"type": "userPassword", "description": "The user's name is the client's segment, by the rules of the broker."},
                "certificate": {"type": "X509", "description": "Where the broker takes the common name as the user."},
            },
        },
    })
}

/// A broker is one server for each version of MQTT and each transport. What a client of 3.1.1 lacks is said in the page.
fn servers() -> Value {
    let will = json!({
        "topic": channels::topics().status(),
        "qos": 1,
        "retain": true,
        "message": "The `Status` with the state `offline` and the `boot_id` of this run.",
    });
    let daemons = json!({
        "cleanSession": true,
        "keepAlive": 10,
        "lastWill": will,
        "sessionExpiryInterval": 0,
        "maximumPacketSize": PACKET_MAX,
        "bindingVersion": "0.2.0",
    });
    let user = json!({"$ref": "#/components/securitySchemes/user"});
    let certificate = json!({"$ref": "#/components/securitySchemes/certificate"});
    let host = json!({"host": {"default": "localhost", "description": "An existing broker, or the daemon's own."}});
    json!({
        "mqtt5": {
            "host": "{host}:1883",
            "protocol": "mqtt",
            "protocolVersion": "5.0",
            "description": "A request may name a Response Topic, Correlation Data and a Message Expiry. The bindings are the daemon's own connection.",
            "variables": host,
            "security": [user],
            "bindings": {"mqtt": daemons},
        },
        "mqtt311": {
            "host": "{host}:1883",
            "protocol": "mqtt",
            "protocolVersion": "3.1.1",
            "description": "A request has its `id` in the payload, and replies come on the default topic.",
            "variables": host,
            "security": [user],
        },
        "mqtts": {
            "host": "{host}:8883",
            "protocol": "secure-mqtt",
            "protocolVersion": "5.0",
            "description": "The same over TLS 1.2 or 1.3; 3.1.1 as well.",
            "variables": host,
            "security": [user, certificate],
        },
    })
}

/// The whole page. Words that a reader of YAML 1.1 takes for booleans are quoted.
fn page() -> String {
    let mut page = format!("{HEAD}{}", yaml_serde::to_string(&document()).unwrap());
    for word in ["on", "off", "yes", "no", "y", "n"] {
        for (before, after) in [(" ", ":\n"), ("- ", "\n")] {
            let bare = format!("{before}{word}{after}");
            page = page.replace(&bare, &format!("{before}'{word}'{after}"));
        }
    }
    page
}

#[test]
fn the_page_is_the_one_that_is_made() {
    let page = page();
    check_page(PAGE, None, &page);
    assert_eq!(yaml_serde::from_str::<Value>(&page).unwrap(), document());
}

/// The filter that takes all topics of an address.
fn filters(channel: &Channel) -> Vec<String> {
    let address = channel.address.as_deref().unwrap();
    let verbs = if address.contains("{verb}") {
        vec!["reset", "save", "drop"]
    } else {
        vec![""]
    };
    let filter = |verb: &str| {
        let mut filter = address.replace("{verb}", verb);
        for name in ["client", "session", "random"] {
            filter = filter.replace(&format!("{{{name}}}"), "+");
        }
        match filter.split_once("/admin/") {
            Some((own, _)) => format!("{own}/admin/+/request"),
            None => filter,
        }
    };
    verbs.into_iter().map(filter).collect()
}

#[test]
fn the_daemon_subscribes_to_the_channels_of_its_clients_and_to_no_others() {
    let topics = channels::topics();
    let mut subscribed: BTreeSet<String> = topics
        .subscriptions()
        .into_iter()
        .map(|(filter, _)| filter)
        .collect();
    // to see another daemon of its name
    assert!(subscribed.remove(&topics.status()));
    subscribed.insert(topics.tool_responses());
    let pool = topics.pool("g");
    subscribed.insert(pool.strip_prefix("$share/g/").unwrap().to_owned());
    subscribed.insert(homeassistant::STATUS.to_owned());
    let channels = channels::all();
    let described: BTreeSet<String> = channels
        .iter()
        .filter(|channel| matches!(channel.side, Side::In { .. }))
        .flat_map(filters)
        .collect();
    assert_eq!(described, subscribed);
}

#[test]
fn every_example_is_what_its_schema_and_the_daemon_take() {
    let defaults = ChatDefaults {
        max_tokens: 64,
        thinking: Thinking {
            enabled: true,
            budget: None,
            visible: false,
        },
    };
    let mut tried = 0;
    for (name, message) in messages::all() {
        for example in message["examples"].as_array().into_iter().flatten() {
            let payload = &example["payload"];
            CONTRACT
                .fits(&name, payload)
                .unwrap_or_else(|why| panic!("{name}: {why}"));
            let bytes = payload.to_string();
            let taken = match &name[..] {
                "ChatRequest" => parse_chat(bytes.as_bytes(), &defaults).is_ok(),
                "Cancel" => parse_cancel(bytes.as_bytes()).is_ok(),
                "Control" => parse_control(bytes.as_bytes()).is_ok(),
                "PlainText" => parse_ask(payload.as_str().unwrap().as_bytes()).is_ok(),
                _ => continue,
            };
            assert!(taken, "{name}: {payload}");
            tried += 1;
        }
    }
    assert!(tried >= 7, "{tried}");
}
