//! One broken file for each rule of the GGUF reader, with the whole message that it is refused with; and files at the limits
//! themselves, which are taken.
//!
//! One file, because it is one table of rules.

use super::Rule;
use glowplug_model::gguf::{Gguf, GgufError};
use glowplug_model::network::dims::Arch;
use glowplug_tests::{GgufWriter, Kv, Tiny};

const F32: u32 = 0;
const BOOL: u32 = 7;
const STR: u32 = 8;
const ARRAY: u32 = 9;

fn open(w: &GgufWriter) -> Result<Gguf, GgufError> {
    Gguf::from_bytes(w.build().into())
}

fn good() -> GgufWriter {
    Tiny::smallest(Arch::Qwen2).writer()
}

fn check(rules: &[Rule]) {
    super::check(rules, good, open);
}

fn long(n: usize) -> String {
    "x".repeat(n)
}

const HEAD: &[Rule] = &[
    ("good", |_| {}, "taken"),
    ("version 2", |w| w.version = 2, "taken"),
    (
        "version 1",
        |w| w.version = 1,
        "GGUF version 1 is not supported, only 2 and 3 in little endian",
    ),
    (
        "version 4",
        |w| w.version = 4,
        "GGUF version 4 is not supported, only 2 and 3 in little endian",
    ),
    (
        "big endian",
        |w| w.version = 3u32.swap_bytes(),
        "GGUF version 50331648 is not supported, only 2 and 3 in little endian",
    ),
    (
        "tensors above the limit",
        |w| w.n_tensors = Some(4097),
        "the length of the list of tensors is 4097, the limit is 4096",
    ),
    (
        "tensors that cannot fit",
        |w| w.n_tensors = Some(4096),
        "the file ends inside the list of tensors",
    ),
    (
        "keys above the limit",
        |w| w.n_keys = Some(u64::MAX),
        "the length of the list of metadata keys is 18446744073709551615, the limit is 1024",
    ),
    (
        "keys that cannot fit",
        |w| {
            w.tensors.clear();
            w.keys.truncate(2);
            w.n_keys = Some(1024);
        },
        "the file ends inside the list of metadata keys",
    ),
];

#[test]
fn head() {
    check(HEAD);
    assert!(
        matches!(Gguf::from_bytes(b"GGML\x03\0\0\0".to_vec().into()), Err(GgufError::Magic(m)) if &m == b"GGML")
    );
    assert!(matches!(
        Gguf::from_bytes(b"GG".to_vec().into()),
        Err(GgufError::Truncated { .. })
    ));
}

