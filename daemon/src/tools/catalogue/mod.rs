//! Tools made of what the house tells of itself in retained messages: Home Assistant's discovery documents and the list of
//! Zigbee2MQTT. Every name and every state of such a tool is one of what is there.
//!
//! Whoever may publish those messages could lie. So a thing counts only if its topic is below the owner's filters and none
//! that is never a tool's, and it is heard only where it is itself. There is one tool for each domain. Where there are too
//! many things, those at the end are left out: by the order of the owner's domains, and within a domain by their names.

mod homeassistant;
mod zigbee2mqtt;

use std::collections::BTreeMap;
use std::time::Duration;

use super::definition::Definition;
use super::thing::{Thing, Way};
use super::topic::{covers, may_be_a_tools};

/// The domains that there are, in the order in which they are looked for where the owner says nothing.
pub const DOMAINS: [&str; 10] = [
    "light",
    "switch",
    "fan",
    "scene",
    "cover",
    "lock",
    "valve",
    "siren",
    "button",
    "alarm_control_panel",
];
/// How many of them there are by default: none that opens a house.
pub const DEFAULT_DOMAINS: usize = 4;
/// Most documents that are kept.
const DOCUMENTS_MAX: usize = 512;
/// Most things of all documents.
const THINGS_MAX: usize = 256;
/// Longest name of a thing, and longest payload, in bytes each.
const NAME_MAX: usize = 64;
const PAYLOAD_MAX: usize = 256;
/// Most states of a thing.
const STATES_MAX: usize = 8;
/// Most bytes of all schemas that are made: several times what a house of 60 things needs.
const SCHEMAS_MAX: usize = 8 << 10;
/// Most bytes of a thing: its topics, payloads and names.
const THING_BYTES: usize = 4096;
/// Most bytes that the catalogues hold.
pub const BYTES_MAX: usize = THINGS_MAX * THING_BYTES + DOCUMENTS_MAX * 256;
/// Longest document that is read. Zigbee2MQTT's list has some 8 KiB for each device.
pub const DOCUMENT_MAX: usize = 2 << 20;
/// How long a thing may take to tell its new state.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the owner wants of the catalogues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    pub homeassistant: bool,
    pub zigbee2mqtt: bool,
    /// Filters below which tools may publish.
    pub topics: Vec<String>,
    /// Names of clients, in which `*` stands for any characters.
    pub clients: Vec<String>,
    pub domains: Vec<String>,
}

impl Terms {
    /// The filters of the catalogues.
    #[must_use]
    pub fn filters(&self) -> Vec<&'static str> {
        let of = [
            (self.homeassistant, &homeassistant::FILTERS[..]),
            (self.zigbee2mqtt, &[zigbee2mqtt::TOPIC]),
        ];
        of.into_iter()
            .filter(|(on, _)| *on)
            .flat_map(|(_, filters)| filters)
            .copied()
            .collect()
    }
}

/// A thing that a catalogue names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    domain: String,
    name: String,
    thing: Thing,
}

/// What the documents say that came so far.
#[derive(Debug)]
pub struct Catalogues {
    terms: Terms,
    base: String,
    /// The topic of the daemon's own discovery document.
    own: String,
    documents: BTreeMap<String, Vec<Found>>,
}

impl Catalogues {
    #[must_use]
    pub fn new(terms: Terms, base: &str, node: &str) -> Self {
        Self {
            terms,
            base: base.to_owned(),
            own: format!("homeassistant/device/glowplug_{node}/config"),
            documents: BTreeMap::new(),
        }
    }

    /// Whether a topic is that of a catalogue.
    #[must_use]
    pub fn is_one(&self, topic: &str) -> bool {
        self.terms
            .filters()
            .iter()
            .any(|filter| covers(filter, topic))
    }

    /// Takes a document; one that is empty takes back the one before. False: nothing has changed.
    pub fn take(&mut self, topic: &str, document: &[u8]) -> bool {
        if topic == self.own {
            return false;
        }
        let mut found = if topic == zigbee2mqtt::TOPIC {
            zigbee2mqtt::things(document)
        } else {
            homeassistant::things(topic, document)
        };
        found.retain(|found| self.takes(found));
        for Found { thing, .. } in &mut found {
            thing.levels.retain(|_, level| match &level.way {
                Way::Topic(topic) => self.may_write(topic),
                Way::Key(key) => key.len() <= NAME_MAX,
            });
            let reply = thing.reply_topic.take();
            thing.reply_topic = reply.filter(|reply| self.may_hear(reply, thing));
        }
        if found.is_empty() {
            return self.documents.remove(topic).is_some();
        }
        let others = self.documents.iter().filter(|(other, _)| *other != topic);
        let others: usize = others.map(|(_, things)| things.len()).sum();
        found.truncate(THINGS_MAX.saturating_sub(others));
        let full = self.documents.len() >= DOCUMENTS_MAX && !self.documents.contains_key(topic);
        if full || found.is_empty() || self.documents.get(topic) == Some(&found) {
            return false;
        }
        self.documents.insert(topic.to_owned(), found);
        true
    }

