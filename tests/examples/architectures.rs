//! Writes the tiny files of `glowplug_tests::architectures`, and beside them what to ask of them, for
//! `tests/vectors/architectures/make.py`: `cargo run --release --workspace --example architectures -- FOLDER`.

use glowplug_tests::architectures::{EVERY, POSITIONS, files, tokens};
use serde_json::json;
use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: architectures FOLDER".into());
    };
    for (name, file) in files() {
        fs::write(folder.join(format!("{name}.gguf")), file.build())?;
    }
    let asked = json!({ "tokens": tokens(), "positions": POSITIONS, "every": EVERY });
    fs::write(folder.join("asked.json"), asked.to_string())?;
    Ok(())
}
