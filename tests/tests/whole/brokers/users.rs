//! Users of the embedded broker's file, with the whole daemon behind it: what it answers them, and what becomes of them when the
//! file changes while it runs.

use glowplug_tests::world::client::{Client, Version};
use glowplug_tests::world::{Kind, NODE, World, reply, request, tiny, topic};
use std::fs;
use std::path::Path;

/// A hash of `correct horse`, made by the program `argon2` as the guide says, but cheap to check.
const HASH: &str = "$argon2id$v=19$m=16,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$klgEAbyJTdj963Jx07PEsZuI7ww9GF9BR1zf+VqqPc8";

fn write_users(path: &Path, names: &[&str]) {
    let lines: String = names
        .iter()
        .map(|name| format!("{name}:{HASH}\n"))
        .collect();
    fs::write(path.with_extension("new"), lines).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

#[test]
fn a_user_of_the_file_is_the_client_of_its_name_until_it_is_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let (model, users) = (
        folder.path().join("model.gguf"),
        folder.path().join("users"),
    );
    tiny().write(&model).unwrap();
    write_users(&users, &["kitchen", "hall"]);
    let env = [("GLOWPLUG_BROKER_USERS_FILE", users.as_path())];
    let mut world = World::start_with(Kind::Embedded, folder, &model, "context = 512", "", &env);
    world.online();
    let port = world.port;
    let login = |version, user: &str, id: &str| {
        Client::connect(port, version, id, Some((user, "correct horse")))
    };
    // a client's identifier says nothing of who it is
    let enter = |version, user: &str, id: &str| {
        let mut client = login(version, user, id).unwrap();
        client.subscribe(&topic(&format!("chat/{user}/#")));
        client.name = user.to_owned();
        client
    };
    let mut kitchen = enter(Version::V5, "kitchen", "esp32");
    let mut hall = enter(Version::V3, "hall", "esp32");
    for (client, other) in [(&mut kitchen, "hall"), (&mut hall, "kitchen")] {
        request(client, &World::endless("1", 4));
        assert_eq!(reply(client, "1").finish(), "length");
        for filter in [
            topic(&format!("chat/{other}/#")),
            topic("admin/#"),
            "#".to_owned(),
        ] {
            assert!(!client.try_subscribe(&filter), "{filter}");
        }
        assert!(client.try_subscribe(&format!("glowplug/{NODE}/metrics")));
    }
    request(&mut hall, &World::endless("2", 200));
    write_users(&users, &["hall", "garden"]);
    // nobody is asked: who is no user any more is cut off, while another one's answer goes on
    assert!(kitchen.until_closed("the end", |_| None::<()>).is_none());
    assert_eq!(reply(&mut hall, "2").finish(), "length");
    assert!(login(Version::V5, "kitchen", "esp32").is_err());
    let mut garden = enter(Version::V5, "garden", "g");
    request(&mut garden, &World::endless("3", 4));
    assert_eq!(reply(&mut garden, "3").finish(), "length");
}
