//! `glowplug top` where no terminal is.

use super::at;
use glowplug_tests::world::daemon::glowplug;
use glowplug_tests::world::{Kind, NODE, STATE, World};
use serde_json::Value;
use std::process::Output;

fn top(world: &World, args: &[&str]) -> Output {
    let at = at(world);
    let mut all = vec!["top"];
    all.extend(args);
    all.extend(at.iter().map(String::as_str));
    let state = world.folder().join(STATE);
    glowplug(&all)
        .env("XDG_STATE_HOME", state)
        .output()
        .unwrap()
}

#[test]
fn one_reading_for_a_script_and_one_for_people() {
    let mut world = World::new(Kind::Embedded);
    let out = top(&world, &["--once", "--json"]);
    assert!(out.status.success(), "{out:?}");
    let reading: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&reading["node"], &reading["state"]),
        (&NODE.into(), &"online".into())
    );
    for (part, name) in [
        ("info", "memory"),
        ("info", "model"),
        ("metrics", "kv"),
        ("metrics", "bytes"),
    ] {
        assert!(reading[part][name].is_object(), "{part}.{name}: {reading}");
    }
    let out = top(&world, &["--once"]);
    let page = String::from_utf8(out.stdout).unwrap();
    assert!(page.starts_with(&format!("{NODE}  online")), "{page}");
    assert!(page.contains("Pages of keys and values"), "{page}");
    // a pipe is no terminal
    let out = top(&world, &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("--once"),
        "{out:?}"
    );
    // nobody to look at
    world.daemon.signal("TERM");
    world.daemon.ended();
    let out = top(&world, &["--once"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("cannot reach the broker"),
        "{out:?}"
    );
}
