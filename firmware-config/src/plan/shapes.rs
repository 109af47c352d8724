//! Shapes of models that people use, as their files state them, for whoever tries a plan without a file.

use super::Shape;

/// The shape of SmolLM2-135M-Instruct in Q4_1.
pub const SMOL: Shape = Shape {
    file_bytes: 98_362_432,
    layers: 30,
    embed: 576,
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
    ff: 1536,
    vocab: 49_152,
    token_bytes: 369_170,
    merges: 48_900,
    f16_key_layers: 0,
    state_bytes: 0,
    delta_width: 0,
    draft_bytes: 0,
};

/// The shape of Qwen2.5-Coder-1.5B-Instruct in Q4_K_M.
pub const Q15: Shape = Shape {
    file_bytes: 1_117_320_768,
    layers: 28,
    embed: 1536,
    heads: 12,
    kv_heads: 2,
    head_dim: 128,
    ff: 8960,
    vocab: 151_936,
    token_bytes: 1_372_758,
    merges: 151_387,
    f16_key_layers: 0,
    state_bytes: 0,
    delta_width: 0,
    draft_bytes: 0,
};

/// The shape of Qwen3.5-2B in Q4_K_M: six of 24 layers attend, and the others keep a state. The bytes of its file are what its
/// weights come to.
pub const Q35: Shape = Shape {
    file_bytes: 1_280_000_000,
    layers: 6,
    embed: 2048,
    heads: 8,
    kv_heads: 2,
    head_dim: 256,
    ff: 6144,
    vocab: 248_320,
    token_bytes: 2_000_000,
    merges: 247_587,
    f16_key_layers: 0,
    state_bytes: 18 * 4 * (16 * 128 * 128 + 3 * 6144),
    delta_width: 6144 + 2048 + 2 * 16,
    draft_bytes: 18 * 7 * 4 * (6144 + 6144 + 2048 + 2 * 16),
};
