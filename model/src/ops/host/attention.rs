//! Attention of a step: which of its tokens look at the cache together, and on which thread.

use super::{FlexTensor, tensor, values, width, with_tile};
use crate::kv::KvCache;
use crate::ops::AttentionSpec;
use crate::ops::runtime::Runtime;
use crate::quant::Heads;
use glowplug_firmware_config::attention;
use glowplug_firmware_config::limits::STEP_TOKENS;
use heapless::Vec as Bounded;
use std::ops::Range;

/// Tasks that each thread has at least, where there are tokens enough: what one of them has more than another, the threads even
/// out among them.
const TASKS: usize = 4;

/// See [`QuantOps::attention`](crate::ops::QuantOps::attention). There is one task for each tile and KV head: the query heads of
/// its group, at all tokens of the tile, share the reading of each key and value. Tasks of one head are neighbours, so that a
/// thread finds in its caches what the task before has read.
pub(super) fn attention(
    q: FlexTensor,
    spec: AttentionSpec,
    layer: usize,
    kv: &KvCache,
    rt: &Runtime,
) -> FlexTensor {
    let (n, wide) = width(&q);
    let d = spec.head_dim;
    let q_rows = spec.heads * d;
    let group = spec.heads / spec.kv_heads;
    let scale = 1.0 / (d as f32).sqrt();
    let mut out = values(q);
    let mut gates = Vec::new();
    if spec.gated {
        let columns = || out.chunks_exact(wide);
        gates = columns()
            .flat_map(|column| &column[q_rows..])
            .copied()
            .collect();
        out = columns()
            .flat_map(|column| &column[..q_rows])
            .copied()
            .collect();
    }
    let (keys_rotated, values_rotated) = (kv.keys_rotated(layer), kv.values_rotated());
    let (kernels, threads) = (rt.kernels, rt.threads);
    let tiles = tiles(kv, &spec, threads);
    // as large as it can ever get, so that it does not grow later
    let scratch = attention::scratch(group, d, rt.rope.positions());
    rt.pool.run_tiles(
        threads,
        &mut out,
        q_rows,
        group * d,
        &tiles,
        &|heads, tile, out| {
            let (head, first) = (heads.start / (group * d), tiles[tile].start);
            let looking = out.cols() * group * d;
            with_tile(scratch, |buffer| {
                let (q, buffer) = buffer.split_at_mut(looking);
                let (result, scores) = buffer.split_at_mut(looking);
                for (c, q) in q.chunks_exact_mut(group * d).enumerate() {
                    q.copy_from_slice(out.column(c));
                }
                if keys_rotated {
                    q.chunks_exact_mut(d).for_each(|head| kernels.rotate(head));
                }
                let looking = Heads {
                    q,
                    k: kv.keys(layer, head, first),
                    v: kv.values(layer, head, first),
                    d,
                    group,
                    len: kv.position(first) + 1,
                    scale,
                };
                kernels.attend(&looking, scores, result);
                if values_rotated {
                    result
                        .chunks_exact_mut(d)
                        .for_each(|head| kernels.rotate(head));
                }
                for (c, result) in result.chunks_exact_mut(group * d).enumerate() {
                    if spec.gated {
                        let gates = &gates[(first + c) * q_rows + heads.start..];
                        result
                            .iter_mut()
                            .zip(gates)
                            .for_each(|(r, gate)| *r *= gate);
                    }
                    out.column(c).copy_from_slice(result);
                }
            });
        },
    );
    tensor(out, [n, q_rows])
}

