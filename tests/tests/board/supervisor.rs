//! What a service manager is told, and when.

use super::alone;
use glowplug_tests::world::client::PATIENCE;
use glowplug_tests::world::{Kind, World, tiny};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The watchdog's time is in microseconds; the manager restarts what it has not heard of for so long.
const WATCHDOG_US: &str = "2000000";
const WATCHDOG: Duration = Duration::from_secs(2);

/// A daemon with this model, and the socket that its manager listens on.
fn managed(model: &[u8]) -> (World, UnixDatagram, TempDir) {
    let (folder, manager) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let socket = manager.path().join("notify");
    let listens = UnixDatagram::bind(&socket).unwrap();
    listens.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, model).unwrap();
    let env = [
        ("NOTIFY_SOCKET", socket.as_path()),
        ("WATCHDOG_USEC", Path::new(WATCHDOG_US)),
    ];
    let world = World::start_with(Kind::Embedded, folder, &path, "", "", &env);
    (world, listens, manager)
}

fn next(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let n = manager.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

#[test]
fn ready_when_it_answers_alive_while_it_gets_on_and_stopping_at_last() {
    let _alone = alone();
    let (mut world, manager, _folder) = managed(&tiny().bytes());
    let watchdog = format!("WATCHDOG_USEC={}\nWATCHDOG=1\n", WATCHDOG.as_micros());
    assert_eq!(
        next(&manager),
        format!("READY=1\nSTATUS=serves Tiny\n{watchdog}")
    );
    world.online();
    // nobody asks anything: the thread waits, and is well; how often it says so is the business of `systemd`'s own test
    for _ in 0..6 {
        assert_eq!(next(&manager), "WATCHDOG=1\n");
    }
    world.daemon.signal("TERM");
    let last = std::iter::repeat_with(|| next(&manager)).find(|said| said != "WATCHDOG=1\n");
    assert_eq!(last.unwrap(), "STOPPING=1\nSTATUS=drains\n");
    assert_eq!(world.daemon.ended().code(), Some(0));
}

#[test]
fn a_model_that_does_not_answer_is_never_ready() {
    let _alone = alone();
    let mut model = tiny().writer();
    // f32, and all of them NaN
    model.tensor("output_norm.weight").data.fill(0xff);
    let (mut world, manager, _folder) = managed(&model.build());
    assert_eq!(world.daemon.ended().code(), Some(2));
    let said = world.daemon.said();
    assert!(
        said.contains("the model does not answer: its numbers are not finite"),
        "{said}"
    );
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 256]).is_err());
}
