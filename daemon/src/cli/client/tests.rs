#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::config::Draft;
use crate::mqtt::broker::{self, Embedded, Users};
use crate::wire::topics::Route;
use std::path::Path;

fn out(message: Publication) -> Outgoing {
    Outgoing::new(Lane::Last, message)
}

/// An embedded broker with a daemon on it that answers every request with a script.
struct World {
    config: Config,
    server: BrokerAddress,
    daemon: Link,
    _broker: Embedded,
    _folder: tempfile::TempDir,
}

fn config(state: &Path) -> Config {
    let draft = Draft::from_toml("node = \"n\"").unwrap();
    draft.finish("host", state.to_owned()).unwrap()
}

impl World {
    /// `script` gets a request and says what to publish on the reply topic; `ID` stands for the request's id.
    async fn new(state: &str, script: fn(&Value) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let credentials = credentials::daemon().unwrap();
        let users = Users {
            shared: Vec::new(),
            base: config.base_topic.clone(),
            daemon: credentials.clone(),
            daemon_id: "the-daemon".into(),
            local: credentials::local(folder.path()).unwrap(),
            local_may: crate::wire::topics::local_may,
            file: None,
            user_may: crate::wire::topics::user_may,
            outside_may: |_, _, _| false,
        };
        let broker = broker::start("127.0.0.1:0".parse().unwrap(), None, users, 1 << 20)
            .await
            .unwrap();
        let server = BrokerAddress {
            host: "127.0.0.1".into(),
            port: broker.address.port(),
            tls: false,
        };
        let topics = Topics::new(&config.base_topic, &config.node);
        let (daemon, mut events) = mqtt::connect(Options {
            server: server.clone(),
            tls: crate::config::Tls::default(),
            client_id: "the-daemon".into(),
            credentials: Some(credentials),
            will: None,
            subscriptions: topics.subscriptions(),
            payload_max: FRAME_MAX,
        });
        assert!(matches!(events.recv().await, Some(Event::Up { .. })));
        let world = Self {
            config,
            server,
            daemon: daemon.clone(),
            _broker: broker,
            _folder: folder,
        };
        if !state.is_empty() {
            world.status(state);
        }
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Event::Incoming(Incoming { message, ack, .. }) = event else {
                    continue;
                };
                daemon.ack(ack.unwrap()).unwrap();
                if let Some(Route::Session { session, .. }) = topics.route(&message.topic) {
                    let mut result = json!({ "client": "me", "session": session, "verb": "reset" });
                    // of any other than `known`, the name is the error's code
                    if session == "known" {
                        result["ok"] = json!(true);
                    } else {
                        result["error"] = json!({ "code": session, "message": "so it is" });
                    }
                    let topic = topics.session_result("me", session);
                    daemon
                        .publish(out(Publication::new(
                            topic,
                            result.to_string(),
                            Qos::AtLeastOnce,
                        )))
                        .unwrap();
                    continue;
                }
                if message.topic == topics.status() {
                    // its own
                    continue;
                }
                assert_eq!(message.topic, topics.request("me"));
                let request: Value = serde_json::from_slice(&message.payload).unwrap();
                for frame in script(&request) {
                    let frame = frame.replace("ID", request["id"].as_str().unwrap());
                    daemon
                        .publish(out(Publication::new(
                            topics.reply("me"),
                            frame,
                            Qos::AtLeastOnce,
                        )))
                        .unwrap();
                }
            }
        });
        world
    }

    fn status(&self, state: &str) {
        let mut status = Publication::new(
            "glowplug/n/status",
            json!({ "state": state }).to_string(),
            Qos::AtLeastOnce,
        );
        status.retain = true;
        self.daemon.publish(out(status)).unwrap();
    }

    fn client(&self) -> Client {
        self.client_of(None)
    }

    fn client_of(&self, session: Option<&str>) -> Client {
        Client::connect(&self.config, self.server.clone(), "me".into(), session).unwrap()
    }
}

fn chunk(seq: u32, text: &str) -> String {
    json!({ "id": "ID", "seq": seq, "object": "chat.completion.chunk",
        "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] })
    .to_string()
}

fn last(seq: u32, text: &str) -> String {
    json!({ "id": "ID", "seq": seq, "object": "chat.completion",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }] })
    .to_string()
}

async fn ask(world: &World) -> (Vec<String>, Result<Reply, Failure>) {
    let mut client = world.client();
    client.ready(None).await.unwrap();
    let mut seen = Vec::new();
    let reply = client
        .exchange(json!({ "messages": [] }), &mut |delta| {
            seen.push(delta["content"].as_str().unwrap().to_owned());
            Ok(())
        })
        .await;
    client.close().await;
    (seen, reply)
}

