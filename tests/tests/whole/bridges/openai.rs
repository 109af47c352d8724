//! `bridge openai`, for OpenAI's own client, for the calls of Home Assistant's integration, and for plain HTTP.

use super::{at, bridge, listens, python};
use crate::clients::tools::SCRIPT;
use glowplug_tests::world::client::{PATIENCE, Version};
use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::world::{Kind, STATE, World, tiny, topic};
use glowplug_tests::{Think, Tiny};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// A daemon whose model says the script.
fn scripted(kind: Kind) -> World {
    World::with(kind, &Tiny::saying(Think::Never, SCRIPT), "")
}

#[test]
fn openais_client_on_mosquitto() {
    let world = scripted(Kind::Mosquitto);
    let (_bridge, port) = bridge(&world, Kind::Mosquitto, &["openai", "--client", "c1"]);
    python("openai", "openai_client.py", &[&port.to_string(), "talk"]);
}

#[test]
fn openais_client_on_the_embedded_broker() {
    let world = scripted(Kind::Embedded);
    let (_bridge, port) = bridge(&world, Kind::Embedded, &["openai"]);
    python("openai", "openai_client.py", &[&port.to_string(), "talk"]);
}

#[test]
fn an_answer_by_a_schema() {
    let world = scripted(Kind::Embedded);
    let (_bridge, port) = bridge(&world, Kind::Embedded, &["openai"]);
    python("openai", "openai_client.py", &[&port.to_string(), "schema"]);
}

#[test]
fn the_calls_of_home_assistant() {
    let world = scripted(Kind::Embedded);
    let (_bridge, port) = bridge(&world, Kind::Embedded, &["openai"]);
    python("json", "home_assistant.py", &[&port.to_string()]);
}

#[test]
fn a_client_that_goes_away_cancels() {
    let slow = Tiny {
        layers: 12,
        ..tiny()
    };
    let mut world = World::with(Kind::Embedded, &slow, "");
    let (_bridge, port) = bridge(&world, Kind::Embedded, &["openai"]);
    let mut spy = world.connect(Version::V5, "openai:spy");
    spy.subscribe(&topic("chat/openai/reply"));
    // one that streams, and one that waits for the whole answer
    python("openai", "openai_client.py", &[&port.to_string(), "leave"]);
    for _ in 0..2 {
        spy.until("a cancelled answer", |message| {
            let frame = message.json();
            let reason = frame["choices"][0]["finish_reason"].as_str()?.to_owned();
            assert_eq!(reason, "cancelled");
            Some(())
        });
    }
    world.metrics("nothing runs", |m| m["running"] == 0);
}

/// Sends these bytes and reads all of the answer: its status, its head, its body as JSON.
fn http(port: u16, request: &str) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    (status, head.to_lowercase(), body)
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
}

fn post(body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

const QUESTION: &str =
    r#"{"messages":[{"role":"user","content":"light?"}],"max_tokens":64,"temperature":0}"#;

#[test]
fn a_key_is_a_client() {
    let world = scripted(Kind::Embedded);
    let keys = world.folder().join("keys");
    std::fs::write(&keys, "0123456789abcdef-one c1\n0123456789abcdef-two c2\n").unwrap();
    let args = ["openai", "--api-keys", keys.to_str().unwrap()];
    let (mut bridge, port) = bridge(&world, Kind::Embedded, &args);
    // each client has a connection of its own
    bridge.line("that the daemon is there", |line| {
        line.contains("is online").then_some(())
    });
    for (client, key) in [
        ("c1", "0123456789abcdef-one"),
        ("c2", "0123456789abcdef-two"),
    ] {
        let mut spy = world.connect(Version::V5, &format!("{client}:spy"));
        spy.subscribe(&topic(&format!("chat/{client}/reply")));
        let (status, _, answer) = http(
            port,
            &post(QUESTION, &format!("authorization: Bearer {key}\r\n")),
        );
        assert_eq!(status, 200, "{answer}");
        let id = spy.until("its final frame", |message| {
            Some(message.json()["id"].clone())
        });
        assert_eq!(answer["id"], id);
    }
    for headers in [
        "",
        "authorization: Bearer 0123456789abcdef\r\n",
        "authorization: Basic 0123456789abcdef-one\r\n",
    ] {
        let (status, _, answer) = http(port, &post(QUESTION, headers));
        assert_eq!(
            (status, &answer["error"]["code"]),
            (401, &"invalid_api_key".into())
        );
    }
    // a page of a browser has to have the key as well
    let page = "origin: https://example.org\r\nauthorization: Bearer 0123456789abcdef-one\r\n";
    assert_eq!(http(port, &get("/v1/models", page)).0, 200);
}

#[test]
fn what_is_not_answered_is_said_in_openais_words() {
    let world = scripted(Kind::Embedded);
    let (_bridge, port) = bridge(&world, Kind::Embedded, &["openai"]);
    let table = [
        (get("/v1/models/", ""), 200, None),
        (get("/v1/files", ""), 404, Some("not_found")),
        (
            get("/v1/chat/completions", ""),
            405,
            Some("invalid_request"),
        ),
        (post("{", ""), 400, Some("invalid_request")),
        (
            post(r#"{"messages":[],"stream":3}"#, ""),
            400,
            Some("invalid_request"),
        ),
        (
            post(
                r#"{"messages":[{"role":"user","content":"a"}],"nonsense":1}"#,
                "",
            ),
            400,
            Some("invalid_request"),
        ),
        (
            post(QUESTION, "origin: https://example.org\r\n"),
            403,
            Some("forbidden"),
        ),
        (
            post(&"x".repeat(300 * 1024), ""),
            413,
            Some("payload_too_large"),
        ),
    ];
    for (request, expected, code) in table {
        let (status, _, answer) = http(port, &request);
        assert_eq!(status, expected, "{answer}");
        assert_eq!(answer["error"]["code"].as_str(), code, "{answer}");
    }
    // a head that is too long has no body to answer
    let long = format!("x: {}\r\n", "y".repeat(20 * 1024));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(get("/v1/models", &long).as_bytes())
        .unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 431");
    // as many silent connections as there are places: the next one is told
    let silent: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let (status, head, answer) = http(port, &get("/v1/models", ""));
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &"overloaded".into())
    );
    assert!(head.contains("retry-after: 1"), "{head}");
    drop(silent);
}

