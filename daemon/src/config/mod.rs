//! The configuration: values by their keys, which `keys` lists, then a checked [`Config`].
//!
//! [`Draft`] collects a file and single-value overrides; [`Draft::finish`] checks every value against its limit. Nothing
//! here reads the environment, the file system or a clock: the command line hands all of that in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use glowplug_firmware_config::board::Board;
use glowplug_firmware_config::image::VerifyingKey;
use glowplug_model::engine::{KvFormats, Share, Thinking};
use glowplug_model::quant::Isa;

use crate::machine::board::Chosen;
use crate::machine::systemd::Supervisor;
use crate::tools::catalogue::{DOCUMENT_MAX, Terms};
use crate::tools::definition::Definition;

mod check;
pub(crate) mod counter;
mod format;
mod image;
mod keys;
mod kinds;
mod presets;
mod tools;
mod values;
use keys::is_text;
pub use keys::{KEYS, entries};
pub use kinds::Entry;
pub use presets::Preset;
pub(crate) use presets::check_text;
pub(crate) use values::trust_keys;

/// Why a configuration was not taken. The text names the key and, for a value, its limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not valid TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// There is no such key.
    #[error("unknown key `{key}`; the nearest known one is `{nearest}`")]
    UnknownKey {
        /// The key as it was written, with its tables.
        key: String,
        /// The known key with the smallest edit distance.
        nearest: &'static str,
    },
    /// A value is outside its limits, or does not go with another one.
    #[error("`{key}`: {why}")]
    Invalid {
        key: &'static str,
        /// The limit that it breaks, as the end of a sentence.
        why: String,
    },
    /// A value has the wrong type; the text names its key.
    #[error("wrong type: {0}")]
    Type(String),
    /// The contract knows it, and this version does not have it.
    #[error("`{key}`: {what} comes with a later version")]
    NotYet {
        key: &'static str,
        what: &'static str,
    },
}

