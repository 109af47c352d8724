//! thin-edge.io, as far as it meets the daemon: a client that listens as its mappers do sees a service register, and its health
//! as the daemon and the watcher come and go. The health is told by last wills, so the broker is real.

use glowplug_tests::world::broker::{Mosquitto, PASSWORD};
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{World, tiny, topic};
use serde_json::json;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

const SERVICE: &str = "te/device/main/service/glowplug";
/// The mapper's user and the watcher's.
const RULES: &str =
    "\nuser panel\ntopic readwrite te/#\nuser paho\ntopic readwrite te/device/main/#\n";

/// The script, and the clients that it starts.
struct Watcher(Child);

impl Watcher {
    fn start(port: u16) -> Self {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../cross/thin-edge/glowplug-thin-edge"
        );
        let mut command = Command::new(script);
        let (status, port) = (topic("status"), port.to_string());
        command.args([
            status.as_str(),
            "-p",
            port.as_str(),
            "-u",
            "paho",
            "-P",
            PASSWORD,
        ]);
        command.stdin(Stdio::null()).process_group(0);
        Self(command.spawn().unwrap())
    }

    /// To all of its processes, as systemd does.
    fn end(mut self, signal: &str) {
        self.signal(signal);
        self.0.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let (signal, group) = (format!("-{signal}"), format!("-{}", self.0.id()));
        let sent = Command::new("kill")
            .args([signal.as_str(), "--", group.as_str()])
            .status();
        assert!(sent.unwrap().success(), "kill {signal}");
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.signal("KILL");
            self.0.wait().unwrap();
        }
    }
}

fn mapper(world: &World) -> Client {
    let mut mapper = world.connect(Version::V5, "panel");
    mapper.subscribe("te/+/+/+/+");
    mapper.subscribe("te/+/+/+/+/status/health");
    mapper
}

fn registered(mapper: &mut Client) {
    mapper.until("the registration", |m| {
        let service = json!({"@type": "service", "name": "glowplug", "type": "systemd"});
        (m.topic == SERVICE).then(|| assert_eq!(m.json(), service))
    });
}

fn is(mapper: &mut Client, status: &str) {
    mapper.until(status, |m| {
        let health = (m.topic == format!("{SERVICE}/status/health")).then(|| m.json())?;
        assert_eq!(
            health["time"].is_u64(),
            health["status"] == "up",
            "{health}"
        );
        (health["status"] == status).then_some(())
    });
}

#[test]
fn the_service_registers_and_its_health_is_the_daemons() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start_with(folder.path(), "", RULES);
    let path = folder.path().join("model.gguf");
    let model = tiny();
    model.write(&path).unwrap();
    let context = format!("context = {}", model.context);
    let mut world = World::start_on(Some(broker), folder, &path, &context, "", &[]);
    world.online();
    let mut first = mapper(&world);
    let watcher = Watcher::start(world.port);
    registered(&mut first);
    is(&mut first, "up");
    for asked in [
        format!("{SERVICE}/cmd/health/check"),
        "te/device/main///cmd/health/check".to_owned(),
    ] {
        first.publish(&Message::new(asked, "{}"));
        is(&mut first, "up");
    }

    // by the daemon's last will, and by its next status
    world.kill_and_restart();
    is(&mut first, "down");
    is(&mut first, "up");

    // a broker that has forgotten everything
    world.broker.as_mut().unwrap().kill_and_restart();
    let mut second = mapper(&world);
    registered(&mut second);
    is(&mut second, "up");

    // by the watcher's own last will
    watcher.end("KILL");
    is(&mut second, "down");
    let watcher = Watcher::start(world.port);
    is(&mut second, "up");
    watcher.end("TERM");
    is(&mut second, "down");

    // all of it is there for whoever comes later
    let mut late = mapper(&world);
    registered(&mut late);
    is(&mut late, "down");
}
