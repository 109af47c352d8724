//! Mosquitto that asks everybody for a certificate, whose common name is the user.

use super::authority::{Authority, HERE};
use super::tunnel;
use glowplug_tests::world::broker::{Mosquitto, free_port};
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::daemon::glowplug;
use glowplug_tests::world::{World, frame, reply, request, tell, tiny, topic};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// A world in which the daemon reaches its broker by TLS, with a certificate of its own.
struct Secured {
    world: World,
    authority: Authority,
    port: u16,
}

impl Secured {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let broker = authority.issue("broker", &HERE, |_| {});
        let daemon = authority.issue("glowplug", &[], |_| {});
        let port = free_port();
        let listener = format!(
            "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate true\nuse_identity_as_username true",
            authority.file.display(),
            broker.cert.display(),
            broker.key.display()
        );
        let mosquitto = Mosquitto::start_with(folder.path(), &listener, "");
        let path = folder.path().join("model.gguf");
        let model = tiny();
        model.write(&path).unwrap();
        let context = format!("context = {}", model.context);
        let url = format!("mqtts://localhost:{port}");
        let env = [
            ("GLOWPLUG_MQTT_URL", Path::new(&url)),
            ("GLOWPLUG_MQTT_CA_FILE", &authority.file),
            ("GLOWPLUG_MQTT_CERT_FILE", &daemon.cert),
            ("GLOWPLUG_MQTT_KEY_FILE", &daemon.key),
        ];
        let mut world = World::start_on(Some(mosquitto), folder, &path, &context, "", &env);
        world.online();
        Self {
            world,
            authority,
            port,
        }
    }

    /// A client that is known by its certificate alone, subscribed to all that is its own.
    fn client(&self, name: &str) -> Client {
        let own = self.authority.issue(name, &[], |_| {});
        let door = tunnel::to(self.port, &self.authority, &own);
        let mut client = Client::connect(door, Version::V5, name, None).unwrap();
        for own in ["chat", "ask", "session"] {
            client.subscribe(&topic(&format!("{own}/{name}/#")));
        }
        client
    }
}

#[test]
fn chat_session_and_cancel_by_certificates() {
    let secured = Secured::new();
    let mut alice = secured.client("alice");
    let mut bob = secured.client("bob");

    request(&mut alice, &World::endless("one", 20));
    assert_eq!(reply(&mut alice, "one").completion_tokens(), 20);

    let mut first = World::endless("first", 5);
    first["session"] = json!("kitchen");
    request(&mut alice, &first);
    let before = reply(&mut alice, "first");
    let mut second = World::endless("second", 5);
    second["session"] = json!("kitchen");
    request(&mut alice, &second);
    let after = reply(&mut alice, "second");
    let prompt = |reply: &glowplug_tests::world::Reply| {
        reply.last["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(prompt(&after) > prompt(&before), "it has the first turn");
    alice.publish(&Message::new(topic("session/alice/kitchen/drop"), ""));
    let dropped = alice.until("the result", |m| {
        m.topic.ends_with("/result").then(|| m.json())
    });
    assert_eq!(dropped["ok"], true, "{dropped}");

    request(&mut alice, &World::endless("long", 16_000));
    alice.until("a chunk", |m| frame(m, "long"));
    tell(&mut alice, "cancel", &json!({"id": "long"}));
    let end = alice.until("the end", |m| {
        frame(m, "long").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(end["choices"][0]["finish_reason"], "cancelled");

    // the certificate says who somebody is, whatever topic is written to
    let hers = World::endless("evil", 3).to_string();
    let sent = bob.publish(&Message::new(topic("chat/alice/request"), hers));
    bob.ack(sent).unwrap();
    request(&mut alice, &World::endless("last", 3));
    alice.until("her own", |m| {
        assert!(frame(m, "evil").is_none(), "{m:?}");
        frame(m, "last").filter(|f| f["object"] == "chat.completion")
    });
}

#[test]
fn the_command_line_asks_by_a_certificate() {
    let secured = Secured::new();
    let carol = secured.authority.issue("carol", &[], |_| {});
    let theirs = Authority::new(secured.world.folder(), "theirs");
    let url = format!("mqtts://localhost:{}", secured.port);
    let ask = || {
        let mut ask = glowplug(&["ask", "the rain", "--node", "n1", "--client", "carol"]);
        ask.args(["--json", "--broker", &url]);
        ask.arg("--cert").arg(&carol.cert);
        ask.arg("--key").arg(&carol.key);
        ask
    };
    let out = ask()
        .arg("--ca")
        .arg(&secured.authority.file)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    // without a file it is whom the system trusts, which this variable names
    for (system, well) in [(&secured.authority, true), (&theirs, false)] {
        let out = ask().env("SSL_CERT_FILE", &system.file).output().unwrap();
        assert_eq!(out.status.success(), well, "{out:?}");
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(
            said.contains("nobody whom this system trusts"),
            !well,
            "{said}"
        );
    }
}

/// A certificate is renewed while an answer is on its way: nothing of it is lost.
#[test]
fn a_renewed_certificate_is_taken_without_a_lost_frame() {
    let mut secured = Secured::new();
    let mut alice = secured.client("alice");
    // so many that some of them are being answered when the daemon looks at its files
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        request(&mut alice, &World::endless(id, 16_000));
    }
    secured.authority.issue("glowplug", &[], |_| {});
    let daemon = &mut secured.world.daemon;
    let renewed = |line: &str| line.contains("the certificates have changed").then_some(());
    daemon.line("that it was renewed", renewed);
    let up = |line: &str| line.contains("connected to the broker").then_some(());
    daemon.line("that it is back", up);
    let (mut next, mut ended) = (BTreeMap::new(), 0);
    alice.until("every final frame", |m| {
        let (id, frame) = ids.iter().find_map(|id| Some((*id, frame(m, id)?)))?;
        let next = next.entry(id).or_insert(0);
        assert_eq!(frame["seq"], *next, "`{id}` has a gap");
        *next += 1;
        if frame["object"] == "chat.completion" {
            assert_eq!(frame["usage"]["completion_tokens"], 16_000);
            ended += 1;
        }
        (ended == ids.len()).then_some(())
    });
    request(&mut alice, &World::endless("after", 3));
    assert_eq!(reply(&mut alice, "after").completion_tokens(), 3);

    // it is the file of now that is shown: one of another authority is not taken, and the next one is
    let theirs = Authority::new(secured.world.folder(), "theirs");
    theirs.issue("glowplug", &[], |_| {});
    let refused = |line: &str| line.contains("does not take the certificate").then_some(());
    secured.world.daemon.line("that it is not taken", refused);
    secured.authority.issue("glowplug", &[], |_| {});
    secured.world.daemon.line("that it is taken", up);
}
