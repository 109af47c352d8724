//! A client of a running daemon: one connection, one request at a time. What `ask`, `chat`, `demo` and `health` share.

use super::failure::Failure;
use super::settings;
use crate::config::{Config, Server};
use crate::transport::{self, Event, Events, Incoming, Link, Message, Options, Qos, credentials};
use crate::wire::topics::{Topics, valid_segment};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a broker may take to accept the connection, and to send the daemon's retained status.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a daemon that says `starting` may take to load its model.
const LOADING: Duration = Duration::from_secs(120);

/// Longest silence while an answer is due: a queue of long answers before ours takes its time.
const SILENCE: Duration = Duration::from_secs(900);

/// Longest frame that is taken: a final frame repeats the whole answer, escaped.
const FRAME_MAX: usize = transport::PACKET_MAX;

/// Where the daemon is, and who asks
#[derive(clap::Args)]
pub(crate) struct Target {
    /// the broker, mqtt://HOST:PORT [default: the configuration's]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// the daemon's node name [default: the configuration's, else the host name]
    #[arg(long)]
    node: Option<String>,
    /// this client's segment in the topics, and its MQTT client identifier [default: cli-…]
    #[arg(long)]
    client: Option<String>,
    /// a named conversation
    #[arg(long, hide = true)]
    session: Option<String>,
}

impl Target {
    /// Connects. Must be called inside a tokio runtime.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        if self.session.is_some() {
            return Err(Failure::Use(
                "`--session` comes with a later version".into(),
            ));
        }
        let mut draft = settings::load(None)?;
        for (key, value) in [("mqtt.url", &self.broker), ("node", &self.node)] {
            if let Some(value) = value {
                draft
                    .set(key, value)
                    .map_err(|error| Failure::Use(error.to_string()))?;
            }
        }
        let config = settings::finish(draft)?;
        let server = config.mqtt.server.clone().unwrap_or_else(|| Server {
            host: config.listen.ip().to_string(),
            port: config.listen.port(),
        });
        let client = match &self.client {
            Some(client) if !valid_segment(client) => {
                return Err(Failure::Use(format!(
                    "--client `{client}`: 1 to 64 characters of A-Z a-z 0-9 . _ -"
                )));
            }
            Some(client) => client.clone(),
            None => format!("cli-{:08x}", fastrand::u32(..)),
        };
        Client::connect(&config, server, client)
    }
}

/// What a daemon says of itself in its retained status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Online,
    Draining,
    Offline,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Reply {
    /// the final frame
    Final(Value),
    /// the error frame's `error`
    Error {
        /// one of the protocol's codes
        code: String,
        /// for people
        message: String,
    },
}

impl Reply {
    /// The final frame, or the failure that the error frame stands for.
    pub(crate) fn into_final(self) -> Result<Value, Failure> {
        match self {
            Self::Final(frame) => Ok(frame),
            Self::Error { code, message } => {
                let text = format!("{code}: {message}");
                Err(match code.as_str() {
                    "invalid_request"
                    | "payload_too_large"
                    | "invalid_schema"
                    | "context_length_exceeded" => Failure::Use(text),
                    _ => Failure::Run(text),
                })
            }
        }
    }
}

/// A connection to a broker with a daemon on it.
pub(crate) struct Client {
    link: Link,
    events: Events,
    topics: Topics,
    name: String,
    node: String,
    state: Option<State>,
    up: bool,
    info: Option<Value>,
}

impl Client {
    /// Starts to connect to `server` as `name`. Credentials: the configured ones for a configured user; the local
    /// user's for a broker on this machine, if this user has any; else none.
    pub(crate) fn connect(config: &Config, server: Server, name: String) -> Result<Self, Failure> {
        let run = |error: credentials::CredentialsError| Failure::Run(error.to_string());
        let credentials = match (&config.mqtt.username, &config.mqtt.password_file) {
            (Some(username), Some(file)) => Some(transport::Credentials {
                username: username.clone(),
                password: credentials::read_password(file).map_err(run)?,
            }),
            (None, _)
                if is_loopback(&server.host)
                    && credentials::local_file(&config.state_dir).is_file() =>
            {
                Some(credentials::read_local(&config.state_dir).map_err(run)?)
            }
            _ => None,
        };
        let topics = Topics::new(&config.base_topic, &config.node);
        let subscriptions = [topics.reply(&name), topics.status(), topics.info()];
        let (link, events) = transport::connect(Options {
            server,
            client_id: name.clone(),
            credentials,
            will: None,
            subscriptions: subscriptions.map(|topic| (topic, Qos::AtLeastOnce)).into(),
            payload_max: FRAME_MAX,
        });
        let node = config.node.clone();
        Ok(Self {
            link,
            events,
            topics,
            name,
            node,
            state: None,
            up: false,
            info: None,
        })
    }

