//! Every host step against its default body, over odd shapes: on Flex itself, and with feature `ndarray` on that device.

mod delta;
mod draft;

use super::rope::{RopePairing, RopeTable};
use super::runtime::Runtime;
use super::{
    AttentionInput, AttentionSpec, Backend, Flex, FloatTensor, HeadNorm, LmHead, Matrix, MlpInput,
    Norm, Projection, QuantOps, Rest, reference,
};
use crate::gguf::GgmlType;
use crate::kv::{KvCache, KvLayout, Span};
use crate::pool::Pool;
use crate::quant::Kernels;
use burn::backend::TensorData;
use glowplug_firmware_config::kv::KvFormat;
use half::f16;

#[cfg(feature = "ndarray")]
pub(super) type Oracle = super::NdArray;
#[cfg(not(feature = "ndarray"))]
pub(super) type Oracle = Flex;

/// Random numbers by splitmix64, the same on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    fn blocks(&mut self, ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
        let scale = 1.0 / (cols as f32).sqrt();
        match ty {
            GgmlType::F32 => (0..rows * cols)
                .flat_map(|_| (self.unit() * scale).to_le_bytes())
                .collect(),
            _ => {
                // where the halves of a block are, and how large they are beside the largest of its integers
                let (d, m) = match ty {
                    GgmlType::Q8_0 | GgmlType::IQ4_NL => ((0, 127.0), None),
                    GgmlType::Q4_0 | GgmlType::Q5_0 => ((0, 12.0), None),
                    GgmlType::Q4_1 | GgmlType::Q5_1 => ((0, 20.0), Some((2, -1.5))),
                    GgmlType::Q4_K | GgmlType::Q5_K => ((0, 400.0), Some((2, 60.0))),
                    GgmlType::Q3_K => ((108, 60.0), None),
                    GgmlType::Q6_K => ((208, 2000.0), None),
                    other => panic!("no test encoder for {other}"),
                };
                let mut bytes = Vec::new();
                for _ in 0..rows * cols / ty.block_len() {
                    let mut block: Vec<u8> =
                        (0..ty.block_bytes()).map(|_| self.next() as u8).collect();
                    for (at, part) in [Some(d), m].into_iter().flatten() {
                        let value = scale / part * (1.0 + self.unit() / 2.0);
                        block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
                    }
                    bytes.extend(block);
                }
                bytes
            }
        }
    }
}

/// The same weights on both backends.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) blocks: Vec<u8>,
    pub(super) ty: GgmlType,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Raw {
    pub(super) fn new(random: &mut Random, ty: GgmlType, rows: usize, cols: usize) -> Self {
        Self {
            blocks: random.blocks(ty, rows, cols),
            ty,
            rows,
            cols,
        }
    }

    pub(super) fn on<B: Backend>(&self) -> Matrix<B> {
        let len = self.blocks.len();
        let blocks = B::int_from_data(TensorData::new(self.blocks.clone(), [len]), &device::<B>());
        Matrix {
            blocks,
            rest: Rest::default(),
            part_rows: self.rows,
            ty: self.ty,
            layout: crate::gguf::Layout::Rows,
            rows: self.rows,
            cols: self.cols,
        }
    }
}

fn device<B: Backend>() -> burn::backend::tensor::Device<B> {
    Default::default()
}

pub(super) fn on<B: Backend>(values: &[f32], shape: &[usize]) -> FloatTensor<B> {
    B::float_from_data(
        TensorData::new(values.to_vec(), shape.to_vec()),
        &device::<B>(),
    )
}

pub(super) fn read<B: Backend>(t: FloatTensor<B>) -> Vec<f32> {
    burn::tensor::read_sync(B::float_into_data(t))
        .unwrap()
        .try_into_vec()
        .unwrap()
}

/// The matrix of an output side whose product is added as it is.
pub(super) fn plain<B: Backend>(matrix: Matrix<B>) -> Projection<B> {
    Projection {
        matrix,
        norm: Norm::Absent,
    }
}

pub(super) fn runtime(positions: usize, rope_dims: usize) -> Runtime {
    let rope = RopeTable::new(positions, 10_000.0, &vec![1.0; rope_dims / 2], 1.0);
    Runtime::new(Pool::new(2).unwrap(), Kernels::detect(None).unwrap(), rope)
}

