//! A client that is not ours: Eclipse Paho, in Python.

use glowplug_tests::world::client::Version;
use glowplug_tests::world::{Kind, NODE, World};
use glowplug_tests::{Real, real_model};
use std::process::Command;

fn converses_in_both_versions(kind: Kind) {
    let python = |args: &[&str]| {
        let out = Command::new("python3").args(args).output();
        out.unwrap_or_else(|e| panic!("{e}: this test needs python3"))
    };
    assert!(
        python(&["-c", "import paho.mqtt.client"]).status.success(),
        "this test needs Paho, which `tests/run.sh` unpacks"
    );
    let folder = tempfile::tempdir().unwrap();
    let smol = real_model(Real::Smol);
    let mut world = World::start(kind, folder, &smol, "context = 512", "max_tokens = 16");
    world.online();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/whole/clients/paho_client.py"
    );
    let (user, password) = world.user("paho");
    let port = world.port.to_string();
    let mut args = vec![script, &port, password, NODE];
    if kind == Kind::Embedded {
        args.push(user);
    }
    let out = python(&args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    // its own word that it came to the end
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).trim(),
        "5: ok\n3.1.1: ok"
    );
    // the broker still serves ours
    drop(world.connect(Version::V5, "after"));
}

#[test]
fn paho_converses_in_both_versions_on_mosquitto() {
    converses_in_both_versions(Kind::Mosquitto);
}

#[test]
fn paho_converses_in_both_versions_on_the_embedded_broker() {
    converses_in_both_versions(Kind::Embedded);
}
