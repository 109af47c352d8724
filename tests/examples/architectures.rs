//! Writes the tiny files of `glowplug_tests::architectures`, and beside them what to ask of them, for
//! `tests/vectors/architectures/make.py`: `cargo run --release -p glowplug-tests --example architectures -- FOLDER`.

use glowplug_tests::architectures::{files, write};
use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: architectures FOLDER".into());
    };
    write(&folder, &files())?;
    Ok(())
}