/// Relative to the largest magnitude; int8 activations cost about 1/254 of it per product, less in a sum.
#[track_caller]
pub(super) fn close(host: &[f32], oracle: &[f32], ceiling: f32, what: &str) {
    assert_eq!(host.len(), oracle.len(), "{what}");
    let largest = oracle.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = host
        .iter()
        .zip(oracle)
        .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(
        largest > 0.0,
        "{what}: the oracle is all zeros, the test shows nothing"
    );
    assert!(
        worst <= ceiling * largest,
        "{what}: off by {worst} of {largest}, ceiling {ceiling}"
    );
}

fn ceiling(ty: GgmlType) -> f32 {
    if ty == GgmlType::F32 { 2e-5 } else { 1.5e-2 }
}

const TYPES: [GgmlType; 3] = [GgmlType::F32, GgmlType::Q8_0, GgmlType::Q4_K];

#[test]
fn embedding_rows_are_the_tables() {
    let mut random = Random(1);
    let layout = KvLayout::new(1, 1, 8, [KvFormat::F16].into(), KvFormat::F16).unwrap();
    let kv = KvCache::new(layout, 1, 1).unwrap();
    for ty in TYPES {
        let table = Raw::new(&mut random, ty, 9, 256);
        let tokens = [8, 0, 3, 3];
        let mut rt = runtime(1, 2);
        let host = read::<Flex>(Flex::embed(
            &on::<Flex>(&[0.0], &[1]),
            table.on(),
            &tokens,
            1.5,
            &kv,
            &mut rt,
        ));
        let oracle = read::<Oracle>(reference::embed::<Oracle>(
            &on::<Oracle>(&[0.0], &[1]),
            table.on(),
            &tokens,
            1.5,
            &rt,
        ));
        close(&host, &oracle, 1e-6, ty.name());
    }
}