impl ConfigError {
    /// The same, said of an element of a list of tables; `n` counts from 1.
    fn in_element(self, n: usize) -> Self {
        match self {
            Self::Invalid { key, why } => Self::Invalid {
                key,
                why: format!("{why} (in number {n})"),
            },
            Self::Type(text) => Self::Type(format!("{text} (in number {n})")),
            other => other,
        }
    }
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
    /// The counter of the flash image that it was read from.
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
    /// as they are, every other one is read as a TOML value. A key of a list of tables is none of a single value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        if !KEYS.contains(&key) || is_in_list(key) {
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
        let (tables, last) = kinds::parts(key);
        let mut table = &mut self.table;
        for name in tables {
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

    /// The counter of the flash image that it was read from; a file has none.
    #[must_use]
    pub fn counter(&self) -> Option<u64> {
        self.counter
    }
}

/// Whether a key is one of the tables of a list, of which there may be several.
#[must_use]
pub fn is_in_list(key: &str) -> bool {
    key.contains("[].")
}

/// The variable of a key: `GLOWPLUG_MQTT_URL` is that of `mqtt.url`.
#[must_use]
pub fn env_name(key: &str) -> String {
    format!("GLOWPLUG_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Checks that each name in a table is a key or a table of keys. `engine.thinking` is a key, so what is inside it is left to
/// its kind.
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
        let list = format!("{key}[]");
        let is_list = KEYS.iter().any(|k| {
            k.strip_prefix(list.as_str())
                .is_some_and(|rest| rest.starts_with('.'))
        });
        match value {
            _ if KEYS.contains(&key.as_str()) => {}
            toml::Value::Table(inner) if is_table => check_keys(inner, &key)?,
            toml::Value::Array(elements)
                if is_list && elements.iter().all(toml::Value::is_table) =>
            {
                for inner in elements.iter().filter_map(toml::Value::as_table) {
                    check_keys(inner, &list)?;
                }
            }
            _ if is_list => {
                let why = format!("`{key}` is a list of tables, each headed `[[{key}]]`");
                return Err(ConfigError::Type(why));
            }
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

/// A configuration that the daemon can run with. What a key means is in the table of `keys`; the fields that no key sets
/// say who does.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub node: String,
    pub base_topic: String,
    pub mqtt: Mqtt,
    /// Where the embedded broker listens, if `mqtt.server` is none.
    pub listen: SocketAddr,
    /// With what it speaks TLS there.
    pub listen_tls: Option<ListenerTls>,
    /// Who may use it besides the owner's programs.
    pub users_file: Option<PathBuf>,
    /// The group of daemons that serve `{base}/any/…` together.
    pub pool: Option<String>,
    /// Whether Home Assistant is told of the daemon.
    pub discovery: bool,
    pub model: Model,
    /// The board that was named, else the one that the command line found this machine to be.
    pub board: Option<Board>,
    /// Why this board was chosen.
    pub board_chosen: Chosen,
    pub memory: Memory,
    pub engine: Engine,
    /// What plain text and small clients get, in the order of the file.
    pub presets: Vec<Preset>,
    /// Tools of the daemon's own, in the order of the file.
    pub tools: Vec<Arc<Definition>>,
    /// What is made of the catalogues of the house, if they are read.
    pub tools_from: Option<Terms>,
    pub sessions: Sessions,
    /// The keys that may sign models. If there are none, nobody has to sign.
    pub trust: Vec<VerifyingKey>,
    /// The counter of the flash image that all of it was read from. Once a model has answered with it, older images are
    /// refused.
    pub counter: Option<u64>,
    /// The folder of what the daemon remembers, and of the embedded broker's password.
    pub state_dir: PathBuf,
    /// The folder below which the kernel's files are read. It is `/`; tests give the command line another one, and the file
    /// has no key for it.
    pub root: PathBuf,
    /// The service manager that started the daemon, set by the command line.
    pub supervisor: Option<Supervisor>,
}

impl Config {
    /// Bytes of the longest payload that is read: a request, or the list of devices of a house.
    #[must_use]
    pub fn read_max(&self) -> usize {
        let lists = self
            .tools_from
            .as_ref()
            .is_some_and(|terms| terms.zigbee2mqtt);
        let list = if lists { DOCUMENT_MAX } else { 0 };
        self.engine.max_payload_bytes.max(list)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// The external broker; if there is none, the daemon brings its own.
    pub server: Option<BrokerAddress>,
    /// What counts where the address says TLS.
    pub tls: Tls,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub metrics_interval: Duration,
    pub response_topic_allow: Vec<String>,
}

/// The host and the TCP port of a broker, and whether it is spoken to by TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl BrokerAddress {
    /// The address at which a program of this machine reaches what listens there.
    #[must_use]
    pub fn of_listener(listen: SocketAddr, tls: bool) -> Self {
        let host = match listen.ip() {
            IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            one => one,
        };
        Self {
            host: host.to_string(),
            port: listen.port(),
            tls,
        }
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whom a client trusts by TLS, and what it shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities; if there is no file, those of the system.
    pub ca_file: Option<PathBuf>,
    pub identity: Option<Identity>,
    /// The name in the broker's certificate, where that is not the host of its address.
    pub server_name: Option<String>,
}

/// A certificate with its chain, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// What the embedded broker shows of itself by TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    pub identity: Identity,
    /// The authorities one of which must have issued a client's certificate; if there is no file, clients need none.
    pub ca_file: Option<PathBuf>,
}

/// Which processor may compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// The GPU; the processor where there is none that can.
    Gpu,
    /// The GPU where it proved to be faster with this model.
    Auto,
}

/// Which model is served. The command line turns `name` into `path` before the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub path: Option<PathBuf>,
    pub name: Option<String>,
    pub template_file: Option<PathBuf>,
    pub context: Option<usize>,
    pub device: Device,
    /// Whether a model that was chosen over MQTT takes this one's place, and the last one that answered takes it after three
    /// failed starts. The command line sets it for the daemon: who asks for one answer wants it from this model.
    pub remembered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The most resident bytes; if there are none, the configuration sets no limit.
    pub budget: Option<u64>,
    pub kv_format: Option<KvFormats>,
    pub kv_pages: Option<usize>,
    pub lock: bool,
    pub share: Share,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    pub max_streams: usize,
    pub queue: usize,
    pub prefill_threads: Option<usize>,
    pub decode_threads: Option<usize>,
    pub max_payload_bytes: usize,
    pub max_tokens: u32,
    pub chunk: Duration,
    pub dedup_window: Duration,
    pub tools_max_rounds: usize,
    pub thinking: Thinking,
    /// A forced instruction set. The command line sets it, the file has no key for it.
    pub isa: Option<Isa>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    pub dir: Option<PathBuf>,
    /// The keys that files are encrypted with; if there is no file of keys, they are not.
    pub key_file: Option<PathBuf>,
    /// How many bytes a day the board's storage bears. The command line sets it, the file has no key for it.
    pub writes_per_day: Option<u64>,
    pub expire: Duration,
    pub window: bool,
}

#[cfg(test)]
mod tests;
