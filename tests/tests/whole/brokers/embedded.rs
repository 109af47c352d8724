//! The daemon on the broker it brings.

use crate::brokers::scenarios;
use glowplug_tests::world::client::{Client, Version};
use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::world::{Kind, World, reply, request, tiny, topic};
use tempfile::TempDir;

const KIND: Kind = Kind::Embedded;

#[test]
fn conversation_v5() {
    scenarios::conversation(KIND, Version::V5);
}

#[test]
fn conversation_v3() {
    scenarios::conversation(KIND, Version::V3);
}

#[test]
fn refusals_v5() {
    scenarios::refusals(KIND, Version::V5);
}

#[test]
fn duplicates_v3() {
    scenarios::duplicates(KIND, Version::V3);
}

#[test]
fn cancels_v5() {
    scenarios::cancels(KIND, Version::V5);
}

#[test]
fn deadlines_v3() {
    scenarios::deadlines(KIND, Version::V3);
}

#[test]
fn who_has_no_password_or_no_right_is_turned_away() {
    let world = World::new(KIND);
    let (user, password) = world.user("eve");
    let wrong = format!("{password}x");
    // 134 and 135, 4 and 5: bad user name or password, not authorised
    for (version, codes) in [(Version::V5, [134, 135]), (Version::V3, [4, 5])] {
        for credentials in [
            None,
            Some((user, wrong.as_str())),
            Some(("nobody", password)),
        ] {
            let Err(refused) = Client::connect(world.port, version, "eve", credentials) else {
                panic!("{version:?} {credentials:?}: let in")
            };
            let said = refused.to_string();
            assert!(
                codes.iter().any(|code| said == format!("CONNACK {code}")),
                "{said}"
            );
        }
        let mut eve = world.connect(version, "eve");
        for filter in [
            "#",
            "glowplug/#",
            &topic("chat/+/reply"),
            &topic("chat/bob/reply"),
        ] {
            assert!(!eve.try_subscribe(filter), "{filter}");
        }
        assert!(eve.try_subscribe(&topic("chat/eve/reply")));
    }
}

/// It says so once, the next start takes the file, and one that is damaged is written anew: nobody notices but the log.
#[test]
fn the_model_is_packed_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    tiny().write(&model).unwrap();
    let packed = folder.path().join("model.gguf.packed");
    let start = |what: &str| {
        let mut world = World::start(
            KIND,
            TempDir::new_in(folder.path()).unwrap(),
            &model,
            "context = 512",
            "",
        );
        world.online();
        let mut alice = world.client(Version::V5, "alice");
        request(&mut alice, &World::endless("a", 20));
        let answer = reply(&mut alice, "a").text("content");
        let said = world.daemon.said();
        assert!(what.is_empty() || said.matches(what).count() == 1, "{said}");
        (answer, said)
    };
    let (first, _) = start("packed the model");
    let bytes = std::fs::read(&packed).unwrap();
    let (second, said) = start("");
    assert!(!said.contains("packed"), "{said}");
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&packed, &damaged).unwrap();
    let (third, said) = start("the packed file is thrown away");
    assert!(said.contains("does not match its checksum"), "{said}");
    assert_eq!((&first, &first), (&second, &third));
    assert!(std::fs::read(&packed).unwrap() == bytes);
}

/// A second process on a port says whose it is, and ends as what another start can mend.
#[test]
fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    tiny().write(&model).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = glowplug(&["serve"]);
    command
        .env("GLOWPLUG_BROKER_LISTEN", &address)
        .env("GLOWPLUG_MODEL_CONTEXT", "256");
    let state = folder.path().join("state");
    let mut daemon = Daemon::run(command, &state, &[("GLOWPLUG_MODEL_PATH", &model)]);
    assert_eq!(daemon.ended().code(), Some(1));
    let said = daemon.said();
    for word in [&address, "taken", "`mqtt.url`", "`broker.listen`"] {
        assert!(said.contains(word), "{said}");
    }
}
