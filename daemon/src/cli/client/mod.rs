//! A client of a running daemon, with one connection and one request at a time: what `ask`, `chat`, `demo` and `health`
//! share.

use super::config::sources;
use super::failure::Failure;
use crate::config::{BrokerAddress, Config};
use crate::mqtt::broker::credentials;
use crate::mqtt::{self, Event, Events, Incoming, Lane, Link, Options, Outgoing, Publication, Qos};
use crate::wire::topics::{Topics, valid_segment};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a broker may take to accept the connection, and to send the daemon's retained status.
const CONNECT: Duration = Duration::from_secs(10);

/// How long the broker may take at the end to get what is queued.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a daemon that says `starting` may take to load its model.
const LOADING: Duration = Duration::from_secs(120);

/// Longest silence while an answer is due: a queue of long answers before ours takes time.
const SILENCE: Duration = Duration::from_secs(900);

/// Longest frame that is taken: a final frame repeats the whole answer, with escapes.
const FRAME_MAX: usize = mqtt::PACKET_MAX;

/// Where the daemon is, and who asks
#[derive(clap::Args)]
pub(crate) struct Target {
    /// the broker, mqtt://HOST:PORT, or mqtts:// for TLS [default: the configuration's]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// with mqtts://, the authorities that may have issued the broker's certificate, in PEM [default: the
    /// configuration's, else the system's]
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// with mqtts://, this client's certificate, in PEM
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// the private key of that certificate
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// the daemon's node name [default: the configuration's, else the host name]
    #[arg(long)]
    node: Option<String>,
    /// this client's segment in the topics, and its MQTT client identifier [default: the bridge's name; of others cli-…, with a
    /// session cli]
    #[arg(long)]
    client: Option<String>,
}

impl Target {
    /// Connects, and listens for what becomes of `session`. It must be called inside a tokio runtime.
    pub(crate) fn connect(&self, session: Option<&str>) -> Result<Client, Failure> {
        if let Some(session) = session.filter(|session| !valid_segment(session)) {
            return Err(Failure::Use(format!(
                "--session `{session}`: 1 to 64 characters of A-Z a-z 0-9 . _ -"
            )));
        }
        let (config, server) = self.place()?;
        // a session belongs to its client, so the next time it must be the same one
        let client = match session {
            Some(_) => self.client("cli")?,
            None => self.client(&format!("cli-{:08x}", fastrand::u32(..)))?,
        };
        Client::connect(&config, server, client, session)
    }

    /// The configuration as the flags have it, and where its broker is.
    pub(crate) fn place(&self) -> Result<(Config, BrokerAddress), Failure> {
        let mut draft = sources::load(None, None)?;
        for (key, value) in [
            ("mqtt.url", &self.broker),
            ("mqtt.ca_file", &self.ca),
            ("mqtt.cert_file", &self.cert),
            ("mqtt.key_file", &self.key),
            ("node", &self.node),
        ] {
            if let Some(value) = value {
                draft
                    .set(key, value)
                    .map_err(|error| Failure::Use(error.to_string()))?;
            }
        }
        let config = sources::finish(draft, None)?;
        let server = config.mqtt.server.clone().unwrap_or_else(|| {
            BrokerAddress::of_listener(config.listen, config.listen_tls.is_some())
        });
        Ok((config, server))
    }

    /// This client's segment in the topics, if `--client` does not say it.
    pub(crate) fn client(&self, default: &str) -> Result<String, Failure> {
        match &self.client {
            Some(client) if !valid_segment(client) => Err(Failure::Use(format!(
                "--client `{client}`: 1 to 64 characters of A-Z a-z 0-9 . _ -"
            ))),
            Some(client) => Ok(client.clone()),
            None => Ok(default.to_owned()),
        }
    }
}

/// How to connect to `server`. A configured user gets the configured credentials; for a broker on this machine the local
/// user's are taken, if this user may read them; else there are none.
pub(crate) fn options(
    config: &Config,
    server: BrokerAddress,
    client_id: String,
    subscriptions: Vec<String>,
) -> Result<Options, Failure> {
    let run = |error: credentials::CredentialsError| Failure::Run(error.to_string());
    let credentials = match (&config.mqtt.username, &config.mqtt.password_file) {
        (Some(username), Some(file)) => Some(mqtt::Credentials {
            username: username.clone(),
            password: credentials::read_password(file).map_err(run)?,
        }),
        (None, _)
            if (config.mqtt.server.is_none() || is_loopback(&server.host))
                && credentials::local_file(&config.state_dir).is_file() =>
        {
            Some(credentials::read_local(&config.state_dir).map_err(run)?)
        }
        _ => None,
    };
    Ok(Options {
        server,
        tls: config.mqtt.tls.clone(),
        client_id,
        credentials,
        will: None,
        subscriptions: subscriptions
            .into_iter()
            .map(|topic| (topic, Qos::AtLeastOnce))
            .collect(),
        payload_max: FRAME_MAX,
    })
}

/// What a daemon says about itself in its retained status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DaemonState {
    Starting,
    Online,
    Draining,
    Offline,
}

/// How the daemon ended a request.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The final frame of an answer.
    Final(Value),
    /// The object `error` of an error frame.
    Error {
        /// One of the error codes of the protocol.
        code: String,
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
    state: Option<DaemonState>,
    up: bool,
    info: Option<Value>,
}

