//! What the daemon says about itself: the payloads of `status`, `info` and `metrics`, and the numbers behind them.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use glowplug_firmware_config::limits;
use glowplug_firmware_config::plan::MemoryPlan;
use glowplug_firmware_config::plan::device::DevicePlan;
use glowplug_model::engine::{Compute, ModelInfo};
use serde_json::{Value, json};

use crate::config::Config;
use crate::inference::Computes;
use crate::inference::messages::Load;
use crate::machine::kernel_files;
use crate::machine::sensors::MachineState;
use crate::models::plan::Plan;
use crate::models::registry::Candidate;
use crate::mqtt::PACKET_MAX;
use crate::requests::admission::{Admission, share};
use crate::wire::chat::reply::encode;

/// Encodes `{"state", "boot_id", "since"}`; `since` is Unix time in milliseconds.
#[must_use]
pub fn status(state: &str, boot_id: &str, since: u64) -> Bytes {
    encode(&json!({"state": state, "boot_id": boot_id, "since": since}))
}

/// Unix time in milliseconds. It is for people only; nothing is decided by it.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

/// What resident memory stays below, in bytes: the configured budget, else what was planned.
#[must_use]
pub fn budget(config: &Config, plan: &MemoryPlan) -> u64 {
    config.memory.budget.unwrap_or_else(|| plan.total())
}

/// Which model is served. `sha256` is that of the file, `version` that of its signed manifest. `fallback` says that it
/// took the place of the configured one, which did not answer.
#[must_use]
pub fn model(model: &ModelInfo, of: &Candidate, fallback: bool) -> Value {
    json!({
        "name": model.name,
        "architecture": model.architecture,
        "quantisation": model.quantisation,
        "file_bytes": model.file_bytes,
        "sha256": of.weights.sha256,
        "version": of.version,
        "fallback": fallback,
        "thinks": model.thinks,
    })
}

/// Encodes what can be asked of this daemon; `about` comes from [`model`], `pool` says in which one it is.
#[must_use]
pub fn info(
    config: &Config,
    model: &ModelInfo,
    plan: &Plan,
    computes: Option<&Computes>,
    about: &Value,
    pool: Option<&Value>,
) -> Bytes {
    let gpu = computes.filter(|computes| computes.compute == Compute::Gpu);
    let gpu = gpu.and_then(|_| plan.gpu.as_ref().ok());
    let gpu = gpu.into_iter().flat_map(DevicePlan::lines);
    let plan = &plan.memory;
    let mut memory: serde_json::Map<String, serde_json::Value> = plan
        .lines()
        .chain(gpu)
        .map(|(line, bytes)| (line.to_owned(), bytes.into()))
        .collect();
    memory.insert("total".to_owned(), plan.total().into());
    memory.insert("budget".to_owned(), budget(config, plan).into());
    let mut features = vec![
        "chat",
        "ask",
        "cancel",
        "control",
        "stream",
        "thinking",
        "logprobs",
        "sessions",
        "priorities",
        "stats",
        "admin",
        "sentences",
        "presets",
        "tools",
        "tool_execution",
        "response_format",
    ];
    features.extend(pool.map(|_| "pool"));
    encode(&json!({
        "protocol": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "node": config.node,
        "model": about,
        "board": config.board_chosen.json(config.board.as_ref()),
        "isa": model.isa,
        "device": computes.map(|computes| json!({"name": computes.name(), "why": computes.why})),
        "context": model.context,
        "memory": memory,
        "limits": {
            "max_payload_bytes": config.engine.max_payload_bytes,
            "max_packet_bytes": PACKET_MAX,
            "max_streams": config.engine.max_streams,
            "queue": config.engine.queue,
            "queue_per_client": share(config.engine.queue),
            "max_tokens": config.engine.max_tokens,
            "client_bytes": limits::CLIENT_MAX,
            "id_bytes": limits::ID_MAX,
            "session_bytes": limits::SESSION_NAME_MAX,
            "sessions": limits::SESSIONS_MAX,
            "dedup_window_s": config.engine.dedup_window.as_secs(),
            "chunk_ms": config.engine.chunk.as_millis() as u64,
        },
        "pool": pool,
        "features": features,
    }))
}

/// The rate of decoding between two readings.
#[derive(Debug, Default)]
pub struct Speed {
    last: Load,
}

impl Speed {
    /// Tokens per second of the time spent decoding since the last reading; 0 if nothing was decoded.
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

/// All numbers of the daemon at one moment.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    pub admission: &'a Admission,
    pub load: Load,
    pub state: MachineState,
    /// What resident memory stays below, in bytes.
    pub budget: u64,
    /// Whether it is in the group of its pool, and how many requests it has taken from there.
    pub pool: Option<(bool, u64)>,
    pub boot_id: &'a str,
    pub uptime: Duration,
    /// How long the engine's work has stood still.
    pub stalled: Duration,
}

