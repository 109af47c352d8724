//! `glowplug config`: from a file to a flash image and back, and what is refused on the way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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

    /// In the folder, with keys that may sign.
    fn run(&self, keys: impl AsRef<OsStr>, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_glowplug"))
            .current_dir(self.0.path())
            .env("GLOWPLUG_TRUST_KEYS", keys)
            .env("STATE_DIRECTORY", self.0.path())
            .args(args)
            .output()
            .unwrap()
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
    // served with: from now on nothing older
    assert_eq!(counter(&world), "1\n");
    world.ok("", &compile(&["--sign", "key", "--counter", "7"]));
    world.refused(key, &serve, "no model");
    assert_eq!(counter(&world), "7\n");
    std::fs::remove_file(world.0.path().join("flash")).unwrap();
    world.ok("", &compile(&["--sign", "key", "--counter", "6"]));
    world.refused(key, &serve, "has counter 6, at least 7 is accepted");
}

fn counter(world: &World) -> String {
    let path: &Path = world.0.path();
    std::fs::read_to_string(path.join("config-counter")).unwrap()
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
