//! What the daemon says about itself: the payloads of `status`, `info` and `metrics`, and the numbers behind them.

use std::io::Read;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use glowplug_firmware_config::limits;
use glowplug_model::engine::ModelInfo;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::admission::{Admission, STREAMS};
use crate::config::Config;
use crate::transport::{OUTBOX, PACKET_MAX};
use crate::wire::properties::hex;
use crate::wire::reply::encode;
use crate::worker::Load;

/// `{"state", "boot_id", "since"}`; `since` is Unix time in milliseconds.
#[must_use]
pub fn status(state: &str, boot_id: &str, since: u64) -> Bytes {
    encode(&json!({"state": state, "boot_id": boot_id, "since": since}))
}

/// Unix time in milliseconds; for people only, nothing is decided by it.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// Bytes of messages at most: payloads accepted and waiting, one packet on its way in, the outbox and the window of
/// de-duplication.
#[must_use]
pub fn message_bytes(config: &Config) -> u64 {
    let waiting = (config.engine.queue + STREAMS) * config.engine.max_payload_bytes;
    // an outbox of finals as long as a context's text is the exception; 4 KiB each is what it holds by day
    (waiting + PACKET_MAX + OUTBOX * 4096 + crate::dedup::BYTES_MAX) as u64
}

/// The memory plan: the engine's lines, and the daemon's own.
#[must_use]
pub fn plan(config: &Config, model: &ModelInfo) -> Vec<(&'static str, u64)> {
    let mut lines = model.plan.clone();
    lines.push(("messages", message_bytes(config)));
    lines
}

/// What can be asked of this daemon. `sha256` is none until the file was read through.
#[must_use]
pub fn info(config: &Config, model: &ModelInfo, sha256: Option<&str>) -> Bytes {
    let lines = plan(config, model);
    let total: u64 = lines.iter().map(|(_, bytes)| bytes).sum();
    let mut memory: serde_json::Map<String, serde_json::Value> = lines
        .into_iter()
        .map(|(line, bytes)| (line.to_owned(), bytes.into()))
        .collect();
    memory.insert("total".to_owned(), total.into());
    memory.insert("budget".to_owned(), config.budget.unwrap_or(total).into());
    encode(&json!({
        "protocol": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "node": config.node,
        "model": {
            "name": model.name,
            "architecture": model.architecture,
            "quantisation": model.quantisation,
            "file_bytes": model.file_bytes,
            "sha256": sha256,
            "thinks": model.thinks,
        },
        "isa": model.isa,
        "context": model.context,
        "memory": memory,
        "limits": {
            "max_payload_bytes": config.engine.max_payload_bytes,
            "max_packet_bytes": PACKET_MAX,
            "max_streams": STREAMS,
            "queue": config.engine.queue,
            "max_tokens": config.engine.max_tokens,
            "client_bytes": limits::CLIENT_MAX,
            "id_bytes": limits::ID_MAX,
            "dedup_window_s": config.engine.dedup_window.as_secs(),
            "chunk_ms": config.engine.chunk.as_millis() as u64,
        },
        "features": ["chat", "ask", "cancel", "control", "stream", "thinking", "logprobs"],
    }))
}

/// Tokens per second between two readings of the engine's meter.
#[derive(Debug, Default)]
pub struct Speed {
    last: Load,
}

impl Speed {
    /// While it decoded; 0 if it did not.
    pub fn since_last(&mut self, load: Load) -> f64 {
        let tokens = load.tokens.saturating_sub(self.last.tokens);
        let seconds = load
            .decoding
            .saturating_sub(self.last.decoding)
            .as_secs_f64();
        self.last = load;
        if seconds > 0.0 {
            (tokens as f64 / seconds * 1e2).round() / 1e2
        } else {
            0.0
        }
    }
}

/// One reading of everything.
#[must_use]
pub fn metrics(
    admission: &Admission,
    load: Load,
    speed: f64,
    budget: u64,
    boot_id: &str,
    booted: Instant,
    now: Instant,
) -> Bytes {
    let (resident, peak) = resident();
    let running = admission.running();
    let counters = admission.counters();
    encode(&json!({
        "running": running,
        "queued": admission.outstanding() - running,
        "parked": 0,
        "tokens_per_second": speed,
        "kv": {
            "pages_total": load.counts.pages_total,
            "pages_used": load.counts.pages_used,
            "pages_free": load.counts.pages_total.saturating_sub(load.counts.pages_used),
            "pages_shared": 0,
        },
        "bytes": {"budget": budget, "resident": resident, "peak": peak},
        "prefix_hit_tokens": counters.prefix_hit_tokens,
        "refused": counters.refused,
        "finished": counters.finished,
        "duplicates": counters.duplicates,
        "temperature_c": temperature(),
        "boot_id": boot_id,
        "uptime_s": now.saturating_duration_since(booted).as_secs(),
    }))
}

/// Bytes resident now and at most so far, from `/proc/self/status`; 0 where there is none.
#[must_use]
pub fn resident() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        let kib = text
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .and_then(|l| l.trim().strip_suffix(" kB"));
        kib.and_then(|n| n.trim().parse::<u64>().ok())
            .map_or(0, |n| n * 1024)
    };
    (line("VmRSS:"), line("VmHWM:"))
}

/// Degrees Celsius of the first thermal zone, if the machine has one.
fn temperature() -> Option<f64> {
    let text = std::fs::read_to_string("/sys/class/thermal/thermal_zone0/temp").ok()?;
    text.trim().parse::<f64>().ok().map(|milli| milli / 1e3)
}

/// SHA-256 of a whole file, in hexadecimal. Takes seconds for gigabytes: not for the select loop.
pub fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn resident_bytes_are_those_of_this_process() {
        let (now, peak) = resident();
        assert!(now > 1 << 20 && peak >= now, "{now} {peak}");
    }

    #[test]
    fn a_file_has_the_hash_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn speed_is_that_of_decoding() {
        let mut speed = Speed::default();
        let load = |tokens, ms| Load {
            tokens,
            decoding: Duration::from_millis(ms),
            ..Load::default()
        };
        assert!((speed.since_last(load(50, 1000)) - 50.0).abs() < 1e-9);
        assert!((speed.since_last(load(60, 2000)) - 10.0).abs() < 1e-9);
        assert!(speed.since_last(load(60, 2000)).abs() < 1e-9);
    }

    #[test]
    fn status_has_its_three_fields() {
        assert_eq!(
            status("online", "b", 7),
            Bytes::from(r#"{"boot_id":"b","since":7,"state":"online"}"#)
        );
    }
}
