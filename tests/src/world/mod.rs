//! A broker, a daemon on it, a model, and clients: what every test here begins with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what is not as it should be fails the test"
)]
#![allow(
    clippy::should_implement_trait,
    reason = "`Client::next` waits for a message"
)]

pub mod broker;
pub mod client;
pub mod contract;
pub mod daemon;
pub mod fleet;

use self::broker::{DAEMON, Mosquitto, OPERATOR, PASSWORD};
use self::client::{Client, Message, Version};
use self::daemon::Daemon;
use crate::{Think, Tiny, Types};
use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The `node` of the daemon in every world.
pub const NODE: &str = "n1";
/// Its configuration and its state, in the folder of a world.
pub const CONFIG: &str = "glowplug.toml";
pub const STATE: &str = "state";

/// Where the daemon is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mosquitto,
    Embedded,
}

/// The topic `rest` below the daemon's own, `glowplug/n1`.
pub fn topic(rest: &str) -> String {
    format!("glowplug/{NODE}/{rest}")
}

/// A model that computes fast and whose answers are as long as they are asked to be: see [`World::endless`].
pub fn tiny() -> Tiny {
    Tiny {
        context: 16_384,
        think: Think::Never,
        types: Types::all(GgmlType::Q8_0),
        ..Tiny::new(Arch::Llama)
    }
}

/// How clients get to a broker, for threads that come and go by themselves. Its port may be a link's.
#[derive(Debug, Clone)]
pub struct Door {
    pub port: u16,
    /// the embedded broker's, of all clients; on Mosquitto each has its own, which `broker` must know
    one_user: bool,
    password: String,
}

impl Door {
    /// See [`World::client`].
    ///
    /// Err: the broker is not there, or went away.
    pub fn client(&self, version: Version, name: &str) -> io::Result<Client> {
        let mut client = self.connect(version, name)?;
        for own in ["chat", "ask", "session"] {
            let filter = topic(&format!("{own}/{name}/#"));
            assert!(client.granted(&filter)?, "{name}: no `{filter}`");
        }
        Ok(client)
    }

    /// The same without a subscription.
    pub fn connect(&self, version: Version, name: &str) -> io::Result<Client> {
        let user = if self.one_user { "local" } else { name };
        Client::connect(self.port, version, name, Some((user, &self.password)))
    }
}

/// Fields in this order: the daemon goes before its broker, the folder last.
pub struct World {
    pub daemon: Daemon,
    pub broker: Option<Mosquitto>,
    /// hears what is public
    pub watch: Client,
    pub port: u16,
    /// of the embedded broker's one user of clients
    password: String,
    /// of every daemon here
    env: Vec<(String, PathBuf)>,
    folder: TempDir,
}

impl World {
    /// A daemon that is online, with a tiny model.
    pub fn new(kind: Kind) -> Self {
        Self::with(kind, &tiny(), "")
    }

    /// With a tiny model of one's own, and these lines in `[engine]`.
    pub fn with(kind: Kind, model: &Tiny, engine: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        model.write(&path).unwrap();
        let context = model.context;
        let mut world = Self::start(kind, folder, &path, &format!("context = {context}"), engine);
        world.online();
        world
    }

    /// A daemon on its way with any model file.
    pub fn start(kind: Kind, folder: TempDir, model: &Path, lines: &str, engine: &str) -> Self {
        Self::start_with(kind, folder, model, lines, engine, &[])
    }

    /// With variables of the environment.
    pub fn start_with(
        kind: Kind,
        folder: TempDir,
        model: &Path,
        lines: &str,
        engine: &str,
        env: &[(&str, &Path)],
    ) -> Self {
        let broker = (kind == Kind::Mosquitto).then(|| Mosquitto::start(folder.path()));
        Self::start_on(broker, folder, model, lines, engine, env)
    }

    /// On a broker that was started in this folder, or the embedded one. `GLOWPLUG_MQTT_URL` may name a link to it.
    pub fn start_on(
        broker: Option<Mosquitto>,
        folder: TempDir,
        model: &Path,
        lines: &str,
        engine: &str,
        env: &[(&str, &Path)],
    ) -> Self {
        let config = config(&folder, broker.as_ref(), model, lines, engine);
        let state = folder.path().join(STATE);
        if let Some(broker) = broker {
            let port = broker.port;
            // before the daemon, to hear its first word
            let watch = watch(port, ("watch", PASSWORD));
            let daemon = Daemon::serve(&config, &state, env);
            return Self {
                daemon,
                broker: Some(broker),
                watch,
                port,
                password: PASSWORD.to_owned(),
                env: kept(env),
                folder,
            };
        }
        let mut daemon = Daemon::serve(&config, &state, env);
        let port = own_port(&mut daemon);
        let password = std::fs::read_to_string(state.join("glowplug/local-password")).unwrap();
        let password = password.trim_end().to_owned();
        let watch = watch(port, ("local", &password));
        Self {
            daemon,
            broker: None,
            watch,
            port,
            password,
            env: kept(env),
            folder,
        }
    }

