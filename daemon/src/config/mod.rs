//! The configuration: values by their keys, which [`keys`] lists, then a checked [`Config`].
//!
//! [`Draft`] collects a file and single-value overrides; [`Draft::finish`] checks every value against its limit. Nothing
//! here reads the environment, the file system or a clock: the command line hands all of that in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use glowplug_firmware_config::board::Board;
use glowplug_firmware_config::image::VerifyingKey;
use glowplug_model::engine::{KvFormats, Share, Thinking};
use glowplug_model::quant::Isa;

use crate::machine::board::Chosen;
use crate::machine::systemd::Supervisor;

mod check;
pub(crate) mod counter;
mod image;
mod keys;
mod kinds;
mod values;
use keys::is_text;
pub use keys::{KEYS, entries};
pub use kinds::Entry;
pub(crate) use values::trust_keys;

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
    let why = why.into();
    ConfigError::Invalid { key, why }
}

/// `q8_0` or `q8_0/q4_0`, as `memory.kv_format` has it.
///
/// # Errors
/// Names the key and the formats there are.
pub(crate) fn kv_format(text: &str) -> Result<KvFormats, ConfigError> {
    values::kv_formats(keys::MEMORY_KV_FORMAT.name, text)
}

/// A configuration as it is collected: file first, then single values.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    table: toml::Table,
    /// of the flash image that it was read from
    counter: Option<u64>,
}

impl Draft {
    /// Reads a whole file; an unknown key is refused here, with its nearest known neighbour.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table =
            toml::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string()))?;
        check_keys(&table, "")?;
        Ok(Self {
            table,
            counter: None,
        })
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
        let mut table = &mut self.table;
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
        let mut config = check::config(&self.table, host, state_dir)?;
        config.counter = self.counter;
        Ok(config)
    }

    /// Of the flash image that it was read from.
    #[must_use]
    pub fn counter(&self) -> Option<u64> {
        self.counter
    }
}

/// `GLOWPLUG_MQTT_URL` for `mqtt.url`.
#[must_use]
pub fn env_name(key: &str) -> String {
    format!("GLOWPLUG_{}", key.replace('.', "_").to_ascii_uppercase())
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
    /// the one named, else the one that the command line found this machine to be
    pub board: Option<Board>,
    /// how it was chosen
    pub board_chosen: Chosen,
    /// how much of it, and what the KV cache takes
    pub memory: Memory,
    /// the inference side
    pub engine: Engine,
    /// conversations that are kept
    pub sessions: Sessions,
    /// who may sign models; none: nobody needs to
    pub trust: Vec<VerifyingKey>,
    /// of the flash image that all of it was read from: older ones are refused when a model has answered with it
    pub counter: Option<u64>,
    /// where the embedded broker's credentials live
    pub state_dir: PathBuf,
    /// below which the kernel's files are read; `/` but in tests, which the command line may be told. The file has no
    /// key for it
    pub root: PathBuf,
    /// the service manager that started us, set by the command line
    pub supervisor: Option<Supervisor>,
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
    /// a chat template, instead of the one of the file that `path` or `name` says
    pub template_file: Option<PathBuf>,
    /// tokens; none: 4096, or the model's own if that is smaller
    pub context: Option<usize>,
    /// one that was chosen over MQTT takes its place, and where it fails three starts the last one that answered. Set by
    /// the command line: who asks for one answer wants it from this model
    pub remembered: bool,
}

/// `[memory]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// resident bytes, all told; none: not limited by configuration
    pub budget: Option<u64>,
    /// of keys and values; none: q8_0, where the model's heads can have it
    pub kv_format: Option<KvFormats>,
    /// none: what the limit leaves, at most what `engine.max_streams` contexts need
    pub kv_pages: Option<usize>,
    /// KV pages are kept from being swapped out
    pub lock: bool,
    /// who finds what is in them
    pub share: Share,
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// sequences in one step
    pub max_streams: usize,
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

/// `[sessions]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// where snapshots are kept; none: nowhere
    pub dir: Option<PathBuf>,
    /// bytes a day, as the board's storage bears them; set by the command line, the file has no key for it
    pub writes_per_day: Option<u64>,
    /// a session that was not used for so long is dropped
    pub expire: Duration,
    /// one that outgrows the context forgets its oldest turns; else its request is refused
    pub window: bool,
}

#[cfg(test)]
mod tests;
