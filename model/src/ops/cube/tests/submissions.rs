//! What a token is submitted as, for a network of thirty layers that are made of the same few matrices.

use super::*;

/// How often wgpu submits for a token, by its own count: all kernels together, and copies of what is written and read.
const SUBMISSIONS: u64 = 3;

#[test]
fn a_token_is_as_many_submissions_as_the_last() {
    let _alone = alone();
    let (layers, embed, vocab) = (30, 64, 100);
    let spec = AttentionSpec {
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        eps: 1e-6,
        qk_norm: HeadNorm::Absent,
        pairing: RopePairing::Neox,
        unrotated_every: 0,
        gated: false,
    };
    let mut random = Random(9);
    let mut made = |rows| matrix(&Raw::new(&mut random, GgmlType::Q8_0, rows, embed));
    let (square, half, table) = (made(embed), made(32), made(vocab));
    let weight = || floats(&[1.0; 64], &[embed]);
    let norm = || Norm::Rms(weight());
    let input = AttentionInput::<CubeBackend> {
        norm: norm(),
        q: square.clone(),
        k: half.clone(),
        v: half,
        bias: floats(&[0.0; 128], &[128]),
        q_norm: floats(&[0.0], &[1]),
        k_norm: floats(&[0.0], &[1]),
    };
    let mlp = MlpInput::<CubeBackend> {
        norm: norm(),
        gate: square.clone(),
        up: square.clone(),
    };
    let head = LmHead::<CubeBackend> {
        norm: weight(),
        exact: table.clone(),
        scan: table.clone(),
        requantized: false,
    };
    let keys = vec![KvFormat::Q8_0; layers].into();
    let layout = KvLayout::new(layers, 1, 32, keys, KvFormat::Q8_0).unwrap();
    let (mut kv, mut rt) = (device_cache(&layout, 1), runtime(PAGE_TOKENS, 32));
    kv.table(0).push(0).unwrap();
    // an empty submission has the next number
    let submitted = || {
        let index = format!("{:?}", gpu().queue.submit([]));
        let digits: String = index.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap()
    };
    let like = floats(&[0.0], &[1]);
    for position in 0..4 {
        let before = submitted();
        kv.begin(&[Span {
            table: 0,
            position,
            tokens: 1,
            guesses: 0,
        }]);
        let mut x = CubeBackend::embed(&like, table.clone(), &[7], 1.0, &kv, &mut rt);
        for layer in 0..layers {
            let q = CubeBackend::attention_input(&x, input.clone(), spec, layer, &mut kv, &mut rt);
            let a = CubeBackend::attention(q, spec, layer, &mut kv, &mut rt);
            x = CubeBackend::project_add(x, a, plain(square.clone()), 1e-6, &mut rt);
            let inner = CubeBackend::mlp_input(&x, mlp.clone(), 1e-6, &mut rt);
            x = CubeBackend::project_add(x, inner, plain(square.clone()), 1e-6, &mut rt);
        }
        let logits = CubeBackend::head(x, 0..1, head.clone(), 1e-6, &mut rt);
        CubeBackend::read_logits(logits, true, &mut rt).unwrap();
        let submissions = submitted() - before - 1;
        // the first token makes buffers and arguments, whose writes are submitted apart
        if position > 0 {
            assert_eq!(submissions, SUBMISSIONS, "token {position}");
        }
    }
}
