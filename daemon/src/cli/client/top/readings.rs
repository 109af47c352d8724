//! What is known of a daemon from what it publishes.

use crate::wire::topics::Topics;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Most speeds that are remembered: a column of a wide terminal each.
const SPEEDS_MAX: usize = 512;

/// The last payload of each topic, and the speeds of the last readings.
pub(super) struct Readings {
    pub(super) node: String,
    topics: Topics,
    /// The `state` of the daemon's status.
    pub(super) state: Option<String>,
    pub(super) info: Value,
    pub(super) metrics: Value,
    /// Tenths of tokens per second, the latest last.
    pub(super) speeds: VecDeque<u64>,
    /// Why nothing comes now.
    pub(super) trouble: Option<String>,
}

impl Readings {
    pub(super) fn new(node: &str, topics: Topics) -> Self {
        Self {
            node: node.to_owned(),
            topics,
            state: None,
            info: Value::Null,
            metrics: Value::Null,
            speeds: VecDeque::new(),
            trouble: None,
        }
    }

    /// Takes a publication. True: it is a reading, and all else is known too.
    pub(super) fn take(&mut self, topic: &str, payload: &[u8]) -> bool {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        if topic == self.topics.status() {
            self.state = value["state"].as_str().map(str::to_owned);
        } else if topic == self.topics.info() {
            self.info = value;
        } else if topic == self.topics.metrics() {
            let speed = value["tokens_per_second"].as_f64().unwrap_or_default();
            if self.speeds.len() == SPEEDS_MAX {
                self.speeds.pop_front();
            }
            self.speeds
                .push_back((speed.max(0.0) * 10.0).round() as u64);
            self.metrics = value;
            return self.state.is_some() && !self.info.is_null();
        }
        false
    }

    /// All of it for a program.
    pub(super) fn json(&self) -> Value {
        json!({
            "node": self.node,
            "state": self.state,
            "info": self.info,
            "metrics": self.metrics,
        })
    }

    /// What has not come, in words.
    pub(super) fn missing(&self) -> String {
        let node = &self.node;
        match self.state.as_deref() {
            None => format!("no daemon `{node}` on this broker"),
            Some("offline") => format!("the daemon `{node}` is offline"),
            Some(_) if self.info.is_null() => format!("the daemon `{node}` has no model yet"),
            Some(_) => format!("the daemon `{node}` publishes no metrics"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_when_the_rest_is_known() {
        let topics = Topics::new("g", "n");
        let mut readings = Readings::new("n", topics);
        let metrics = br#"{"tokens_per_second":12.34}"#;
        assert!(readings.missing().contains("no daemon `n`"));
        assert!(!readings.take("g/n/metrics", metrics));
        assert!(!readings.take("g/n/status", br#"{"state":"online"}"#));
        assert!(readings.missing().contains("no model"));
        assert!(!readings.take("g/n/info", b"{}"));
        assert!(readings.take("g/n/metrics", metrics));
        assert!(!readings.take("g/other/status", br#"{"state":"offline"}"#));
        assert!(!readings.take("g/n/status", b"\xff"));
        assert_eq!(readings.state, None);
        assert_eq!(readings.json()["metrics"]["tokens_per_second"], 12.34);
        for _ in 0..SPEEDS_MAX {
            readings.take("g/n/metrics", b"{}");
        }
        assert_eq!((readings.speeds.len(), readings.speeds[0]), (SPEEDS_MAX, 0));
    }
}
