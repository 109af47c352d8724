//! Nobody reads, extends or cancels what is another's, whatever it calls itself: README.md's ACL on Mosquitto, and the rule
//! of the embedded broker.

use glowplug_tests::world::broker::{DAEMON, Mosquitto, PASSWORD, acl};
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, World, request, topic};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What an attacker may call itself to get at `victim`.
const IDENTIFIERS: [&str; 14] = [
    "mallory",
    "victim",
    "victim/request",
    "victim/reply",
    "victim/cancel",
    "victim/#",
    "victim/+",
    "+",
    "#",
    "+/reply",
    "VICTIM",
    " victim",
    "victim:x",
    "",
];

/// What it would like to read.
const FILTERS: [&str; 10] = [
    "#",
    "glowplug/#",
    "glowplug/+/chat/+/reply",
    "glowplug/n1/chat/victim/#",
    "glowplug/n1/chat/victim/reply",
    "glowplug/n1/chat/victim/reply/1",
    "glowplug/n1/chat/victim/request/#",
    "glowplug/n1/ask/victim/answer",
    "glowplug/n1/session/victim/+/result",
    "$share/g/glowplug/n1/chat/victim/reply",
];

/// What it would like to write.
const TOPICS: [&str; 8] = [
    "chat/victim/request",
    "chat/victim/cancel",
    "chat/victim/control",
    "chat/victim/reply",
    "ask/victim",
    "session/victim/s/drop",
    "admin/forget/request",
    "status",
];

/// `daemon` may do everything; `attacker` connects under an identifier, or cannot. What the attacker writes does not come to
/// the daemon, and what the daemon writes to the victim not to the attacker.
fn attacked(daemon: &mut Client, attacker: impl Fn(Version, &str) -> std::io::Result<Client>) {
    daemon.subscribe("glowplug/#");
    let mut let_in = 0;
    for id in IDENTIFIERS {
        for version in [Version::V3, Version::V5] {
            let Ok(mut mallory) = attacker(version, id) else {
                continue;
            };
            let_in += 1;
            for filter in FILTERS {
                // Mosquitto grants it and sends nothing
                mallory.try_subscribe(filter);
            }
            for rest in TOPICS {
                let sent = mallory.publish(&Message::new(topic(rest), "evil"));
                mallory.ack(sent).unwrap();
            }
            for rest in [
                "chat/victim/reply",
                "chat/victim/reply/1",
                "chat/victim/request",
                "ask/victim/answer",
                "session/victim/s/result",
            ] {
                let sent = daemon.publish(&Message::new(topic(rest), "secret"));
                daemon.ack(sent).unwrap();
            }
            // what was acknowledged above is before the answer to this
            for (client, not) in [
                (&mut mallory, b"secret".as_slice()),
                (&mut *daemon, b"evil"),
            ] {
                client.try_subscribe("glowplug/n1/nothing");
                let heard = client.rest();
                let bad = heard.iter().find(|m| m.payload == not);
                assert!(bad.is_none(), "`{id}` {version:?}: {bad:?}");
            }
        }
    }
    assert!(let_in >= 2, "nobody attacked");
}

fn on_mosquitto(lines: &str) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start_with(folder.path(), lines, "");
    attacked_on(&broker, DAEMON);
}

fn attacked_on(broker: &Mosquitto, daemon: (&str, &str)) {
    let mut daemon = Client::connect(broker.port, Version::V5, "d", Some(daemon))
        .unwrap()
        .unjudged();
    let mallory = |version, id: &str| {
        let user = Some(("mallory", PASSWORD));
        Client::connect(broker.port, version, id, user).map(Client::unjudged)
    };
    attacked(&mut daemon, mallory);
    // it reaches its own under any of them
    let mut own = mallory(Version::V5, "victim").unwrap();
    own.subscribe(&topic("chat/mallory/reply"));
    daemon.publish(&Message::new(topic("chat/mallory/reply"), "hers"));
    own.until("her own", |m| (m.payload == b"hers").then_some(()));
    own.publish(&Message::new(topic("ask/mallory"), "hers too"));
    daemon.until("her own", |m| (m.payload == b"hers too").then_some(()));
}

#[test]
fn the_acl_of_the_readme_keeps_clients_apart() {
    on_mosquitto("");
    assert_eq!(acl(), include_str!("../../../../cross/oci/acl"));
}

#[test]
fn and_with_the_user_name_as_the_identifier() {
    on_mosquitto("use_username_as_clientid true");
}

