//! A table of values that were written, made into a [`Config`]: each read by its key, then what keys say together.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::Table;

use super::keys::*;
use super::kinds::{Key, Path};
use super::presets::presets;
use super::tools::{tools, tools_from};
use super::values::{topic, topic_level};
use super::{
    Config, ConfigError, Device, Engine, Identity, ListenerTls, Memory, Model, Mqtt, Sessions, Tls,
    invalid,
};
use crate::machine::board::Chosen;
use crate::wire::topics::{ANY, valid_segment};

/// Reads every key. `host` names the node where the table does not.
///
/// # Errors
/// Names the first key that is of another type, outside its limits, or does not go with another one.
pub(super) fn config(table: &Table, host: &str, state_dir: PathBuf) -> Result<Config, ConfigError> {
    let node = NODE.of(table)?.unwrap_or_else(|| topic_level(host));
    topic(NODE.name, &node)?;
    if node.contains('/') || node == ANY {
        let why = "must be one topic level and not `any`, which is the pool's";
        return Err(invalid(NODE.name, why));
    }
    let base_topic = BASE_TOPIC.of(table)?;
    let base_topic = base_topic.unwrap_or_else(|| "glowplug".to_owned());
    topic(BASE_TOPIC.name, &base_topic)?;
    let board = BOARD.of(table)?;
    let trust = TRUST_KEYS.of(table)?;
    let model = model(table)?;
    if !trust.is_empty() && model.template_file.is_some() {
        let why =
            "cannot be used with `trust.keys`: what is signed is the model file's own template";
        return Err(invalid(MODEL_TEMPLATE_FILE.name, why));
    }
    let (listen, listen_tls) = broker(table)?;
    let users_file = BROKER_USERS_FILE.of(table)?;
    let tools = tools(table, &base_topic)?;
    let tools_from = tools_from(table)?;
    let presets = presets(table)?;
    // what catalogues name is not known yet
    if tools_from.is_none() {
        for preset in &presets {
            let known = |name: &String| tools.iter().any(|tool| tool.tool.name() == name);
            if let Some(name) = preset.tools.iter().find(|name| !known(name)) {
                let why = format!("`{name}` (of `{}`) is no tool of `[[tools]]`", preset.name);
                return Err(invalid(PRESETS_TOOLS.name, why));
            }
        }
    }
    let mqtt = mqtt(table, listen_tls.is_some())?;
    if users_file.is_some() && mqtt.server.is_some() {
        // who lists users believes that nobody else gets in
        let why = "is of the embedded broker, and `mqtt.url` names another one, which has users of its own";
        return Err(invalid(BROKER_USERS_FILE.name, why));
    }
    Ok(Config {
        node,
        base_topic,
        pool: pool(table, mqtt.server.is_some())?,
        mqtt,
        listen,
        listen_tls,
        users_file,
        discovery: HOMEASSISTANT_DISCOVERY.of(table)?,
        model,
        board_chosen: match board {
            Some(_) => Chosen::Named,
            None => Chosen::Unknown("nobody looked".to_owned()),
        },
        board,
        memory: Memory {
            budget: MEMORY_BUDGET.of(table)?,
            kv_format: MEMORY_KV_FORMAT.of(table)?,
            kv_pages: MEMORY_KV_PAGES.of(table)?,
            lock: MEMORY_LOCK.of(table)?,
            share: MEMORY_SHARE.of(table)?,
        },
        engine: engine(table)?,
        presets,
        tools,
        tools_from,
        sessions: sessions(table)?,
        trust,
        counter: None,
        state_dir,
        root: PathBuf::from("/"),
        supervisor: None,
    })
}

fn sessions(table: &Table) -> Result<Sessions, ConfigError> {
    let (dir, key_file) = (SESSIONS_DIR.of(table)?, SESSIONS_KEY_FILE.of(table)?);
    if key_file.is_some() && dir.is_none() {
        return Err(invalid(SESSIONS_KEY_FILE.name, "needs `sessions.dir`"));
    }
    Ok(Sessions {
        dir,
        key_file,
        writes_per_day: None,
        expire: Duration::from_secs(SESSIONS_EXPIRE_S.of(table)?),
        window: SESSIONS_WINDOW.of(table)?,
    })
}

/// The embedded broker. It always asks for a user; who that is, and what is said, can be heard on a network without TLS.
fn broker(table: &Table) -> Result<(SocketAddr, Option<ListenerTls>), ConfigError> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
    let listen = BROKER_LISTEN.of(table)?.unwrap_or(loopback);
    let ca_file = BROKER_TLS_CA_FILE.of(table)?;
    let tls = match identity(table, &BROKER_TLS_CERT_FILE, &BROKER_TLS_KEY_FILE)? {
        Some(identity) => Some(ListenerTls { identity, ca_file }),
        None if ca_file.is_some() => {
            return Err(invalid(
                BROKER_TLS_CA_FILE.name,
                "needs `broker.tls.cert_file`",
            ));
        }
        None => None,
    };
    let plaintext = BROKER_PLAINTEXT.of(table)?;
    if plaintext && tls.is_some() {
        return Err(invalid(
            BROKER_PLAINTEXT.name,
            "and `broker.tls` exclude each other",
        ));
    }
    if !listen.ip().is_loopback() && tls.is_none() && !plaintext {
        let why = format!(
            "`{listen}` is not on loopback, so it needs `broker.tls`, or `broker.plaintext = true` where everybody on the \
             network may read along"
        );
        return Err(invalid(BROKER_LISTEN.name, why));
    }
    Ok((listen, tls))
}

