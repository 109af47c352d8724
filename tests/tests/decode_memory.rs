//! The decode loop does not grow: bytes in use over 2,000 tokens, by an allocator that counts. A process of its own.

#![allow(clippy::unwrap_used)]

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::DRAFT_MAX;
use glowplug_model::engine::{Engine, EngineConfig, Event, KvFormats, Request, Thinking, Worked};
use glowplug_model::gguf::Gguf;
use glowplug_model::network::dims::Arch;
use glowplug_model::text::{Message, SamplerParams};
use glowplug_tests::{Think, Tiny};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's own; the counters are beside it
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        CALLS.fetch_add(1, Relaxed);
        // SAFETY: the caller's layout
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's pointer and layout
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOKENS: usize = 2_000;
/// How many tokens the model's vocabulary has.
const VOCAB: usize = 285;
/// Calls for a token of a model of two layers: the tensors of its ops, logits, and the text on its way out. Measured 83.
const CALLS_MAX: usize = 100;

#[test]
fn bytes_in_use_stay_flat_over_two_thousand_tokens() {
    // it counts
    let before = (IN_USE.load(Relaxed), CALLS.load(Relaxed));
    let block = std::hint::black_box(vec![0u8; 12_345]);
    assert!(IN_USE.load(Relaxed) >= before.0 + 12_345 && CALLS.load(Relaxed) > before.1);
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
            calls = CALLS.load(Relaxed);
        }
        if (64..TOKENS).contains(&tokens) {
            let now = IN_USE.load(Relaxed);
            (least, most) = (least.min(now), most.max(now));
        }
    }
    assert_eq!(tokens, TOKENS);
    let calls = (CALLS.load(Relaxed) - calls) / (TOKENS - 64);
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
