//! The decode loop does not grow: bytes in use over 2,000 tokens, by an allocator that counts. A process of its own.

#![allow(clippy::unwrap_used)]

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::DRAFT_MAX;
use glowplug_model::engine::{Engine, EngineConfig, Event, KvFormats, Request, Thinking, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::{Message, SamplerParams};
use glowplug_tests::{Counting, Think, Tiny};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

const TOKENS: usize = 2_000;
/// How many tokens the model's vocabulary has.
const VOCAB: usize = 285;
/// Calls for a token of a model of two layers: the tensors of its ops, logits, and the text on its way out. Measured 83.
const CALLS_MAX: usize = 100;

#[test]
fn bytes_in_use_stay_flat_over_two_thousand_tokens() {
    // it counts
    let before = (ALLOCATOR.in_use(), ALLOCATOR.calls());
    let block = std::hint::black_box(vec![0u8; 12_345]);
    assert!(ALLOCATOR.in_use() >= before.0 + 12_345 && ALLOCATOR.calls() > before.1);
    drop(block);

    flat(false, 4096);
    // while a draft is checked, its rows of logits are held: the memory plan has them
    flat(true, 4096 + (1 + DRAFT_MAX) * VOCAB * size_of::<f32>());
}

/// Decodes [`TOKENS`] tokens; after the first, bytes in use change by less than `most_change`.
fn flat(drafts: bool, most_change: usize) {
    let tiny = Tiny {
        think: Think::Never,
        context: 4096,
        ..Tiny::new(Arch::Qwen2)
    };
    let config = EngineConfig {
        drafts,
        ..EngineConfig::new(4096, 1, KvFormats::both(KvFormat::Q8_0))
    };
    let gguf = Gguf::from_bytes(tiny.bytes().into()).unwrap();
    let mut engine = Engine::load(&gguf, &config).unwrap();
    assert!(engine.model().vocab <= VOCAB);
    engine.submit(1, request()).unwrap();
    let mut tokens = 0;
    let (mut least, mut most) = (usize::MAX, 0);
    let mut calls = 0;
    while engine.step(&mut |_, event| {
        if let Event::Text { .. } = event {
            tokens += 1;
        }
    }) != Worked::Nothing
    {
        // the first tokens size what stays
        if tokens == 64 {
            calls = ALLOCATOR.calls();
        }
        if (64..TOKENS).contains(&tokens) {
            let now = ALLOCATOR.in_use();
            (least, most) = (least.min(now), most.max(now));
        }
    }
    assert_eq!(tokens, TOKENS);
    let calls = (ALLOCATOR.calls() - calls) / (TOKENS - 64);
    println!("{} bytes of change, {calls} calls a token", most - least);
    assert!(
        most - least < most_change,
        "from {least} to {most} bytes, drafts: {drafts}"
    );
    assert!(calls <= CALLS_MAX, "{calls} calls a token");
}

fn request() -> Request {
    Request {
        sampler: SamplerParams {
            temperature: 0.7,
            repeat_penalty: 1.1,
            // no end before its time
            logit_bias: (0..8).map(|token| (token, -100.0)).collect(),
            seed: 1,
            ..SamplerParams::default()
        },
        thinking: Thinking {
            enabled: true,
            budget: None,
            visible: true,
        },
        ..Request::new("c", vec![Message::user("the rain")], TOKENS as u32)
    }
}
