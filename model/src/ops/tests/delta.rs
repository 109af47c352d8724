//! The steps of a gated delta net: the host's against their default bodies, and that nothing shows how a text was cut into steps.

use super::{Oracle, Random, Raw, TYPES, ceiling, close, on, read, runtime};
use crate::gguf::GgmlType;
use crate::kv::{KvCache, KvLayout, Span, StateLayout};
use crate::ops::delta::{DeltaInput, DeltaSpec};
use crate::ops::runtime::Runtime;
use crate::ops::{Backend, Flex, Norm, QuantOps, reference, settle};
use crate::quant::{Isa, Kernels};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::DRAFT_MAX;

const EMBED: usize = 256;

struct Weights {
    norm: Vec<f32>,
    /// of queries, keys and values, of gates, alpha and beta
    matrices: [Raw; 4],
    convolution: Vec<f32>,
    rate: Vec<f32>,
    bias: Vec<f32>,
    head_norm: Vec<f32>,
}

impl Weights {
    fn new(random: &mut Random, ty: GgmlType, spec: DeltaSpec) -> Self {
        let heads = spec.value_heads;
        let rows = [spec.channels(), spec.values(), heads, heads];
        Self {
            norm: random.floats(EMBED),
            matrices: rows.map(|rows| Raw::new(random, ty, rows, EMBED)),
            convolution: random.floats(4 * spec.channels()),
            // decays that leave something of the first token at the last one, and some that leave little
            rate: (0..heads).map(|_| -1.0 - random.unit()).collect(),
            bias: (0..heads).map(|_| 3.0 * random.unit()).collect(),
            head_norm: random.floats(spec.head_dim),
        }
    }

    fn on<B: Backend>(&self, spec: DeltaSpec) -> DeltaInput<B> {
        let [qkv, gate, alpha, beta] = &self.matrices;
        DeltaInput {
            norm: Norm::Rms(on::<B>(&self.norm, &[EMBED])),
            qkv: qkv.on(),
            gate: gate.on(),
            alpha: alpha.on(),
            beta: beta.on(),
            convolution: on::<B>(&self.convolution, &[4, spec.channels()]),
            rate: on::<B>(&self.rate, &[spec.value_heads]),
            bias: on::<B>(&self.bias, &[spec.value_heads]),
        }
    }
}

/// A cache of two delta layers, whose tables' states lie the other way round.
fn cache(spec: DeltaSpec, tables: usize) -> KvCache {
    let layout = KvLayout::new(1, 1, 8, [KvFormat::F16].into(), KvFormat::F16).unwrap();
    let states = StateLayout {
        layers: 2,
        conv: 3 * spec.channels(),
        delta: spec.values() * spec.head_dim,
        width: spec.width(),
        hidden: 0,
    };
    let kv = KvCache::new(layout, 8, tables).unwrap();
    let mut kv = kv.with_states(states, tables).unwrap();
    for table in 0..tables {
        kv.table(table).extend([0, 1]);
        kv.set_state(table, Some((tables - 1 - table) as u16));
    }
    kv
}

fn spans(spans: &[(usize, usize, usize)]) -> Vec<Span> {
    let span = |&(table, position, tokens)| Span {
        table,
        position,
        tokens,
        guesses: 0,
    };
    spans.iter().map(span).collect()
}

fn spec(key_heads: usize, value_heads: usize, head_dim: usize) -> DeltaSpec {
    DeltaSpec {
        key_heads,
        value_heads,
        head_dim,
        eps: 1e-6,
    }
}

/// What the host gives for the rows of a step in the second layer.
fn host(w: &Weights, spec: DeltaSpec, x: &[f32], kv: &mut KvCache, rt: &mut Runtime) -> Vec<f32> {
    let x = on::<Flex>(x, &[kv.rows(), EMBED]);
    let y = Flex::delta_input(&x, w.on(spec), spec, 1, kv, rt);
    let norm = on::<Flex>(&w.head_norm, &[spec.head_dim]);
    read::<Flex>(Flex::delta(y, norm, spec, 1, kv, rt))
}

