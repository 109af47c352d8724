//! Writes the fuzzers' first inputs that are no text, a folder for each target, and prints the names of all targets:
//! `cargo run --release -p glowplug-tests --example fuzz_seeds -- FOLDER`.

use glowplug_tests::fuzz::{TARGETS, seeds};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    seeds::write_all(&folder.ok_or("usage: fuzz_seeds FOLDER")?)?;
    for (name, _) in TARGETS {
        println!("{name}");
    }
    Ok(())
}
