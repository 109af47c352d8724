//! `glowplug config`: from a file to a flash image and back, and what is refused on the way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use glowplug_firmware_config::image::{self, SLOT, SigningKey};
use glowplug_firmware_config::settings::{Model, Settings};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

const FILE: &str = "node = \"kitchen\"\n[mqtt]\nurl = \"mqtt://10.0.0.2\"\n[memory]\nbudget = \"1400 MiB\"\n\
                    [engine]\nthinking = false\nthreads = { decode = 2 }\n";

struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        world.write("a.toml", FILE);
        world.write("key", &"5a".repeat(32));
        world
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    /// In the folder, with keys that may sign; empty: the variable is not set.
    fn run(&self, keys: impl AsRef<OsStr>, args: &[&str]) -> Output {
        let mut command = self.command(args);
        if !keys.as_ref().is_empty() {
            command.env("GLOWPLUG_TRUST_KEYS", keys);
        }
        command.output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glowplug"));
        command
            .current_dir(self.0.path())
            .env_remove("GLOWPLUG_TRUST_KEYS")
            .env("STATE_DIRECTORY", self.0.path())
            .args(args);
        command
    }

    fn ok(&self, keys: &str, args: &[&str]) -> String {
        let output = self.run(keys, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, keys: impl AsRef<OsStr>, args: &[&str], why: &str) {
        let output = self.run(keys, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }

    fn show(&self, keys: &str) -> Value {
        serde_json::from_str(&self.ok(keys, &["config", "show", "flash", "--json"])).unwrap()
    }
}

fn compile<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["config", "compile", "a.toml", "-o", "flash"], more].concat()
}

#[test]
fn a_file_becomes_an_image_that_says_the_same() {
    let world = World::new();
    assert!(
        world
            .ok("", &["config", "check", "a.toml"])
            .contains("valid")
    );
    let said = world.ok("", &compile(&[]));
    assert!(said.contains("slot 0, counter 1, not signed"), "{said}");
    assert!(
        world
            .ok("", &["config", "check", "flash"])
            .contains("valid (image 1)")
    );
    let shown = world.ok("", &["config", "show", "flash"]);
    assert!(
        shown.contains("# slot 0: counter 1, signature not checked"),
        "{shown}"
    );
    assert!(shown.contains("# slot 1: no image"), "{shown}");
    // what was shown is a file, and makes the same image
    let settings = world.show("")["slots"][0]["settings"].clone();
    assert_eq!(settings["memory"]["budget"], 1400 << 20);
    assert_eq!(settings["engine"]["thinking"]["budget"], 0);
    world.write("a.toml", &shown);
    let said = world.ok("", &compile(&[]));
    assert!(said.contains("slot 1, counter 2"), "{said}");
    let both = world.show("");
    assert_eq!(both["newest"], 1);
    assert_eq!(both["slots"][1]["settings"], settings);
    // the older one goes
    assert!(
        world
            .ok("", &compile(&["--counter", "9"]))
            .contains("slot 0, counter 9")
    );
    world.refused("", &compile(&["--counter", "9"]), "at least 10");
}

#[test]
fn what_is_something_else_is_not_overwritten() {
    let world = World::new();
    world.write("flash", "somebody's notes");
    world.refused("", &compile(&[]), "holds something else");
    world.write("flash", &"\0".repeat(9000));
    assert!(world.ok("", &compile(&[])).contains("slot 0, counter 1"));
}

#[test]
fn who_did_not_sign_is_not_taken() {
    let world = World::new();
    let said = world.ok("", &compile(&["--sign", "key"]));
    let key = said.trim().rsplit(' ').next().unwrap();
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(
        world.show(&format!("{other},{key}"))["slots"][0]["signed_by"],
        key
    );
    world.refused(
        other,
        &["config", "check", "flash"],
        "none of the configured keys",
    );
    world.refused("xyz", &["config", "check", "flash"], "GLOWPLUG_TRUST_KEYS");
    world.refused(
        OsStr::from_bytes(b"\xff"),
        &["config", "check", "flash"],
        "is not UTF-8",
    );
    let serve = ["serve", "--config", "flash"];
    world.refused(other, &serve, "none of the configured keys");
    // it is the newest, and left out
    world.ok("", &compile(&[]));
    assert_eq!(world.show("")["newest"], 1);
    assert_eq!(world.show(key)["newest"], 0);
    world.refused(key, &serve, "no model");
    // nothing was served: another start may step back from it
    assert!(!world.0.path().join(COUNTER).exists());
    std::fs::remove_file(world.0.path().join("flash")).unwrap();
    world.ok("", &compile(&["--sign", "key", "--counter", "6"]));
    world.write(COUNTER, "7\n");
    world.refused(key, &serve, "has counter 6, at least 7 is accepted");
    world.write(COUNTER, "many");
    world.refused(key, &serve, "cannot be told from older ones");
}

const COUNTER: &str = "config-counter";

/// Keys, and something else than an image where it is looked for: the second way in.
#[test]
fn where_images_must_be_signed_nothing_else_is_a_configuration() {
    let world = World::new();
    let said = world.ok("", &compile(&["--sign", "key"]));
    let key = said.trim().rsplit(' ').next().unwrap().to_owned();
    for (what, bytes) in [
        ("TOML", FILE.to_owned()),
        ("TOML and spaces", format!("{FILE}#{}", " ".repeat(3 << 20))),
        ("nothing", String::new()),
        ("an erased partition", "\0".repeat(2 << 20)),
    ] {
        world.write("flash", &bytes);
        for command in [["config", "check", "flash"], ["serve", "--config", "flash"]] {
            let output = world.run(&key, &command);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
            assert!(stderr.contains("no signed image"), "{what}: {stderr}");
        }
    }
    // an image is made of TOML, whoever may sign
    std::fs::remove_file(world.0.path().join("flash")).unwrap();
    world.ok(&key, &compile(&["--sign", "key"]));
    world.ok(&key, &["config", "check", "flash"]);
}