const KEYS_AND_VALUES: &[Rule] = &[
    (
        "long key",
        |w| w.keys[0].0 = long(257),
        "the length of the name of metadata key 0 is 257, the limit is 256",
    ),
    (
        "key for a log line",
        |w| w.keys[0].0 = "a\nERROR b".into(),
        "the name of metadata key 0 is empty or has characters that are not printable ASCII",
    ),
    (
        "no key",
        |w| w.keys[3].0.clear(),
        "the name of metadata key 3 is empty or has characters that are not printable ASCII",
    ),
    (
        "key twice",
        |w| w.keys.push(("general.name".into(), Kv::U32(1))),
        "metadata key `general.name` is there twice",
    ),
    (
        "unknown type",
        |w| w.set("k", Kv::Raw(13, vec![0; 8])),
        "metadata key `k` has the unknown value type 13",
    ),
    (
        "unknown element type",
        |w| w.set("k", Kv::array(u32::MAX, 0, &[])),
        "metadata key `k` has the unknown value type 4294967295",
    ),
    (
        "long string",
        |w| w.set("k", Kv::Str(long((1 << 20) + 1))),
        "the length of metadata key `k` is 1048577, the limit is 1048576",
    ),
    (
        "longest string",
        |w| w.set("k", Kv::Str(long(1 << 20))),
        "taken",
    ),
    (
        "string of which all is claimed and nothing there",
        |w| {
            w.tensors.clear();
            w.set("k", Kv::Raw(STR, (1u64 << 20).to_le_bytes().to_vec()));
        },
        "the file ends inside metadata key `k`",
    ),
    (
        "string that would wrap the position",
        |w| w.set("k", Kv::Raw(STR, u64::MAX.to_le_bytes().to_vec())),
        "the length of metadata key `k` is 18446744073709551615, the limit is 1048576",
    ),
    (
        "not UTF-8",
        |w| {
            w.set(
                "k",
                Kv::Raw(STR, [&1u64.to_le_bytes()[..], b"\xff"].concat()),
            )
        },
        "metadata key `k` is not UTF-8",
    ),
    (
        "long template",
        |w| w.set("tokenizer.chat_template", Kv::Str(long((64 << 10) + 1))),
        "the length of metadata key `tokenizer.chat_template` is 65537, the limit is 65536",
    ),
    (
        "long template of another name",
        |w| {
            w.set(
                "tokenizer.chat_template.tool_use",
                Kv::Str(long((64 << 10) + 1)),
            )
        },
        "the length of metadata key `tokenizer.chat_template.tool_use` is 65537, the limit is 65536",
    ),
    (
        "longest template",
        |w| w.set("tokenizer.chat_template", Kv::Str(long(64 << 10))),
        "taken",
    ),
    (
        "long array",
        |w| w.set("k", Kv::array(0, (1 << 20) + 1, &vec![0; (1 << 20) + 1])),
        "the length of metadata key `k` is 1048577, the limit is 1048576",
    ),
    (
        "longest array",
        |w| w.set("k", Kv::array(0, 1 << 20, &vec![0; 1 << 20])),
        "taken",
    ),
    (
        "array of which all is claimed and nothing there",
        |w| {
            w.tensors.clear();
            w.set("k", Kv::array(10, 1 << 20, &[]));
        },
        "the file ends inside metadata key `k`",
    ),
    (
        "arrays in an array",
        |w| w.set("k", Kv::array(ARRAY, 1, &nested(0))),
        "taken",
    ),
    (
        "arrays in arrays in an array",
        |w| w.set("k", Kv::array(ARRAY, 1, &nested(1))),
        "metadata key `k` is nested deeper than 2 arrays",
    ),
    (
        "a hundred thousand arrays deep",
        |w| w.set("k", Kv::array(ARRAY, 1, &nested(100_000))),
        "metadata key `k` is nested deeper than 2 arrays",
    ),
    (
        "bool 2",
        |w| w.set("k", Kv::Raw(BOOL, vec![2])),
        "metadata key `k` is a bool that is neither 0 nor 1",
    ),
    (
        "bool 2 in an array",
        |w| w.set("k", Kv::array(BOOL, 2, &[1, 2])),
        "metadata key `k` is a bool that is neither 0 nor 1",
    ),
    (
        "NaN",
        |w| w.set("k", Kv::F32(f32::NAN)),
        "metadata key `k` is not finite",
    ),
    (
        "infinite",
        |w| w.set("k", Kv::Raw(12, f64::INFINITY.to_le_bytes().to_vec())),
        "metadata key `k` is not finite",
    ),
    (
        "NaN in an array",
        |w| w.set("k", Kv::F32s(vec![0.0, f32::NAN])),
        "metadata key `k` is not finite",
    ),
];

#[test]
fn keys_and_values() {
    check(KEYS_AND_VALUES);
}