/// A certificate and its key, which need each other.
fn identity(
    table: &Table,
    cert: &Key<Path>,
    key: &Key<Path>,
) -> Result<Option<Identity>, ConfigError> {
    match (cert.of(table)?, key.of(table)?) {
        (Some(cert_file), Some(key_file)) => Ok(Some(Identity {
            cert_file,
            key_file,
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(invalid(cert.name, format!("needs `{}`", key.name))),
        (None, Some(_)) => Err(invalid(key.name, format!("needs `{}`", cert.name))),
    }
}

/// What a client of TLS is configured with. `used`: there is a broker that speaks it.
fn tls(table: &Table, used: bool) -> Result<Tls, ConfigError> {
    let tls = Tls {
        ca_file: MQTT_CA_FILE.of(table)?,
        identity: identity(table, &MQTT_CERT_FILE, &MQTT_KEY_FILE)?,
        server_name: MQTT_SERVER_NAME.of(table)?,
    };
    // who names a certificate believes that nobody reads along
    let named = [
        (MQTT_CA_FILE.name, tls.ca_file.is_some()),
        (MQTT_CERT_FILE.name, tls.identity.is_some()),
        (MQTT_SERVER_NAME.name, tls.server_name.is_some()),
    ];
    match named.iter().find(|(_, named)| *named && !used) {
        Some((key, _)) => Err(invalid(key, "needs `mqtts://` in `mqtt.url`")),
        None => Ok(tls),
    }
}

fn mqtt(table: &Table, embedded_tls: bool) -> Result<Mqtt, ConfigError> {
    let server = MQTT_URL.of(table)?;
    let tls = tls(
        table,
        server.as_ref().map_or(embedded_tls, |server| server.tls),
    )?;
    let username = MQTT_USERNAME.of(table)?;
    let password_file = MQTT_PASSWORD_FILE.of(table)?;
    if password_file.is_some() && username.is_none() {
        return Err(invalid(MQTT_PASSWORD_FILE.name, "needs `mqtt.username`"));
    }
    if server.is_none() && username.is_some() {
        let why = "needs `mqtt.url`; the embedded broker makes its own users";
        return Err(invalid(MQTT_USERNAME.name, why));
    }
    let response_topic_allow = MQTT_RESPONSE_TOPIC_ALLOW.of(table)?;
    for prefix in &response_topic_allow {
        topic(MQTT_RESPONSE_TOPIC_ALLOW.name, prefix.trim_end_matches('/'))?;
    }
    Ok(Mqtt {
        server,
        tls,
        username,
        password_file,
        metrics_interval: Duration::from_secs(MQTT_METRICS_INTERVAL_S.of(table)?),
        response_topic_allow,
    })
}

fn pool(table: &Table, external: bool) -> Result<Option<String>, ConfigError> {
    let group = POOL_GROUP.of(table)?;
    match &group {
        Some(group) if !valid_segment(group) => {
            let why = format!("`{group}` must have 1 to 64 characters of `A-Z a-z 0-9 . _ -`");
            Err(invalid(POOL_GROUP.name, why))
        }
        Some(_) if !external => {
            let why = "needs `mqtt.url`: the daemons of a pool share a broker, and the embedded one is this daemon's own";
            Err(invalid(POOL_GROUP.name, why))
        }
        _ => Ok(group),
    }
}

fn model(table: &Table) -> Result<Model, ConfigError> {
    let (path, name) = (MODEL_PATH.of(table)?, MODEL_NAME.of(table)?);
    if path.is_some() && name.is_some() {
        let why = "and `model.name` exclude each other";
        return Err(invalid(MODEL_PATH.name, why));
    }
    let device = match MODEL_DEVICE.of(table)?.as_deref() {
        None | Some("cpu") => Device::Cpu,
        Some("gpu") if cfg!(feature = "wgpu") => Device::Gpu,
        Some("auto") if cfg!(feature = "wgpu") => Device::Auto,
        Some(_) => {
            return Err(ConfigError::NotYet {
                key: MODEL_DEVICE.name,
                what: if cfg!(feature = "wgpu") {
                    "a device other than `cpu`, `gpu` and `auto`"
                } else {
                    "a device other than `cpu`"
                },
            });
        }
    };
    Ok(Model {
        path,
        name,
        template_file: MODEL_TEMPLATE_FILE.of(table)?,
        context: MODEL_CONTEXT.of(table)?,
        device,
        remembered: false,
    })
}

fn engine(table: &Table) -> Result<Engine, ConfigError> {
    let max_tokens = ENGINE_MAX_TOKENS.of(table)?;
    Ok(Engine {
        max_streams: ENGINE_MAX_STREAMS.of(table)? as usize,
        queue: ENGINE_QUEUE.of(table)? as usize,
        prefill_threads: ENGINE_THREADS_PREFILL.of(table)?,
        decode_threads: ENGINE_THREADS_DECODE.of(table)?,
        max_payload_bytes: ENGINE_MAX_PAYLOAD_BYTES.of(table)? as usize,
        max_tokens: u32::try_from(max_tokens).unwrap_or(u32::MAX),
        chunk: Duration::from_millis(ENGINE_CHUNK_MS.of(table)?),
        dedup_window: Duration::from_secs(ENGINE_DEDUP_WINDOW_S.of(table)?),
        tools_max_rounds: ENGINE_TOOLS_MAX_ROUNDS.of(table)? as usize,
        thinking: ENGINE_THINKING.of(table)?,
        isa: None,
    })
}
