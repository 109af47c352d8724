//! What a model takes of a device's memory. This is a program of its own, because the runtime counts for all models of a process.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::plan::device::device_plan;
use glowplug_model::engine::{Compute, EngineConfig, Evaluator, KvFormats, device_memory};
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::{Arch, Dims};
use glowplug_tests::{Real, Tiny, Types, real_model};

/// How far what is held may be from the plan.
const OFF: f64 = 0.03;
/// Tokens that are decoded.
const TOKENS: usize = 2000;
const Q8: KvFormats = KvFormats::both(KvFormat::Q8_0);

fn config(context: usize) -> EngineConfig {
    EngineConfig {
        compute: Compute::Gpu,
        ..EngineConfig::new(context, 2, Q8)
    }
}

#[test]
fn the_device_holds_what_is_planned_and_no_token_takes_more() {
    let gguf = Gguf::open(&real_model(Real::Smol)).unwrap();
    let dims = Dims::from_gguf(&gguf).unwrap();
    let chosen = config(512);
    let needs = device_memory(&gguf, &dims, Q8, chosen.pages, chosen.context).unwrap();
    let planned = device_plan(None, &needs).unwrap();
    let mut evaluator = Evaluator::load(&gguf, &chosen).unwrap();
    let near = |held: u64| {
        let off = held as f64 / planned.total() as f64 - 1.0;
        assert!(off.abs() < OFF, "{held} held, {planned:?} planned");
    };
    near(evaluator.reserved().unwrap());
    let prompt: Vec<u32> = (0..100).collect();
    evaluator.prefill(0, &prompt).unwrap();
    evaluator.prefill(1, &prompt[..17]).unwrap();
    (0..4).for_each(|_| evaluator.decode(&mut [1, 2]).unwrap());
    near(evaluator.reserved().unwrap());
    drop(evaluator);

    let tiny = Tiny {
        types: Types::all(GgmlType::Q4_0),
        ..Tiny::new(Arch::Llama)
    };
    let gguf = Gguf::from_bytes(tiny.bytes().into()).unwrap();
    let mut evaluator = Evaluator::load(&gguf, &config(512)).unwrap();
    let decode = |evaluator: &mut Evaluator, tokens: usize| {
        let mut next = [1, 2];
        for token in 0..tokens / 2 {
            if token % 500 == 0 {
                evaluator.reset();
            }
            evaluator.decode(&mut next).unwrap();
        }
        evaluator.reserved().unwrap()
    };
    let before = decode(&mut evaluator, 20);
    assert_eq!(decode(&mut evaluator, TOKENS), before);
}