    /// SIGKILL, then a daemon with the same configuration, until it is online. Connections to an embedded broker end.
    pub fn kill_and_restart(&mut self) {
        self.daemon.signal("KILL");
        self.daemon.ended();
        if self.broker.is_some() {
            self.states_until("offline");
        }
        self.restart();
    }

    /// A daemon in the place of one that ended, until it is online.
    pub fn restart(&mut self) {
        let folder = self.folder.path();
        let env = self.env.iter();
        let env: Vec<_> = env.map(|(n, v)| (n.as_str(), v.as_path())).collect();
        self.daemon = Daemon::serve(&folder.join(CONFIG), &folder.join(STATE), &env);
        if self.broker.is_none() {
            self.port = own_port(&mut self.daemon);
            self.rewatch();
        }
        self.online();
    }

    /// A client of this name, subscribed to everything that is its own.
    pub fn client(&self, version: Version, name: &str) -> Client {
        self.door().client(version, name).unwrap()
    }

    /// Who may use the admin verbs, subscribed to their answers.
    pub fn operator(&self) -> Client {
        let user = match self.broker {
            Some(_) => OPERATOR,
            None => self.user("operator"),
        };
        let mut operator = Client::connect(self.port, Version::V5, "operator", Some(user)).unwrap();
        operator.subscribe(&topic("admin/+/response"));
        operator
    }

    /// With the model and all else that is its own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same without a subscription.
    pub fn connect(&self, version: Version, name: &str) -> Client {
        self.door()
            .connect(version, name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Where clients come in.
    pub fn door(&self) -> Door {
        Door {
            port: self.port,
            one_user: self.broker.is_none(),
            password: self.password.clone(),
        }
    }

    /// User and password of a client: on Mosquitto its own, which `broker` must know.
    pub fn user<'a>(&'a self, name: &'a str) -> (&'a str, &'a str) {
        let user = if self.broker.is_some() { name } else { "local" };
        (user, &self.password)
    }

    /// The `state`s that it publishes, until this one; the last with its `boot_id`.
    pub fn states_until(&mut self, state: &str) -> (Vec<String>, String) {
        let mut states = Vec::new();
        let boot_id = self.watch.until(state, |m| {
            let status = (m.topic == topic("status")).then(|| m.json())?;
            states.push(status["state"].as_str().unwrap().to_owned());
            (status["state"] == state).then(|| status["boot_id"].as_str().unwrap().to_owned())
        });
        (states, boot_id)
    }

    /// Waits for `online`; gives the `boot_id`.
    pub fn online(&mut self) -> String {
        self.states_until("online").1
    }

    /// A new connection that hears what is public, when the broker ended the one before.
    pub fn rewatch(&mut self) {
        self.watch = watch(self.port, self.user("watch"));
    }

    /// The retained `online` status as a newcomer gets it, or the next one; gives the `boot_id`.
    pub fn online_again(&mut self) -> String {
        self.rewatch();
        self.online()
    }

    /// The first `metrics` from now on that this is true of.
    pub fn metrics(&mut self, what: &str, of: impl Fn(&Value) -> bool) -> Value {
        self.watch.rest();
        self.watch.until(what, |m| {
            let metrics = (m.topic == topic("metrics")).then(|| m.json())?;
            of(&metrics).then_some(metrics)
        })
    }

    /// Fields of a request whose answer has exactly so many tokens, the same ones every time: greedy, and the tokens
    /// that would end it never chosen.
    pub fn endless(id: &str, tokens: u32) -> Value {
        serde_json::json!({
            "id": id,
            "messages": [{"role": "user", "content": "the rain"}],
            "max_tokens": tokens,
            "temperature": 0,
            "logit_bias": {"280": -100, "281": -100, "282": -100},
        })
    }
}

fn kept(env: &[(&str, &Path)]) -> Vec<(String, PathBuf)> {
    let own = |(name, value): &(&str, &Path)| ((*name).to_owned(), value.to_path_buf());
    env.iter().map(own).collect()
}

/// Where the embedded broker listens.
fn own_port(daemon: &mut Daemon) -> u16 {
    daemon.line("where its broker is", |line| {
        let (_, address) = line.split_once("mqtt://127.0.0.1:")?;
        address.split(';').next()?.parse().ok()
    })
}

fn watch(port: u16, user: (&str, &str)) -> Client {
    let mut watch = Client::connect(port, Version::V5, "watch", Some(user)).unwrap();
    for what in ["info", "status", "metrics"] {
        watch.subscribe(&topic(what));
    }
    watch
}

fn config(
    folder: &TempDir,
    broker: Option<&Mosquitto>,
    model: &Path,
    lines: &str,
    engine: &str,
) -> PathBuf {
    let mqtt = broker.map_or_else(String::new, |broker| {
        let password = folder.path().join("password");
        std::fs::write(&password, DAEMON.1).unwrap();
        let (port, user, password) = (broker.port, DAEMON.0, password.display());
        format!("url = \"mqtt://127.0.0.1:{port}\"\nusername = \"{user}\"\npassword_file = \"{password}\"\n")
    });
    let device = if on_gpu() { "device = \"gpu\"\n" } else { "" };
    let text = format!(
        "node = \"{NODE}\"\n[mqtt]\n{mqtt}metrics_interval_s = 1\n[broker]\nlisten = \"127.0.0.1:0\"\n\
         [model]\npath = \"{}\"\n{device}{lines}\n[engine]\nthreads = {{ prefill = 1, decode = 1 }}\n{engine}\n",
        model.display()
    );
    let path = folder.path().join(CONFIG);
    std::fs::write(&path, text).unwrap();
    path
}

/// Whether `GLOWPLUG_TEST_DEVICE` says that the tests run on a GPU.
pub fn on_gpu() -> bool {
    std::env::var_os("GLOWPLUG_TEST_DEVICE").is_some_and(|device| device == "gpu")
}

/// Publishes a chat request.
pub fn request(client: &mut Client, body: &Value) {
    let request = topic(&format!("chat/{}/request", client.name));
    client.publish(&Message::new(request, body.to_string()));
}

/// Publishes a chat request that goes against the contract.
pub fn wrong_request(client: &mut Client, body: &Value) {
    let request = topic(&format!("chat/{}/request", client.name));
    client.publish(&Message::new(request, body.to_string()).wrong());
}

/// Publishes on another topic of a chat client: `cancel`, `control`.
pub fn tell(client: &mut Client, what: &str, body: &Value) {
    let topic = topic(&format!("chat/{}/{what}", client.name));
    client.publish(&Message::new(topic, body.to_string()));
}

/// The frame, if this message is one of this request's on the client's reply topic.
pub fn frame(message: &Message, id: &str) -> Option<Value> {
    if !message.topic.ends_with("/reply") {
        return None;
    }
    Some(message.json()).filter(|frame| frame["id"] == id)
}

/// Everything a request got.
pub struct Reply {
    pub chunks: Vec<Value>,
    /// the final or error frame
    pub last: Value,
}

impl Reply {
    /// The text of the chunks: `content` or `reasoning_content`.
    pub fn text(&self, field: &str) -> String {
        let part = |chunk: &Value| {
            chunk["choices"][0]["delta"][field]
                .as_str()
                .map(str::to_owned)
        };
        self.chunks.iter().filter_map(part).collect()
    }

