//! Writes model files of random weights, of `glowplug_tests::formats`:
//! `cargo run --release -p glowplug-tests --example formats -- tiny FOLDER` those for `tests/vectors/formats/log_probabilities.py`, with
//! what to ask of them beside them, and `… -- bonsai FILE` one of the shape of Ternary-Bonsai-1.7B, for `glowplug bench`.

use glowplug_tests::architectures::{EVERY, POSITIONS, tokens};
use glowplug_tests::formats::{FORMATS, bonsai, file};
use serde_json::json;
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args_os().skip(1);
    let what = words.next().and_then(|what| what.into_string().ok());
    match (what.as_deref(), words.next().map(PathBuf::from)) {
        (Some("tiny"), Some(folder)) => {
            for ty in FORMATS {
                file(ty).write(&folder.join(format!("{ty}.gguf")))?;
            }
            let asked = json!({ "tokens": tokens(), "positions": POSITIONS, "every": EVERY });
            fs::write(folder.join("asked.json"), asked.to_string())?;
        }
        (Some("bonsai"), Some(path)) => bonsai().write(&path)?,
        _ => return Err("usage: formats tiny FOLDER | bonsai FILE".into()),
    }
    Ok(())
}
