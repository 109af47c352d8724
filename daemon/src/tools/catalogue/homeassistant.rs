//! Home Assistant's discovery documents, as devices and bridges publish them: of one thing, or of a device with several.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Found, name};
use crate::tools::thing::{BRIGHTNESS, COLOR_TEMP, Level, POSITION, Thing, Way};

/// Filters of the documents.
pub(super) const FILTERS: [&str; 2] = ["homeassistant/+/+/config", "homeassistant/+/+/+/config"];

/// Most things of one device.
const COMPONENTS_MAX: usize = 64;

/// The short names that a document may have instead of these keys.
const SHORT: &[(&str, &str)] = &[
    ("command_topic", "cmd_t"),
    ("command_template", "cmd_tpl"),
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
    ("brightness_command_topic", "bri_cmd_t"),
    ("brightness_command_template", "bri_cmd_tpl"),
    ("brightness_scale", "bri_scl"),
    ("on_command_type", "on_cmd_type"),
    ("color_temp_command_topic", "clr_temp_cmd_t"),
    ("color_temp_command_template", "clr_temp_cmd_tpl"),
    ("color_temp_kelvin", "clr_temp_k"),
    ("supported_color_modes", "sup_clrm"),
    ("min_mireds", "min_mirs"),
    ("max_mireds", "max_mirs"),
    ("min_kelvin", "min_k"),
    ("max_kelvin", "max_k"),
    ("set_position_topic", "set_pos_t"),
    ("set_position_template", "set_pos_tpl"),
    ("position_open", "pos_open"),
    ("position_closed", "pos_clsd"),
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
            levels: match domain {
                "light" if schema == "json" => levels_in_json(own),
                "light" => levels_by_topic(own, &topic),
                "cover" => position(own, &topic).into_iter().collect(),
                _ => BTreeMap::new(),
            },
        },
    })
}

/// A whole number by its key, or what it is where there is no key.
fn number(own: &Map<String, Value>, key: &str, default: i64) -> Option<i64> {
    get(own, key).map_or(Some(default), Value::as_i64)
}

/// The brightness of a lamp whose document says that it has one. A lamp that is on is not at 0.
fn brightness(own: &Map<String, Value>, way: Way) -> Option<(&'static str, Level)> {
    let most = number(own, "brightness_scale", 255)?;
    Some((BRIGHTNESS, Level::new(1, most, way)?))
}

/// The colour temperature of a lamp whose document says that it has one.
fn color_temp(own: &Map<String, Value>, way: Way) -> Option<(&'static str, Level)> {
    let level = if get(own, "color_temp_kelvin") == Some(&Value::Bool(true)) {
        let (least, most) = (
            number(own, "min_kelvin", 2000)?,
            number(own, "max_kelvin", 6535)?,
        );
        Level::new(least, most, way)
    } else {
        let (least, most) = (
            number(own, "min_mireds", 153)?,
            number(own, "max_mireds", 500)?,
        );
        Level::in_mireds(least, most, way)
    };
    Some((COLOR_TEMP, level?))
}

/// The numbers of a lamp that is told everything in one object.
fn levels_in_json(own: &Map<String, Value>) -> BTreeMap<&'static str, Level> {
    let modes = get(own, "supported_color_modes").and_then(Value::as_array);
    let has = |mode: &str| modes.is_some_and(|modes| modes.iter().any(|of| of == mode));
    let white = has("color_temp");
    // whatever has a colour has a brightness
    let bright = white || has("brightness") || own.get("brightness") == Some(&Value::Bool(true));
    let key = |key: &str| Way::Key(key.to_owned());
    let bright = bright.then(|| brightness(own, key("brightness")));
    let white = white.then(|| color_temp(own, key("color_temp")));
    [bright, white].into_iter().flatten().flatten().collect()
}

/// The numbers of a lamp that has a topic for each.
fn levels_by_topic(
    own: &Map<String, Value>,
    topic: &impl Fn(&str) -> Option<String>,
) -> BTreeMap<&'static str, Level> {
    let kind = get(own, "on_command_type").and_then(Value::as_str);
    if kind == Some("first") {
        // it takes a number when it is on, and nobody waits for that here
        return BTreeMap::new();
    }
    let way = |what: &str| {
        let template = get(own, &format!("{what}_command_template"));
        let topic = topic(&format!("{what}_command_topic"));
        Some(Way::Topic(topic.filter(|_| template.is_none())?))
    };
    let bright = way("brightness").and_then(|way| brightness(own, way));
    let bright = bright.map(|(what, level)| {
        let alone = kind == Some("brightness");
        (what, Level { alone, ..level })
    });
    let white = way("color_temp").and_then(|way| color_temp(own, way));
    bright.into_iter().chain(white).collect()
}

/// How far a cover can be told to open.
fn position(
    own: &Map<String, Value>,
    topic: &impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, Level)> {
    let way = Way::Topic(topic("set_position_topic")?);
    let template = get(own, "set_position_template");
    let ends = [
        number(own, "position_open", 100)?,
        number(own, "position_closed", 0)?,
    ];
    let level = Level::new(ends[0].min(ends[1]), ends[0].max(ends[1]), way);
    let level = level.filter(|_| template.is_none())?;
    Some((
        POSITION,
        Level {
            alone: true,
            ..level
        },
    ))
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
    let templates = schema == "template" || get(own, "command_template").is_some();
    (!templates).then(|| known.iter().filter_map(payload).collect())
}
