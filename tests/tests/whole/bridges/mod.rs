//! The daemon through the programs that stand between it and clients of another kind.

mod openai;
mod top;
mod wyoming;

use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::world::{Kind, NODE, STATE, World};
use std::path::Path;
use std::process::Command;

/// Where a world's daemon is, as arguments.
fn at(world: &World) -> [String; 4] {
    let broker = format!("mqtt://127.0.0.1:{}", world.port);
    ["--broker".into(), broker, "--node".into(), NODE.into()]
}

/// A bridge to this world's daemon as its client `c1`, and the port that it listens on. It has heard that the daemon is there.
fn bridge(world: &World, kind: Kind, args: &[&str]) -> (Daemon, u16) {
    let state = world.folder().join(STATE);
    let password = world.folder().join("c1-password");
    std::fs::write(&password, world.user("c1").1).unwrap();
    let mut env: Vec<(&str, &Path)> = Vec::new();
    if kind == Kind::Mosquitto {
        env.push(("GLOWPLUG_MQTT_USERNAME", Path::new("c1")));
        env.push(("GLOWPLUG_MQTT_PASSWORD_FILE", &password));
    }
    let at = at(world);
    let mut all = vec!["bridge"];
    all.extend(args);
    all.extend(["--listen", "127.0.0.1:0"]);
    all.extend(at.iter().map(String::as_str));
    let mut bridge = Daemon::run(glowplug(&all), &state, &env);
    let port = listens(&mut bridge);
    bridge.line("that the daemon is there", |line| {
        line.contains("is online").then_some(())
    });
    (bridge, port)
}

/// The port that a bridge says it listens on.
fn listens(bridge: &mut Daemon) -> u16 {
    bridge.line("where it listens", |line| {
        line.split_once("://127.0.0.1:")?.1.trim().parse().ok()
    })
}

/// Runs a script beside this file, which has to come to its end and say so.
fn python(package: &str, script: &str, args: &[&str]) {
    let python = |args: &[&str]| {
        let out = Command::new("python3").args(args).output();
        out.unwrap_or_else(|e| panic!("{e}: this test needs python3"))
    };
    assert!(
        python(&["-c", &format!("import {package}")])
            .status
            .success(),
        "this test needs Python's package {package}, which `tests/run.sh` unpacks"
    );
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/whole/bridges");
    let script = format!("{folder}/{script}");
    let mut all = vec![script.as_str()];
    all.extend(args);
    let out = python(&all);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "ok", "{said}");
}
