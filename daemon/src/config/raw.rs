//! The file as it is written, and the checks that make a [`Config`] of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use glowplug_firmware_config::board::{Board, BoardError};
use glowplug_firmware_config::image::VerifyingKey;
use glowplug_firmware_config::units::Bytes;
use glowplug_firmware_config::{board, kv, limits};
use glowplug_model::engine::{KvFormats, Share, Thinking};
use serde::Deserialize;

use super::{Config, ConfigError, Engine, Memory, Model, Mqtt, Server, Sessions};
use crate::hex::unhex;
use crate::machine::board::Chosen;

/// Most prefixes in `mqtt.response_topic_allow`.
const ALLOW_MAX: usize = 16;
/// Longest `engine.dedup_window_s`: a day.
const DEDUP_WINDOW_MAX_S: u64 = 86_400;
/// Longest `sessions.expire_s`: a year.
const EXPIRE_MAX_S: u64 = 365 * 86_400;
/// Most tokens of `model.context`: what the page table of the KV arena can name.
const CONTEXT_MAX: u64 = (limits::PAGES_MAX * limits::PAGE_TOKENS) as u64;

pub(super) fn invalid(key: &'static str, why: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        key,
        why: why.into(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    node: Option<String>,
    base_topic: Option<String>,
    board: Option<String>,
    mqtt: RawMqtt,
    broker: RawBroker,
    model: RawModel,
    memory: RawMemory,
    engine: RawEngine,
    sessions: RawSessions,
    trust: RawTrust,
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
    template_file: Option<PathBuf>,
    context: Option<u64>,
    device: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawMemory {
    budget: Option<toml::Value>,
    kv_format: Option<String>,
    kv_pages: Option<u64>,
    lock: bool,
    share: Option<String>,
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
struct RawTrust {
    keys: Option<RawKeys>,
}

/// A list in the file, one text with commas in the environment.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`trust.keys` is a list of keys")]
enum RawKeys {
    Text(String),
    List(Vec<String>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSessions {
    dir: Option<PathBuf>,
    expire_s: Option<u64>,
    window: bool,
}

impl Raw {
    pub(super) fn validate(self, host: &str, state_dir: PathBuf) -> Result<Config, ConfigError> {
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
        let board = self.board.as_deref().map(named_board).transpose()?;
        let trust = self.trust.validate()?;
        if !trust.is_empty() && self.model.template_file.is_some() {
            return Err(invalid(
                "model.template_file",
                "cannot be used with `trust.keys`: what is signed is the model file's own template",
            ));
        }
        Ok(Config {
            node,
            base_topic,
            mqtt: self.mqtt.validate()?,
            listen: listen(self.broker.listen.as_deref().unwrap_or("127.0.0.1:1883"))?,
            model: self.model.validate()?,
            board_chosen: match board {
                Some(_) => Chosen::Named,
                None => Chosen::Unknown("nobody looked".to_owned()),
            },
            board,
            memory: self.memory.validate()?,
            engine: self.engine.validate()?,
            sessions: self.sessions.validate()?,
            trust,
            counter: None,
            state_dir,
            root: PathBuf::from("/"),
            supervisor: None,
        })
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
            .map(|n| range("model.context", Some(n), n, 32, CONTEXT_MAX))
            .transpose()?;
        Ok(Model {
            path: self.path,
            name: self.name,
            template_file: self.template_file,
            context: context.map(|n| n as usize),
            remembered: false,
        })
    }
}

impl RawTrust {
    fn validate(self) -> Result<Vec<VerifyingKey>, ConfigError> {
        let text = match self.keys {
            None => return Ok(Vec::new()),
            Some(RawKeys::Text(text)) => text,
            Some(RawKeys::List(keys)) => keys.join(","),
        };
        trust_keys(&text).map_err(|why| invalid("trust.keys", why))
    }
}

/// Public keys of Ed25519 in hexadecimal, with commas between them, one at least: a list that came out empty by mistake must
/// not let everybody sign. An error says why.
pub(crate) fn trust_keys(text: &str) -> Result<Vec<VerifyingKey>, String> {
    let keys: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|key| !key.is_empty())
        .collect();
    if keys.is_empty() {
        return Err("names no key: leave it out where nobody has to sign".to_owned());
    }
    if keys.len() > limits::KEYS_MAX {
        return Err(format!("has more than {} keys", limits::KEYS_MAX));
    }
    let key = |text: &str| {
        unhex(text)
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .ok_or_else(|| format!("`{text}` is no public key of Ed25519 in 64 hexadecimal digits"))
    };
    keys.into_iter().map(key).collect()
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
        let max_streams = range(
            "engine.max_streams",
            self.max_streams,
            4,
            1,
            limits::STREAMS_MAX as u64,
        )?;
        Ok(Engine {
            max_streams: max_streams as usize,
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

impl RawMemory {
    fn validate(self) -> Result<Memory, ConfigError> {
        let pages = self
            .kv_pages
            .map(|n| range("memory.kv_pages", Some(n), n, 1, limits::PAGES_MAX as u64))
            .transpose()?;
        Ok(Memory {
            budget: self.budget.as_ref().map(bytes).transpose()?,
            kv_format: self.kv_format.as_deref().map(kv_format).transpose()?,
            kv_pages: pages.map(|n| n as usize),
            lock: self.lock,
            share: share(self.share.as_deref().unwrap_or("client"))?,
        })
    }
}

impl RawSessions {
    fn validate(self) -> Result<Sessions, ConfigError> {
        let expire = range("sessions.expire_s", self.expire_s, 86_400, 1, EXPIRE_MAX_S)?;
        Ok(Sessions {
            dir: self.dir,
            writes_per_day: None,
            expire: Duration::from_secs(expire),
            window: self.window,
        })
    }
}

fn named_board(name: &str) -> Result<Board, ConfigError> {
    board::find(name).map_err(|error| {
        let mut why = error.to_string();
        if let BoardError::Unknown(_) = error {
            let names = board::FILES.iter().map(|(known, _)| *known);
            let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, name));
            why += &format!(
                "; the nearest known one is `{}`",
                nearest.unwrap_or_default()
            );
        }
        invalid("board", why)
    })
}

fn share(text: &str) -> Result<Share, ConfigError> {
    match text {
        "client" => Ok(Share::Client),
        "all" => Ok(Share::All),
        _ => Err(invalid(
            "memory.share",
            format!("`{text}` is neither `client` nor `all`"),
        )),
    }
}

/// `q8_0` for keys and values, `q8_0/q4_0` for keys and for values.
pub(crate) fn kv_format(text: &str) -> Result<KvFormats, ConfigError> {
    let (k, v) = kv::formats(text)
        .ok_or_else(|| invalid("memory.kv_format", format!("`{text}` {}", kv::FORMATS)))?;
    Ok(KvFormats { k, v })
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
pub(super) fn topic_level(host: &str) -> String {
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
pub(super) fn server(url: &str) -> Result<Server, ConfigError> {
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
pub(super) fn bytes(value: &toml::Value) -> Result<u64, ConfigError> {
    let size = match value {
        toml::Value::Integer(n) => u64::try_from(*n).ok().filter(|n| *n > 0),
        toml::Value::String(text) => Bytes::parse(text).map(|size| size.0),
        _ => None,
    };
    let wrong = "is not a size such as `1400 MiB` or a number of bytes";
    size.ok_or_else(|| invalid("memory.budget", wrong))
}
