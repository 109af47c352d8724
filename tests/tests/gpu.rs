//! The network on a GPU against the network on the host. Without a GPU, Mesa's lavapipe is one.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{Compute, EngineConfig, Evaluator, KvFormats, LoadError};
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::Arch;
use glowplug_model::text::Tokenizer;
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
    for arch in [Arch::Qwen2, Arch::Qwen3, Arch::Llama] {
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
            let (cpu, gpu) = (
                logits(&gguf, Compute::Cpu, kv),
                logits(&gguf, Compute::Gpu, kv),
            );
            let std = (cpu.iter().map(|v| v * v).sum::<f32>() / cpu.len() as f32).sqrt();
            let off = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).powi(2));
            let off = (off.sum::<f32>() / cpu.len() as f32).sqrt();
            assert!(off < 0.03 * std, "{arch:?} {kv:?}: off by {off} of {std}");
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

/// A model loaded for greedy answers.
fn greedy(gguf: &Gguf, compute: Compute) -> Evaluator {
    let config = EngineConfig {
        compute,
        ..EngineConfig::new(256, 1, Q8)
    };
    Evaluator::load(gguf, &config).unwrap()
}

fn answer(evaluator: &mut Evaluator, prompt: &[u32]) -> Vec<u32> {
    evaluator.reset();
    let mut tokens = prompt.to_vec();
    let mut next = [evaluator.prefill(0, prompt).unwrap()];
    for _ in 0..64 {
        tokens.push(next[0]);
        evaluator.decode(&mut next).unwrap();
    }
    tokens
}

/// Of the logits behind `tokens`: how far the best one is above that of `other`.
fn margin(evaluator: &mut Evaluator, tokens: &[u32], other: u32) -> f32 {
    let mut last = Vec::new();
    evaluator
        .logits(tokens, &mut |_, row| row.clone_into(&mut last))
        .unwrap();
    last.iter().fold(f32::MIN, |m, l| m.max(*l)) - last[other as usize]
}

/// How far the host's best logit may be above that of the device's token where they part. Both round activations to int8, and
/// 0.31 was found (the third prompt).
const MARGIN: f32 = 0.5;

#[test]
fn greedy_answers_part_only_where_two_tokens_are_nearly_alike() {
    let gguf = Gguf::open(&real_model(Real::Smol)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let (mut cpu, mut gpu) = (greedy(&gguf, Compute::Cpu), greedy(&gguf, Compute::Gpu));
    for said in [
        "What is the capital of France?",
        "List three fruits.",
        "Write a short poem about rain.",
    ] {
        let text = format!("<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n");
        let prompt = tokenizer.encode(&text, true).unwrap();
        let (host, device) = (answer(&mut cpu, &prompt), answer(&mut gpu, &prompt));
        let part = host.iter().zip(&device).position(|(a, b)| a != b);
        let Some(at) = part else { continue };
        let margin = margin(&mut cpu, &host[..at], device[at]);
        eprintln!(
            "{said}: they part after {} tokens, {margin} apart",
            at - prompt.len()
        );
        assert!(margin < MARGIN, "{said}: {margin} apart");
    }
}
