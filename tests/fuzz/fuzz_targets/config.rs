//! Any text as a configuration: an error that says why, or a configuration.

#![no_main]

use glowplug::config::Draft;
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;

fuzz_target!(|text: &str| {
    let checked = Draft::from_toml(text).and_then(|draft| draft.finish("host", PathBuf::from("state")));
    match checked {
        Ok(config) => assert!(!config.node.is_empty() && !config.base_topic.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