    /// Waits until the daemon says that it is online. Fails at the first refusal, unless `patient`: then it waits for
    /// broker and daemon until `deadline`.
    pub(crate) async fn ready(&mut self, patient: Option<Instant>) -> Result<(), Failure> {
        let mut why = "no connection".to_owned();
        let start = Instant::now();
        loop {
            let deadline = patient.unwrap_or(match self.state {
                Some(State::Starting) => start + LOADING,
                _ => start + CONNECT,
            });
            match self.state {
                Some(State::Online) if self.up => return Ok(()),
                _ if !self.up => {}
                Some(State::Starting) => why = "the daemon is still loading its model".into(),
                Some(_) if patient.is_none() => {
                    return Err(Failure::Run(format!(
                        "the daemon `{}` is offline",
                        self.node
                    )));
                }
                Some(_) => why = format!("the daemon `{}` is offline", self.node),
                None => why = format!("no daemon `{}` on this broker", self.node),
            }
            match timeout_at(deadline, self.events.recv()).await {
                Err(_) => return Err(Failure::Run(why)),
                Ok(None) => return Err(Failure::Run("the connection ended".into())),
                Ok(Some(Event::Down { reason, refused })) => {
                    self.up = false;
                    if patient.is_none() || refused {
                        return Err(Failure::Run(format!("cannot reach the broker: {reason}")));
                    }
                    why = format!("cannot reach the broker: {reason}");
                }
                Ok(Some(event)) => drop(self.take(event)),
            }
        }
    }

    /// The retained `info`, once it has come.
    pub(crate) fn info(&self) -> Option<&Value> {
        self.info.as_ref()
    }

