//! From the products q, k and v to heads: bias, norm, rotation, and the keys' and values' way into their pages.

use super::arithmetic::{Fma, divide, fold, keep, multiply_add, root};
use super::step_words::{ANGLES, POSITIONS, ROWS, TABLES};
use super::stored::{UNITS, head_words, store};
use crate::ops::rope::RopePairing;
use crate::ops::{AttentionSpec, HeadNorm};
use cubecl::prelude::*;
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// Running sums of a norm.
const SUMS: usize = 16;

/// What the heads of a layer are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops::cube) struct Heads {
    /// How many query heads there are.
    pub(in crate::ops::cube) heads: usize,
    /// How many key/value heads there are.
    pub(in crate::ops::cube) kv_heads: usize,
    /// Values of a head.
    pub(in crate::ops::cube) size: usize,
    /// Pairs of values that are rotated.
    pub(in crate::ops::cube) pairs: usize,
    /// Whether q and k heads are normed before they are rotated.
    pub(in crate::ops::cube) normed: bool,
    /// Whether a pair is a value and the one half the rotated values further, not its neighbour.
    pub(in crate::ops::cube) apart: bool,
    /// The format of the layer's keys.
    pub(in crate::ops::cube) keys: KvFormat,
    /// The format of the values.
    pub(in crate::ops::cube) values: KvFormat,
    /// How the device rounds a product and a sum together.
    pub(in crate::ops::cube) exact: Fma,
    /// How the host's level does.
    pub(in crate::ops::cube) host: Fma,
}

impl Heads {
    pub(in crate::ops::cube) fn new(
        spec: &AttentionSpec,
        pairs: usize,
        (keys, values): (KvFormat, KvFormat),
        (exact, host): (Fma, Fma),
    ) -> Self {
        Self {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            size: spec.head_dim,
            pairs,
            normed: spec.qk_norm == HeadNorm::BeforeRotation,
            apart: spec.pairing == RopePairing::Neox,
            keys,
            values,
            exact,
            host,
        }
    }

    /// Words of a layer's keys in a page; its values are behind them.
    pub(in crate::ops::cube) const fn key_words(&self) -> usize {
        self.kv_heads * head_words(self.keys, self.size)
    }

    /// Words of a layer in a page.
    pub(in crate::ops::cube) const fn page_words(&self) -> usize {
        self.key_words() + self.kv_heads * head_words(self.values, self.size)
    }

    /// Whether the scales of two rows may share a word, so that one cube must store all rows.
    pub(in crate::ops::cube) fn rows_share_words(&self) -> bool {
        let shares = |format| format != KvFormat::F16 && (self.size / KvFormat::BLOCK) % 2 == 1;
        shares(self.keys) || shares(self.values)
    }
}

/// Makes heads of `qkv`, which is `[rows][q, k, v]`: q goes to `q_out`, `[rows][heads * size]`, keys and values go to their
/// pages, of which `arena` has this layer's part. A cube of [`UNITS`] has a head of a row, or a head of all rows where rows share words.
#[cube(launch)]
pub(in crate::ops::cube) fn finish(
    qkv: &[f32],
    bias: &[f32],
    q_norm: &[f32],
    k_norm: &[f32],
    step: &[u32],
    q_out: &mut [f32],
    arena: &mut [u32],
    eps: f32,
    #[comptime] h: Heads,
) {
    let unit = UNIT_POS_X as usize;
    let units = comptime!(UNITS as usize);
    let number = CUBE_POS_X as usize;
    let size = comptime!(h.size);
    let width = comptime!((h.heads + 2 * h.kv_heads) * h.size);
    let is_query = number < comptime!(h.heads);
    let is_value = number >= comptime!(h.heads + h.kv_heads);
    let normed_here = comptime!(h.normed).runtime() && !is_value;
    let mut head = Shared::<[f32]>::new_slice(comptime!(h.size));
    let mut sums = Shared::<[f32]>::new_slice(SUMS);
    let mut row = CUBE_POS_Y as usize;
    let rows = step[comptime!(ROWS)] as usize;
    while row < rows {
        sync_cube();
        let mut i = unit;
        while i < size {
            head[i] = qkv[row * width + number * size + i] + bias[number * size + i];
            i += units;
        }
        sync_cube();
        if normed_here {
            if unit < SUMS {
                let mut sum = 0.0f32;
                let mut i = unit;
                while i < size {
                    sum = multiply_add(head[i], head[i], sum, comptime!(h.host));
                    i += SUMS;
                }
                sums[unit] = sum;
            }
            sync_cube();
            let mean = divide(fold(&sums), comptime!(h.size as f32), comptime!(h.exact));
            let rms = root(mean + eps, comptime!(h.exact));
            let inverse = divide(1.0f32, rms, comptime!(h.exact));
            let mut i = unit;
            while i < size {
                let weight = select(is_query, q_norm[i], k_norm[i]);
                head[i] = head[i] * inverse * weight;
                i += units;
            }
            sync_cube();
        }
        if !is_value {
            let angles = comptime!(ANGLES) + row * comptime!(2 * h.pairs);
            let mut pair = unit;
            while pair < comptime!(h.pairs) {
                let cos = f32::from_bits(step[angles + pair]);
                let sin = f32::from_bits(step[angles + comptime!(h.pairs) + pair]);
                let mut low = 2usize * pair;
                let mut high = low + 1usize;
                if comptime!(h.apart) {
                    low = pair;
                    high = pair + comptime!(h.pairs);
                }
                let (a, b) = (head[low], head[high]);
                head[low] = keep(a * cos) - keep(b * sin);
                head[high] = keep(b * cos) + keep(a * sin);
                pair += units;
            }
            sync_cube();
        }
        if is_query {
            let mut i = unit;
            while i < size {
                q_out[row * comptime!(h.heads * h.size) + number * size + i] = head[i];
                i += units;
            }
        } else {
            let position = step[comptime!(POSITIONS) + row] as usize;
            let table = step[comptime!(TABLES) + row] as usize;
            let page = step[table + position / comptime!(PAGE_TOKENS)] as usize
                * comptime!(h.page_words());
            let slot = position % comptime!(PAGE_TOKENS);
            if is_value {
                let own = number - comptime!(h.heads + h.kv_heads);
                let values = page + comptime!(h.key_words());
                let at = values + own * comptime!(head_words(h.values, h.size));
                store(
                    &mut head,
                    arena,
                    at,
                    slot,
                    size,
                    comptime!(h.values),
                    comptime!(h.exact),
                );
            } else {
                let own = number - comptime!(h.heads);
                let at = page + own * comptime!(head_words(h.keys, h.size));
                store(
                    &mut head,
                    arena,
                    at,
                    slot,
                    size,
                    comptime!(h.keys),
                    comptime!(h.exact),
                );
            }
        }
        row += CUBE_COUNT_Y as usize;
    }
}