    /// Forgets all documents that came so far.
    pub fn clear(&mut self) {
        self.documents.clear();
    }

    /// Whether a thing may be a tool's.
    fn takes(&self, found: &Found) -> bool {
        let states = &found.thing.states;
        self.terms.domains.contains(&found.domain)
            && found.name.len() + found.thing.bytes() <= THING_BYTES
            && (1..=STATES_MAX).contains(&states.len())
            && states
                .iter()
                .all(|(name, payload)| name.len() <= NAME_MAX && payload.len() <= PAYLOAD_MAX)
            && self.may_write(&found.thing.topic)
    }

    /// Whether a topic is one that the owner lets tools write.
    fn may_write(&self, topic: &str) -> bool {
        may_be_a_tools(topic, &self.base)
            && self.terms.topics.iter().any(|filter| covers(filter, topic))
    }

    /// Whether a thing may be heard on a topic: below the owner's filters, or where its own topic is below. So nobody can
    /// have the daemon read to a model what is somebody else's.
    fn may_hear(&self, reply: &str, thing: &Thing) -> bool {
        let own = (thing.topic.strip_prefix(reply)).is_some_and(|rest| rest.starts_with('/'));
        let owners = self.terms.topics.iter().any(|filter| covers(filter, reply));
        // it would hear what it is told
        let told = thing.topics().any(|topic| topic == reply);
        !told && (own || owners) && may_be_a_tools(reply, &self.base)
    }

    /// One tool for each domain, with as many things as `fits` takes.
    #[must_use]
    pub fn definitions(&self, fits: impl Fn(&[Definition]) -> bool) -> Vec<Definition> {
        let mut order: Vec<&Found> = Vec::new();
        for domain in &self.terms.domains {
            // a thing that both catalogues name is one: Zigbee2MQTT's own word comes first
            let mut of: Vec<(&String, &Found)> = self
                .documents
                .iter()
                .flat_map(|(source, all)| all.iter().map(move |found| (source, found)))
                .filter(|(_, found)| found.domain == *domain)
                .collect();
            of.sort_by_key(|(source, found)| (&found.name, *source != zigbee2mqtt::TOPIC));
            for (_, found) in of {
                let same = |other: &&Found| {
                    let (a, b) = (&other.thing, &found.thing);
                    other.domain == found.domain && a.topic == b.topic && a.states == b.states
                };
                if !order.iter().any(same) {
                    order.push(found);
                }
            }
        }
        let fits = |tools: &[Definition]| {
            let bytes: usize = tools.iter().map(|tool| tool.tool.bytes()).sum();
            bytes <= SCHEMAS_MAX && fits(tools)
        };
        let all = self.tools(&order);
        if fits(&all) {
            return all;
        }
        // the most things that fit
        let (mut few, mut many) = (0, order.len());
        while few + 1 < many {
            let middle = usize::midpoint(few, many);
            if fits(&self.tools(&order[..middle])) {
                few = middle;
            } else {
                many = middle;
            }
        }
        self.tools(&order[..few])
    }

    fn tools(&self, things: &[&Found]) -> Vec<Definition> {
        let tool = |domain: &String| {
            let mut named: BTreeMap<String, Thing> = BTreeMap::new();
            for found in things.iter().filter(|found| found.domain == *domain) {
                let mut name = found.name.clone();
                let mut n = 2;
                while named.contains_key(&name) {
                    name = format!("{} {n}", found.name);
                    n += 1;
                }
                named.insert(name, found.thing.clone());
            }
            let what = domain.replace('_', " ");
            Definition::of_things(
                &format!("set_{domain}"),
                &format!("Sets the state of a {what} of this house by its name."),
                named,
                self.terms.clients.clone(),
                TIMEOUT,
            )
        };
        self.terms.domains.iter().filter_map(tool).collect()
    }
}

/// A name as a model can write it: without control characters, and not too long.
fn name(text: &str) -> Option<String> {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut clean = clean.trim().to_owned();
    while clean.len() > NAME_MAX {
        clean.pop();
    }
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