#[tokio::test]
async fn chunks_come_once_and_in_order() {
    let script = |_: &Value| {
        let other = chunk(0, "not ours").replace("ID", "other");
        vec![
            other,
            "not json".into(),
            chunk(0, "a"),
            chunk(1, "b"),
            chunk(1, "b"),
            chunk(2, "c"),
            last(3, "abc"),
        ]
    };
    let (seen, reply) = ask(&World::new("online", script).await).await;
    assert_eq!(seen, ["a", "b", "c"]);
    let frame = reply.unwrap().into_final().unwrap();
    assert_eq!(frame["choices"][0]["message"]["content"], "abc");
}

#[tokio::test]
async fn after_a_gap_the_final_frame_has_it_all() {
    let script = |_: &Value| vec![chunk(0, "a"), chunk(2, "c"), chunk(3, "d"), last(4, "abcd")];
    let (seen, reply) = ask(&World::new("online", script).await).await;
    assert_eq!(seen, ["a"]);
    assert_eq!(reply.unwrap().into_final().unwrap()["seq"], 4);
}

#[tokio::test]
async fn error_frames_are_bad_use_or_bad_luck() {
    let script = |_: &Value| {
        vec![r#"{"id":"ID","seq":0,"error":{"code":"overloaded","message":"16 requests are waiting"}}"#.into()]
    };
    let (_, reply) = ask(&World::new("online", script).await).await;
    let failure = reply.unwrap().into_final().unwrap_err();
    assert!(
        matches!(&failure, Failure::Run(says) if says == "overloaded: 16 requests are waiting")
    );
    let reply = Reply::Error {
        code: "context_length_exceeded".into(),
        message: String::new(),
    };
    assert!(matches!(reply.into_final(), Err(Failure::Use(_))));
}

/// Takes what comes until that much was heard.
async fn heard(client: &mut Client, enough: impl Fn(&Client) -> bool) {
    while !enough(client) {
        let event = client.events.recv().await.unwrap();
        client.take(event);
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told_from_one_that_loads() {
    let says = |result: Result<(), Failure>| result.unwrap_err().to_string();
    let world = World::new("", |_| Vec::new()).await;
    let mut client = world.client();
    heard(&mut client, |client| client.up).await;
    assert_eq!(
        says(client.ready(Some(Instant::now())).await),
        "no daemon `n` on this broker"
    );
    world.status("starting");
    let mut client = world.client();
    heard(&mut client, |client| client.up && client.state.is_some()).await;
    assert_eq!(
        says(client.ready(Some(Instant::now())).await),
        "the daemon is still loading its model"
    );
    world.status("offline");
    assert_eq!(
        says(world.client().ready(None).await),
        "the daemon `n` is offline"
    );
    world.status("online");
    world.client().ready(None).await.unwrap();
}

#[tokio::test]
async fn no_broker_and_a_wrong_password_end_at_once() {
    let world = World::new("online", |_| Vec::new()).await;
    std::fs::write(credentials::local_file(&world.config.state_dir), "wrong\n").unwrap();
    let failure = world.client().ready(None).await.unwrap_err();
    assert!(
        failure.to_string().contains("cannot reach the broker"),
        "{failure}"
    );
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = BrokerAddress {
        host: "127.0.0.1".into(),
        port: gone,
        tls: false,
    };
    let mut client =
        Client::connect(&config(world._folder.path()), server, "me".into(), None).unwrap();
    assert!(
        client
            .ready(None)
            .await
            .unwrap_err()
            .to_string()
            .contains("cannot reach the broker")
    );
}

#[tokio::test]
async fn a_daemon_that_dies_ends_the_wait() {
    let world = World::new("online", |_| Vec::new()).await;
    let mut client = world.client();
    client.ready(None).await.unwrap();
    world.status("offline");
    let failure = client
        .exchange(json!({ "messages": [] }), &mut |_| Ok(()))
        .await
        .unwrap_err();
    assert_eq!(failure.to_string(), "the daemon `n` went offline");
}

#[tokio::test]
async fn a_session_is_reset_by_the_daemon() {
    let world = World::new("online", |_| Vec::new()).await;
    for (session, ok) in [("known", true), ("not_found", true), ("overloaded", false)] {
        let mut client = world.client_of(Some(session));
        client.ready(None).await.unwrap();
        let result = client.reset(session).await;
        assert_eq!(result.is_ok(), ok, "{session}: {result:?}");
        client.close().await;
    }
}