impl Reading<'_> {
    /// The payload of `metrics`. `tokens_per_second` is the rate of all streams together since the metrics before.
    #[must_use]
    pub fn metrics(&self, tokens_per_second: f64) -> Value {
        let (resident, peak) = resident();
        let (counts, counters) = (self.load.counts, self.admission.counters());
        json!({
            "running": self.admission.started().saturating_sub(counts.parked),
            "queued": self.admission.queued(),
            "parked": counts.parked,
            "stalled_s": self.stalled.as_secs(),
            "sessions": counts.sessions,
            "tokens_per_second": tokens_per_second,
            "kv": {
                "pages_total": counts.pages_total,
                "pages_used": counts.pages_used,
                "pages_free": counts.pages_free,
                "pages_shared": counts.pages_shared,
            },
            "bytes": {"budget": self.budget, "resident": resident, "peak": peak},
            "prefix_hit_tokens": counters.prefix_hit_tokens,
            "refused": counters.refused,
            "finished": counters.finished,
            "duplicates": counters.duplicates,
            "pool": self.pool.map(|(joined, taken)| json!({"joined": joined, "taken": taken})),
            "temperature_c": self.state.temperature.map(|degrees| (f64::from(degrees) * 10.0).round() / 10.0),
            "throttle": {"heat": self.state.decision.heat, "pressure": self.state.decision.pressure},
            "boot_id": self.boot_id,
            "uptime_s": self.uptime.as_secs(),
        })
    }

    /// The metrics over the whole run: tokens per second of all time spent decoding, and which share of the prompts was
    /// found in the cache; null before the first prompt.
    #[must_use]
    pub fn stats(&self) -> Value {
        let counters = self.admission.counters();
        let rate = (counters.prompt_tokens > 0)
            .then(|| counters.prefix_hit_tokens as f64 / counters.prompt_tokens as f64);
        let mut stats = self.metrics(Speed::default().since_last(self.load));
        stats["tokens"] = self.load.tokens.into();
        stats["prompt_tokens"] = counters.prompt_tokens.into();
        stats["tokens_saved"] = counters.prefix_hit_tokens.into();
        stats["prefix_hit_rate"] = rate.map(|rate| (rate * 1e4).round() / 1e4).into();
        stats
    }
}

/// Bytes of resident memory now, and at most so far; 0 where the kernel does not say.
fn resident() -> (u64, u64) {
    let status = Path::new("/proc/self/status");
    let bytes = |name| kernel_files::bytes(status, name).unwrap_or(0);
    (bytes("VmRSS"), bytes("VmHWM"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::requests::answer::Speaker;
    use glowplug_model::engine::Counts;
    use glowplug_tests::world::contract::CONTRACT;

    #[test]
    fn resident_bytes_are_those_of_this_process() {
        let (now, peak) = resident();
        assert!(now > 1 << 20 && peak >= now, "{now} {peak}");
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
    fn stats_are_the_metrics_and_what_sharing_saved() {
        let speaker = Speaker {
            node: "n".into(),
            model: String::new(),
            sha256: None,
        };
        let mut admission = Admission::new(4, 2, Duration::ZERO, Duration::from_secs(1), speaker);
        admission.count_refused("retained");
        let counts = Counts {
            parked: 1,
            pages_total: 64,
            pages_used: 40,
            pages_free: 24,
            pages_shared: 7,
            sessions: 3,
            ..Counts::default()
        };
        let reading = Reading {
            admission: &admission,
            load: Load {
                counts,
                tokens: 50,
                decoding: Duration::from_secs(2),
                progress: 9,
            },
            state: MachineState {
                temperature: Some(61.84),
                ..MachineState::default()
            },
            budget: 9,
            pool: Some((true, 3)),
            boot_id: "b",
            uptime: Duration::from_secs(61),
            stalled: Duration::from_millis(2900),
        };
        let (metrics, stats) = (reading.metrics(0.0), reading.stats());
        CONTRACT.wrote("Metrics", std::slice::from_ref(&metrics));
        CONTRACT.wrote("Stats", std::slice::from_ref(&stats));
        for (name, value) in metrics.as_object().unwrap() {
            if !["tokens_per_second", "bytes"].contains(&name.as_str()) {
                assert_eq!(&stats[name], value, "{name}");
            }
        }
        assert_eq!(
            stats["kv"],
            json!({"pages_total": 64, "pages_used": 40, "pages_free": 24, "pages_shared": 7})
        );
        assert_eq!(
            (&stats["parked"], &stats["sessions"]),
            (&json!(1), &json!(3))
        );
        assert_eq!(stats["refused"], json!({"retained": 1}));
        assert_eq!(stats["pool"], json!({"joined": true, "taken": 3}));
        assert_eq!(stats["tokens_per_second"], json!(25.0));
        assert_eq!(stats["prefix_hit_rate"], Value::Null);
        assert_eq!(stats["uptime_s"], json!(61));
        assert_eq!(stats["stalled_s"], json!(2));
        assert_eq!(stats["temperature_c"], json!(61.8));
        assert_eq!(stats["throttle"], json!({"heat": 0, "pressure": 0}));
    }

    #[test]
    fn status_has_its_three_fields() {
        assert_eq!(
            status("online", "b", 7),
            Bytes::from(r#"{"state":"online","boot_id":"b","since":7}"#)
        );
        let states = ["starting", "online", "draining", "offline"]
            .map(|state| serde_json::from_slice::<Value>(&status(state, "b", 7)).unwrap());
        CONTRACT.wrote("Status", &states);
    }
}
