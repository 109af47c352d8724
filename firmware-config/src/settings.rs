//! The keys of the configuration file in types of a fixed size: what a flash image holds (see [`crate::image`]).
//!
//! The shape is that of the file, so that one reader checks the values of both; here only sizes are bounded, and a key
//! that is not known is refused. A size is in bytes and a thought a table: the file's other ways to write them are made
//! so when an image is written.

use crate::limits::{BASE_TOPIC_MAX, CLIENT_MAX, KEYS_MAX};
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

/// Longest path, URL, or name of a user, in bytes.
pub const TEXT_MAX: usize = 192;
/// Most prefixes in `mqtt.response_topic_allow`.
pub const ALLOW_MAX: usize = 4;

type Text = Option<String<TEXT_MAX>>;

/// All of it. What is `None` has its default. What is new goes to the end: see [`crate::image::SCHEMA`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// one topic level
    pub node: Option<String<CLIENT_MAX>>,
    /// levels before it
    pub base_topic: Option<String<BASE_TOPIC_MAX>>,
    /// a name of [`crate::board::FILES`]
    pub board: Option<String<CLIENT_MAX>>,
    /// the broker
    pub mqtt: Mqtt,
    /// the embedded one
    pub broker: Broker,
    /// what is served
    pub model: Model,
    /// how much it may take
    pub memory: Memory,
    /// the inference side
    pub engine: Engine,
    /// what is kept
    pub sessions: Sessions,
    /// who may sign models
    pub trust: Trust,
    /// `memory.share`; here because its table is not the last
    pub share: Option<String<CLIENT_MAX>>,
}

/// `[mqtt]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtt://host:port`
    pub url: Text,
    /// for the broker
    pub username: Text,
    /// a path
    pub password_file: Text,
    /// seconds
    pub metrics_interval_s: Option<u64>,
    /// prefixes of topics
    pub response_topic_allow: Vec<String<BASE_TOPIC_MAX>, ALLOW_MAX>,
}

/// `[broker]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    /// address and port
    pub listen: Option<String<CLIENT_MAX>>,
}

/// `[model]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// of a GGUF or packed file
    pub path: Text,
    /// in the catalogue
    pub name: Option<String<CLIENT_MAX>>,
    /// tokens
    pub context: Option<u64>,
    /// `cpu`
    pub device: Option<String<CLIENT_MAX>>,
}

/// `[memory]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// bytes
    pub budget: Option<u64>,
    /// of keys and values
    pub kv_format: Option<String<CLIENT_MAX>>,
    /// pages of [`crate::limits::PAGE_TOKENS`] tokens
    pub kv_pages: Option<u64>,
    /// not to be swapped out
    pub lock: bool,
}

/// `[engine]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// sequences in one step
    pub max_streams: Option<u64>,
    /// requests that may wait
    pub queue: Option<u64>,
    /// of each phase
    pub threads: Threads,
    /// bytes
    pub max_payload_bytes: Option<u64>,
    /// where a request does not say
    pub max_tokens: Option<u64>,
    /// milliseconds
    pub chunk_ms: Option<u64>,
    /// seconds
    pub dedup_window_s: Option<u64>,
    /// where a request does not say
    pub thinking: Option<Thought>,
}

/// `engine.threads`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Threads {
    /// of prompts
    pub prefill: Option<u64>,
    /// of answers
    pub decode: Option<u64>,
}

/// `engine.thinking`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thought {
    /// tokens; 0: no thought; `None`: as many as it likes
    pub budget: Option<u32>,
    /// to the client
    pub visible: bool,
}

/// `[sessions]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// a path
    pub dir: Text,
    /// seconds
    pub expire_s: Option<u64>,
    /// the oldest turns may go
    pub window: bool,
}

/// `[trust]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trust {
    /// public keys in hexadecimal
    pub keys: Vec<String<CLIENT_MAX>, KEYS_MAX>,
}
