//! The keys of the configuration file in types of a fixed size, as a flash image holds them (see [`crate::image`]).
//!
//! The shape is that of the file, so that one reader checks the values of both. Here only sizes are bounded, and a key that is
//! not known is refused. A size is a number of bytes and the thinking setting a table; the other ways to write them in a file
//! are turned into these when an image is written.

use crate::limits::{BASE_TOPIC_MAX, CLIENT_MAX, KEYS_MAX};
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

/// Longest path, URL, or name of a user, in bytes.
pub const TEXT_MAX: usize = 192;
/// Most prefixes in `mqtt.response_topic_allow`.
pub const ALLOW_MAX: usize = 4;

type Text = Option<String<TEXT_MAX>>;

/// All keys. A key that is `None` has its default. New tables go to the end: see [`crate::image::SCHEMA`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name of the node, which is one topic level.
    pub node: Option<String<CLIENT_MAX>>,
    /// Topic levels before the node.
    pub base_topic: Option<String<BASE_TOPIC_MAX>>,
    /// Name of a board in [`crate::board::FILES`].
    pub board: Option<String<CLIENT_MAX>>,
    /// Connection to the broker.
    pub mqtt: Mqtt,
    /// The broker inside of the daemon.
    pub broker: Broker,
    /// The model that is served.
    pub model: Model,
    /// Memory that the daemon may take.
    pub memory: Memory,
    /// Limits and defaults of the inference side.
    pub engine: Engine,
    /// What is kept of sessions.
    pub sessions: Sessions,
    /// Keys that may sign models.
    pub trust: Trust,
    /// The key `memory.share`. It stands here because the table `memory` is not the last one.
    pub share: Option<String<CLIENT_MAX>>,
    /// Discovery by Home Assistant.
    pub homeassistant: HomeAssistant,
    /// TLS, whose keys are in the tables `mqtt` and `broker` of the file, which are not the last ones.
    pub tls: Option<Tls>,
}

/// The table `[mqtt]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Address of the broker: `mqtt://host:port`.
    pub url: Text,
    /// User name for the broker.
    pub username: Text,
    /// Path of the file with the password.
    pub password_file: Text,
    /// Seconds between two reports of metrics.
    pub metrics_interval_s: Option<u64>,
    /// Prefixes of topics that a request may name for its reply.
    pub response_topic_allow: Vec<String<BASE_TOPIC_MAX>, ALLOW_MAX>,
}

/// The table `[broker]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    /// Address and port that the embedded broker listens on.
    pub listen: Option<String<CLIENT_MAX>>,
}

/// The table `[model]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Path of a GGUF file or a packed file.
    pub path: Text,
    /// Name of the model in the catalogue.
    pub name: Option<String<CLIENT_MAX>>,
    /// Most tokens of one sequence.
    pub context: Option<u64>,
    /// The device that computes: `cpu`.
    pub device: Option<String<CLIENT_MAX>>,
}

/// The table `[memory]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Most bytes that the daemon may take.
    pub budget: Option<u64>,
    /// Formats of keys and values: see [`crate::kv::formats`].
    pub kv_format: Option<String<CLIENT_MAX>>,
    /// KV pages of [`crate::limits::PAGE_TOKENS`] tokens each.
    pub kv_pages: Option<u64>,
    /// Whether the KV cache is locked into memory.
    pub lock: bool,
}

/// The table `[engine]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Most sequences in one step.
    pub max_streams: Option<u64>,
    /// Most requests that may wait.
    pub queue: Option<u64>,
    /// Threads of each phase of inference.
    pub threads: Threads,
    /// Largest payload of a request, in bytes.
    pub max_payload_bytes: Option<u64>,
    /// Most tokens of an answer where the request does not say.
    pub max_tokens: Option<u64>,
    /// Milliseconds of text that are sent in one frame.
    pub chunk_ms: Option<u64>,
    /// Seconds for which a repeated request is recognised.
    pub dedup_window_s: Option<u64>,
    /// Whether the model thinks where the request does not say.
    pub thinking: Option<Thought>,
}

/// The table `engine.threads` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Threads {
    /// Threads used for prompts.
    pub prefill: Option<u64>,
    /// Threads used for answers.
    pub decode: Option<u64>,
}

/// The table `engine.thinking` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thought {
    /// Most tokens of a thought. With 0 the model does not think, and with `None` it thinks as long as it likes.
    pub budget: Option<u32>,
    /// Whether the client is sent the thought.
    pub visible: bool,
}

/// The table `[sessions]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// Path of the folder of saved sessions.
    pub dir: Text,
    /// Seconds after which an unused session ends.
    pub expire_s: Option<u64>,
    /// Whether a session may forget its oldest turns.
    pub window: bool,
}

/// The table `[trust]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trust {
    /// Public keys in hexadecimal digits.
    pub keys: Vec<String<CLIENT_MAX>, KEYS_MAX>,
}

/// The table `[homeassistant]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HomeAssistant {
    /// Whether Home Assistant is told of the daemon.
    pub discovery: bool,
}

/// A text of TLS. All of them together have to fit into a slot with everything else.
type Short = Option<String<CLIENT_MAX>>;

/// The keys of TLS in the tables `[mqtt]` and `[broker]` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Path of the authorities that may have issued the broker's certificate.
    pub ca_file: Short,
    /// Path of the daemon's certificate.
    pub cert_file: Short,
    /// Path of the daemon's private key.
    pub key_file: Short,
    /// Name in the broker's certificate.
    pub server_name: Short,
    /// Certificate of the embedded broker.
    pub broker: BrokerTls,
    /// Whether the embedded broker may listen beyond loopback without TLS.
    pub plaintext: bool,
}

/// The table `broker.tls` of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerTls {
    /// Path of the embedded broker's certificate.
    pub cert_file: Short,
    /// Path of its private key.
    pub key_file: Short,
    /// Path of the authorities that may have issued its clients' certificates.
    pub ca_file: Short,
}
