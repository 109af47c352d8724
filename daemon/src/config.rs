//! The configuration: a raw table with every key known by name, then a validated [`Config`].
//!
//! [`Draft`] collects a file and single-value overrides; [`Draft::finish`] checks every value against its limit. Nothing
//! here reads the environment, the file system or a clock: the command line hands all of that in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use glowplug_firmware_config::limits;
use glowplug_model::engine::Thinking;
use glowplug_model::quant::Isa;
use serde::Deserialize;

/// Every key of the file, in the order of the documentation. A key that is not here is an error.
pub const KEYS: &[&str] = &[
    "node",
    "base_topic",
    "board",
    "mqtt.url",
    "mqtt.username",
    "mqtt.password_file",
    "mqtt.metrics_interval_s",
    "mqtt.response_topic_allow",
    "broker.listen",
    "model.path",
    "model.name",
    "model.context",
    "model.device",
    "memory.budget",
    "memory.kv_format",
    "memory.kv_pages",
    "engine.max_streams",
    "engine.queue",
    "engine.threads.prefill",
    "engine.threads.decode",
    "engine.max_payload_bytes",
    "engine.max_tokens",
    "engine.chunk_ms",
    "engine.dedup_window_s",
    "engine.thinking",
    "sessions.dir",
    "sessions.expire_s",
];

/// Most prefixes in `mqtt.response_topic_allow`.
const ALLOW_MAX: usize = 16;
/// Longest `engine.dedup_window_s`: a day.
const DEDUP_WINDOW_MAX_S: u64 = 86_400;

/// Why a configuration was not taken. The text names the key and, for a value, its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// not TOML
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// no such key
    #[error("unknown key `{key}`; the nearest known one is `{nearest}`")]
    UnknownKey {
        /// as written, with its tables
        key: String,
        /// by edit distance
        nearest: &'static str,
    },
    /// a value outside its limits
    #[error("`{key}`: {why}")]
    Invalid {
        /// which
        key: &'static str,
        /// the limit it breaks
        why: String,
    },
    /// a value of the wrong type
    #[error("wrong type: {0}")]
    Type(String),
    /// known, documented, not in this version
    #[error("`{key}`: {what} comes with a later version")]
    NotYet {
        /// which
        key: &'static str,
        /// the feature
        what: &'static str,
    },
}

fn invalid(key: &'static str, why: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        key,
        why: why.into(),
    }
}

/// A configuration as it is collected: file first, then single values.
#[derive(Debug, Clone, Default)]
pub struct Draft(toml::Table);

impl Draft {
    /// Reads a whole file; an unknown key is refused here, with its nearest known neighbour.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table =
            toml::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        check_keys(&table, "")?;
        Ok(Self(table))
    }

    /// Overrides one value, as an environment variable or a flag does. `key` is one of [`KEYS`]; text values are taken
    /// as they are, every other one is read as a TOML value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        if !KEYS.contains(&key) {
            return Err(unknown(key));
        }
        let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"))
            .ok()
            .filter(|t| t.len() == 1)
            .and_then(|mut t| t.remove("v"));
        let value = match parsed {
            Some(v) if !is_text(key) => v,
            _ => toml::Value::String(value.to_owned()),
        };
        let (tables, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = &mut self.0;
        for name in tables.split('.').filter(|s| !s.is_empty()) {
            let slot = table
                .entry(name)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match slot {
                toml::Value::Table(t) => table = t,
                _ => return Err(ConfigError::Type(format!("`{name}` is a table"))),
            }
        }
        table.insert(last.to_owned(), value);
        Ok(())
    }

    /// Checks everything and fills in the defaults. `host` names the node when the file does not.
    pub fn finish(self, host: &str, state_dir: PathBuf) -> Result<Config, ConfigError> {
        let raw: Raw = self
            .0
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Type(e.message().to_owned()))?;
        raw.validate(host, state_dir)
    }
}

