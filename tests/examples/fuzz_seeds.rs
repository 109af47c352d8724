//! Writes the fuzzers' first inputs: `cargo run --release -p glowplug-tests --example fuzz_seeds -- FOLDER`.

use glowplug_model::network::dims::Arch;
use glowplug_tests::Tiny;
use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: fuzz_seeds FOLDER"));
    };
    fs::create_dir_all(&folder)?;
    let tiny = [Arch::Qwen2, Arch::Qwen3, Arch::Llama].map(Tiny::smallest);
    for tiny in &tiny {
        fs::write(folder.join(tiny.arch.name()), tiny.bytes())?;
    }
    let traits = Tiny {
        rope_freqs: true,
        rope_dims: Some(8),
        head_dim: 32,
        tied_head: false,
        ..tiny[2].clone()
    };
    fs::write(folder.join("traits"), traits.bytes())?;
    let mut vocabulary = tiny[0].writer();
    vocabulary.tensors.clear();
    fs::write(folder.join("vocabulary"), vocabulary.build())
}
