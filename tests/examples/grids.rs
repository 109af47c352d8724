//! Writes the tiny files of `glowplug_tests::formats::grids`, and beside them what to ask of them, for
//! `tests/vectors/grids/make.py`: `cargo run --release -p glowplug-tests --example grids -- FOLDER`.

use glowplug_tests::architectures::write;
use glowplug_tests::formats::grids::files;
use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err("usage: grids FOLDER".into());
    };
    write(&folder, &files())?;
    Ok(())
}
