//! Texts that mean something: boards, addresses, topics, formats, public keys. Each names the key that it was read for.

use std::net::{Ipv6Addr, SocketAddr};

use glowplug_firmware_config::board::{self as board_files, Board, BoardError};
use glowplug_firmware_config::image::VerifyingKey;
use glowplug_firmware_config::kv;
use glowplug_firmware_config::limits::{BASE_TOPIC_MAX, KEYS_MAX};
use glowplug_model::engine::KvFormats;

use super::{BrokerAddress, ConfigError, invalid};
use crate::hex::unhex;

/// One of the board files, by its name.
pub(super) fn board(key: &'static str, name: &str) -> Result<Board, ConfigError> {
    board_files::find(name).map_err(|error| {
        let mut why = error.to_string();
        if let BoardError::Unknown(_) = error {
            let names = board_files::FILES.iter().map(|(known, _)| *known);
            let nearest = names.min_by_key(|known| strsim::damerau_levenshtein(known, name));
            why += &format!(
                "; the nearest known one is `{}`",
                nearest.unwrap_or_default()
            );
        }
        invalid(key, why)
    })
}

/// `q8_0` for keys and values, `q8_0/q4_0` for keys and for values.
pub(super) fn kv_formats(key: &'static str, text: &str) -> Result<KvFormats, ConfigError> {
    let (k, v) =
        kv::formats(text).ok_or_else(|| invalid(key, format!("`{text}` {}", kv::FORMATS)))?;
    Ok(KvFormats { k, v })
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
    if keys.len() > KEYS_MAX {
        return Err(format!("has more than {KEYS_MAX} keys"));
    }
    let key = |text: &str| {
        unhex(text)
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .ok_or_else(|| format!("`{text}` is no public key of Ed25519 in 64 hexadecimal digits"))
    };
    keys.into_iter().map(key).collect()
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
pub(super) fn topic(key: &'static str, topic: &str) -> Result<(), ConfigError> {
    let max = BASE_TOPIC_MAX;
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

/// The address of a broker, written `mqtt://host[:port]`, or `mqtts://host[:port]` where it speaks TLS. An address of IPv6 is in
/// brackets, and may have a zone, as those of one link need: `mqtt://[fe80::1%eth0]`.
pub(super) fn server(key: &'static str, url: &str) -> Result<BrokerAddress, ConfigError> {
    let (rest, tls) = match url.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => (rest, false),
        Some(("mqtts" | "ssl", rest)) => (rest, true),
        Some(("ws" | "wss", _)) => {
            let what = "WebSocket";
            return Err(ConfigError::NotYet { key, what });
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
    let default = if tls { "8883" } else { "1883" };
    if rest.matches(':').count() > 1 && !rest.starts_with('[') {
        let what =
            format!("`{url}`: an address of IPv6 is written in brackets, `mqtt://[::1]:1883`");
        return Err(invalid(key, what));
    }
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((v6, tail)) => {
            let address = v6.split_once('%').map_or(v6, |(address, _)| address);
            if address.parse::<Ipv6Addr>().is_err() {
                let what = format!("`{url}`: `{v6}` is no address of IPv6");
                return Err(invalid(key, what));
            }
            let port = tail.strip_prefix(':');
            (v6, port.or(tail.is_empty().then_some(default)))
        }
        None => rest
            .split_once(':')
            .map_or((rest, Some(default)), |(h, p)| (h, Some(p))),
    };
    let port = port.and_then(|p| p.parse::<u16>().ok()).filter(|p| *p != 0);
    match port {
        Some(port) if !host.is_empty() && !host.contains(['/', ' ', '[', ']']) => {
            Ok(BrokerAddress {
                host: host.to_owned(),
                port,
                tls,
            })
        }
        _ => Err(invalid(key, format!("`{url}` is not `mqtt://host:port`"))),
    }
}

/// An address to listen on.
pub(super) fn listen(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse()
        .map_err(|_| invalid(key, format!("`{text}` is not `address:port`")))
}
