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
use glowplug_tests::{Real, Tiny, Types, in_floats, real_model};

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
        assert_eq!(launches, 20 * (11 * layers + 5));
    }
}

/// A model loaded for a conversation.
fn loaded(gguf: &Gguf, compute: Compute, kv: KvFormats) -> Evaluator {
    let config = EngineConfig {
        compute,
        ..EngineConfig::new(256, 1, kv)
    };
    Evaluator::load(gguf, &config).unwrap()
}

/// The likeliest 64 tokens behind a prompt, one after the other, with the prompt before them.
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

/// The logits behind each of `tokens`, row after row.
fn rows(evaluator: &mut Evaluator, tokens: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    evaluator
        .logits(tokens, &mut |_, row| all.extend_from_slice(row))
        .unwrap();
    all
}

/// How far two rows of logits are from each other: the Kullback-Leibler divergence of `row` from `exact`, in nats.
fn divergence(exact: &[f32], row: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| {
        let max = row.iter().fold(f32::MIN, |m, l| m.max(*l));
        let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
        f64::from(max) + sum.ln()
    };
    let (of_exact, of_row) = (log_sum(exact), log_sum(row));
    let terms = exact.iter().zip(row).map(|(exact, row)| {
        let exact = f64::from(*exact) - of_exact;
        exact.exp() * (exact - (f64::from(*row) - of_row))
    });
    terms.sum()
}

/// The token of the highest logit.
fn best(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// How far below the best logit of `row` that of `token` is.
fn gap(row: &[f32], token: u32) -> f32 {
    row[best(row)] - row[token as usize]
}

/// How far from the oracle the logits of a processor are that computed `tokens`: the mean divergence, at how many of the
/// positions the best token is another, and the largest gap in the oracle's logits of a token behind the prompt.
fn distance(exact: &[f32], ours: &[f32], tokens: &[u32], prompt: usize) -> (f64, usize, f32) {
    let vocab = exact.len() / tokens.len();
    let rows: Vec<_> = exact
        .chunks_exact(vocab)
        .zip(ours.chunks_exact(vocab))
        .collect();
    let divergence: f64 = rows
        .iter()
        .map(|(exact, ours)| divergence(exact, ours))
        .sum();
    let others = rows
        .iter()
        .filter(|(exact, ours)| best(exact) != best(ours));
    let answer = tokens.iter().enumerate().skip(prompt);
    let gaps = answer.map(|(at, token)| gap(rows[at - 1].0, *token));
    (
        divergence / rows.len() as f64,
        others.count(),
        gaps.fold(0.0, f32::max),
    )
}

/// How far from the oracle a device may be: its mean divergence, and how far the oracle's best logit is above that of a token.
///
/// With pages in f16 all but the order of additions is the oracle's: 2e-6 and 0.0002 were found. In q8_0 a key or a value that is
/// off by that much is rounded to its neighbour now and then: 5e-4 and 0.05 were found.
const BOUNDS: [(KvFormat, f64, f32); 2] =
    [(KvFormat::F16, 1e-5, 0.01), (KvFormat::Q8_0, 1e-3, 0.1)];

#[test]
fn greedy_answers_are_those_of_the_oracle() {
    let gguf = Gguf::open(&real_model(Real::Smol)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let exact = Gguf::from_bytes(in_floats(&gguf).into()).unwrap();
    for (format, most, apart) in BOUNDS {
        let kv = KvFormats::both(format);
        let mut oracle = loaded(&exact, Compute::Cpu, kv);
        let mut cpu = loaded(&gguf, Compute::Cpu, kv);
        let mut gpu = loaded(&gguf, Compute::Gpu, kv);
        for said in [
            "What is the capital of France?",
            "List three fruits.",
            "Write a short poem about rain.",
        ] {
            let text = format!("<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n");
            let prompt = tokenizer.encode(&text, true).unwrap();
            let (host, device) = (answer(&mut cpu, &prompt), answer(&mut gpu, &prompt));
            let exact = rows(&mut oracle, &device);
            let of_device = distance(&exact, &rows(&mut gpu, &device), &device, prompt.len());
            let of_host = distance(&exact, &rows(&mut cpu, &device), &device, prompt.len());
            eprintln!("{said}: the device is {of_device:?} from the oracle, the host {of_host:?}");
            let (divergence, _, gap_found) = of_device;
            assert!(
                gap_found <= apart,
                "{said}: a token is {gap_found} from the oracle"
            );
            assert!(divergence <= most, "{said}: {divergence} from the oracle");
            // the host rounds activations to int8, so that its answer may part where the oracle's logits are further apart
            let part = host.iter().zip(&device).position(|(a, b)| a != b);
            if let Some(at) = part {
                let row = &exact[(at - 1) * gpu.vocab()..][..gpu.vocab()];
                let (ours, theirs) = (gap(row, device[at]), gap(row, host[at]));
                eprintln!(
                    "they part after {} tokens: the oracle has the device's token {ours} below its best, the host's {theirs}",
                    at - prompt.len()
                );
            }
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