#[test]
fn long_bodies_have_room_together() {
    let model = Tiny::saying(Think::Never, SCRIPT);
    let world = World::with(Kind::Embedded, &model, "max_payload_bytes = 4194304");
    let (_bridge, port) = bridge(&world, Kind::Embedded, &["openai"]);
    let unfinished = post(QUESTION, "").replace("content-length: ", "content-length: 1");
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(unfinished.as_bytes()).unwrap();
        slow.push(stream);
    }
    // once all of them have begun
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, _, answer) = http(port, &post(QUESTION, ""));
        if status == 503 {
            assert_eq!(answer["error"]["code"], "overloaded");
            break;
        }
        assert!(status == 200 && Instant::now() < until, "{answer}");
    }
    drop(slow);
    while http(port, &post(QUESTION, "")).0 != 200 {
        assert!(Instant::now() < until);
    }
}

#[test]
fn without_a_broker_it_says_so_and_waits() {
    let folder = tempfile::tempdir().unwrap();
    let port = glowplug_tests::world::broker::free_port();
    let broker = format!("mqtt://127.0.0.1:{port}");
    let args = [
        "bridge",
        "openai",
        "--listen",
        "127.0.0.1:0",
        "--broker",
        &broker,
        "--node",
        "n1",
    ];
    let mut bridge = Daemon::run(glowplug(&args), folder.path(), &[]);
    let port = listens(&mut bridge);
    for request in [get("/v1/models", ""), post(QUESTION, "")] {
        let (status, head, answer) = http(port, &request);
        assert_eq!((status, &answer["error"]["code"]), (503, &"offline".into()));
        assert!(head.contains("retry-after: 1"), "{head}");
    }
    bridge.signal("TERM");
    assert_eq!(bridge.ended().code(), Some(0));
}

#[test]
fn a_daemon_that_goes_is_noticed_and_one_that_comes_back_too() {
    let mut world = scripted(Kind::Mosquitto);
    let (mut bridge, port) = bridge(&world, Kind::Mosquitto, &["openai", "--client", "c1"]);
    world.daemon.signal("TERM");
    assert!(world.daemon.ended().success());
    bridge.line("that it is gone", |line| {
        line.contains("is offline").then_some(())
    });
    let (status, _, answer) = http(port, &post(QUESTION, ""));
    assert_eq!((status, &answer["error"]["code"]), (503, &"offline".into()));
    world.restart();
    bridge.line("that it is back", |line| {
        line.contains("is online").then_some(())
    });
    let (status, _, answer) = http(port, &post(QUESTION, ""));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], SCRIPT.concat());
}

#[test]
fn others_reach_it_with_keys_alone() {
    let world = scripted(Kind::Embedded);
    let keys = world.folder().join("keys");
    std::fs::write(&keys, "short c1\n").unwrap();
    let at = at(&world);
    let ended = |args: &[&str]| {
        let mut all = vec!["bridge", "openai"];
        all.extend(args);
        all.extend(at.iter().map(String::as_str));
        let state = world.folder().join(STATE);
        let out = glowplug(&all)
            .env("XDG_STATE_HOME", state)
            .output()
            .unwrap();
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (code, why) = ended(&["--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{why}");
    assert!(why.contains("--api-keys"), "{why}");
    let (code, why) = ended(&["--api-keys", keys.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{why}");
    assert!(why.contains("line 1") && !why.contains("short"), "{why}");
}
