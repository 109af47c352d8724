//! What is left on the disk of a conversation, where sessions are encrypted: nothing that can be read, however the daemon ends.

use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{Kind, World, reply, request, tiny, topic};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What is said, and must not be found.
const SAID: &str = "canary-in-the-kitchen";

fn put_keys(file: &Path, digits: &[char]) {
    let lines = digits
        .iter()
        .map(|digit| digit.to_string().repeat(64) + "\n");
    let new = file.with_extension("new");
    fs::write(&new, lines.collect::<String>()).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, file).unwrap();
}

/// Whether a text is in any file of a folder; `seen` counts the files of sessions among them.
fn is_told(folder: &Path, seen: &mut usize) -> bool {
    let mut told = false;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            told |= is_told(&path, seen);
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            *seen += usize::from(path.extension().is_some_and(|of| of == "session"));
            told |= bytes
                .windows(SAID.len())
                .any(|some| some == SAID.as_bytes());
        }
    }
    told
}

#[test]
fn nothing_that_was_said_is_on_the_disk_and_keys_are_rotated_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let [model, keys, sessions] =
        ["model.gguf", "keys", "sessions"].map(|name| folder.path().join(name));
    tiny().write(&model).unwrap();
    put_keys(&keys, &['1']);
    let env = [
        ("GLOWPLUG_SESSIONS_DIR", sessions.as_path()),
        ("GLOWPLUG_SESSIONS_KEY_FILE", keys.as_path()),
    ];
    let mut world = World::start_with(Kind::Embedded, folder, &model, "context = 2048", "", &env);
    world.online();
    let mut turns = 0;
    let mut turn = |world: &World| {
        let mut client = world.client(Version::V5, "kitchen");
        turns += 1;
        let mut asked = World::endless(&format!("{SAID}-{turns}"), 4);
        asked["session"] = json!("s");
        asked["messages"] = json!([{"role": "user", "content": SAID}]);
        request(&mut client, &asked);
        reply(&mut client, asked["id"].as_str().unwrap()).finish();
        client.publish(&Message::new(topic("session/kitchen/s/save"), ""));
        let result = client.until("a result", |m| {
            (m.topic == topic("session/kitchen/s/result")).then(|| m.json())
        });
        assert_eq!(result["turns"], turns, "{result}");
        let mut files = 0;
        assert!(!is_told(world.folder(), &mut files), "turn {turns}");
        assert_eq!(files, 1);
    };
    turn(&world);
    // it knows what was said before it was killed, and writes it with the newest key, which came meanwhile
    world.kill_and_restart();
    put_keys(&keys, &['2', '1']);
    turn(&world);
    put_keys(&keys, &['2']);
    world.kill_and_restart();
    turn(&world);
    // without its key it is refused by its name, and stays
    put_keys(&keys, &['3']);
    world.kill_and_restart();
    let mut client = world.client(Version::V5, "kitchen");
    let mut asked = World::endless("closed", 4);
    asked["session"] = json!("s");
    request(&mut client, &asked);
    let refused = reply(&mut client, "closed");
    assert_eq!(refused.error(), "internal");
    let message = refused.last["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("`s`") && message.contains("`sessions.key_file`"),
        "{message}"
    );
    assert_eq!(fs::read_dir(&sessions).unwrap().count(), 1);
}