#[test]
fn attention_input_and_attention_match_over_steps_of_two_sequences() {
    let mut random = Random(2);
    use HeadNorm::{Absent, AfterRotation, BeforeRotation};
    let cases = [
        // heads, kv heads, head size, q/k norm, rotated values, pairing, layers that do not rotate, gates
        (4, 2, 16, Absent, 16, RopePairing::Neox, 0, false),
        (6, 1, 24, BeforeRotation, 16, RopePairing::Neox, 0, false),
        (3, 3, 8, Absent, 8, RopePairing::Norm, 3, false),
        (10, 2, 32, BeforeRotation, 24, RopePairing::Norm, 0, false),
        (4, 2, 32, AfterRotation, 32, RopePairing::Neox, 0, false),
        // the layer that is computed is the second
        (4, 2, 16, Absent, 16, RopePairing::Norm, 2, false),
        (6, 2, 24, BeforeRotation, 8, RopePairing::Neox, 0, true),
    ];
    for ty in TYPES {
        for case in cases {
            let (heads, kv_heads, head_dim, qk_norm, rope_dims, pairing, unrotated_every, gated) =
                case;
            let embed = 256;
            let spec = AttentionSpec {
                heads,
                kv_heads,
                head_dim,
                eps: 1e-6,
                qk_norm,
                pairing,
                unrotated_every,
                gated,
            };
            let q = heads * head_dim * if gated { 2 } else { 1 };
            let k = kv_heads * head_dim;
            let weights = [q, k, k].map(|rows| Raw::new(&mut random, ty, rows, embed));
            let (norm, bias) = (random.floats(embed), random.floats(q + 2 * k));
            let (q_norm, k_norm) = (random.floats(head_dim), random.floats(head_dim));
            let what = format!("{ty} {spec:?}");
            let input = |_| AttentionInput::<Flex> {
                norm: Norm::Rms(on::<Flex>(&norm, &[embed])),
                q: weights[0].on(),
                k: weights[1].on(),
                v: weights[2].on(),
                bias: on::<Flex>(&bias, &[bias.len()]),
                q_norm: on::<Flex>(&q_norm, &[head_dim]),
                k_norm: on::<Flex>(&k_norm, &[head_dim]),
            };
            let oracle_input = |_| AttentionInput::<Oracle> {
                norm: Norm::Rms(on::<Oracle>(&norm, &[embed])),
                q: weights[0].on(),
                k: weights[1].on(),
                v: weights[2].on(),
                bias: on::<Oracle>(&bias, &[bias.len()]),
                q_norm: on::<Oracle>(&q_norm, &[head_dim]),
                k_norm: on::<Oracle>(&k_norm, &[head_dim]),
            };
            let mut rt = runtime(36, rope_dims);
            rt.rope = rt
                .rope
                .with_query_scale(|position| 1.0 + position as f32 / 64.0);
            let format = if KvFormat::Q8_0.takes(head_dim) {
                KvFormat::Q8_0
            } else {
                KvFormat::F16
            };
            let cache = || {
                let keys = vec![KvFormat::F16, format].into();
                let layout = KvLayout::new(2, kv_heads, head_dim, keys, format).unwrap();
                let mut kv = KvCache::new(layout, 4, 2).unwrap();
                // neither in order nor together
                kv.table(0).extend([3, 0]);
                kv.table(1).extend([2]);
                kv
            };
            let (mut kv, mut oracle_kv) = (cache(), cache());
            // table, position, tokens
            let steps: [&[(usize, usize, usize)]; 4] = [
                &[(0, 0, 30)],
                &[(1, 0, 5), (0, 30, 1)],
                &[(0, 31, 3), (1, 5, 1)],
                &[(1, 6, 1), (0, 34, 1)],
            ];
            for spans in steps {
                let spans: Vec<Span> = spans
                    .iter()
                    .map(|&(table, position, tokens)| Span {
                        table,
                        position,
                        tokens,
                        guesses: 0,
                    })
                    .collect();
                kv.begin(&spans);
                oracle_kv.begin(&spans);
                let n = kv.rows();
                let layer = 1;
                let x = random.floats(n * embed);
                let host_q = Flex::attention_input(
                    &on::<Flex>(&x, &[n, embed]),
                    input(n),
                    spec,
                    layer,
                    &mut kv,
                    &mut rt,
                );
                let oracle_q = reference::attention_input::<Oracle>(
                    &on::<Oracle>(&x, &[n, embed]),
                    oracle_input(n),
                    spec,
                    layer,
                    &mut oracle_kv,
                    &rt,
                );
                close(
                    &read::<Flex>(host_q.clone()),
                    &read::<Oracle>(oracle_q.clone()),
                    ceiling(ty),
                    &what,
                );
                let host = read::<Flex>(Flex::attention(host_q, spec, layer, &mut kv, &mut rt));
                let oracle = read::<Oracle>(reference::attention::<Oracle>(
                    &oracle_q, spec, layer, &oracle_kv,
                ));
                // a value that f16 rounds the other way shows where gates make the results small
                let turned = if gated { 5e-4 } else { 0.0 };
                close(&host, &oracle, ceiling(ty) * 3.0 + turned, &what);
            }
        }
    }
}