    /// Sends a chat request and hands every chunk's delta to `on_delta`, in order and without gaps, until the request
    /// has ended. Ctrl-C cancels the request, which ends it, and not the program.
    ///
    /// After a lost connection the request is sent again with the same id: the daemon does not run it twice, and its
    /// final frame repeats the whole text, so that `on_delta` may miss chunks but the reply misses nothing.
    pub(crate) async fn exchange(
        &mut self,
        mut request: Value,
        on_delta: &mut dyn FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<Reply, Failure> {
        let id = format!("{:016x}", fastrand::u64(..));
        request["id"] = json!(id);
        let payload = request.to_string();
        let send = |link: &Link, topic: String, payload: String| {
            link.publish(Message::new(topic, payload, Qos::AtLeastOnce))
                .map_err(|error| Failure::Run(error.to_string()))
        };
        send(&self.link, self.topics.request(&self.name), payload.clone())?;
        let mut next = Some(0);
        let mut interrupted = false;
        loop {
            let deadline = Instant::now() + SILENCE;
            let event = tokio::select! {
                event = timeout_at(deadline, self.events.recv()) => event,
                _ = tokio::signal::ctrl_c() => {
                    if interrupted {
                        return Err(Failure::Run("interrupted".into()));
                    }
                    interrupted = true;
                    send(&self.link, self.topics.cancel(&self.name), json!({ "id": id }).to_string())?;
                    continue;
                }
            };
            let frame = match event {
                Err(_) => {
                    return Err(Failure::Run(format!(
                        "no answer for {} s",
                        SILENCE.as_secs()
                    )));
                }
                Ok(None) => return Err(Failure::Run("the connection ended".into())),
                Ok(Some(event)) => {
                    let again = matches!(event, Event::Up { .. });
                    let frame = self.take(event);
                    if again {
                        send(&self.link, self.topics.request(&self.name), payload.clone())?;
                    }
                    frame
                }
            };
            if self.state == Some(State::Offline) {
                return Err(Failure::Run(format!(
                    "the daemon `{}` went offline",
                    self.node
                )));
            }
            let Some(frame) = frame.filter(|frame| frame["id"] == id.as_str()) else {
                continue;
            };
            if let Some(error) = frame.get("error") {
                let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                return Ok(Reply::Error {
                    code: text("code"),
                    message: text("message"),
                });
            }
            if frame["object"] == "chat.completion" {
                return Ok(Reply::Final(frame));
            }
            match (frame["seq"].as_u64(), next) {
                (Some(seq), Some(due)) if seq == due => {
                    next = Some(due + 1);
                    on_delta(&frame["choices"][0]["delta"])?;
                }
                // sent again by the broker
                (Some(seq), Some(due)) if seq < due => {}
                // a chunk was lost: what follows would not join
                _ => next = None,
            }
        }
    }

    /// Follows the connection and the daemon's state; returns a reply frame.
    fn take(&mut self, event: Event) -> Option<Value> {
        let Incoming { message, ack, .. } = match event {
            Event::Up { .. } => {
                self.up = true;
                return None;
            }
            Event::Down { .. } => {
                self.up = false;
                return None;
            }
            Event::Message(incoming) => incoming,
        };
        if let Some(ack) = ack {
            // unacknowledged, it is sent again: the frame is then seen twice, and the second time ignored
            let _ = self.link.ack(ack);
        }
        let value: Option<Value> = serde_json::from_slice(&message.payload).ok();
        if message.topic == self.topics.status() {
            let state = value.as_ref().and_then(|status| status["state"].as_str());
            self.state = match state {
                Some("starting") => Some(State::Starting),
                Some("online") => Some(State::Online),
                Some("draining") => Some(State::Draining),
                Some(_) => Some(State::Offline),
                None => None,
            };
            return None;
        }
        if message.topic == self.topics.info() {
            self.info = value;
            return None;
        }
        value
    }

    /// Ends the connection, with what is queued sent.
    pub(crate) async fn close(self) {
        self.link.close(Duration::from_secs(2)).await;
    }

    /// The daemon's node name.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Draft;
    use crate::transport::broker::{self, Embedded, Users};
    use std::path::Path;

    /// An embedded broker with a daemon on it that answers every request with a script.
    struct World {
        config: Config,
        server: Server,
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
                base: config.base_topic.clone(),
                daemon: credentials.clone(),
                daemon_id: "the-daemon".into(),
                local: credentials::local(folder.path()).unwrap(),
            };
            let broker = broker::start("127.0.0.1:0".parse().unwrap(), users)
                .await
                .unwrap();
            let server = Server {
                host: "127.0.0.1".into(),
                port: broker.address.port(),
            };
            let topics = Topics::new(&config.base_topic, &config.node);
            let (daemon, mut events) = transport::connect(Options {
                server: server.clone(),
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
                    let Event::Message(Incoming { message, ack, .. }) = event else {
                        continue;
                    };
                    daemon.ack(ack.unwrap()).unwrap();
                    assert!(
                        message.topic.ends_with("/chat/me/request"),
                        "{}",
                        message.topic
                    );
                    let request: Value = serde_json::from_slice(&message.payload).unwrap();
                    for frame in script(&request) {
                        let frame = frame.replace("ID", request["id"].as_str().unwrap());
                        daemon
                            .publish(Message::new(topics.reply("me"), frame, Qos::AtLeastOnce))
                            .unwrap();
                    }
                }
            });
            world
        }

        fn status(&self, state: &str) {
            let mut status = Message::new(
                "glowplug/n/status",
                json!({ "state": state }).to_string(),
                Qos::AtLeastOnce,
            );
            status.retain = true;
            self.daemon.publish(status).unwrap();
        }

        fn client(&self) -> Client {
            Client::connect(&self.config, self.server.clone(), "me".into()).unwrap()
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

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_told_from_one_that_loads() {
        let soon = || Some(Instant::now() + Duration::from_millis(300));
        let says = |result: Result<(), Failure>| result.unwrap_err().to_string();
        let world = World::new("", |_| Vec::new()).await;
        assert_eq!(
            says(world.client().ready(soon()).await),
            "no daemon `n` on this broker"
        );
        world.status("starting");
        assert_eq!(
            says(world.client().ready(soon()).await),
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
        let server = Server {
            host: "127.0.0.1".into(),
            port: gone,
        };
        let mut client =
            Client::connect(&config(world._folder.path()), server, "me".into()).unwrap();
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
}