#[test]
fn delta_nets_match_over_steps_of_two_sequences() {
    let mut random = Random(31);
    for ty in TYPES {
        for spec in [
            spec(2, 2, 32),
            spec(1, 3, 32),
            spec(2, 8, 32),
            spec(1, 2, 64),
        ] {
            let what = format!("{ty} {spec:?}");
            let w = Weights::new(&mut random, ty, spec);
            let mut rt = runtime(1, 2);
            let (mut kv, mut oracle_kv) = (cache(spec, 2), cache(spec, 2));
            let steps: [&[(usize, usize, usize)]; 5] = [
                &[(0, 0, 1)],
                &[(0, 1, 2)],
                &[(1, 0, 5), (0, 3, 1)],
                &[(0, 4, 4), (1, 5, 1)],
                // the first sequence begins anew
                &[(1, 6, 1), (0, 0, 2)],
            ];
            for of in steps {
                kv.begin(&spans(of));
                oracle_kv.begin(&spans(of));
                let x = random.floats(kv.rows() * EMBED);
                let own = on::<Flex>(&x, &[kv.rows(), EMBED]);
                let own = Flex::delta_input(&own, w.on(spec), spec, 1, &mut kv, &mut rt);
                let oracle = reference::delta::delta_input::<Oracle>(
                    &on::<Oracle>(&x, &[kv.rows(), EMBED]),
                    w.on(spec),
                    spec,
                    1,
                    &mut oracle_kv,
                    &rt,
                );
                let (all, known) = (read::<Flex>(own.clone()), read::<Oracle>(oracle.clone()));
                assert_eq!(all.len(), kv.rows() * spec.width());
                let rows = all.chunks_exact(spec.width());
                for (own, known) in rows.zip(known.chunks_exact(spec.width())) {
                    // each part by itself, because lengths are 1 and values small
                    let parts = [spec.keys(), spec.keys(), spec.values(), spec.values()];
                    let mut at = 0;
                    for len in parts.into_iter().chain([spec.value_heads; 2]) {
                        close(
                            &own[at..at + len],
                            &known[at..at + len],
                            ceiling(ty) * 3.0,
                            &what,
                        );
                        at += len;
                    }
                }
                let norm = on::<Flex>(&w.head_norm, &[spec.head_dim]);
                let own = read::<Flex>(Flex::delta(own, norm, spec, 1, &mut kv, &mut rt));
                let norm = on::<Oracle>(&w.head_norm, &[spec.head_dim]);
                let oracle =
                    reference::delta::delta::<Oracle>(&oracle, &norm, spec, 1, &mut oracle_kv);
                close(&own, &read::<Oracle>(oracle), ceiling(ty) * 6.0, &what);
                for table in [0, 1] {
                    // the other layer has no token
                    let (conv, delta) = kv.state(table, 0);
                    assert!(conv.iter().chain(&*delta).all(|v| *v == 0.0));
                }
            }
        }
    }
}

/// On every level and any number of threads, a token gets the same bits alone, in any chunk, and beside others.
#[test]
fn nothing_shows_how_a_text_was_cut() {
    const TOKENS: usize = 13;
    let spec = spec(2, 4, 64);
    let mut random = Random(37);
    let w = Weights::new(&mut random, GgmlType::Q4_K, spec);
    let texts = [(); 3].map(|()| random.floats(TOKENS * EMBED));
    let row = |(table, position): (usize, usize)| &texts[table][position * EMBED..][..EMBED];
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let levels = Isa::ALL
        .into_iter()
        .filter_map(|isa| Kernels::detect(Some(isa)).ok());
    for kernels in levels {
        let mut rt = runtime(1, 2);
        rt.kernels = kernels;
        let mut kv = cache(spec, 3);
        let mut step = |of: &[(usize, usize, usize)], threads: usize| {
            rt.threads = threads;
            kv.begin(&spans(of));
            // a text that begins has a state of zeros
            for &(table, ..) in of.iter().filter(|(_, position, _)| *position == 0) {
                let (conv, delta) = kv.state(table, 1);
                conv.fill(0.0);
                delta.fill(0.0);
            }
            let rows = |&(table, position, tokens): &(usize, usize, usize)| {
                (position..position + tokens).map(move |position| (table, position))
            };
            let x: Vec<f32> = of.iter().flat_map(rows).flat_map(row).copied().collect();
            let out = host(&w, spec, &x, &mut kv, &mut rt);
            let out = out.chunks_exact(spec.values()).map(bits);
            of.iter().flat_map(rows).zip(out).collect::<Vec<_>>()
        };
        // token by token
        let mut alone = std::collections::BTreeMap::new();
        for table in 0..3 {
            for position in 0..TOKENS {
                alone.extend(step(&[(table, position, 1)], 1));
            }
        }
        for threads in [1, 2] {
            for cuts in [
                vec![vec![(0, 0, TOKENS)], vec![(1, 0, TOKENS), (2, 0, TOKENS)]],
                vec![
                    vec![(0, 0, 2), (1, 0, 3)],
                    vec![(2, 0, 7), (0, 2, 1), (1, 3, 1)],
                    vec![(0, 3, 10), (2, 7, 6), (1, 4, 9)],
                ],
            ] {
                for of in cuts {
                    for (token, bits) in step(&of, threads) {
                        assert!(
                            alone[&token] == bits,
                            "{} {threads} threads {token:?}",
                            kernels.isa()
                        );
                    }
                }
            }
        }
    }
}

