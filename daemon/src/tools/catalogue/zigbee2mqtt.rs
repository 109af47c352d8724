//! The list of devices that Zigbee2MQTT keeps retained. Only what is needed of it is read: it is long.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Found, name};
use crate::tools::thing::{BRIGHTNESS, COLOR_TEMP, Level, POSITION, Thing, Way};

/// The topic of the list.
pub(super) const TOPIC: &str = "zigbee2mqtt/bridge/devices";

/// A feature that can be set has this bit in its `access`.
const SET: u8 = 2;

#[derive(Deserialize)]
struct Device {
    friendly_name: String,
    #[serde(default)]
    disabled: bool,
    definition: Option<Exposing>,
}

#[derive(Deserialize)]
struct Exposing {
    #[serde(default)]
    exposes: Vec<Exposed>,
}

/// What a device exposes: a light, a switch and the like, with its features.
#[derive(Deserialize)]
struct Exposed {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default)]
    features: Vec<Feature>,
}

#[derive(Deserialize)]
struct Feature {
    #[serde(default)]
    name: String,
    #[serde(default)]
    property: String,
    #[serde(default)]
    access: u8,
    value_on: Option<Value>,
    value_off: Option<Value>,
    #[serde(default)]
    values: Vec<String>,
    value_min: Option<f64>,
    value_max: Option<f64>,
}

impl Feature {
    fn is_settable(&self, name: &str) -> bool {
        self.name == name && self.access & SET != 0 && !self.property.is_empty()
    }
}

/// The things that the list names.
pub(super) fn things(document: &[u8]) -> Vec<Found> {
    let devices: Vec<Device> = serde_json::from_slice(document).unwrap_or_default();
    let usable = devices.iter().filter(|device| !device.disabled);
    usable.flat_map(of_device).collect()
}

fn of_device(device: &Device) -> Vec<Found> {
    let topic = format!("zigbee2mqtt/{}", device.friendly_name);
    let exposes = device.definition.iter().flat_map(|of| &of.exposes);
    let found = |exposed: &Exposed| {
        let feature = exposed.features.iter().find(|f| f.is_settable("state"))?;
        let full = match &exposed.endpoint {
            Some(endpoint) => format!("{} {endpoint}", device.friendly_name),
            None => device.friendly_name.clone(),
        };
        Some(Found {
            domain: exposed.kind.clone(),
            name: name(&full)?,
            thing: Thing {
                topic: format!("{topic}/set"),
                reply_topic: Some(topic.clone()),
                states: states(&exposed.kind, feature),
                levels: levels(&exposed.features),
            },
        })
    };
    exposes.filter_map(found).collect()
}

/// The numbers that these features can be set to, where the list says from where to where.
fn levels(features: &[Feature]) -> BTreeMap<&'static str, Level> {
    let level = |(name, what): (&str, &'static str)| {
        let feature = features.iter().find(|f| f.is_settable(name))?;
        let way = Way::Key(feature.property.clone());
        let (least, most) = (feature.value_min? as i64, feature.value_max? as i64);
        let level = match what {
            COLOR_TEMP => Level::in_mireds(least, most, way)?,
            _ => Level::new(least, most, way)?,
        };
        let alone = what == POSITION;
        Some((what, Level { alone, ..level }))
    };
    let known = [
        ("brightness", BRIGHTNESS),
        ("color_temp", COLOR_TEMP),
        ("position", POSITION),
    ];
    known.into_iter().filter_map(level).collect()
}

/// The states by the names that Home Assistant has for them, and the payload of each.
fn states(kind: &str, feature: &Feature) -> BTreeMap<String, String> {
    let payload = |value: &Value| json!({&feature.property: value}).to_string();
    let names = if kind == "lock" {
        ["lock", "unlock"]
    } else {
        ["on", "off"]
    };
    let two = names
        .into_iter()
        .zip([&feature.value_on, &feature.value_off]);
    let two = two.filter_map(|(name, value)| Some((name.to_owned(), payload(value.as_ref()?))));
    let several = feature.values.iter();
    let several = several.map(|value| (value.to_lowercase(), payload(&json!(value))));
    two.chain(several).collect()
}