/// `GLOWPLUG_MQTT_URL` for `mqtt.url`.
#[must_use]
pub fn env_name(key: &str) -> String {
    format!("GLOWPLUG_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Keys whose value is text even if it looks like a number or a table.
fn is_text(key: &str) -> bool {
    !key.starts_with("engine.")
        && !matches!(
            key,
            "mqtt.metrics_interval_s"
                | "mqtt.response_topic_allow"
                | "model.context"
                | "memory.budget"
                | "memory.kv_pages"
                | "sessions.expire_s"
        )
}

/// Tables whose inside is listed in [`KEYS`]; `engine.thinking` is a value with a shape of its own.
fn check_keys(table: &toml::Table, prefix: &str) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let is_table = KEYS.iter().any(|k| {
            k.strip_prefix(key.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        });
        match value {
            _ if KEYS.contains(&key.as_str()) => {}
            toml::Value::Table(inner) if is_table => check_keys(inner, &key)?,
            _ if is_table => return Err(ConfigError::Type(format!("`{key}` is a table"))),
            _ => return Err(unknown(&key)),
        }
    }
    Ok(())
}

fn unknown(key: &str) -> ConfigError {
    // the first key, so that the table can never be empty
    let nearest = KEYS
        .iter()
        .copied()
        .min_by_key(|k| strsim::damerau_levenshtein(k, key))
        .unwrap_or(KEYS[0]);
    ConfigError::UnknownKey {
        key: key.to_owned(),
        nearest,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    node: Option<String>,
    base_topic: Option<String>,
    board: Option<String>,
    mqtt: RawMqtt,
    broker: RawBroker,
    model: RawModel,
    memory: RawMemory,
    engine: RawEngine,
    sessions: RawSessions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawMqtt {
    url: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    metrics_interval_s: Option<u64>,
    response_topic_allow: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawBroker {
    listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawModel {
    path: Option<PathBuf>,
    name: Option<String>,
    context: Option<u64>,
    device: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawMemory {
    budget: Option<toml::Value>,
    kv_format: Option<String>,
    kv_pages: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawEngine {
    max_streams: Option<u64>,
    queue: Option<u64>,
    threads: RawThreads,
    max_payload_bytes: Option<u64>,
    max_tokens: Option<u64>,
    chunk_ms: Option<u64>,
    dedup_window_s: Option<u64>,
    thinking: Option<RawThinking>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawThreads {
    prefill: Option<u64>,
    decode: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`engine.thinking` is `false`, `true` or a table of `budget` (tokens) and `visible`"
)]
enum RawThinking {
    Switch(bool),
    Table(RawThought),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThought {
    budget: Option<u32>,
    #[serde(default)]
    visible: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSessions {
    dir: Option<PathBuf>,
    expire_s: Option<u64>,
}

/// A configuration the daemon can run with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `{node}`: one topic level
    pub node: String,
    /// `{base}`: one or more topic levels
    pub base_topic: String,
    /// the broker and what is published on it
    pub mqtt: Mqtt,
    /// where the embedded broker listens, when `mqtt.server` is none
    pub listen: SocketAddr,
    /// what to serve
    pub model: Model,
    /// resident bytes, all told; none: not limited by configuration
    pub budget: Option<u64>,
    /// the inference side
    pub engine: Engine,
    /// where the embedded broker's credentials live
    pub state_dir: PathBuf,
}

/// `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// an external broker; none: the embedded one
    pub server: Option<Server>,
    /// for the external broker
    pub username: Option<String>,
    /// a file with the password on its first line
    pub password_file: Option<PathBuf>,
    /// between two `metrics`
    pub metrics_interval: Duration,
    /// prefixes below which a Response Topic is honoured, besides the client's own
    pub response_topic_allow: Vec<String>,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// name or address
    pub host: String,
    /// TCP port
    pub port: u16,
}

/// `[model]`. The command line turns `name` into `path` before the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// a GGUF file
    pub path: Option<PathBuf>,
    /// a catalogue name
    pub name: Option<String>,
    /// tokens; none: 4096, or the model's own if that is smaller
    pub context: Option<usize>,
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// requests that may wait
    pub queue: usize,
    /// none: as many as the machine has
    pub prefill_threads: Option<usize>,
    /// none: as many as the machine has
    pub decode_threads: Option<usize>,
    /// longest request payload
    pub max_payload_bytes: usize,
    /// when a request does not say
    pub max_tokens: u32,
    /// tokens of this long go into one frame
    pub chunk: Duration,
    /// how long a finished request's final frame is kept for its repetition
    pub dedup_window: Duration,
    /// when a request does not say
    pub thinking: Thinking,
    /// a forced instruction set, set by the command line; the file has no key for it
    pub isa: Option<Isa>,
}

impl Raw {
    fn validate(self, host: &str, state_dir: PathBuf) -> Result<Config, ConfigError> {
        self.refuse_later_features()?;
        let node = self.node.unwrap_or_else(|| topic_level(host));
        check_topic("node", &node)?;
        if node.contains('/') || node == "any" {
            return Err(invalid(
                "node",
                "must be one topic level and not `any`, which is the pool's",
            ));
        }
        let base_topic = self.base_topic.unwrap_or_else(|| "glowplug".to_owned());
        check_topic("base_topic", &base_topic)?;
        Ok(Config {
            node,
            base_topic,
            mqtt: self.mqtt.validate()?,
            listen: listen(self.broker.listen.as_deref().unwrap_or("127.0.0.1:1883"))?,
            model: self.model.validate()?,
            budget: self.memory.budget.as_ref().map(bytes).transpose()?,
            engine: self.engine.validate()?,
            state_dir,
        })
    }

    fn refuse_later_features(&self) -> Result<(), ConfigError> {
        let later = [
            (self.board.is_some(), "board", "choosing a board"),
            (
                self.memory.kv_format.as_deref().is_some_and(|f| f != "f16"),
                "memory.kv_format",
                "a format other than `f16`",
            ),
            (
                self.memory.kv_pages.is_some(),
                "memory.kv_pages",
                "a number of pages (`model.context` sets the cache's size)",
            ),
            (
                self.engine.max_streams.is_some_and(|n| n > 1),
                "engine.max_streams",
                "more than 1 stream",
            ),
            (
                self.sessions.dir.is_some(),
                "sessions.dir",
                "keeping sessions",
            ),
            (
                self.sessions.expire_s.is_some(),
                "sessions.expire_s",
                "keeping sessions",
            ),
        ];
        match later.into_iter().find(|(used, ..)| *used) {
            Some((_, key, what)) => Err(ConfigError::NotYet { key, what }),
            None if self.engine.max_streams == Some(0) => {
                Err(invalid("engine.max_streams", "must be at least 1"))
            }
            None => Ok(()),
        }
    }
}

impl RawMqtt {
    fn validate(self) -> Result<Mqtt, ConfigError> {
        if self.password_file.is_some() && self.username.is_none() {
            return Err(invalid("mqtt.password_file", "needs `mqtt.username`"));
        }
        if self.url.is_none() && self.username.is_some() {
            return Err(invalid(
                "mqtt.username",
                "needs `mqtt.url`; the embedded broker makes its own users",
            ));
        }
        if self.response_topic_allow.len() > ALLOW_MAX {
            return Err(invalid(
                "mqtt.response_topic_allow",
                format!("has more than {ALLOW_MAX} prefixes"),
            ));
        }
        for prefix in &self.response_topic_allow {
            check_topic("mqtt.response_topic_allow", prefix.trim_end_matches('/'))?;
        }
        Ok(Mqtt {
            server: self.url.as_deref().map(server).transpose()?,
            username: self.username,
            password_file: self.password_file,
            metrics_interval: Duration::from_secs(range(
                "mqtt.metrics_interval_s",
                self.metrics_interval_s,
                10,
                1,
                3600,
            )?),
            response_topic_allow: self.response_topic_allow,
        })
    }
}

impl RawModel {
    fn validate(self) -> Result<Model, ConfigError> {
        if self.path.is_some() && self.name.is_some() {
            return Err(invalid("model.path", "and `model.name` exclude each other"));
        }
        if self.device.as_deref().is_some_and(|d| d != "cpu") {
            return Err(ConfigError::NotYet {
                key: "model.device",
                what: "a device other than `cpu`",
            });
        }
        let context = self
            .context
            .map(|n| range("model.context", Some(n), n, 32, 1 << 20))
            .transpose()?;
        Ok(Model {
            path: self.path,
            name: self.name,
            context: context.map(|n| n as usize),
        })
    }
}

impl RawEngine {
    fn validate(self) -> Result<Engine, ConfigError> {
        let threads = |key, value: Option<u64>| {
            value
                .map(|n| range(key, Some(n), n, 1, limits::THREADS_MAX as u64).map(|n| n as usize))
                .transpose()
        };
        let max_payload_bytes = range(
            "engine.max_payload_bytes",
            self.max_payload_bytes,
            limits::PAYLOAD_DEFAULT as u64,
            1024,
            limits::PAYLOAD_MAX as u64,
        )?;
        let max_tokens = range("engine.max_tokens", self.max_tokens, 1024, 1, 1 << 20)?;
        Ok(Engine {
            queue: range("engine.queue", self.queue, 16, 1, limits::QUEUE_MAX as u64)? as usize,
            prefill_threads: threads("engine.threads.prefill", self.threads.prefill)?,
            decode_threads: threads("engine.threads.decode", self.threads.decode)?,
            max_payload_bytes: max_payload_bytes as usize,
            max_tokens: u32::try_from(max_tokens).unwrap_or(u32::MAX),
            chunk: Duration::from_millis(range("engine.chunk_ms", self.chunk_ms, 40, 0, 10_000)?),
            dedup_window: Duration::from_secs(range(
                "engine.dedup_window_s",
                self.dedup_window_s,
                300,
                1,
                DEDUP_WINDOW_MAX_S,
            )?),
            thinking: thinking(self.thinking),
            isa: None,
        })
    }
}

fn thinking(raw: Option<RawThinking>) -> Thinking {
    match raw {
        Some(RawThinking::Switch(enabled)) => Thinking {
            enabled,
            budget: None,
            visible: false,
        },
        Some(RawThinking::Table(t)) => Thinking {
            enabled: t.budget != Some(0),
            budget: t.budget,
            visible: t.visible,
        },
        None => Thinking {
            enabled: true,
            budget: Some(512),
            visible: false,
        },
    }
}

fn range(
    key: &'static str,
    value: Option<u64>,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, ConfigError> {
    let value = value.unwrap_or(default);
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(invalid(
        key,
        format!("{value} is not between {min} and {max}"),
    ))
}

/// A host name as one topic level: what a level cannot hold becomes `-`.
fn topic_level(host: &str) -> String {
    let clean = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            c
        } else {
            '-'
        }
    };
    let level: String = host.chars().take(64).map(clean).collect();
    if level.is_empty() || level == "any" {
        "node".to_owned()
    } else {
        level
    }
}

/// A topic we may write: levels not empty, no wildcards, not `$…`, no control characters.
fn check_topic(key: &'static str, topic: &str) -> Result<(), ConfigError> {
    let max = limits::BASE_TOPIC_MAX;
    if topic.is_empty() || topic.len() > max {
        return Err(invalid(
            key,
            format!("`{topic}` must have 1 to {max} bytes"),
        ));
    }
    if topic.starts_with('$') || topic.contains(['+', '#']) || topic.chars().any(char::is_control) {
        return Err(invalid(
            key,
            format!("`{topic}` must not hold wildcards, control characters, or start with `$`"),
        ));
    }
    if topic.split('/').any(str::is_empty) {
        return Err(invalid(key, format!("`{topic}` has an empty level")));
    }
    Ok(())
}

/// `mqtt://host[:port]`.
fn server(url: &str) -> Result<Server, ConfigError> {
    let key = "mqtt.url";
    let rest = match url.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => rest,
        Some(("mqtts" | "ssl" | "ws" | "wss", _)) => {
            return Err(ConfigError::NotYet {
                key,
                what: "TLS and WebSocket",
            });
        }
        _ => return Err(invalid(key, format!("`{url}` is not `mqtt://host:port`"))),
    };
    let rest = rest.trim_end_matches('/');
    if rest.contains('@') {
        return Err(invalid(
            key,
            "must not hold credentials; use `mqtt.username` and `mqtt.password_file`",
        ));
    }
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((v6, tail)) => (
            v6,
            tail.strip_prefix(':').or(tail.is_empty().then_some("1883")),
        ),
        None => rest
            .split_once(':')
            .map_or((rest, Some("1883")), |(h, p)| (h, Some(p))),
    };
    let port = port.and_then(|p| p.parse::<u16>().ok()).filter(|p| *p != 0);
    match port {
        Some(port) if !host.is_empty() && !host.contains(['/', ' ']) => Ok(Server {
            host: host.to_owned(),
            port,
        }),
        _ => Err(invalid(key, format!("`{url}` is not `mqtt://host:port`"))),
    }
}

/// Parses an `mqtt.url` as the clients of the command line take it.
pub fn parse_url(url: &str) -> Result<Server, ConfigError> {
    server(url)
}

fn listen(text: &str) -> Result<SocketAddr, ConfigError> {
    let key = "broker.listen";
    let address: SocketAddr = text
        .parse()
        .map_err(|_| invalid(key, format!("`{text}` is not `address:port`")))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    // anything but loopback needs users of its own, and this version has none but the machine's owner
    Err(ConfigError::NotYet {
        key,
        what: "listening beyond loopback (set `mqtt.url` to a broker with users)",
    })
}

/// `1400 MiB`, `1.5 GiB`, `800 MB` or a number of bytes.
fn bytes(value: &toml::Value) -> Result<u64, ConfigError> {
    let key = "memory.budget";
    let wrong = || invalid(key, "is not a size such as `1400 MiB` or a number of bytes");
    let text = match value {
        toml::Value::Integer(n) => return u64::try_from(*n).map_err(|_| wrong()),
        toml::Value::String(s) => s.trim(),
        _ => return Err(wrong()),
    };
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: f64 = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let total = number * unit;
    // above 2^53 a float no longer counts single bytes, and no board has as much
    if (1.0..9e15).contains(&total) {
        Ok(total as u64)
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Draft::from_toml(text)?.finish("host", PathBuf::from("/state"))
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let c = load("").unwrap();
        assert_eq!(
            (c.node.as_str(), c.base_topic.as_str()),
            ("host", "glowplug")
        );
        assert_eq!(c.mqtt.server, None);
        assert_eq!(c.listen, "127.0.0.1:1883".parse().unwrap());
        assert_eq!(c.engine.queue, 16);
        assert_eq!(c.engine.max_payload_bytes, 262_144);
        assert_eq!(c.engine.chunk, Duration::from_millis(40));
        assert_eq!(
            c.engine.thinking,
            Thinking {
                enabled: true,
                budget: Some(512),
                visible: false
            }
        );
        assert_eq!(c.mqtt.metrics_interval, Duration::from_secs(10));
    }

    #[test]
    fn a_full_file_is_taken() {
        let c = load(
            r#"
            node = "kitchen"
            base_topic = "plant7/line2/ai"
            [mqtt]
            url = "mqtt://broker.lan:1884"
            username = "glow"
            password_file = "/run/secret"
            metrics_interval_s = 5
            response_topic_allow = ["apps/answers/"]
            [broker]
            listen = "127.0.0.1:0"
            [model]
            path = "/m.gguf"
            context = 2048
            device = "cpu"
            [memory]
            budget = "1400 MiB"
            kv_format = "f16"
            [engine]
            max_streams = 1
            queue = 4
            threads = { prefill = 4, decode = 2 }
            max_payload_bytes = 65536
            thinking = { budget = 64, visible = true }
            "#,
        )
        .unwrap();
        assert_eq!(
            c.mqtt.server,
            Some(Server {
                host: "broker.lan".into(),
                port: 1884
            })
        );
        assert_eq!(c.budget, Some(1400 << 20));
        assert_eq!(
            (c.engine.prefill_threads, c.engine.decode_threads),
            (Some(4), Some(2))
        );
        assert_eq!(
            c.engine.thinking,
            Thinking {
                enabled: true,
                budget: Some(64),
                visible: true
            }
        );
        assert_eq!(c.model.context, Some(2048));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let table = [
            ("nodes = 'x'", "nodes", "node"),
            ("[mqtt]\nurll = 'x'", "mqtt.urll", "mqtt.url"),
            (
                "[engine]\nmax_stream = 1",
                "engine.max_stream",
                "engine.max_streams",
            ),
            (
                "[engine.threads]\ndecod = 1",
                "engine.threads.decod",
                "engine.threads.decode",
            ),
            ("[modell]\npath = 'x'", "modell", "model.path"),
        ];
        for (text, key, nearest) in table {
            match load(text).unwrap_err() {
                ConfigError::UnknownKey { key: k, nearest: n } => {
                    assert_eq!(k, key);
                    if key != "modell" {
                        assert_eq!(n, nearest);
                    }
                }
                other => panic!("{text}: {other}"),
            }
        }
    }

    #[test]
    fn each_limit_is_named() {
        let table = [
            ("node = 'a/b'", "node"),
            ("node = 'any'", "node"),
            ("node = ''", "node"),
            ("node = 'a+b'", "node"),
            ("base_topic = '$SYS/x'", "base_topic"),
            ("base_topic = 'a//b'", "base_topic"),
            ("base_topic = 'a/#'", "base_topic"),
            ("[mqtt]\nurl = 'http://x'", "mqtt.url"),
            ("[mqtt]\nurl = 'mqtts://x'", "mqtt.url"),
            ("[mqtt]\nurl = 'mqtt://u:p@x'", "mqtt.url"),
            ("[mqtt]\nurl = 'mqtt://x:0'", "mqtt.url"),
            ("[mqtt]\nusername = 'x'", "mqtt.username"),
            ("[mqtt]\nmetrics_interval_s = 0", "mqtt.metrics_interval_s"),
            (
                "[mqtt]\nresponse_topic_allow = ['a/+']",
                "mqtt.response_topic_allow",
            ),
            ("[broker]\nlisten = '0.0.0.0:1883'", "broker.listen"),
            ("[model]\npath = 'a'\nname = 'b'", "model.path"),
            ("[model]\ndevice = 'gpu'", "model.device"),
            ("[model]\ncontext = 0", "model.context"),
            ("[memory]\nbudget = 'lots'", "memory.budget"),
            ("[memory]\nkv_format = 'q4_0'", "memory.kv_format"),
            ("[memory]\nkv_pages = 12", "memory.kv_pages"),
            ("[engine]\nmax_streams = 2", "engine.max_streams"),
            ("[engine]\nmax_streams = 0", "engine.max_streams"),
            ("[engine]\nqueue = 257", "engine.queue"),
            ("[engine]\nqueue = 0", "engine.queue"),
            (
                "[engine]\nthreads = { decode = 65 }",
                "engine.threads.decode",
            ),
            (
                "[engine]\nmax_payload_bytes = 4194305",
                "engine.max_payload_bytes",
            ),
            ("[sessions]\ndir = '/x'", "sessions.dir"),
            ("board = 'raspberry-pi-5-8g'", "board"),
        ];
        for (text, key) in table {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
        }
    }

    #[test]
    fn single_values_override_the_file() {
        let mut d = Draft::from_toml("node = 'a'\n[engine]\nqueue = 2").unwrap();
        d.set("node", "42").unwrap();
        d.set("engine.queue", "7").unwrap();
        d.set("engine.thinking", "false").unwrap();
        d.set("mqtt.url", "mqtt://[::1]:1999").unwrap();
        d.set("memory.budget", "2 GiB").unwrap();
        let c = d.clone().finish("h", PathBuf::new()).unwrap();
        assert_eq!((c.node.as_str(), c.engine.queue), ("42", 7));
        assert!(!c.engine.thinking.enabled);
        assert_eq!(
            c.mqtt.server,
            Some(Server {
                host: "::1".into(),
                port: 1999
            })
        );
        assert_eq!(c.budget, Some(2 << 30));
        assert!(matches!(
            d.set("engine.que", "7"),
            Err(ConfigError::UnknownKey {
                nearest: "engine.queue",
                ..
            })
        ));
    }

    #[test]
    fn wrong_types_name_the_key() {
        let error = load("[engine]\nqueue = 'many'").unwrap_err().to_string();
        assert!(error.contains("u64"), "{error}");
        let error = load("[engine]\nthinking = 3").unwrap_err().to_string();
        assert!(error.contains("engine.thinking"), "{error}");
        assert!(load("mqtt = 3").unwrap_err().to_string().contains("`mqtt`"));
    }

    #[test]
    fn every_key_can_be_set_by_its_environment_name() {
        for key in KEYS {
            assert!(env_name(key).starts_with("GLOWPLUG_"));
            assert_eq!(
                KEYS.iter().filter(|k| env_name(k) == env_name(key)).count(),
                1,
                "{key}"
            );
        }
        assert_eq!(
            env_name("engine.threads.decode"),
            "GLOWPLUG_ENGINE_THREADS_DECODE"
        );
    }

    #[test]
    fn a_host_name_becomes_one_level() {
        assert_eq!(topic_level("my host/#1"), "my-host--1");
        assert_eq!(topic_level(""), "node");
    }
}
