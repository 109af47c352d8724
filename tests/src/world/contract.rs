//! The document daemon/docs/asyncapi.yaml as a judge: of every message that a [`Client`](super::client::Client) sends or is
//! given, and of what the daemon's own tests read and write.

use super::client::{Message, Version};
use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The document as it is in the tree.
pub static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::read);

/// Where the document is for the validator.
const AT: &str = "memory:///asyncapi.json";
/// Below which everything is the daemon's, in every [`World`](super::World).
const BASE: &str = "glowplug/";

pub struct Contract {
    document: Value,
    schemas: Schemas,
    by_name: BTreeMap<String, SchemaIndex>,
    channels: Vec<Channel>,
}

struct Channel {
    name: String,
    levels: Vec<Level>,
    messages: Vec<String>,
    /// The client publishes on it.
    sent: bool,
    /// None: as that of the request.
    qos: Option<u64>,
    retain: bool,
}

/// A level of an address.
enum Level {
    /// Any number of levels, but at least one.
    Base,
    /// A level that begins like this.
    Any(String),
    /// One of these words.
    Words(Vec<String>),
}

impl Contract {
    fn read() -> Self {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../daemon/docs/asyncapi.yaml");
        let page = std::fs::read_to_string(page).unwrap();
        let document: Value = yaml_serde::from_str(&page).unwrap();
        let mut closed = document.clone();
        close(&mut closed);
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V7);
        compiler.add_resource(AT, closed).unwrap();
        let mut schemas = Schemas::new();
        let mut by_name = BTreeMap::new();
        for name in document["components"]["schemas"]
            .as_object()
            .unwrap()
            .keys()
        {
            let place = format!("{AT}#/components/schemas/{name}");
            let index = compiler.compile(&place, &mut schemas);
            by_name.insert(name.clone(), index.unwrap_or_else(|e| panic!("{e:#}")));
        }
        let channels = channels(&document);
        Self {
            document,
            schemas,
            by_name,
            channels,
        }
    }

    /// Whether a value is valid by the schema of this name.
    ///
    /// # Errors
    /// Why it is not.
    pub fn fits(&self, schema: &str, value: &Value) -> Result<(), String> {
        let index = *self
            .by_name
            .get(schema)
            .ok_or_else(|| format!("there is no schema `{schema}`"))?;
        self.schemas
            .validate(value, index)
            .map_err(|error| format!("{error}"))
    }

    /// Checks a message that a client sends.
    ///
    /// # Errors
    /// It is on a topic of the daemon's, and no request that the document knows.
    pub fn sent(&self, message: &Message) -> Result<(), String> {
        match self.channel(&message.topic, true) {
            Some(channel) => self.one_of(channel, &message.payload),
            None if message.topic.starts_with(BASE) => {
                Err("no channel for clients has this topic".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Checks a message that a client is given.
    ///
    /// # Errors
    /// It is on a topic of the daemon's, and nothing that the document says of it.
    pub fn given(&self, message: &Message, version: Version) -> Result<(), String> {
        if self.channel(&message.topic, true).is_some() {
            // what a client sent, as all who listen get it
            return Ok(());
        }
        let default = || {
            // a Response Topic takes the place of the topic that the client's branch has for replies
            let mut levels = message.topic.strip_prefix(BASE)?.split('/').skip(1);
            let name = match levels.next()? {
                "chat" => "chatReply",
                "ask" => "askAnswer",
                "session" => "sessionResult",
                _ => return None,
            };
            self.channels.iter().find(|channel| channel.name == name)
        };
        let Some(channel) = self.channel(&message.topic, false).or_else(default) else {
            let ours = message.topic.starts_with(BASE);
            return if ours {
                Err("no channel of the daemon's has this topic".to_owned())
            } else {
                Ok(())
            };
        };
        // a daemon that looks for what its broker does not take has everything acknowledged
        if channel.qos.is_some_and(|qos| u64::from(message.qos) < qos) {
            return Err(format!("its QoS is {}", message.qos));
        }
        if message.retain && !channel.retain {
            return Err("it is retained".to_owned());
        }
        self.one_of(channel, &message.payload)?;
        let reply = &self.document["components"]["messages"][&channel.messages[0]];
        if version == Version::V5 && reply["bindings"]["mqtt"]["payloadFormatIndicator"] == 1 {
            let kind = reply["contentType"].as_str();
            if message.content_type.as_deref() != kind
                || !message.utf8
                || message.expiry_s.is_none()
            {
                return Err("it has not the properties of a reply".to_owned());
            }
        }
        Ok(())
    }

    fn channel(&self, topic: &str, sent: bool) -> Option<&Channel> {
        let levels: Vec<&str> = topic.split('/').collect();
        self.channels
            .iter()
            .find(|channel| channel.sent == sent && fits(&channel.levels, &levels))
    }

    /// Whether a payload is one of the messages of a channel.
    fn one_of(&self, channel: &Channel, payload: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
        let mut reasons = Vec::new();
        for name in &channel.messages {
            let message = &self.document["components"]["messages"][name];
            let value = match message["contentType"].as_str() {
                Some("text/plain") => Ok(Value::from(text)),
                _ => serde_json::from_str(text).map_err(|error| error.to_string()),
            };
            match value.and_then(|value| self.fits(name, &value)) {
                Ok(()) => return Ok(()),
                Err(why) => reasons.push(format!("no {name}: {why}")),
            }
        }
        Err(format!("channel {}:\n{}", channel.name, reasons.join("\n")))
    }

    /// Checks frames that the daemon wrote: each is valid, and together they have everything that the schema tells of. So nothing
    /// is written that is not told of, and the other way round.
    pub fn wrote(&self, schema: &str, frames: &[Value]) {
        let mut seen = BTreeSet::new();
        for frame in frames {
            self.fits(schema, frame)
                .unwrap_or_else(|why| panic!("{schema}: {why}: {frame}"));
            seen.extend(fields_of(frame));
        }
        let told = self.fields(schema);
        let never: Vec<&String> = told.difference(&seen).collect();
        assert!(never.is_empty(), "{schema}: never written: {never:?}");
    }

    /// The fields that a schema tells of, and the words that a field may have.
    #[must_use]
    pub fn fields(&self, schema: &str) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        self.told(
            &self.document["components"]["schemas"][schema],
            "",
            &mut told,
        );
        told
    }

    fn told(&self, schema: &Value, at: &str, out: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let place = name.strip_prefix('#').unwrap();
            return self.told(self.document.pointer(place).unwrap(), at, out);
        }
        for word in schema["enum"].as_array().into_iter().flatten() {
            out.insert(format!("{at}={word}"));
        }
        for one in schema["anyOf"].as_array().into_iter().flatten() {
            self.told(one, at, out);
        }
        if schema["items"].is_object() {
            self.told(&schema["items"], &format!("{at}[]"), out);
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            self.told(field, &at, out);
            out.insert(at);
        }
    }
}

/// In the document an object of the daemon's may grow; in these tests it is what it is.
fn close(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            let fields = map.get("properties").is_some_and(Value::is_object);
            if fields && !map.contains_key("additionalProperties") {
                map.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

fn channels(document: &Value) -> Vec<Channel> {
    let last = |reference: &Value| {
        let place = reference["$ref"].as_str().unwrap();
        place.rsplit('/').next().unwrap().to_owned()
    };
    let operations = document["operations"].as_object().unwrap();
    let channel = |operation: &Value| {
        let name = last(&operation["channel"]);
        let told = &document["channels"][&name];
        let level = |level: &str| match level.split_once('{') {
            None => Level::Words(vec![level.to_owned()]),
            Some(("", "base}")) => Level::Base,
            Some((before, parameter)) => {
                let parameter =
                    &document["components"]["parameters"][parameter.trim_end_matches('}')];
                match parameter["enum"].as_array() {
                    Some(words) => Level::Words(
                        words
                            .iter()
                            .map(|word| word.as_str().unwrap().to_owned())
                            .collect(),
                    ),
                    None => Level::Any(before.to_owned()),
                }
            }
        };
        let mqtt = &operation["bindings"]["mqtt"];
        // None: its topic is not known before the configuration is
        Some(Channel {
            levels: told["address"].as_str()?.split('/').map(level).collect(),
            name,
            messages: operation["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(last)
                .collect(),
            sent: operation["action"] == "receive",
            qos: mqtt["qos"].as_u64(),
            retain: mqtt["retain"] == true,
        })
    };
    operations.values().filter_map(channel).collect()
}

fn fits(levels: &[Level], topic: &[&str]) -> bool {
    let (levels, topic) = match levels {
        [Level::Base, rest @ ..] if topic.len() > rest.len() => {
            (rest, &topic[topic.len() - rest.len()..])
        }
        all => (all, topic),
    };
    levels.len() == topic.len()
        && levels.iter().zip(topic).all(|(level, is)| match level {
            Level::Base => false,
            Level::Any(before) => is.len() > before.len() && is.starts_with(before),
            Level::Words(words) => words.iter().any(|word| word == is),
        })
}

/// The fields of a value, and the words in them, in the form of [`Contract::fields`].
#[must_use]
pub fn fields_of(value: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    paths(value, "", &mut all);
    all
}

fn paths(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let at = format!("{at}.{name}");
                paths(value, &at, out);
                out.insert(at);
            }
        }
        Value::Array(all) => all
            .iter()
            .for_each(|value| paths(value, &format!("{at}[]"), out)),
        scalar => {
            out.insert(format!("{at}={scalar}"));
        }
    }
}
