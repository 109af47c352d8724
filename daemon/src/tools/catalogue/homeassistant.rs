//! Home Assistant's discovery documents, as devices and bridges publish them: of one thing, or of a device with several.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Found, Thing, name};

/// Filters of the documents.
pub(super) const FILTERS: [&str; 2] = ["homeassistant/+/+/config", "homeassistant/+/+/+/config"];

/// Most things of one device.
const COMPONENTS_MAX: usize = 64;

/// The short names that a document may have instead of these keys.
const SHORT: &[(&str, &str)] = &[
    ("command_topic", "cmd_t"),
    ("state_topic", "stat_t"),
    ("payload_on", "pl_on"),
    ("payload_off", "pl_off"),
    ("payload_open", "pl_open"),
    ("payload_close", "pl_cls"),
    ("payload_stop", "pl_stop"),
    ("payload_lock", "pl_lock"),
    ("payload_unlock", "pl_unlk"),
    ("payload_press", "pl_prs"),
    ("payload_arm_home", "pl_arm_home"),
    ("payload_arm_away", "pl_arm_away"),
    ("payload_disarm", "pl_disarm"),
    ("device", "dev"),
    ("components", "cmps"),
    ("platform", "p"),
];

/// The things that a document names.
pub(super) fn things(topic: &str, document: &[u8]) -> Vec<Found> {
    let mut levels = topic.split('/').skip(1);
    let (Some(domain), Some(object)) = (levels.next(), levels.next()) else {
        return Vec::new();
    };
    let Ok(Value::Object(document)) = serde_json::from_slice(document) else {
        return Vec::new();
    };
    if domain != "device" {
        let object = levels
            .next()
            .filter(|last| *last != "config")
            .unwrap_or(object);
        return thing(domain, object, &document, &document)
            .into_iter()
            .collect();
    }
    let components = get(&document, "components").and_then(Value::as_object);
    let components = components.into_iter().flatten().take(COMPONENTS_MAX);
    let of = |(key, component): (&String, &Value)| {
        let component = component.as_object()?;
        let domain = get(component, "platform")?.as_str()?;
        thing(domain, key, component, &document)
    };
    components.filter_map(of).collect()
}

/// A value by its key, or by the short name of the key.
fn get<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let short = SHORT.iter().find(|(long, _)| *long == key);
    map.get(key).or_else(|| map.get(short?.1))
}

/// Reads one thing. `whole` is the document that it is in, which says what is common to all of a device.
fn thing(
    domain: &str,
    key: &str,
    own: &Map<String, Value>,
    whole: &Map<String, Value>,
) -> Option<Found> {
    let either = |key: &str| get(own, key).or_else(|| get(whole, key));
    let topic = |key: &str| {
        let written = either(key)?.as_str()?;
        let prefix = either("~").and_then(Value::as_str).unwrap_or_default();
        let written = match (written.strip_prefix('~'), written.strip_suffix('~')) {
            (Some(rest), _) => format!("{prefix}{rest}"),
            (None, Some(rest)) => format!("{rest}{prefix}"),
            (None, None) => written.to_owned(),
        };
        Some(written)
    };
    let schema = get(own, "schema")
        .and_then(Value::as_str)
        .unwrap_or("default");
    let named = match get(own, "name") {
        Some(Value::String(text)) => name(text),
        _ => None,
    };
    let device = get(whole, "device").and_then(|device| device.get("name"));
    let device = device.and_then(Value::as_str).and_then(name);
    let full = match (device, named) {
        (Some(device), Some(named)) if !named.starts_with(&device) => {
            name(&format!("{device} {named}"))
        }
        (_, Some(named)) => Some(named),
        (device, None) => device.or_else(|| name(key)),
    };
    Some(Found {
        domain: domain.to_owned(),
        name: full?,
        thing: Thing {
            topic: topic("command_topic")?,
            reply_topic: topic("state_topic"),
            states: states(domain, schema, own)?,
        },
    })
}

/// What a thing of a domain can be told, and the payload of each. None: it cannot be told anything that is known here.
fn states(
    domain: &str,
    schema: &str,
    own: &Map<String, Value>,
) -> Option<BTreeMap<String, String>> {
    // state, key of its payload, payload where there is no key
    let known: &[(&str, &str, &str)] = match domain {
        "light" | "switch" | "fan" | "siren" => {
            &[("on", "payload_on", "ON"), ("off", "payload_off", "OFF")]
        }
        "scene" => &[("on", "payload_on", "ON")],
        "button" => &[("press", "payload_press", "PRESS")],
        "lock" => &[
            ("lock", "payload_lock", "LOCK"),
            ("unlock", "payload_unlock", "UNLOCK"),
        ],
        "cover" | "valve" => &[
            ("open", "payload_open", "OPEN"),
            ("close", "payload_close", "CLOSE"),
            ("stop", "payload_stop", "STOP"),
        ],
        "alarm_control_panel" => &[
            ("arm_home", "payload_arm_home", "ARM_HOME"),
            ("arm_away", "payload_arm_away", "ARM_AWAY"),
            ("disarm", "payload_disarm", "DISARM"),
        ],
        _ => return None,
    };
    let payload = |(state, key, default): &(&str, &str, &str)| {
        let text = match get(own, key) {
            None => (*default).to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            // the thing does not have this state
            Some(_) => return None,
        };
        let text = match schema {
            "json" => serde_json::json!({"state": text}).to_string(),
            _ => text,
        };
        Some(((*state).to_owned(), text))
    };
    // a template is a program, and none runs here
    (schema != "template").then(|| known.iter().filter_map(payload).collect())
}
