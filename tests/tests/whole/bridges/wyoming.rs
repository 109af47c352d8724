//! `bridge wyoming`, for the client of the `wyoming` package that Home Assistant has too.

use super::{bridge, python};
use glowplug_tests::world::{Kind, World};
use glowplug_tests::{Think, Tiny};
use std::io::{Read, Write};
use std::net::TcpStream;

fn answers(kind: Kind, args: &[&str]) {
    let model = Tiny::saying(Think::Never, ["It is **", "warm", "** today."]);
    let mut world = World::with(kind, &model, "");
    let (mut bridge, port) = bridge(&world, kind, args);
    python("wyoming", "wyoming_client.py", &[&port.to_string(), "talk"]);
    // two turns of one conversation, one of another
    world.metrics("two conversations", |m| m["sessions"] == 2);
    // what is no event is said, and ends the connection
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("\"error\"") && said.contains("not an event"),
        "{said}"
    );
    // at its end the daemon forgets what was said
    bridge.signal("TERM");
    assert_eq!(bridge.ended().code(), Some(0));
    world.metrics("no conversation", |m| m["sessions"] == 0);
}

#[test]
fn wyomings_client_on_mosquitto() {
    answers(Kind::Mosquitto, &["wyoming", "--client", "c1"]);
}

#[test]
fn wyomings_client_on_the_embedded_broker() {
    answers(Kind::Embedded, &["wyoming"]);
}

#[test]
fn a_daemon_that_is_gone_is_an_error_and_not_silence() {
    let mut world = World::new(Kind::Mosquitto);
    let (mut bridge, port) = bridge(&world, Kind::Mosquitto, &["wyoming", "--client", "c1"]);
    world.daemon.signal("TERM");
    assert!(world.daemon.ended().success());
    bridge.line("that it is gone", |line| {
        line.contains("is offline").then_some(())
    });
    python("wyoming", "wyoming_client.py", &[&port.to_string(), "gone"]);
}