/// The daemon has the account that Home Assistant's supervisor gives to apps.
#[test]
fn the_acl_for_home_assistants_mosquitto_keeps_clients_apart() {
    let folder = tempfile::tempdir().unwrap();
    let app = ("addons", "of-the-apps");
    let users = [app, ("homeassistant", PASSWORD), ("mallory", PASSWORD)];
    let rules = include_str!("../../../../cross/homeassistant/mosquitto/accesscontrollist");
    // what the app's own configuration has before it includes ours
    let config =
        "listener 1883 127.0.0.1\nallow_anonymous false\npassword_file /etc/mosquitto/passwords\n";
    let included = include_str!("../../../../cross/homeassistant/mosquitto/acl.conf");
    let config =
        included.replace("/share/mosquitto/accesscontrollist", "/etc/mosquitto/acl") + config;
    let broker = Mosquitto::start_as(folder.path(), &users, rules, &config);
    attacked_on(&broker, app);
}

#[test]
fn the_embedded_broker_keeps_clients_apart() {
    let mut world = World::new(Kind::Embedded);
    world.online_again();
    let (user, password) = world.user("mallory");
    // the daemon itself is the witness: what it took or refused is counted
    let mut victim = world.client(Version::V5, "victim");
    let mut n = 0;
    for id in IDENTIFIERS {
        if id == "victim" || id == "victim:x" {
            // the user of all programs of one owner: the segment before the colon is who it is
            continue;
        }
        for version in [Version::V3, Version::V5] {
            let mallory = Client::connect(world.port, version, id, Some((user, password)));
            let Ok(mut mallory) = mallory.map(Client::unjudged) else {
                continue;
            };
            n += 1;
            for filter in FILTERS {
                assert!(!mallory.try_subscribe(filter), "`{id}` reads `{filter}`");
            }
            for rest in TOPICS {
                // an operator's verbs are the owner's programs' too
                if rest != "admin/forget/request" {
                    let sent = mallory.publish(&Message::new(topic(rest), "evil"));
                    mallory.ack(sent).unwrap();
                }
            }
        }
    }
    assert!(n >= 2, "nobody attacked");
    // everything before it has been read by then
    request(&mut victim, &World::endless("own", 3));
    victim.until("her answer", |m| {
        assert_ne!(m.payload, b"evil", "{}", m.topic);
        (m.json()["object"] == "chat.completion").then_some(())
    });
    let metrics = world.metrics("her request", |m| m["finished"] == 1);
    assert_eq!(metrics["refused"], serde_json::json!({}));
}

/// The lines of daemon/docs/clients.md, typed by somebody with a user of Mosquitto.
#[test]
fn what_the_page_for_clients_shows_works_on_mosquitto_too() {
    let world = World::new(Kind::Mosquitto);
    let page = include_str!("../../../../daemon/docs/clients.md");
    let line = |starts: &str, topic: &str| {
        let found = page
            .lines()
            .find(|line| line.starts_with(starts) && line.contains(&format!("-t \"$N/{topic}\"")));
        found
            .unwrap_or_else(|| panic!("no `{starts}` with {topic}"))
            .trim_end_matches([' ', '&'])
    };
    let shell = |line: &str| {
        let port = world.port;
        let set = format!("B='-h 127.0.0.1 -p {port} -u me -P {PASSWORD}'; N=glowplug/n1");
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &format!("{set}; exec {line}")])
            .stdin(Stdio::null());
        shell
    };
    for (read, write) in [
        ("ask/me/answer", line("mosquitto_pub", "ask/me").to_owned()),
        (
            "session/me/+/result",
            line("mosquitto_pub", "session/me/kitchen/reset").to_owned(),
        ),
    ] {
        let mut reader = shell(line("mosquitto_sub", read))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
        let (said, heard) = mpsc::channel();
        std::thread::spawn(move || said.send(lines.next()));
        // again until it is heard: nothing tells when the reader has subscribed
        let until = Instant::now() + glowplug_tests::world::client::PATIENCE;
        loop {
            assert!(shell(&write).status().unwrap().success(), "{write}");
            match heard.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => break assert!(line.unwrap().is_ok()),
                Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < until, "{read}"),
                Err(error) => panic!("{error}"),
            }
        }
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
    for read in ["status", "info"] {
        let out = shell(line("mosquitto_sub", read)).output().unwrap();
        assert!(out.status.success() && !out.stdout.is_empty(), "{out:?}");
    }
}
