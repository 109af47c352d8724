//! The network on a GPU against the network on the host. Without a GPU, Mesa's lavapipe is one.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{Compute, EngineConfig, Evaluator, KvFormats, LoadError, gpu};
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::{Arch, Dims};
use glowplug_model::ops::memory::GpuKind;
use glowplug_model::text::Tokenizer;
use glowplug_tests::world::{self, Kind, World, topic};
use glowplug_tests::{Real, Tiny, Types, real_model};

const Q8: KvFormats = KvFormats::both(KvFormat::Q8_0);

/// Logits of random tokens, in chunks of a prompt and then one by one.
fn logits(gguf: &Gguf, compute: Compute, kv: KvFormats) -> Vec<f32> {
    let config = EngineConfig {
        compute,
        ..EngineConfig::new(128, 1, kv)
    };
    let tokens: Vec<u32> = (0..100).map(|i| i * 7 % 250).collect();
    let mut evaluator = Evaluator::load(gguf, &config).unwrap();
    let mut all = Vec::new();
    evaluator
        .logits(&tokens, &mut |_, row| all.extend_from_slice(row))
        .unwrap();
    for token in &tokens[..3] {
        evaluator
            .logits(&[*token], &mut |_, row| all.extend_from_slice(row))
            .unwrap();
    }
    all
}

#[test]
fn every_architecture_gives_the_logits_of_the_host() {
    for arch in [
        Arch::Qwen2,
        Arch::Qwen3,
        Arch::Llama,
        Arch::Qwen2Vl,
        Arch::Qwen3Vl,
    ] {
        for kv in [Q8, KvFormats::both(KvFormat::F16)] {
            let tiny = Tiny {
                tied_head: false,
                types: Types {
                    token_embd: GgmlType::Q4_K,
                    output: GgmlType::Q6_K,
                    attn_q: GgmlType::Q4_K,
                    attn_k: GgmlType::Q8_0,
                    attn_v: GgmlType::Q6_K,
                    attn_output: GgmlType::Q4_1,
                    ffn_gate: GgmlType::Q5_0,
                    ffn_up: GgmlType::Q4_0,
                    ffn_down: GgmlType::Q5_K,
                },
                ..Tiny::new(arch)
            };
            let gguf = Gguf::from_bytes(tiny.bytes().into()).unwrap();
            let cpu = logits(&gguf, Compute::Cpu, kv);
            let gpu = logits(&gguf, Compute::Gpu, kv);
            let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            // no assert_eq, which would print them all
            assert!(bits(&cpu) == bits(&gpu), "{arch:?} {kv:?}");
        }
    }
}

#[test]
fn what_it_has_no_kernels_for_is_refused_by_name() {
    let refused = |tiny: &Tiny, kv: KvFormats| {
        let config = EngineConfig {
            compute: Compute::Gpu,
            ..EngineConfig::new(128, 1, kv)
        };
        let gguf = Gguf::from_bytes(tiny.bytes().into()).unwrap();
        match Evaluator::load(&gguf, &config) {
            Err(LoadError::NoGpu(error)) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it was loaded"),
        }
    };
    let says = refused(&Tiny::new(Arch::Llama), Q8);
    assert!(
        says.contains("token_embd.weight") && says.contains("F32"),
        "{says}"
    );
    let tiny = Tiny {
        types: Types::all(GgmlType::Q4_0),
        ..Tiny::new(Arch::Llama)
    };
    let kv = KvFormats {
        k: KvFormat::Q8_0,
        v: KvFormat::Q4_0,
    };
    assert!(refused(&tiny, kv).contains("four bits"));
}

/// A tiny model whose matrices all have kernels.
fn tiny() -> Tiny {
    Tiny {
        types: Types::all(GgmlType::Q4_0),
        ..Tiny::new(Arch::Llama)
    }
}

/// Bytes that are read back for a row of logits: 192 groups of 16 with a number each, and how many of them count.
const ROW_BYTES: u64 = 4 * (192 * 16 + 192 + 1);