impl Client {
    /// Starts to connect to `server` as `name`.
    pub(crate) fn connect(
        config: &Config,
        server: BrokerAddress,
        name: String,
        session: Option<&str>,
    ) -> Result<Self, Failure> {
        let topics = Topics::new(&config.base_topic, &config.node);
        let mut subscriptions = vec![topics.reply(&name), topics.status(), topics.info()];
        subscriptions.extend(session.map(|session| topics.session_result(&name, session)));
        let (link, events) = mqtt::connect(options(config, server, name.clone(), subscriptions)?);
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

    /// Waits until the daemon says that it is online. Fails at the first refusal, unless `patient` says until when to
    /// wait for broker and daemon.
    pub(crate) async fn ready(&mut self, patient: Option<Instant>) -> Result<(), Failure> {
        let mut why = "the broker does not answer".to_owned();
        let start = Instant::now();
        loop {
            let deadline = patient.unwrap_or(match self.state {
                Some(DaemonState::Starting) => start + LOADING,
                _ => start + CONNECT,
            });
            match self.state {
                Some(DaemonState::Online) if self.up => return Ok(()),
                _ if !self.up => {}
                Some(DaemonState::Starting) => why = "the daemon is still loading its model".into(),
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
                Ok(Some(event)) if refusal(&event).is_some() => {
                    return Err(Failure::Run(refusal(&event).unwrap_or_default()));
                }
                Ok(Some(event)) => drop(self.take(event)),
            }
        }
    }

    /// The daemon's retained `info`, if it has come.
    pub(crate) fn info(&self) -> Option<&Value> {
        self.info.as_ref()
    }

    fn send(&self, topic: String, payload: String) -> Result<(), Failure> {
        self.link
            .publish(Outgoing::new(
                Lane::Last,
                Publication::new(topic, payload, Qos::AtLeastOnce),
            ))
            .map_err(|error| Failure::Run(error.to_string()))
    }

    /// Makes the daemon forget the history of the session that this client was connected for. If the daemon does not
    /// know it, it is forgotten already.
    pub(crate) async fn reset(&mut self, session: &str) -> Result<(), Failure> {
        let topic = self.topics.session(&self.name, session, "reset");
        self.send(topic.clone(), String::new())?;
        let deadline = Instant::now() + CONNECT;
        loop {
            let event = match timeout_at(deadline, self.events.recv()).await {
                Err(_) => return Err(Failure::Run("no answer to the reset".into())),
                Ok(None) => return Err(Failure::Run("the connection ended".into())),
                Ok(Some(event)) => event,
            };
            if matches!(event, Event::Up { .. }) {
                // a reset can be repeated
                self.send(topic.clone(), String::new())?;
            }
            let result = self
                .take(event)
                .filter(|value| value["session"] == session && value["verb"] == "reset");
            let Some(result) = result else { continue };
            return match result["error"]["code"].as_str() {
                None | Some("not_found") => Ok(()),
                Some(code) => Err(Failure::Use(format!(
                    "{code}: {}",
                    result["error"]["message"].as_str().unwrap_or_default()
                ))),
            };
        }
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
        self.send(self.topics.request(&self.name), payload.clone())?;
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
                    self.send(self.topics.cancel(&self.name), json!({ "id": id }).to_string())?;
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
                    if let Some(why) = refusal(&event) {
                        return Err(Failure::Run(why));
                    }
                    let again = matches!(event, Event::Up { .. });
                    let frame = self.take(event);
                    if again {
                        self.send(self.topics.request(&self.name), payload.clone())?;
                    }
                    frame
                }
            };
            if self.state == Some(DaemonState::Offline) {
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
                // the broker sent this one again
                (Some(seq), Some(due)) if seq < due => {}
                // a chunk was lost, so what follows would not join
                _ => next = None,
            }
        }
    }

    /// Follows the connection and the daemon's state. Returns a frame if it is one of our replies.
    fn take(&mut self, event: Event) -> Option<Value> {
        let Incoming { message, ack, .. } = match event {
            Event::Up { .. } => {
                self.up = true;
                return None;
            }
            Event::Down { .. } | Event::Left { .. } => {
                self.up = false;
                return None;
            }
            Event::Unsubscribed { .. }
            | Event::Refused(..)
            | Event::Subscribed { .. }
            | Event::Withdrawn { .. }
            | Event::Delivered(..) => return None,
            Event::Incoming(incoming) => incoming,
        };
        if let Some(ack) = ack {
            // if this fails, the frame comes again and is ignored the second time
            let _ = self.link.ack(ack);
        }
        let value: Option<Value> = serde_json::from_slice(&message.payload).ok();
        if message.topic == self.topics.status() {
            let state = value.as_ref().and_then(|status| status["state"].as_str());
            self.state = match state {
                Some("starting") => Some(DaemonState::Starting),
                Some("online") => Some(DaemonState::Online),
                Some("draining") => Some(DaemonState::Draining),
                Some(_) => Some(DaemonState::Offline),
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

    /// Sends what is queued, then ends the connection.
    pub(crate) async fn close(self) {
        self.link.close(GOODBYE).await;
    }

    /// The node name of the daemon.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }
}

/// What the broker does not let this client do, in words.
fn refusal(event: &Event) -> Option<String> {
    match event {
        Event::Unsubscribed { filter, reason } => Some(format!(
            "the broker refuses the subscription to `{filter}`: {reason}"
        )),
        Event::Refused(out, why) => Some(format!(
            "the broker does not take a message of {} bytes on `{}` ({})",
            out.message.payload.len(),
            out.message.topic,
            why.name()
        )),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

pub(super) mod ask;
pub(super) mod chat;
pub(super) mod demo;
pub(super) mod health;
pub(super) mod print;
#[cfg(test)]
mod tests;
pub(super) mod top;
