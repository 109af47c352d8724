//! A machine that has loopback and nothing else: all of it works, and nothing tries to reach out. In a network namespace of
//! its own, where what was sent and had no way is counted.

use crate::process::admin::ask;
use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{Kind, World, reply, request, tiny, topic};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::process::Command;

/// This binary in a namespace whose loopback is up.
const ENTER: &str = "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec \"$0\" \"$@\"";

#[test]
fn a_daemon_without_a_network_misses_nothing() {
    let enter = |more: &[&str], program: &[&str]| {
        let mut command = Command::new("unshare");
        command.arg("--net").args(more);
        command.args(["sh", "-c", ENTER]).args(program);
        command
    };
    // root may; another user may as the root of a user namespace, where the kernel allows those
    let ways: [&[&str]; 2] = [&[], &["--map-root-user"]];
    let allowed = ways.into_iter().find(|more| {
        let tried = enter(more, &["true"]).output();
        tried.is_ok_and(|out| out.status.success())
    });
    let Some(more) = allowed else {
        // past the harness, which shows nothing of a test that passes
        let _ = std::io::stderr().write_all(
            b"NOT RUN: a_daemon_without_a_network_misses_nothing: no network namespace\n",
        );
        return;
    };
    let exe = std::env::current_exe().unwrap();
    let inside = "process::offline::inside_a_namespace";
    let test = [
        exe.to_str().unwrap(),
        "--exact",
        inside,
        "--ignored",
        "--nocapture",
    ];
    let out = enter(more, &test).output().unwrap();
    let said = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(
        out.status.success() && said[0].contains("1 passed"),
        "{said:#?}"
    );
}

/// What had no route, and datagrams of any kind, in both versions of IP.
fn reached_out() -> BTreeMap<String, u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}"));
    let mut all = BTreeMap::new();
    // two lines for each protocol: names, numbers
    let snmp = read("snmp").unwrap();
    let lines: Vec<&str> = snmp.lines().collect();
    for pair in lines.chunks_exact(2) {
        let protocol = pair[0].split(':').next().unwrap();
        let [names, numbers] = [pair[0], pair[1]].map(|line| line.split_whitespace().skip(1));
        for (name, number) in names.zip(numbers) {
            all.insert(format!("{protocol}{name}"), number.parse().unwrap_or(0));
        }
    }
    // a kernel without IPv6 has none
    for line in read("snmp6").unwrap_or_default().lines() {
        let (name, number) = line.split_once(char::is_whitespace).unwrap();
        all.insert(name.to_owned(), number.trim().parse().unwrap());
    }
    let ours = [
        "IpOutNoRoutes",
        "UdpOutDatagrams",
        "Ip6OutNoRoutes",
        "Udp6OutDatagrams",
    ];
    all.retain(|name, _| ours.contains(&name.as_str()));
    assert!(all.contains_key("IpOutNoRoutes"), "{snmp}");
    all
}

#[test]
#[ignore = "runs in the namespace that the test above makes"]
fn inside_a_namespace() {
    let before = reached_out();
    let folder = tempfile::tempdir().unwrap();
    let [model, other] = ["model.gguf", "other.gguf"].map(|name| folder.path().join(name));
    tiny().write(&model).unwrap();
    Tiny { seed: 2, ..tiny() }.write(&other).unwrap();
    let sessions = format!(
        "\n[sessions]\ndir = \"{}\"",
        folder.path().join("s").display()
    );
    let lines = format!("context = 1024{sessions}");
    let mut world = World::start(Kind::Embedded, folder, &model, &lines, "");
    world.online();

    let mut alice = world.client(Version::V5, "alice");
    request(&mut alice, &World::endless("chat", 20));
    let first = reply(&mut alice, "chat");
    assert_eq!(first.completion_tokens(), 20);
    for id in ["turn 1", "turn 2"] {
        let mut turn = World::endless(id, 5);
        turn["session"] = json!("s");
        request(&mut alice, &turn);
        assert_eq!(reply(&mut alice, id).completion_tokens(), 5);
    }
    alice.publish(&Message::new(topic("session/alice/s/save"), ""));
    let saved = alice.until("the session's result", |m| {
        (m.topic == topic("session/alice/s/result")).then(|| m.json())
    });
    assert_eq!(saved["ok"], true, "{saved}");

    let mut operator = world.operator();
    let changed = ask(&mut operator, "model", &json!({"name": "other"}));
    assert!(changed["error"].is_null(), "{changed}");
    request(&mut alice, &World::endless("other", 20));
    let second = reply(&mut alice, "other");
    assert_eq!(second.completion_tokens(), 20);
    assert_ne!(first.message()["content"], second.message()["content"]);
    world.daemon.signal("TERM");
    assert_eq!(world.daemon.ended().code(), Some(0));
    assert_eq!(reached_out(), before, "something tried to reach out");

    // and it would have been seen
    TcpStream::connect("192.0.2.1:9").unwrap_err();
    let without_a_route = reached_out();
    assert!(without_a_route["IpOutNoRoutes"] > before["IpOutNoRoutes"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"a question", "127.0.0.1:53").unwrap();
    assert!(reached_out()["UdpOutDatagrams"] > before["UdpOutDatagrams"]);
}
