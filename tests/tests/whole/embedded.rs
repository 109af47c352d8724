//! The daemon on the broker it brings.

use super::client::{Client, Version};
use super::scenarios;
use super::world::{Kind, World, topic};

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
    let (user, password) = world.user();
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
