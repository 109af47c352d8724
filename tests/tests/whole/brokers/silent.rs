//! A daemon whose broker is full of connections that say nothing.

use glowplug_tests::world::client::Version;
use glowplug_tests::world::{Kind, World, reply, request};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A process that holds a thousand connections to a port until its stdin ends.
const HOLD: &str = "
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(1000)]
print('held', flush=True)
sys.stdin.read()
";

struct Silent(Child);

impl Silent {
    fn hold(port: u16) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", HOLD, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}: this test needs python3"));
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        Self(child)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers_beside_a_silent_thousand(world: &World, who: &str) {
    let _silent = Silent::hold(world.port);
    let began = Instant::now();
    let mut alice = world.client(Version::V5, who);
    request(&mut alice, &World::endless("a", 5));
    assert_eq!(reply(&mut alice, "a").completion_tokens(), 5);
    eprintln!("answered after {:.0?}", began.elapsed());
}

#[test]
fn a_thousand_silent_connections_keep_nobody_out() {
    let mut world = World::new(Kind::Embedded);
    answers_beside_a_silent_thousand(&world, "alice");
    // and with less descriptors than they need
    let pid = world.daemon.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let limited = Command::new("prlimit")
        .args([
            format!("--pid={pid}"),
            format!("--nofile={0}:{0}", open + 64),
        ])
        .status();
    assert!(limited.unwrap().success(), "prlimit");
    answers_beside_a_silent_thousand(&world, "bob");
    let said = world.daemon.said();
    let told = said.matches("cannot take another connection").count();
    assert_eq!(told, 1, "once, not at every try: {said}");
}