#[test]
fn projections_mlp_and_head_match() {
    let mut random = Random(3);
    for ty in TYPES {
        for (n, rows) in [(1, 33), (2, 7), (9, 65)] {
            let cols = 512;
            let w = Raw::new(&mut random, ty, rows, cols);
            let up = Raw::new(&mut random, ty, rows, cols);
            let (x, a, norm) = (
                random.floats(n * rows),
                random.floats(n * cols),
                random.floats(cols),
            );
            let mut rt = runtime(1, 2);
            let what = format!("{ty} {n}x{rows}");

            let behind = random.floats(rows);
            for normed in [false, true] {
                let mut host_w = plain::<Flex>(w.on());
                let mut oracle_w = plain::<Oracle>(w.on());
                if normed {
                    host_w.norm = Norm::Rms(on::<Flex>(&behind, &[rows]));
                    oracle_w.norm = Norm::Rms(on::<Oracle>(&behind, &[rows]));
                }
                let host = Flex::project_add(
                    on::<Flex>(&x, &[n, rows]),
                    on::<Flex>(&a, &[n, cols]),
                    host_w,
                    1e-5,
                    &mut rt,
                );
                let oracle = reference::project_add::<Oracle>(
                    on::<Oracle>(&x, &[n, rows]),
                    on::<Oracle>(&a, &[n, cols]),
                    oracle_w,
                    1e-5,
                    &rt,
                );
                close(
                    &read::<Flex>(host),
                    &read::<Oracle>(oracle),
                    ceiling(ty) * 2.0,
                    &what,
                );
            }

            for normed in [false, true] {
                let mut host_mlp = MlpInput::<Flex> {
                    norm: Norm::Absent,
                    gate: w.on(),
                    up: up.on(),
                };
                let mut oracle_mlp = MlpInput::<Oracle> {
                    norm: Norm::Absent,
                    gate: w.on(),
                    up: up.on(),
                };
                if normed {
                    host_mlp.norm = Norm::Rms(on::<Flex>(&norm, &[cols]));
                    oracle_mlp.norm = Norm::Rms(on::<Oracle>(&norm, &[cols]));
                }
                let a_ = on::<Flex>(&a, &[n, cols]);
                let host = Flex::mlp_input(&a_, host_mlp, 1e-5, &mut rt);
                let a_ = on::<Oracle>(&a, &[n, cols]);
                let oracle = reference::mlp_input::<Oracle>(&a_, oracle_mlp, 1e-5, &rt);
                close(
                    &read::<Flex>(host),
                    &read::<Oracle>(oracle),
                    ceiling(ty) * 2.0,
                    &what,
                );
            }

            let head = LmHead::<Flex> {
                norm: on::<Flex>(&norm, &[cols]),
                exact: w.on(),
                scan: w.on(),
                requantized: false,
            };
            let host = Flex::head(on::<Flex>(&a, &[n, cols]), 0..n, head, 1e-5, &mut rt);
            let normed = reference::rms_norm::<Oracle>(
                on::<Oracle>(&a, &[n, cols]),
                on::<Oracle>(&norm, &[cols]),
                1e-5,
            );
            let oracle = reference::linear::<Oracle>(normed, w.on(), &rt);
            close(
                &read::<Flex>(host),
                &read::<Oracle>(oracle),
                ceiling(ty),
                &what,
            );
        }
    }
}

/// The best logits are those of the head itself and both planes, bit for bit, whatever found them, and the others near.
#[test]
fn the_best_logits_are_made_by_the_head_itself() {
    let (cols, n) = (64, 3);
    let mut random = Random(17);
    // few groups are all made so; a vocabulary need not be whole groups
    for rows in [16 * 40 + 5, 16 * 2000] {
        let exact = Raw::new(&mut random, GgmlType::Q8_0, rows, cols);
        let mut blocks = vec![0; rows * cols / 32 * 18];
        crate::quant::to_q4_0(exact.ty, &exact.blocks, &mut blocks);
        let scan = Raw {
            blocks,
            ty: GgmlType::Q4_0,
            ..exact.clone()
        };
        let (x, norm) = (random.floats(n * cols), random.floats(cols));
        let mut rt = runtime(1, 2);
        let mut logits = |scan: &Raw, requantized| {
            let head = LmHead::<Flex> {
                norm: on::<Flex>(&norm, &[cols]),
                exact: exact.on(),
                scan: scan.on(),
                requantized,
            };
            read::<Flex>(Flex::head(
                on::<Flex>(&x, &[n, cols]),
                0..n,
                head,
                1e-5,
                &mut rt,
            ))
        };
        let (want, got) = (logits(&exact, false), logits(&scan, true));
        let few = rows < 16 * 256;
        assert_eq!(want == got, few);
        for (want, got) in want.chunks_exact(rows).zip(got.chunks_exact(rows)) {
            let mut order: Vec<usize> = (0..rows).collect();
            order.sort_by(|a, b| want[*b].total_cmp(&want[*a]));
            for &best in &order[..64] {
                assert_eq!(want[best].to_bits(), got[best].to_bits());
            }
            let std = (want.iter().map(|v| v * v).sum::<f32>() / rows as f32).sqrt();
            let off = want.iter().zip(got).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < std);
        }
    }
}