/// The rows of the step that look at the cache together: neighbours that are tokens of one sequence, one after the other.
fn tiles(kv: &KvCache, spec: &AttentionSpec, threads: usize) -> Bounded<Range<usize>, STEP_TOKENS> {
    let rows = kv.rows();
    let even = rows * spec.kv_heads / (TASKS * threads.max(1));
    let mut tiles = Bounded::new();
    let mut first = 0;
    while first < rows {
        let follows = |row: &usize| {
            kv.table_of(*row) == kv.table_of(first)
                && kv.position(*row) == kv.position(first) + row - first
        };
        let run = (first..rows).take_while(follows).count();
        let most = attention::positions(spec.heads / spec.kv_heads, kv.position(first) + run);
        let size = most.min(even).max(1);
        for start in (first..first + run).step_by(size) {
            let tile = start..(start + size).min(first + run);
            assert!(tiles.push(tile).is_ok(), "a tile without a row");
        }
        first += run;
    }
    tiles
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::kv::{KvLayout, Span};
    use crate::ops::HeadNorm;
    use crate::ops::rope::{RopePairing, RopeTable};
    use crate::ops::tests::{Random, on, read};
    use crate::ops::{Flex, QuantOps};
    use crate::pool::Pool;
    use crate::quant::{Isa, Kernels};
    use glowplug_firmware_config::kv::KvFormat;

    fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
        AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            eps: 0.0,
            qk_norm: HeadNorm::Absent,
            pairing: RopePairing::Norm,
            unrotated_every: 0,
            gated: false,
        }
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

    /// The tiles of a step of these spans: table, position and tokens.
    fn tiles_of(
        (heads, kv_heads): (usize, usize),
        threads: usize,
        of: &[(usize, usize, usize)],
    ) -> Vec<Range<usize>> {
        let layout = KvLayout::new(1, 1, 8, [KvFormat::F16].into(), KvFormat::F16).unwrap();
        let mut kv = KvCache::new(layout, 1, 3).unwrap();
        (0..3).for_each(|table| kv.table(table).extend([0; 400]));
        kv.begin(&spans(of));
        tiles(&kv, &spec(heads, kv_heads, 8), threads).to_vec()
    }

    #[test]
    fn tiles_are_of_one_sequence_and_neighbours() {
        // a stream, a prompt, another stream; then a sequence that comes twice, with a gap between
        let spans = [(0, 100, 1), (1, 40, 23), (2, 41, 1)];
        let tiles = tiles_of((12, 2), 1, &spans);
        let want = [0..1, 1..6, 6..11, 11..16, 16..21, 21..24, 24..25];
        assert_eq!(tiles, want);
        let twice = tiles_of((12, 2), 1, &[(0, 5, 3), (0, 10, 5)]);
        assert_eq!(twice, [0..3, 3..7, 7..8]);
        let two = tiles_of((12, 2), 1, &[(0, 5, 2), (1, 7, 4)]);
        assert_eq!(two, [0..2, 2..5, 5..6]);
        // each row is in one tile
        for tokens in 1..=62 {
            let tiles = tiles_of((6, 2), 2, &[(0, 0, 1), (2, 7, tokens), (1, 8 + tokens, 1)]);
            let rows: Vec<usize> = tiles.into_iter().flatten().collect();
            assert_eq!(rows, (0..tokens + 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_thread_gets_its_tasks() {
        for (heads, kv_heads) in [(12, 2), (14, 2), (9, 3), (4, 1), (32, 32)] {
            for threads in [1, 2, 3, 4, 8, 16] {
                for tokens in [1, 2, 8, 33, 64] {
                    let tasks =
                        kv_heads * tiles_of((heads, kv_heads), threads, &[(0, 9, tokens)]).len();
                    assert!(tasks >= (TASKS * threads).min(kv_heads * tokens));
                }
            }
        }
        // a draft of a stream that is alone
        assert_eq!(tiles_of((12, 2), 2, &[(0, 900, 8)]).len(), 4);
    }

    #[test]
    fn tiles_of_long_sequences_are_small() {
        let size = |position| tiles_of((12, 2), 1, &[(0, position, 64)])[0].len();
        assert_eq!([0, 4000, 8000, 12_000].map(size), [5, 5, 2, 1]);
    }

    /// On every level, a step of three sequences gives each token what it gets alone.
    #[test]
    fn tiles_give_the_bits_of_their_tokens_alone() {
        const POSITIONS: usize = 320;
        let mut random = Random(23);
        let levels = Isa::ALL
            .into_iter()
            .filter_map(|isa| Kernels::detect(Some(isa)).ok());
        for kernels in levels {
            for spec in [
                spec(12, 2, 128),
                spec(9, 3, 64),
                spec(4, 4, 96),
                spec(5, 1, 32),
            ] {
                let (kv_heads, d) = (spec.kv_heads, spec.head_dim);
                let keys = [KvFormat::F16, KvFormat::Q8_0].into();
                let layout = KvLayout::new(2, kv_heads, d, keys, KvFormat::Q8_0).unwrap();
                let pages = POSITIONS / 32;
                let mut kv = KvCache::new(layout, 3 * pages, 3).unwrap();
                for table in 0..3 {
                    // neither in order nor together
                    kv.table(table)
                        .extend((0..pages).rev().map(|page| (3 * page + table) as u16));
                    for position in (0..POSITIONS).step_by(64) {
                        kv.begin(&spans(&[(table, position, 64)]));
                        for (row, layer) in (0..64).flat_map(|row| [(row, 0), (row, 1)]) {
                            let [mut keys, mut vals] =
                                [(); 2].map(|()| random.floats(kv_heads * d));
                            kv.encode(kernels, layer, &mut keys, &mut vals);
                            kv.store(layer, row, &keys, &vals);
                        }
                    }
                }
                let rope = RopeTable::new(POSITIONS, 10_000.0, &vec![1.0; d / 2], 1.0);
                let mut rt = Runtime::new(Pool::new(3).unwrap(), kernels, rope);
                for threads in [1, 3] {
                    rt.threads = threads;
                    for of in [
                        vec![(0, 0, 64)],
                        vec![(1, 250, 1), (0, 99, 37), (2, 0, 18)],
                        vec![(2, 122, 8), (1, 310, 9), (0, 130, 2)],
                    ] {
                        let width = spec.heads * d;
                        let of = spans(&of);
                        kv.begin(&of);
                        let q = random.floats(kv.rows() * width);
                        for layer in 0..2 {
                            kv.begin(&of);
                            let all = on::<Flex>(&q, &[kv.rows(), width]);
                            let all = Flex::attention(all, spec, layer, &mut kv, &mut rt);
                            let all = read::<Flex>(all);
                            let tokens = of.iter().flat_map(|span| {
                                (span.position..span.position + span.tokens)
                                    .map(|position| (span.table, position, 1))
                            });
                            for (row, token) in tokens.enumerate() {
                                kv.begin(&spans(&[token]));
                                let alone = on::<Flex>(&q[row * width..][..width], &[1, width]);
                                let alone = Flex::attention(alone, spec, layer, &mut kv, &mut rt);
                                let alone = read::<Flex>(alone);
                                let bits =
                                    |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                                assert!(alone.iter().any(|x| *x != 0.0));
                                assert!(
                                    bits(&alone) == bits(&all[row * width..][..width]),
                                    "{} {spec:?} layer {layer} {threads} threads {token:?}",
                                    kernels.isa()
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
