//! Any text as a configuration: an error that says why, or a configuration.

use glowplug::config::Draft;
use std::path::PathBuf;

pub(super) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let checked =
        Draft::from_toml(text).and_then(|draft| draft.finish("host", PathBuf::from("state")));
    match checked {
        Ok(config) => assert!(!config.node.is_empty() && !config.base_topic.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
