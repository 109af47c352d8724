//! Heads, pages and attention, at every level of the host.

use super::*;
use std::time::Duration;

#[test]
fn attention_matches_over_steps_of_two_sequences() {
    let _alone = alone();
    // where pages are read: what another thread sends may be behind that
    let compared = (gpu().driver.0).run(Duration::from_secs(600), attention_is_compared);
    compared.expect("the comparison panicked");
}

fn attention_is_compared() {
    let cases = [
        // heads, kv heads, head size, q/k norm, rotated values, pairing
        (4, 2, 16, false, 16, RopePairing::Neox),
        (6, 1, 24, true, 16, RopePairing::Neox),
        (3, 3, 8, false, 8, RopePairing::Norm),
        (10, 2, 32, true, 24, RopePairing::Norm),
        (4, 2, 64, false, 64, RopePairing::Neox),
        (2, 1, 96, false, 96, RopePairing::Norm),
        (3, 1, 128, true, 128, RopePairing::Neox),
        (2, 1, 256, false, 256, RopePairing::Neox),
    ];
    for isa in levels() {
        for (heads, kv_heads, head_dim, qk_norm, rope_dims, pairing) in cases {
            // levels differ at sizes that are common
            if isa != levels()[0] && head_dim != 64 {
                continue;
            }
            let spec = AttentionSpec {
                heads,
                kv_heads,
                head_dim,
                eps: 1e-6,
                qk_norm: if qk_norm {
                    HeadNorm::BeforeRotation
                } else {
                    HeadNorm::Absent
                },
                pairing,
                unrotated_every: 0,
                gated: false,
            };
            compared(spec, rope_dims, isa);
        }
    }
}

/// Compares some steps of a layer with keys in f16, and of one whose keys and values are in q8_0 if the heads are of whole blocks.
fn compared(spec: AttentionSpec, rope_dims: usize, isa: Isa) {
    let mut random = Random(5);
    let (embed, head_dim, kv_heads) = (256, spec.head_dim, spec.kv_heads);
    let (q, k) = (spec.heads * head_dim, kv_heads * head_dim);
    let weights = [q, k, k].map(|rows| Raw::new(&mut random, GgmlType::Q8_0, rows, embed));
    let (norm, bias) = (random.floats(embed), random.floats(q + 2 * k));
    let (q_norm, k_norm) = (random.floats(head_dim), random.floats(head_dim));
    let what = format!("{isa} {spec:?}");
    let input = || AttentionInput::<CubeBackend> {
        norm: Norm::Rms(floats(&norm, &[embed])),
        q: matrix(&weights[0]),
        k: matrix(&weights[1]),
        v: matrix(&weights[2]),
        bias: floats(&bias, &[bias.len()]),
        q_norm: floats(&q_norm, &[head_dim]),
        k_norm: floats(&k_norm, &[head_dim]),
    };
    let host_input = || AttentionInput::<Flex> {
        norm: Norm::Rms(on::<Flex>(&norm, &[embed])),
        q: weights[0].on(),
        k: weights[1].on(),
        v: weights[2].on(),
        bias: on::<Flex>(&bias, &[bias.len()]),
        q_norm: on::<Flex>(&q_norm, &[head_dim]),
        k_norm: on::<Flex>(&k_norm, &[head_dim]),
    };
    let q8_0 = KvFormat::Q8_0.takes(head_dim);
    // keys and values of either format
    let caches: &[(KvFormat, KvFormat)] = if q8_0 {
        &[
            (KvFormat::F16, KvFormat::Q8_0),
            (KvFormat::Q8_0, KvFormat::F16),
        ]
    } else {
        &[(KvFormat::F16, KvFormat::F16)]
    };
    for (keys, values) in caches {
        let what = format!("{what} {} {}", keys.name(), values.name());
        let mut rt = at_level(200, rope_dims, isa);
        let layout = KvLayout::new(1, kv_heads, head_dim, [*keys].into(), *values).unwrap();
        let mut kv = device_cache(&layout, 2);
        let mut host_kv = KvCache::new(layout.clone(), PAGES, 2).unwrap();
        for kv in [&mut kv, &mut host_kv] {
            // neither in order nor together
            kv.table(0).extend([3, 0, 1, 5, 4]);
            kv.table(1).extend([2]);
            (0..PAGES).for_each(|page| kv.clear(page as u16));
        }
        // table, position, tokens
        let steps: [&[(usize, usize, usize)]; 6] = [
            &[(0, 0, 30)],
            &[(1, 0, 5), (0, 30, 1)],
            &[(0, 31, 3), (1, 5, 1)],
            &[(0, 34, 60)],
            &[(0, 94, 50)],
            &[(1, 6, 1), (0, 144, 1)],
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
            host_kv.begin(&spans);
            let n = kv.rows();
            let x = random.floats(n * embed);
            let x_ = columns(&x, [n, embed]);
            let found = CubeBackend::attention_input(&x_, input(), spec, 0, &mut kv, &mut rt);
            let x_ = on::<Flex>(&x, &[n, embed]);
            let wanted = Flex::attention_input(&x_, host_input(), spec, 0, &mut host_kv, &mut rt);
            same(found.clone(), wanted.clone(), &what);
            let found = CubeBackend::attention(found, spec, 0, &mut kv, &mut rt);
            let wanted = Flex::attention(wanted, spec, 0, &mut host_kv, &mut rt);
            same(found, wanted, &what);
        }
        for page in 0..PAGES as u16 {
            let (found, wanted) = (kv.arena().page(page), host_kv.arena().page(page));
            assert!(found.unwrap() == wanted.unwrap(), "{what}: page {page}");
        }
    }
}
