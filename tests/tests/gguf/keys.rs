//! The keys of rope, of the scales, and of what else only some architectures have.

use super::dims::{UNSCALED, check, read};
use glowplug_model::kv::StateLayout;
use glowplug_model::network::dims::{Arch, Delta, Scales, Scaling, Temperature, Yarn};
use glowplug_tests::{Kv, Tiny};

#[test]
fn rope() {
    check(
        &Tiny::smallest(Arch::Qwen2),
        &[
            (
                "base",
                |w| w.set("qwen2.rope.freq_base", Kv::F32(0.0)),
                "`qwen2.rope.freq_base` is 0, which is out of range",
            ),
            (
                "more than a head",
                |w| w.set("qwen2.rope.dimension_count", Kv::U32(18)),
                "`qwen2.rope.dimension_count` is 18, which is odd or more than the 16 of a head",
            ),
            (
                "odd",
                |w| w.set("qwen2.rope.dimension_count", Kv::U32(15)),
                "`qwen2.rope.dimension_count` is 15, which is odd or more than the 16 of a head",
            ),
            (
                "longrope",
                |w| w.set("qwen2.rope.scaling.type", "longrope"),
                "`qwen2.rope.scaling.type` is longrope, which is not supported",
            ),
            (
                "yarn by nothing",
                |w| w.set("qwen2.rope.scaling.type", "yarn"),
                "metadata key `qwen2.rope.scaling.factor` is missing",
            ),
            (
                "yarn by 0",
                |w| {
                    w.set("qwen2.rope.scaling.type", "yarn");
                    w.set("qwen2.rope.scaling.factor", Kv::F32(0.0));
                },
                "`qwen2.rope.scaling.factor` is 0, which is out of range",
            ),
            (
                "yarn without turns",
                |w| {
                    w.set("qwen2.rope.scaling.type", "yarn");
                    w.set("qwen2.rope.scaling.factor", Kv::F32(4.0));
                    w.set("qwen2.rope.scaling.yarn_beta_slow", Kv::F32(0.0));
                },
                "`qwen2.rope.scaling.yarn_beta_slow` is 0, which is out of range",
            ),
            (
                "yarn of equal frequencies",
                |w| {
                    w.set("qwen2.rope.scaling.type", "yarn");
                    w.set("qwen2.rope.scaling.factor", Kv::F32(4.0));
                    w.set("qwen2.rope.freq_base", Kv::F32(1.0));
                },
                "`qwen2.rope.freq_base` is 1, of which YaRN makes no frequencies",
            ),
            (
                "heads of no length",
                |w| w.set("qwen2.rope.scaling.attn_factor", Kv::F32(0.0)),
                "`qwen2.rope.scaling.attn_factor` is 0, which is out of range",
            ),
            (
                "linear by nothing",
                |w| w.set("qwen2.rope.scaling.type", "linear"),
                "metadata key `qwen2.rope.scaling.factor` is missing",
            ),
            (
                "linear by 0",
                |w| w.set("qwen2.rope.scaling.factor", Kv::F32(0.0)),
                "`qwen2.rope.scaling.factor` is 0, which is out of range",
            ),
            (
                "a table that is not for this architecture",
                |w| w.add("rope_freqs.weight", &[8], 0, vec![0; 32]),
                "tensor `rope_freqs.weight` has no place in a network of this architecture",
            ),
        ],
    );
    let scaling = |keys: &[(&str, Kv)]| {
        let mut w = Tiny::smallest(Arch::Llama).writer();
        for (key, value) in keys {
            w.set(&format!("llama.{key}"), value.clone());
        }
        read(&w).unwrap().rope.scaling
    };
    assert_eq!(scaling(&[]), Scaling::None);
    assert_eq!(
        scaling(&[("rope.scaling.type", "none".into())]),
        Scaling::None
    );
    assert_eq!(
        scaling(&[("rope.scaling.factor", Kv::F32(2.0))]),
        Scaling::Linear(2.0)
    );
    assert_eq!(
        scaling(&[("rope.scale_linear", Kv::F32(4.0))]),
        Scaling::Linear(4.0)
    );
    let linear = [
        ("rope.scaling.type", "linear".into()),
        ("rope.scaling.factor", Kv::F32(8.0)),
    ];
    assert_eq!(scaling(&linear), Scaling::Linear(8.0));
    let yarn = [
        ("rope.scaling.type", "yarn".into()),
        ("rope.scaling.factor", Kv::F32(8.0)),
    ];
    let want = Yarn {
        factor: 8.0,
        original_context: 512,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    assert_eq!(scaling(&yarn), Scaling::Yarn(want));
    let more = [
        ("rope.scaling.original_context_length", Kv::U32(64)),
        ("rope.scaling.yarn_beta_fast", Kv::F32(16.0)),
        ("rope.scaling.yarn_beta_slow", Kv::F32(2.0)),
    ];
    let want = Yarn {
        factor: 8.0,
        original_context: 64,
        beta_fast: 16.0,
        beta_slow: 2.0,
    };
    assert_eq!(
        scaling(&[&yarn[..], &more[..]].concat()),
        Scaling::Yarn(want)
    );
}

/// What only some architectures have.
#[test]
fn traits_of_architectures() {
    let read_with = |arch: Arch, keys: &[(&str, Kv)]| {
        let mut w = Tiny::smallest(arch).writer();
        for (key, value) in keys {
            w.set(&format!("{}.{key}", arch.name()), value.clone());
        }
        read(&w)
    };
    let granite = [
        ("embedding_scale", Kv::F32(12.0)),
        ("residual_scale", Kv::F32(0.25)),
        ("attention.scale", Kv::F32(0.5)),
        ("logit_scale", Kv::F32(8.0)),
    ];
    let scales = Scales {
        embedding: 12.0,
        residual: 0.25,
        // heads of 16 values, whose scale is a fourth otherwise
        queries: 2.0,
        logits: 8.0,
        temperature: None,
    };
    assert_eq!(read_with(Arch::Granite, &granite).unwrap().scales, scales);
    assert_eq!(read_with(Arch::Granite, &[]).unwrap().scales, UNSCALED);
    for (key, _) in granite {
        let refused = read_with(Arch::Granite, &[(key, Kv::F32(0.0))]).unwrap_err();
        let says = format!("`granite.{key}` is 0, which is out of range");
        assert_eq!(refused.to_string(), says);
    }
    let unrotated = [("rope.scaling.finetuned", Kv::Bool(false))];
    for (arch, keys, every) in [
        (Arch::Granite, &unrotated[..], 1),
        (Arch::Granite, &[][..], 0),
        (Arch::Llama, &unrotated[..], 0),
        (Arch::SmolLm3, &[][..], 4),
    ] {
        let rope = read_with(arch, keys).unwrap().rope;
        assert_eq!(rope.unrotated_every, every, "{arch:?}");
    }
    let mistral = read_with(
        Arch::Mistral3,
        &[
            ("attention.temperature_scale", Kv::F32(0.1)),
            ("rope.scaling.original_context_length", Kv::U32(16)),
        ],
    );
    let scales = mistral.unwrap().scales;
    let temperature = Temperature {
        scale: 0.1,
        step: 16,
    };
    assert_eq!(scales.temperature, Some(temperature));
    assert_eq!(scales.query(15), 1.0);
    assert!((scales.query(16) - (1.0 + 0.1 * 2f32.ln())).abs() < 1e-6);
    let hunyuan = read_with(Arch::HunyuanDense, &[("rope.scaling.alpha", Kv::F32(50.0))]);
    let base = hunyuan.unwrap().rope.base;
    assert!((base / (10_000.0 * 50f32.powf(16.0 / 14.0)) - 1.0).abs() < 1e-5);
    // that it were a window of some layers only, whose others do not rotate, is said by no key
    let window = [("attention.sliding_window", Kv::U32(4096))];
    assert_eq!(
        read_with(Arch::Exaone4, &window).unwrap_err().to_string(),
        "`exaone4.attention.sliding_window` is 4096, which is not supported"
    );
}

#[test]
fn which_layers_are_delta_nets_and_how_large() {
    let hybrid = Tiny {
        layers: 3,
        attends_every: 3,
        draft_layer: true,
        ..Tiny::smallest(Arch::Qwen35)
    };
    let flags = |flags: &[u8]| Kv::array(7, flags.len() as u64, flags);
    let read_with = |keys: &[(&str, Kv)]| {
        let mut w = hybrid.writer();
        for (key, value) in keys {
            w.set(&format!("qwen35.{key}"), value.clone());
        }
        read(&w)
    };
    let dims = read_with(&[]).unwrap();
    assert_eq!(
        (dims.layers, dims.draft_layers, dims.kv_layers()),
        (3, 1, 2)
    );
    let delta = dims.delta.clone().unwrap();
    let want = Delta {
        attends: [false, false, true].into(),
        key_heads: 1,
        value_heads: 2,
        head_dim: 32,
    };
    assert_eq!(delta, want);
    let state = StateLayout {
        layers: 2,
        conv: 3 * 4 * 32,
        delta: 2 * 32 * 32,
        width: 4 * 32 + 2 * 32 + 2 * 2,
        hidden: 32,
    };
    assert_eq!(delta.state(dims.embed), state);
    // flags come before an interval
    let said = [
        ("full_attention_interval", Kv::U32(1)),
        ("attention.recurrent_layers", flags(&[1, 1, 0, 0])),
    ];
    assert_eq!(read_with(&said).unwrap(), dims);
    let heads = "ssm.time_step_rank";
    for (key, value, named, says) in [
        (
            "nextn_predict_layers",
            Kv::U32(2),
            "",
            "is 2, which is not supported",
        ),
        (
            "block_count",
            Kv::U32(1),
            "",
            "is 1, which leaves no layer beside those that draft",
        ),
        (
            "full_attention_interval",
            Kv::U32(0),
            "",
            "is 0, the limits are 1 and 256",
        ),
        (
            "full_attention_interval",
            Kv::U32(257),
            "",
            "is 257, the limits are 1 and 256",
        ),
        (
            "full_attention_interval",
            Kv::U32(4),
            "",
            "leaves no layer that attends",
        ),
        (
            "attention.recurrent_layers",
            flags(&[1, 1, 0]),
            "",
            "has 3 x bool, not 4 x bool",
        ),
        (
            "attention.recurrent_layers",
            Kv::I32s(vec![1, 1, 0, 0]),
            "",
            "has 4 x i32, not 4 x bool",
        ),
        (
            "attention.recurrent_layers",
            flags(&[1, 1, 1, 0]),
            "",
            "leaves no layer that attends",
        ),
        (
            "attention.recurrent_layers",
            flags(&[1, 1, 0, 1]),
            "",
            "has a recurrent layer that drafts",
        ),
        (
            "ssm.group_count",
            Kv::U32(3),
            heads,
            "is 2, which is no multiple of the 3 key heads",
        ),
        (
            "ssm.group_count",
            Kv::U32(257),
            "",
            "is 257, the limits are 1 and 256",
        ),
        (heads, Kv::U32(0), "", "is 0, the limits are 1 and 256"),
        (heads, Kv::U32(257), "", "is 257, the limits are 1 and 256"),
        (
            "ssm.state_size",
            Kv::U32(48),
            "",
            "is 48, which is no multiple of 32",
        ),
        (
            "ssm.state_size",
            Kv::U32(257),
            "",
            "is 257, the limits are 1 and 256",
        ),
        (
            "ssm.inner_size",
            Kv::U32(96),
            "",
            "is 96, heads and their size make 64",
        ),
        (
            "ssm.conv_kernel",
            Kv::U32(3),
            "",
            "is 3, which is not supported",
        ),
        (
            "ssm.conv_kernel",
            Kv::U32(0),
            "",
            "is 0, the limits are 1 and 4294967295",
        ),
    ] {
        let named = if named.is_empty() { key } else { named };
        let refused = read_with(&[(key, value)]).unwrap_err().to_string();
        assert_eq!(refused, format!("`qwen35.{named}` {says}"));
    }
    for key in [
        "full_attention_interval",
        "ssm.group_count",
        "ssm.time_step_rank",
        "ssm.state_size",
        "ssm.inner_size",
        "ssm.conv_kernel",
    ] {
        let mut w = hybrid.writer();
        w.remove(&format!("qwen35.{key}"));
        let says = format!("metadata key `qwen35.{key}` is missing");
        assert_eq!(read(&w).unwrap_err().to_string(), says);
    }
    // its tensors are those of no other layer
    let mut w = hybrid.writer();
    w.remove("qwen35.nextn_predict_layers");
    assert!(read(&w).is_err());
    for other in ["qwen3next", "qwen35moe"] {
        let mut w = hybrid.writer();
        w.set("general.architecture", other);
        let says = format!("architecture `{other}` is not supported, only ");
        assert!(read(&w).unwrap_err().to_string().starts_with(&says));
    }
}

#[test]
fn a_table_of_frequencies() {
    check(
        &Tiny {
            rope_freqs: true,
            ..Tiny::smallest(Arch::Llama)
        },
        &[
            ("good", |_| {}, "taken"),
            (
                "and linear",
                |w| w.set("llama.rope.scaling.factor", Kv::F32(2.0)),
                "`llama.rope.scaling.type` is linear beside a `rope_freqs.weight`",
            ),
            (
                "too short",
                |w| {
                    let table = w.tensor("rope_freqs.weight");
                    table.dims = vec![7];
                    table.data.truncate(28);
                },
                "tensor `rope_freqs.weight` has dimensions [7], expected [8]",
            ),
            (
                "a frequency of 0",
                |w| w.tensor("rope_freqs.weight").data[28..].fill(0),
                "tensor `rope_freqs.weight` has a value that is not finite and above 0",
            ),
            (
                "no number",
                |w| w.tensor("rope_freqs.weight").data[..4].fill(0xff),
                "tensor `rope_freqs.weight` has a value that is not finite and above 0",
            ),
        ],
    );
}
