//! The disk under a daemon: a model that is cut while it is served, one that is gone, a folder that cannot be written.

use crate::process::admin::{ask, refused};
use glowplug_tests::Tiny;
use glowplug_tests::world::client::Version;
use glowplug_tests::world::daemon::Daemon;
use glowplug_tests::world::{CONFIG, Kind, STATE, World, frame, request, tiny};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// `model.gguf` is configured, `other.gguf` was chosen and answered; it cannot be packed, so it is mapped as it is.
fn chosen() -> (World, PathBuf) {
    let world = World::new(Kind::Embedded);
    let other = world.folder().join("other.gguf");
    Tiny { seed: 2, ..tiny() }.write(&other).unwrap();
    // a folder where the packed file would be
    fs::create_dir_all(world.folder().join("other.gguf.packed/x")).unwrap();
    let mut operator = world.operator();
    let served = ask(&mut operator, "model", &json!({"name": "other"}));
    assert!(served["error"].is_null(), "{served}");
    (world, other)
}

/// Three starts that end with 1, so that a service manager goes on, each with this line; then the configured model answers.
fn gives_way(world: &mut World, says: &str) {
    let (config, state) = (world.folder().join(CONFIG), world.folder().join(STATE));
    for _ in 0..3 {
        let mut daemon = Daemon::serve(&config, &state, &[]);
        assert_eq!(daemon.ended().code(), Some(1), "{}", daemon.said());
        assert!(daemon.said().contains(says), "{}", daemon.said());
    }
    world.restart();
    let mut operator = world.operator();
    let served = ask(&mut operator, "model", &json!({}));
    assert_eq!(served["model"]["fallback"], true, "{served}");
    assert!(served["model"]["sha256"].is_string());
}

#[test]
fn a_chosen_model_that_is_gone_gives_way_to_the_configured_one() {
    let (mut world, other) = chosen();
    world.daemon.signal("KILL");
    world.daemon.ended();
    fs::remove_file(&other).unwrap();
    gives_way(&mut world, "other.gguf: No such file");
}

/// Cut in place under its map: who was being answered is told, the daemon ends with a word, and the next ones refuse the file
/// and say why, until another model answers.
#[test]
fn a_model_that_is_cut_while_it_is_served_is_refused_at_the_next_start_and_gives_way() {
    let (mut world, other) = chosen();
    let mut client = world.client(Version::V5, "c");
    request(&mut client, &World::endless("long", 8000));
    client.until("its first token", |m| frame(m, "long"));
    let file = fs::File::options().write(true).open(&other).unwrap();
    file.set_len(4096).unwrap();
    let last = client.until("its end", |m| {
        let ended = |frame: &Value| frame["object"] != "chat.completion.chunk";
        frame(m, "long").filter(ended)
    });
    assert_eq!(last["error"]["code"], "internal", "{last}");
    let status = world.daemon.ended();
    let said = world.daemon.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("a part of the model's file is not there"),
        "{said}"
    );
    gives_way(&mut world, "the file ends inside");
}

/// What cannot be remembered is said, and not that it is.
#[test]
fn an_inhibit_that_cannot_be_written_is_an_error_and_holds_until_the_end() {
    let mut world = World::new(Kind::Embedded);
    let mut operator = world.operator();
    let allowed = ask(&mut operator, "inhibit", &json!({"on": false}));
    assert_eq!(allowed["inhibit"]["on"], false);
    let record = world.folder().join(STATE).join("glowplug/models.json");
    let _ = fs::remove_file(&record);
    fs::create_dir_all(record.join("x")).unwrap();
    let (code, message) = refused(&mut operator, "inhibit", &json!({"on": true}));
    assert_eq!(code, "internal", "{message}");
    assert!(message.contains("until the daemon ends"), "{message}");
    assert_eq!(
        ask(&mut operator, "inhibit", &json!({}))["inhibit"]["on"],
        true
    );
    assert_eq!(refused(&mut operator, "reload", &json!({})).0, "overloaded");
    let (code, message) = refused(&mut operator, "inhibit", &json!({"on": false}));
    assert_eq!(code, "internal", "{message}");
    // there is room again
    fs::remove_dir_all(&record).unwrap();
    for on in [false, true] {
        let answer = ask(&mut operator, "inhibit", &json!({"on": on}));
        assert_eq!(answer["inhibit"]["on"], on, "{answer}");
    }
    world.kill_and_restart();
    let mut operator = world.operator();
    let answer: Value = ask(&mut operator, "inhibit", &json!({}));
    assert_eq!(answer["inhibit"]["on"], true);
}

/// A model of the same size and time, as images of file systems have them: the packed file of the one before says nothing of it.
#[test]
fn a_model_in_the_place_of_another_answers_itself_whatever_its_size_and_time() {
    let mut world = World::new(Kind::Embedded);
    let model = world.folder().join("model.gguf");
    let ask_model = |world: &World| {
        let mut operator = world.operator();
        ask(&mut operator, "model", &json!({}))["model"]["sha256"].clone()
    };
    let first = ask_model(&world);
    assert!(world.folder().join("model.gguf.packed").is_file());
    let before = fs::metadata(&model).unwrap();
    world.daemon.signal("KILL");
    world.daemon.ended();
    Tiny { seed: 2, ..tiny() }.write(&model).unwrap();
    let file = fs::File::options().write(true).open(&model).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(before.len(), fs::metadata(&model).unwrap().len());
    world.restart();
    assert_ne!(ask_model(&world), first);
    assert!(world.daemon.said().contains("packed the model"));
}