/// The body of an array of arrays, `depth` more arrays down.
fn nested(depth: usize) -> Vec<u8> {
    let link = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    let end = [&BOOL.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
    [link.repeat(depth), end].concat()
}

const TENSORS: &[Rule] = &[
    (
        "long name",
        |w| w.tensors[0].name = long(65),
        "the length of the name of tensor 0 is 65, the limit is 64",
    ),
    (
        "name for a log line",
        |w| w.tensors[1].name = "\x1b[2J".into(),
        "the name of tensor 1 is empty or has characters that are not printable ASCII",
    ),
    (
        "tensor twice",
        |w| w.add("output_norm.weight", &[1], F32, vec![0; 4]),
        "tensor `output_norm.weight` is there twice",
    ),
    (
        "no dimensions",
        |w| w.tensor("output_norm.weight").dims.clear(),
        "tensor `output_norm.weight` has 0 dimensions, the limits are 1 and 4",
    ),
    (
        "five dimensions",
        |w| w.tensor("output_norm.weight").dims = vec![1; 5],
        "tensor `output_norm.weight` has 5 dimensions, the limits are 1 and 4",
    ),
    (
        "four dimensions",
        |w| w.add("x", &[1, 1, 1, 1], F32, vec![0; 4]),
        "taken",
    ),
    (
        "a dimension of 0",
        |w| w.add("x", &[1, 0], F32, vec![]),
        "tensor `x` has a dimension of 0",
    ),
    (
        "a product that wraps to 0",
        |w| w.add("x", &[1 << 32, 1 << 32], F32, vec![]),
        "tensor `x` is too large with the dimensions [4294967296, 4294967296]",
    ),
    (
        "a product that wraps to something small",
        |w| w.add("x", &[(1 << 42) + 1, 1 << 22], F32, vec![0; 64]),
        "tensor `x` is too large with the dimensions [4398046511105, 4194304]",
    ),
    (
        "a size in bytes that wraps",
        |w| w.add("x", &[1 << 62], F32, vec![]),
        "tensor `x` is too large with the dimensions [4611686018427387904]",
    ),
    (
        "a size that wraps when it is padded",
        |w| w.add("x", &[(1 << 62) - 1], F32, vec![]),
        "tensor `x` is too large with the dimensions [4611686018427387903]",
    ),
    (
        "an exabyte behind four bytes",
        |w| w.add("x", &[1 << 58], F32, vec![0; 4]),
        "the file ends inside tensor `x`",
    ),
    (
        "a type that ggml has and we have not",
        |w| w.tensor("blk.0.ffn_up.weight").ty = 9,
        "tensor blk.0.ffn_up.weight uses Q8_1, which is not supported",
    ),
    (
        "Q2_0 in groups of 64, before another and at the end",
        |w| {
            w.add("x", &[1024, 2], 42, vec![0; 2 * 16 * 18]);
            w.add("y", &[1024, 2], 42, vec![0; 2 * 16 * 18]);
        },
        "taken",
    ),
    (
        "Q2_0 in groups of 128, before another tensor",
        |w| {
            w.add("x", &[1024, 2], 42, vec![0; 2 * 8 * 34]);
            w.add("y", &[8], F32, vec![0; 32]);
        },
        "tensor `x` is in Q2_0 with groups of 128 values, as PrismML's first files are; only ggml's groups of 64 are supported",
    ),
    (
        "Q2_0 in groups of 128, at the end",
        |w| w.add("x", &[1024, 2], 42, vec![0; 2 * 8 * 34]),
        "tensor `x` is in Q2_0 with groups of 128 values, as PrismML's first files are; only ggml's groups of 64 are supported",
    ),
    (
        "Q2_0 in groups of 128, at the end, with the padding behind it",
        |w| {
            w.add(
                "x",
                &[1024, 3],
                42,
                vec![0; (3 * 8 * 34_usize).next_multiple_of(32)],
            )
        },
        "tensor `x` is in Q2_0 with groups of 128 values, as PrismML's first files are; only ggml's groups of 64 are supported",
    ),
    (
        "Q2_0 cut off anywhere else",
        |w| w.add("x", &[1024, 2], 42, vec![0; 2 * 8 * 34 - 1]),
        "the file ends inside tensor `x`",
    ),
    (
        "Q2_0 without any data",
        |w| w.add("x", &[1024, 2], 42, vec![]),
        "the file ends inside tensor `x`",
    ),
    (
        "rows that have no groups of 128",
        |w| w.add("x", &[64, 32], 42, vec![0; 16 * 34]),
        "the file ends inside tensor `x`",
    ),
    (
        "a type that nobody has",
        |w| w.tensor("blk.0.ffn_up.weight").ty = 5,
        "tensor blk.0.ffn_up.weight uses type id 5, which is not supported",
    ),
    (
        "rows of no whole blocks",
        |w| w.add("x", &[16, 4], 2, vec![0; 36]),
        "tensor `x` has rows of 16 values, Q4_0 needs a multiple of 32",
    ),
    (
        "rows of no whole large blocks",
        |w| w.add("x", &[128], 12, vec![0; 144]),
        "tensor `x` has rows of 128 values, Q4_K needs a multiple of 256",
    ),
    (
        "two tensors in one place",
        |w| w.tensors[1].offset = Some(0),
        "tensor `blk.0.attn_norm.weight` starts at byte 0 of the data, expected 5152",
    ),
    (
        "a gap",
        |w| w.tensors[0].offset = Some(32),
        "tensor `token_embd.weight` starts at byte 32 of the data, expected 0",
    ),
    (
        "an offset that wraps",
        |w| w.tensors[0].offset = Some(u64::MAX - 31),
        "tensor `token_embd.weight` starts at byte 18446744073709551584 of the data, expected 0",
    ),
    (
        "the last tensor is a byte short",
        |w| w.tensor("output_norm.weight").data.truncate(127),
        "the file ends inside tensor `output_norm.weight`",
    ),
    ("no tensors", |w| w.tensors.clear(), "taken"),
];

#[test]
fn tensors() {
    check(TENSORS);
}

#[test]
fn alignment() {
    let aligned = |alignment: usize| {
        let mut w = good();
        w.alignment = alignment.clamp(1, 8192);
        w.set("general.alignment", Kv::U32(alignment as u32));
        open(&w).map_or_else(|e| e.to_string(), |_| "taken".into())
    };
    let refused = "metadata key `general.alignment` is not a power of two from 8 to 4096";
    for (alignment, want) in [
        (0, refused),
        (1, refused),
        (4, refused),
        (8, "taken"),
        (24, refused),
        (64, "taken"),
        (4096, "taken"),
        (8192, refused),
        (1 << 30, refused),
    ] {
        assert_eq!(aligned(alignment), want, "{alignment}");
    }
    check(&[(
        "alignment of another type",
        |w| w.set("general.alignment", Kv::U64(32)),
        "metadata key `general.alignment` is of type u64, expected u32",
    )]);
}

const VOCABULARY: &[Rule] = &[
    (
        "tokens of another type",
        |w| w.set("tokenizer.ggml.tokens", Kv::I32s(vec![1])),
        "metadata key `tokenizer.ggml.tokens` is of type array of i32, expected array of string",
    ),
    (
        "tokens that are no array",
        |w| w.set("tokenizer.ggml.tokens", "a"),
        "metadata key `tokenizer.ggml.tokens` is of type string, expected an array",
    ),
    (
        "long token",
        |w| w.set("tokenizer.ggml.tokens", Kv::Strs(vec![long(1025)])),
        "the length of metadata key `tokenizer.ggml.tokens` is 1025, the limit is 1024",
    ),
    (
        "fewer types than tokens",
        |w| w.set("tokenizer.ggml.token_type", Kv::I32s(vec![1; 284])),
        "metadata key `tokenizer.ggml.token_type` has 284 values for 285 tokens",
    ),
    (
        "types of another type",
        |w| w.set("tokenizer.ggml.token_type", Kv::F32s(vec![1.0; 285])),
        "metadata key `tokenizer.ggml.token_type` is of type array of f32, expected array of i32",
    ),
    (
        "unknown type of token",
        |w| {
            w.set(
                "tokenizer.ggml.token_type",
                Kv::I32s([vec![1; 284], vec![7]].concat()),
            )
        },
        "metadata key `tokenizer.ggml.token_type` has an unknown type at token 284, the limit is 6",
    ),
    (
        "more scores than tokens",
        |w| w.set("tokenizer.ggml.scores", Kv::F32s(vec![0.0; 286])),
        "metadata key `tokenizer.ggml.scores` has 286 values for 285 tokens",
    ),
    (
        "scores of another type",
        |w| w.set("tokenizer.ggml.scores", Kv::I32s(vec![0; 285])),
        "metadata key `tokenizer.ggml.scores` is of type array of i32, expected array of f32",
    ),
    (
        "scores",
        |w| w.set("tokenizer.ggml.scores", Kv::F32s(vec![0.0; 285])),
        "taken",
    ),
    (
        "merges of another type",
        |w| w.set("tokenizer.ggml.merges", Kv::I32s(vec![0])),
        "metadata key `tokenizer.ggml.merges` is of type array of i32, expected array of string",
    ),
    (
        "long merge",
        |w| {
            w.set(
                "tokenizer.ggml.merges",
                Kv::Strs(vec![format!("{} b", long(2048))]),
            )
        },
        "the length of metadata key `tokenizer.ggml.merges` is 2050, the limit is 2049",
    ),
    (
        "last id",
        |w| w.set("tokenizer.ggml.eos_token_id", Kv::U32(284)),
        "taken",
    ),
    (
        "id behind the last",
        |w| w.set("tokenizer.ggml.eos_token_id", Kv::U32(285)),
        "metadata key `tokenizer.ggml.eos_token_id` is 285, the vocabulary has 285 tokens",
    ),
    (
        "no id",
        |w| w.set("tokenizer.ggml.padding_token_id", Kv::I32(-1)),
        "metadata key `tokenizer.ggml.padding_token_id` does not fit u32",
    ),
    (
        "an id of another type",
        |w| w.set("tokenizer.ggml.eot_token_id", Kv::F32(1.0)),
        "metadata key `tokenizer.ggml.eot_token_id` is of type f32, expected an integer",
    ),
];

#[test]
fn vocabulary() {
    check(VOCABULARY);
}
