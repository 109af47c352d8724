//! A client that is not ours: Eclipse Paho, in Python.

use super::client::Version;
use super::world::{Kind, NODE, World};
use glowplug_tests::{Real, real_model};
use std::process::Command;

#[test]
fn paho_converses_in_both_versions() {
    let python = |args: &[&str]| {
        let out = Command::new("python3").args(args).output();
        out.unwrap_or_else(|e| panic!("{e}: this test needs python3"))
    };
    assert!(
        python(&["-c", "import paho.mqtt.client"]).status.success(),
        "this test needs Paho: `pip install paho-mqtt` (or Debian's python3-paho-mqtt)"
    );
    let folder = tempfile::tempdir().unwrap();
    let smol = real_model(Real::Smol);
    let mut world = World::start(
        Kind::Mosquitto,
        folder,
        &smol,
        "context = 512",
        "max_tokens = 16",
    );
    world.online();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/whole/paho_client.py");
    let (user, password) = world.user();
    let out = python(&[script, &world.port.to_string(), user, password, NODE]);
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
