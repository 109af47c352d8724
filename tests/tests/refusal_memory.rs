//! A model that cannot be served is refused by its header: of a gigabyte of weights none is read. A process of its own, so that
//! its peak is the refusals'.

#![allow(clippy::unwrap_used)]

use glowplug::config::Draft;
use glowplug::models::registry::Registry;
use glowplug_firmware_config::plan::{Limit, LimitSource};
use glowplug_model::network::dims::Arch;
use glowplug_tests::{GgufWriter, Kv, Tiny};
use std::fs::{self, File};
use std::time::Instant;

/// Of the weights that are never there: a sparse file.
const WEIGHTS: u64 = 1 << 30;

/// Peak resident size of this process in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What is wrong with one, and what the refusal must say.
type Wrong = (fn(&mut GgufWriter), &'static str);

#[test]
fn twenty_models_that_cannot_be_served_cost_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let draft = Draft::from_toml("[memory]\nkv_pages = 16").unwrap();
    let config = draft.finish("n", folder.path().join("state")).unwrap();
    let registry = Registry::open(&config, path.clone()).unwrap();
    // q4_0_4_4 and its kind, which ggml took out, and types that it has and we have not
    let wrong: Vec<Wrong> = vec![
        (|w| w.set("general.architecture", "mamba"), "mamba"),
        (|w| w.set("general.architecture", "gemma3"), "gemma3"),
        (|w| w.set("general.architecture", "qwen2moe"), "qwen2moe"),
        (|w| w.set("general.architecture", "bert"), "bert"),
        (|w| w.set("general.architecture", ""), "architecture"),
        (
            |w| w.set("general.architecture", Kv::U32(1)),
            "architecture",
        ),
        (|w| w.tensors[0].ty = 31, "not supported"),
        (|w| w.tensors[1].ty = 32, "not supported"),
        (|w| w.tensors[2].ty = 33, "not supported"),
        (|w| w.tensors[3].ty = 4, "not supported"),
        (|w| w.tensors[3].ty = 5, "not supported"),
        (|w| w.tensors[3].ty = 200, "not supported"),
        (|w| w.tensors[3].ty = u32::MAX, "not supported"),
        (|w| w.tensors[0].offset = Some(1 << 40), "starts at byte"),
        (|w| w.set("llama.block_count", Kv::U32(0)), "block_count"),
        (
            |w| w.set("llama.block_count", Kv::U32(1 << 30)),
            "block_count",
        ),
        (
            |w| w.set("llama.embedding_length", Kv::U32(1 << 30)),
            "embedding_length",
        ),
        (
            |w| w.set("llama.context_length", Kv::U32(0)),
            "context_length",
        ),
        // sound, and all of a gigabyte is mapped
        (|_| (), "does not fit"),
        (
            |w| w.set("general.name", "x".repeat(60_000).as_str()),
            "does not fit",
        ),
    ];
    assert_eq!(wrong.len(), 20);
    let limit = Limit {
        bytes: 256 << 20,
        from: LimitSource::Board,
    };
    let mut before = None;
    for (n, (spoil, says)) in wrong.iter().enumerate() {
        let mut writer = Tiny::smallest(Arch::Llama).writer();
        spoil(&mut writer);
        fs::write(&path, writer.build()).unwrap();
        drop(writer);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(WEIGHTS).unwrap();
        // what the writer takes is not the reader's
        let before = *before.get_or_insert_with(peak);
        let begun = Instant::now();
        let error = registry.check(&path, &config, &limit).unwrap_err();
        println!(
            "{n}: {:.1} ms: {error}",
            begun.elapsed().as_secs_f64() * 1e3
        );
        assert!(error.to_string().contains(says), "{n}: {error}");
        let grown = peak() - before;
        assert!(grown < 8 << 10, "{n}: {grown} KiB");
    }
}
