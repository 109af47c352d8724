//! Several daemons that share the requests of a pool: who takes them, who has the sessions, and what a kill and a drain leave
//! behind. `examples/pool.rs` is the same at length.

use glowplug_tests::world::World;
use glowplug_tests::world::client::{Client, Message};
use glowplug_tests::world::fleet::{Fleet, ask, end};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A client, and the ends that its requests got: the daemon that gave each, and its frame.
struct Asker {
    client: Client,
    ends: BTreeMap<String, Vec<(String, Value)>>,
}

impl Asker {
    fn new(fleet: &Fleet, name: &str) -> Self {
        Self {
            client: fleet.client(name),
            ends: BTreeMap::new(),
        }
    }

    fn take(&mut self, message: &Message) {
        if let Some((id, node, frame)) = end(message) {
            self.ends.entry(id).or_default().push((node, frame));
        }
    }

    /// Reads until a request has an end; gives the daemon and its frame.
    fn ended(&mut self, id: &str) -> (String, Value) {
        while !self.ends.contains_key(id) {
            let message = self.client.next();
            self.take(&message);
        }
        self.ends[id][0].clone()
    }

    /// Reads until a daemon has begun with a request, and gives its name.
    fn begun(&mut self, id: &str) -> String {
        loop {
            let message = self.client.next();
            self.take(&message);
            if message.topic.ends_with("/reply") && message.json()["id"] == id {
                return message.json()["node"].as_str().unwrap().to_owned();
            }
        }
    }

    fn ask(&mut self, node: &str, body: &Value) {
        ask(&mut self.client, node, body);
    }
}

fn finish(frame: &Value) -> &str {
    frame["choices"][0]["finish_reason"]
        .as_str()
        .unwrap_or_else(|| panic!("{frame}"))
}

fn in_session(id: &str) -> Value {
    let mut body = World::endless(id, 4);
    body["session"] = json!("s");
    body
}

/// As many requests as there are in three rounds of every client, all to the pool; gives how many each daemon took.
fn three_rounds(askers: &mut [Asker], what: &str) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    let id = |n: usize| format!("{what}-{n}");
    for asker in askers.iter_mut() {
        (0..3).for_each(|n| asker.ask("any", &World::endless(&id(n), 4)));
    }
    for asker in askers {
        for n in 0..3 {
            let (node, frame) = asker.ended(&id(n));
            assert_eq!(finish(&frame), "length");
            *taken.entry(node).or_default() += 1;
        }
    }
    taken
}

#[test]
fn each_request_has_one_end_though_one_daemon_is_killed_and_one_drains() {
    let mut fleet = Fleet::new(3, "");
    let mut askers: Vec<Asker> = (0..4)
        .map(|n| Asker::new(&fleet, &format!("c{n}")))
        .collect();
    for round in 0..3 {
        let taken = three_rounds(&mut askers, &format!("all-{round}"));
        // the broker gives each its turn, and none was so full that it left
        let counts: Vec<usize> = taken.into_values().collect();
        assert_eq!(counts, [4, 4, 4]);
    }

    // a session begins at whoever takes it, and goes on there
    for asker in &mut askers {
        asker.ask("any", &in_session("s0"));
        let (home, first) = asker.ended("s0");
        asker.ask(&home, &in_session("s1"));
        let (node, second) = asker.ended("s1");
        assert_eq!(node, home);
        let tokens = |frame: &Value| frame["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(tokens(&second) > tokens(&first), "it has its history");
    }

    // one request a client that lasts; of two daemons at least one has more than one
    let mut at = BTreeMap::new();
    for asker in &mut askers {
        asker.ask("any", &World::endless("long", 12_000));
        let node = asker.begun("long");
        at.insert(asker.client.name.clone(), node);
    }
    let number = |node: &str| node[1..].parse::<usize>().unwrap();
    let killed = number(&at["c0"]);
    let lasting = at.values().filter(|node| number(node) == killed).count();
    fleet.on_record(killed, &vec!["long"; lasting]);
    fleet.kill(killed);
    let taken = three_rounds(&mut askers, "without");
    assert!(!taken.contains_key(&format!("n{killed}")), "{taken:?}");
    fleet.restart(killed);
    let (node, frame) = askers[0].ended("long");
    assert_eq!(
        (node, finish(&frame)),
        (format!("n{killed}"), "interrupted")
    );
    // repeated there it is the same request
    askers[0].ask(&format!("n{killed}"), &World::endless("long", 12_000));
    let again = askers[0].client.until("the same end", end);
    assert_eq!(
        (again.0.as_str(), finish(&again.2)),
        ("long", "interrupted")
    );

    // one of the others drains while it works: it leaves before it refuses
    let drained = (1..=3).find(|n| *n != killed && at.values().any(|node| number(node) == *n));
    let drained = drained.expect("four clients, and two daemons besides the killed one");
    fleet.drain(drained);
    // what is on its way to it is answered too
    three_rounds(&mut askers, "drained");
    for asker in &mut askers {
        let node = &at[&asker.client.name];
        let cancel = format!("glowplug/{node}/chat/{}/cancel", asker.client.name);
        asker.client.publish(&Message::new(cancel, "{}"));
    }
    fleet.drained(drained);
    let taken = three_rounds(&mut askers, "after");
    assert!(!taken.contains_key(&format!("n{drained}")), "{taken:?}");

    // nothing is left on record that would end a second time, and nothing has
    fleet.on_record(killed, &[]);
    fleet.kill(killed);
    fleet.restart(killed);
    for asker in &mut askers {
        asker.ended("long");
        asker.ask("any", &World::endless("last", 1));
        asker.ended("last");
        for (id, ends) in &asker.ends {
            assert_eq!(ends.len(), 1, "{id}: {ends:?}");
        }
        assert_eq!(asker.ends.len(), 3 * 6 + 2 + 2);
    }
}

#[test]
fn a_daemon_leaves_before_it_is_full_and_comes_back() {
    let mut fleet = Fleet::new(1, "queue = 1\nmax_streams = 1");
    let mut asker = Asker::new(&fleet, "c0");
    asker.ask("any", &World::endless("long", 12_000));
    assert_eq!(asker.begun("long"), "n1");
    let joined = |is: bool| move |metrics: &Value| metrics["pool"]["joined"] == is;
    fleet.metrics(1, "that it has left", joined(false));
    // a place is free, and only its own topics lead there
    let id = ask(&mut asker.client, "any", &World::endless("nobody", 1));
    assert_eq!(asker.client.ack(id).unwrap(), 0x10, "no subscriber");
    asker.ask("n1", &World::endless("own", 1));
    let cancel = Message::new("glowplug/n1/chat/c0/cancel", r#"{"id":"long"}"#);
    asker.client.publish(&cancel);
    assert_eq!(finish(&asker.ended("long").1), "cancelled");
    assert_eq!(finish(&asker.ended("own").1), "length");
    fleet.metrics(1, "that it is back", joined(true));
    asker.ask("any", &World::endless("back", 1));
    assert_eq!(asker.ended("back").0, "n1");
    assert!(!asker.ends.contains_key("nobody"));
}
