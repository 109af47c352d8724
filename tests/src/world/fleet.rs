//! Several daemons of one pool on one Mosquitto.

use super::broker::{DAEMON, Mosquitto, OPERATOR, PASSWORD};
use super::client::{Client, Message, PATIENCE, Version};
use super::daemon::Daemon;
use super::tiny;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The group of every fleet.
pub const GROUP: &str = "house";

/// Fields in this order: the daemons go before their broker, the folder last.
pub struct Fleet {
    daemons: Vec<Daemon>,
    pub broker: Mosquitto,
    watch: Client,
    operator: Client,
    folder: TempDir,
}

impl Fleet {
    /// So many daemons `n1`, `n2`, … in the group, with a tiny model and these lines in `[engine]`.
    pub fn new(many: usize, engine: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny().write(&folder.path().join("model.gguf")).unwrap();
        let broker = Mosquitto::start(folder.path());
        std::fs::write(folder.path().join("password"), DAEMON.1).unwrap();
        for n in 1..=many {
            std::fs::create_dir(home(folder.path(), n)).unwrap();
            configure(folder.path(), broker.port, n, engine);
        }
        let connect = |name, user| Client::connect(broker.port, Version::V5, name, Some(user));
        let mut watch = connect("watch", ("watch", PASSWORD)).unwrap();
        for what in ["status", "metrics"] {
            watch.subscribe(&format!("glowplug/+/{what}"));
        }
        let mut operator = connect("operator", OPERATOR).unwrap();
        operator.subscribe("glowplug/+/admin/+/response");
        let mut fleet = Self {
            daemons: Vec::new(),
            broker,
            watch,
            operator,
            folder,
        };
        for n in 1..=many {
            let daemon = fleet.serve(n);
            fleet.daemons.push(daemon);
        }
        (1..=many).for_each(|n| fleet.joined(n));
        fleet
    }

    fn serve(&self, n: usize) -> Daemon {
        let home = home(self.folder.path(), n);
        Daemon::serve(&home.join("glowplug.toml"), &home, &[])
    }

    /// Waits until daemon `n` says that it is in the group, which it says once.
    fn joined(&mut self, n: usize) {
        let is_in = |line: &str| line.contains("is in the pool").then_some(());
        self.daemons[n - 1].line("that it is in the pool", is_in);
    }

    /// A client of this name that hears what all daemons answer it.
    pub fn client(&self, name: &str) -> Client {
        client(self.broker.port, name)
    }

    /// SIGKILL for daemon `n`, until the broker knows.
    pub fn kill(&mut self, n: usize) {
        self.daemons[n - 1].signal("KILL");
        self.daemons[n - 1].ended();
        self.state(n, "offline");
    }

    /// Daemon `n` again, until it is in the group.
    pub fn restart(&mut self, n: usize) {
        self.daemons[n - 1] = self.serve(n);
        self.joined(n);
    }

    /// Waits for this state of daemon `n`.
    fn state(&mut self, n: usize, state: &str) {
        let topic = format!("glowplug/n{n}/status");
        self.watch.until(&format!("n{n} {state}"), |m| {
            (m.topic == topic && m.json()["state"] == state).then_some(())
        });
    }

    /// The first `metrics` of daemon `n` from now on of which this is true.
    pub fn metrics(&mut self, n: usize, what: &str, of: impl Fn(&Value) -> bool) {
        let topic = format!("glowplug/n{n}/metrics");
        self.watch.rest();
        self.watch
            .until(what, |m| (m.topic == topic && of(&m.json())).then_some(()));
    }

    /// Asks daemon `n` to take nothing more; [`Self::drained`] waits for its answer.
    pub fn drain(&mut self, n: usize) {
        let topic = format!("glowplug/n{n}/admin/drain/request");
        self.operator.publish(&Message::new(topic, "{}"));
        self.state(n, "draining");
    }

    pub fn drained(&mut self, n: usize) {
        let topic = format!("glowplug/n{n}/admin/drain/response");
        let answer = self.operator.until("the answer of a drain", |m| {
            (m.topic == topic).then(|| m.json())
        });
        assert_eq!(answer["drain"]["state"], "draining", "{answer}");
    }

    /// Waits until these are the requests that daemon `n` has on record.
    pub fn on_record(&self, n: usize, ids: &[&str]) {
        let state = home(self.folder.path(), n).join("glowplug");
        let record = state.join(format!("pool-glowplug-n{n}.json"));
        let until = Instant::now() + PATIENCE;
        loop {
            // there is none before the first request
            let text = std::fs::read_to_string(&record).unwrap_or_default();
            let taken = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let taken = taken.map(|line| serde_json::from_str::<Value>(line).unwrap());
            let taken: Vec<String> = taken
                .map(|of| of["id"].as_str().unwrap().to_owned())
                .collect();
            if taken == ids {
                return;
            }
            assert!(Instant::now() < until, "n{n} has {taken:?} on record");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// As [`Fleet::client`], for threads that come and go by themselves.
pub fn client(port: u16, name: &str) -> Client {
    let user = Some((name, PASSWORD));
    let mut client = Client::connect(port, Version::V5, name, user).unwrap();
    // its own requests are not among them, so that the broker can say that nobody hears one
    client.subscribe(&format!("glowplug/+/chat/{name}/reply"));
    client
}

/// Publishes a chat request: `node` is `any`, or that of the daemon which has the session. Gives the packet's identifier.
pub fn ask(client: &mut Client, node: &str, body: &Value) -> u16 {
    let topic = format!("glowplug/{node}/chat/{}/request", client.name);
    client.publish(&Message::new(topic, body.to_string()))
}

/// The frame, if the message is the end of a request: its id, and which daemon says so.
pub fn end(message: &Message) -> Option<(String, String, Value)> {
    let frame = message.topic.ends_with("/reply").then(|| message.json())?;
    if frame["object"] == "chat.completion.chunk" {
        return None;
    }
    let text = |name: &str| frame[name].as_str().unwrap().to_owned();
    Some((text("id"), text("node"), frame))
}

fn home(folder: &Path, n: usize) -> PathBuf {
    folder.join(format!("n{n}"))
}

fn configure(folder: &Path, port: u16, n: usize, engine: &str) {
    let (password, model) = (folder.join("password"), folder.join("model.gguf"));
    let text = format!(
        "node = \"n{n}\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:{port}\"\nusername = \"{}\"\npassword_file = \"{}\"\n\
         metrics_interval_s = 1\n[pool]\ngroup = \"{GROUP}\"\n[model]\npath = \"{}\"\ncontext = 16384\n\
         [engine]\nthreads = {{ prefill = 1, decode = 1 }}\n{engine}\n",
        DAEMON.0,
        password.display(),
        model.display()
    );
    std::fs::write(home(folder, n).join("glowplug.toml"), text).unwrap();
}
