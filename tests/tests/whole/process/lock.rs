//! `memory.lock`: the KV pages are locked, or the daemon says what is missing and does not serve.

use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::world::{Kind, World, tiny};
use std::path::Path;
use std::process::Command;

/// Kilobytes that a process has locked.
fn locked(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmLck:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn model(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("model.gguf");
    tiny().write(&path).unwrap();
    path
}

#[test]
fn the_pages_are_locked_if_that_is_wanted() {
    for (lock, most) in [
        ("", 0),
        ("\n[memory]\nlock = true\nkv_pages = 16", u64::MAX),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = model(folder.path());
        let lines = format!("context = 256{lock}");
        let mut world = World::start(Kind::Embedded, folder, &model, &lines, "");
        world.online();
        let locked = locked(world.daemon.pid());
        let pages = if lock.is_empty() { 0 } else { 16 * 21_248 };
        assert!(
            (pages / 1024..=most).contains(&locked),
            "{lock}: {locked} kB"
        );
    }
}

#[test]
fn a_limit_that_is_too_low_is_named_with_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let config = folder.path().join("glowplug.toml");
    let text = format!(
        "[broker]\nlisten = \"127.0.0.1:0\"\n[model]\npath = \"{}\"\n[memory]\nlock = true\nkv_pages = 16\n",
        model.display()
    );
    std::fs::write(&config, text).unwrap();
    let serve = glowplug(&["serve", "--config", config.to_str().unwrap()]);
    // who may lock whatever it likes, as root may, is not limited
    let id = Command::new("id").arg("-u").output().unwrap();
    let drop = if id.stdout == b"0\n" {
        "setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock"
    } else {
        ""
    };
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -l 64 && exec {drop} \"$0\" \"$@\"")])
        .arg(serve.get_program())
        .args(serve.get_args());
    let mut daemon = Daemon::run(limited, folder.path(), &[]);
    let status = daemon.ended();
    let said = daemon.said();
    assert_eq!(status.code(), Some(2), "{said}");
    let why = "`memory.lock`: the KV pages have 339968 bytes, RLIMIT_MEMLOCK lets 65536 be locked";
    assert!(said.contains(why), "{said}");
}