/// A real partition is larger than a configuration file may be: its slots are read, and nothing behind them.
#[test]
fn a_partition_of_four_megabytes_is_one() {
    let world = World::new();
    let said = world.ok("", &compile(&["--sign", "key"]));
    let key = said.trim().rsplit(' ').next().unwrap().to_owned();
    let flash = std::fs::OpenOptions::new()
        .write(true)
        .open(world.0.path().join("flash"))
        .unwrap();
    flash.set_len(4 << 20).unwrap();
    for keys in ["", &key] {
        assert!(
            world
                .ok(keys, &["config", "check", "flash"])
                .contains("valid (image 1)")
        );
    }
    world.refused(&key, &["serve", "--config", "flash"], "no model");
}

/// A variable that came out empty by mistake must not let everybody sign.
#[test]
fn an_empty_list_of_keys_is_an_error_wherever_it_stands() {
    let world = World::new();
    world.ok("", &compile(&[]));
    for empty in ["", " ", ",", " , "] {
        let output = world
            .command(&["config", "check", "flash"])
            .env("GLOWPLUG_TRUST_KEYS", empty)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{empty:?}: {stderr}");
        assert!(stderr.contains("names no key"), "{empty:?}: {stderr}");
    }
    world.write("a.toml", "[trust]\nkeys = []");
    world.refused("", &["config", "check", "a.toml"], "names no key");
}

/// What this version does not take of the newest image is no reason for a dead board: the one before is there.
#[test]
fn an_image_whose_values_are_refused_is_followed_by_the_one_before() {
    let world = World::new();
    let said = world.ok("", &compile(&["--sign", "key"]));
    let key = said.trim().rsplit(' ').next().unwrap().to_owned();
    // as a later version would have it: `compile` takes what this one takes
    let refused = Settings {
        node: Some("later".try_into().unwrap()),
        model: Model {
            device: Some("npu".try_into().unwrap()),
            ..Model::default()
        },
        ..Settings::default()
    };
    let mut slot = [0xff; SLOT];
    image::write(
        &refused,
        2,
        Some(&SigningKey::from_bytes(&[0x5a; 32])),
        &mut slot,
    )
    .unwrap();
    let path = world.0.path().join("flash");
    let mut flash = std::fs::read(&path).unwrap();
    flash[SLOT..].copy_from_slice(&slot);
    std::fs::write(&path, &flash).unwrap();
    for keys in ["", &key] {
        let output = world.run(keys, &["config", "check", "flash"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(
            stderr.contains("image 2 in slot 1 is passed over"),
            "{stderr}"
        );
        assert!(stderr.contains("`model.device`"), "{stderr}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("valid (image 1)"), "{stdout}");
    }
    // with nothing before it, its own error is said
    flash[..SLOT].fill(0xff);
    std::fs::write(&path, &flash).unwrap();
    world.refused(&key, &["config", "check", "flash"], "`model.device`");
}

/// A power cut while a slot is written leaves every reader an image: what is overwritten is never the only one that a reader
/// with keys takes.
#[test]
fn the_slot_that_is_written_is_never_the_one_that_a_reader_with_keys_takes() {
    let world = World::new();
    let said = world.ok("", &compile(&["--sign", "key"]));
    let key = said.trim().rsplit(' ').next().unwrap().to_owned();
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    world.write("theirs", &"a5".repeat(32));
    let lines = [
        // (keys there are, options, the slot that is written)
        ("", vec![], 1),
        ("", vec![], 1),
        (other, vec![], 1),
        ("", vec!["--sign", "theirs"], 1),
        (key.as_str(), vec![], 1),
        (key.as_str(), vec!["--sign", "theirs"], 1),
        ("", vec!["--sign", "key"], 1),
        // both are ours now: the older one goes
        ("", vec!["--sign", "key"], 0),
    ];
    for (n, (keys, options, slot)) in lines.iter().enumerate() {
        let said = world.ok(keys, &compile(options));
        let counter = n + 2;
        assert!(
            said.contains(&format!("slot {slot}, counter {counter}")),
            "{n}: {said}"
        );
        // a power cut in the middle of it
        let path = world.0.path().join("flash");
        let mut flash = std::fs::read(&path).unwrap();
        flash[slot * SLOT + 40..(slot + 1) * SLOT].fill(0xff);
        std::fs::write(world.0.path().join("cut"), &flash).unwrap();
        world.ok(&key, &["config", "check", "cut"]);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let world = World::new();
    for (text, why) in [
        ("nod = 1", "nearest known one is `node`"),
        ("[engine]\nqueue = 0", "`engine.queue`"),
        ("[memory]\nbudget = \"much\"", "`memory.budget`"),
    ] {
        world.write("a.toml", text);
        world.refused("", &["config", "check", "a.toml"], why);
        world.refused("", &compile(&[]), why);
    }
    let long = format!("[model]\npath = \"{}\"", "p".repeat(300));
    world.write("a.toml", &long);
    world.ok("", &["config", "check", "a.toml"]);
    world.refused("", &compile(&[]), "path");
    assert!(!world.0.path().join("flash").exists());
    world.write("key", "5a");
    world.write("a.toml", FILE);
    world.refused("", &compile(&["--sign", "key"]), "64 hexadecimal digits");
    let output = world.run("", &["config", "check", "no.toml", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["valid"], false);
}