    /// Of the final frame.
    pub fn message(&self) -> &Value {
        &self.last["choices"][0]["message"]
    }

    pub fn finish(&self) -> &str {
        self.last["choices"][0]["finish_reason"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", self.last))
    }

    pub fn completion_tokens(&self) -> u64 {
        self.last["usage"]["completion_tokens"].as_u64().unwrap()
    }

    pub fn error(&self) -> &str {
        self.last["error"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", self.last))
    }
}

/// Reads a request's frames to the last one; they must be what the protocol says of every request's.
pub fn reply(client: &mut Client, id: &str) -> Reply {
    let mut chunks = Vec::new();
    let last = client.until(&format!("the last frame of `{id}`"), |m| {
        let frame = frame(m, id)?;
        let seq = chunks.len();
        assert_eq!(frame["seq"], seq, "from 0, no gaps: {frame}");
        assert_eq!(frame["node"], NODE);
        if frame["object"] == "chat.completion.chunk" {
            assert_eq!(frame["choices"][0]["finish_reason"], Value::Null);
            chunks.push(frame);
            return None;
        }
        Some(frame)
    });
    let reply = Reply { chunks, last };
    if reply.last["error"].is_null() {
        assert_eq!(reply.last["object"], "chat.completion");
        let usage = &reply.last["usage"];
        let [prompt, completion, total] = ["prompt_tokens", "completion_tokens", "total_tokens"]
            .map(|n| usage[n].as_u64().unwrap());
        assert_eq!(prompt + completion, total, "{usage}");
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        // what ended before its prompt was read has none
        assert!(cached.unwrap() < prompt || total == 0, "{usage}");
        assert!(
            usage["completion_tokens_details"]["reasoning_tokens"]
                .as_u64()
                .unwrap()
                <= completion
        );
    }
    reply
}