#[test]
fn a_token_is_sent_once_and_read_once() {
    let gguf = Gguf::from_bytes(tiny().bytes().into()).unwrap();
    let layers = Dims::from_gguf(&gguf).unwrap().layers as u64;
    for streams in [1, 3] {
        let config = EngineConfig {
            compute: Compute::Gpu,
            ..EngineConfig::new(128, streams, Q8)
        };
        let mut evaluator = Evaluator::load(&gguf, &config).unwrap();
        for stream in 0..streams {
            evaluator.prefill(stream, &[1, 2, 3]).unwrap();
        }
        let before = evaluator.traffic();
        let mut tokens = vec![5; streams];
        for _ in 0..20 {
            evaluator.decode(&mut tokens).unwrap();
        }
        let after = evaluator.traffic();
        assert_eq!(after.uploads - before.uploads, 20);
        assert_eq!(after.reads - before.reads, 20);
        let bytes = after.read_bytes - before.read_bytes;
        assert_eq!(bytes, 20 * streams as u64 * ROW_BYTES);
        let launches = after.launches - before.launches;
        assert_eq!(launches, 20 * (13 * layers + 5));
    }
}

/// What is said to a real model.
const SAID: [&str; 3] = [
    "What is the capital of France?",
    "List three fruits.",
    "Write a short poem about rain.",
];

/// Tokens of each answer.
const ANSWER: usize = 64;

/// How far the two best logits may be apart where the answers of device and host part.
const TIE: f32 = 0.01;

/// The likeliest tokens behind each prompt, all prompts side by side.
fn answers(gguf: &Gguf, compute: Compute, kv: KvFormats, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let config = EngineConfig {
        compute,
        ..EngineConfig::new(256, prompts.len(), kv)
    };
    let mut evaluator = Evaluator::load(gguf, &config).unwrap();
    let first = prompts.iter().enumerate();
    let mut next: Vec<u32> = first
        .map(|(stream, prompt)| evaluator.prefill(stream, prompt).unwrap())
        .collect();
    let mut answers = vec![Vec::new(); prompts.len()];
    for _ in 0..ANSWER {
        for (answer, token) in answers.iter_mut().zip(&next) {
            answer.push(*token);
        }
        evaluator.decode(&mut next).unwrap();
    }
    answers
}

/// How far the two best logits behind `tokens` are apart on the host.
fn lead(gguf: &Gguf, kv: KvFormats, tokens: &[u32]) -> f32 {
    let mut evaluator = Evaluator::load(gguf, &EngineConfig::new(256, 1, kv)).unwrap();
    let mut last = Vec::new();
    evaluator
        .logits(tokens, &mut |_, row| last = row.to_vec())
        .unwrap();
    last.sort_by(|a, b| b.total_cmp(a));
    last[0] - last[1]
}

#[test]
fn greedy_answers_are_those_of_the_host() {
    let gguf = Gguf::open(&real_model(Real::Smol)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let prompts = SAID.map(|said| {
        let text = format!("<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n");
        tokenizer.encode(&text, true).unwrap()
    });
    for kv in [KvFormats::both(KvFormat::F16), Q8] {
        let host = answers(&gguf, Compute::Cpu, kv, &prompts);
        let device = answers(&gguf, Compute::Gpu, kv, &prompts);
        for (i, said) in SAID.iter().enumerate() {
            let (prompt, host, device) = (&prompts[i][..], &host[i], &device[i]);
            let Some(at) = host.iter().zip(device).position(|(a, b)| a != b) else {
                continue;
            };
            let lead = lead(&gguf, kv, &[prompt, &host[..at]].concat());
            assert!(
                lead <= TIE,
                "{said}: they part after {at} tokens, {lead} apart"
            );
        }
    }
}

#[test]
fn a_daemon_that_may_choose_says_why_it_took_the_one_it_took() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    world::tiny().write(&model).unwrap();
    let lines = "context = 2048\ndevice = \"auto\"";
    let mut world = World::start(Kind::Embedded, folder, &model, lines, "");
    world.online();
    let device = world.watch.until("what computes", |m| {
        (m.topic == topic("info")).then(|| m.json()["device"].clone())
    });
    let why = device["why"].as_str().unwrap();
    let measured = world.folder().join("model.gguf.device.json");
    if gpu().unwrap().kind == GpuKind::Software {
        assert_eq!(device["name"], "cpu");
        assert!(why.contains("is a processor and no GPU"), "{why}");
        assert!(!measured.exists());
    } else {
        assert!(why.contains("take the GPU"), "{why}");
        assert!(measured.exists());
    }
}