/// A step that guesses gives each token its bits and leaves the state as it was; however many of the guesses come true, the next step
/// goes on from them with the same bits as from a text that was never guessed at.
#[test]
fn guesses_leave_the_state_until_they_come_true() {
    const TOKENS: usize = 12;
    let spec = spec(2, 4, 64);
    let mut random = Random(43);
    let w = Weights::new(&mut random, GgmlType::Q4_K, spec);
    let text = random.floats(TOKENS * EMBED);
    let wrong = random.floats(TOKENS * EMBED);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let levels = Isa::ALL
        .into_iter()
        .filter_map(|isa| Kernels::detect(Some(isa)).ok());
    for kernels in levels {
        let mut rt = runtime(1, 2);
        rt.kernels = kernels;
        let mut kv = cache(spec, 2);
        kv.begin(&spans(&[(1, 0, TOKENS)]));
        let whole = host(&w, spec, &text, &mut kv, &mut rt);
        let whole: Vec<_> = whole.chunks_exact(spec.values()).map(bits).collect();
        for (guesses, right) in (1..=DRAFT_MAX).flat_map(|n| (0..=n).map(move |right| (n, right))) {
            let mut kv = cache(spec, 2);
            let mut step =
                |kv: &mut KvCache, at: usize, tokens: usize, guesses: usize, right: usize| {
                    kv.begin(&[Span {
                        guesses,
                        ..spans(&[(0, at, tokens)])[0]
                    }]);
                    let (true_, guessed) = (
                        at..at + tokens - guesses + right,
                        at + tokens - guesses + right..at + tokens,
                    );
                    let rows = |of: &[f32], range: std::ops::Range<usize>| {
                        of[range.start * EMBED..range.end * EMBED].to_vec()
                    };
                    let x = [rows(&text, true_.clone()), rows(&wrong, guessed)].concat();
                    let out = host(&w, spec, &x, kv, &mut rt);
                    let out = out.chunks_exact(spec.values()).map(bits);
                    for (position, out) in true_.zip(out) {
                        assert!(
                            out == whole[position],
                            "{} {guesses} guesses, {right} right",
                            kernels.isa()
                        );
                    }
                };
            step(&mut kv, 0, 2, 0, 0);
            step(&mut kv, 2, 1 + guesses, guesses, right);
            let before = bits(bytemuck::cast_slice(kv.states().bytes(1)));
            (0..right).for_each(|_| kv.accept());
            assert!(bits(bytemuck::cast_slice(kv.states().bytes(1))) == before);
            let mut rt = runtime(1, 2);
            rt.kernels = kernels;
            settle(spec, &mut kv, &mut rt);
            assert_eq!(kv.accepted(), None);
            step(&mut kv, 3 + right, 1, 0, 0);
        }
    }
}

/// The default bodies leave the state as it was too, and keep the same of the guesses.
#[test]
fn default_bodies_guess_as_the_host_does() {
    let spec = spec(1, 2, 32);
    let mut random = Random(47);
    let w = Weights::new(&mut random, GgmlType::F32, spec);
    let x = random.floats(4 * EMBED);
    let mut rt = runtime(1, 2);
    let (mut kv, mut oracle) = (cache(spec, 2), cache(spec, 2));
    let span = Span {
        guesses: 3,
        ..spans(&[(0, 0, 4)])[0]
    };
    kv.begin(&[span]);
    oracle.begin(&[span]);
    host(&w, spec, &x, &mut kv, &mut rt);
    let x = on::<Oracle>(&x, &[4, EMBED]);
    let y = reference::delta::delta_input::<Oracle>(&x, w.on(spec), spec, 1, &mut oracle, &rt);
    let norm = on::<Oracle>(&w.head_norm, &[spec.head_dim]);
    reference::delta::delta::<Oracle>(&y, &norm, spec, 1, &mut oracle);
    let state = |kv: &KvCache| bytemuck::cast_slice(kv.states().bytes(1)).to_vec();
    close(&state(&kv), &state(&oracle), 1e-4, "one token");
    for kv in [&mut kv, &mut oracle] {
        (0..2).for_each(|_| kv.accept());
        settle(spec, kv, &mut rt);
    }
    close(&state(&kv), &state(&oracle), 1e-4, "three tokens");
}

#[test]
#[should_panic(expected = "page table 0 has no state")]
fn a_sequence_without_a_state_is_not_computed() {
    let spec = spec(1, 1, 32);
    let w = Weights::new(&mut Random(41), GgmlType::F32, spec);
    let (mut rt, mut kv) = (runtime(1, 2), cache(spec, 1));
    kv.set_state(0, None);
    kv.begin(&spans(&[(0, 0, 1)]));
    host(&w, spec, &[0.5; EMBED], &mut kv, &mut rt);
}
