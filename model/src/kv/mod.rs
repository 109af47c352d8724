//! KV cache: one buffer of fixed capacity made at load, `Err` when full, never growth.
//!
//! # Layout
//! f16 bits, `[layer][k|v][kv_head][capacity][head_dim]`: the keys of one head are one run of memory, so that
//! attention streams them. The paged arena with shared pages takes this buffer's place behind the same calls.

use std::ops::Range;

/// What one token costs and where its parts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// transformer blocks
    pub layers: usize,
    /// key/value heads per block
    pub kv_heads: usize,
    /// values per head
    pub head_dim: usize,
}

impl KvLayout {
    /// Bytes of keys and values of one token across all layers (f16).
    #[must_use]
    pub const fn bytes_per_token(&self) -> usize {
        self.layers * self.kv_heads * self.head_dim * 2 * size_of::<u16>()
    }
}

/// The cache cannot hold what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the KV cache has {free} free tokens, {needed} are needed")]
pub struct Full {
    /// tokens asked for
    pub needed: usize,
    /// tokens free
    pub free: usize,
}

/// The buffer could not be had from the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for a KV cache of {bytes} bytes")]
pub struct NoMemory {
    /// asked for
    pub bytes: usize,
}

/// Keys and values of one sequence.
#[derive(Debug)]
pub struct KvCache {
    layout: KvLayout,
    capacity: usize,
    len: usize,
    data: Vec<u16>,
}

impl KvCache {
    /// Makes the whole buffer and touches every page of it, so that memory is missing now or never.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses or the size overflows.
    pub fn new(layout: KvLayout, capacity: usize) -> Result<Self, NoMemory> {
        let elements = layout
            .bytes_per_token()
            .checked_mul(capacity)
            .map(|bytes| bytes / size_of::<u16>())
            .ok_or(NoMemory { bytes: usize::MAX })?;
        let mut data = Vec::new();
        data.try_reserve_exact(elements).map_err(|_| NoMemory {
            bytes: elements.saturating_mul(size_of::<u16>()),
        })?;
        // `resize` writes the zeros (`vec![0; n]` would map untouched zero pages instead)
        data.resize(elements, 0);
        Ok(Self {
            layout,
            capacity,
            len: 0,
            data,
        })
    }

    /// Shape of a token's keys and values.
    #[must_use]
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Tokens it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Holds nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes room for `tokens` more and gives their positions; every layer then writes them.
    ///
    /// # Errors
    /// [`Full`], and nothing has changed.
    pub fn reserve(&mut self, tokens: usize) -> Result<Range<usize>, Full> {
        let free = self.capacity - self.len;
        if tokens > free {
            return Err(Full {
                needed: tokens,
                free,
            });
        }
        let start = self.len;
        self.len += tokens;
        Ok(start..self.len)
    }

    /// Forgets all tokens from `len` on; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Where token `position` of a head's keys (`value == false`) or values goes: `[head_dim]`.
    ///
    /// # Panics
    /// If a coordinate is outside of the layout or the position was not reserved.
    pub fn slot(&mut self, layer: usize, value: bool, head: usize, position: usize) -> &mut [u16] {
        assert!(position < self.len, "position {position} was not reserved");
        let start = self.run_start(layer, value, head) + position * self.layout.head_dim;
        &mut self.data[start..start + self.layout.head_dim]
    }

    /// Keys of one head for positions `0..len`: `[len][head_dim]`.
    #[must_use]
    pub fn keys(&self, layer: usize, head: usize) -> &[u16] {
        self.run(layer, false, head)
    }

    /// Values of one head for positions `0..len`: `[len][head_dim]`.
    #[must_use]
    pub fn values(&self, layer: usize, head: usize) -> &[u16] {
        self.run(layer, true, head)
    }

    fn run(&self, layer: usize, value: bool, head: usize) -> &[u16] {
        let start = self.run_start(layer, value, head);
        &self.data[start..start + self.len * self.layout.head_dim]
    }

    fn run_start(&self, layer: usize, value: bool, head: usize) -> usize {
        let KvLayout {
            layers,
            kv_heads,
            head_dim,
        } = self.layout;
        assert!(
            layer < layers && head < kv_heads,
            "layer {layer} or head {head} outside of the layout"
        );
        (((layer * 2 + usize::from(value)) * kv_heads) + head) * self.capacity * head_dim
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const LAYOUT: KvLayout = KvLayout {
        layers: 3,
        kv_heads: 2,
        head_dim: 4,
    };

    #[test]
    fn full_is_an_error_and_changes_nothing() {
        let mut kv = KvCache::new(LAYOUT, 5).unwrap();
        assert_eq!(kv.reserve(4).unwrap(), 0..4);
        assert_eq!(kv.reserve(2), Err(Full { needed: 2, free: 1 }));
        assert_eq!(kv.len(), 4);
        assert_eq!(kv.reserve(1).unwrap(), 4..5);
        assert_eq!(kv.reserve(1), Err(Full { needed: 1, free: 0 }));
        kv.truncate(9);
        assert_eq!(kv.len(), 5);
        kv.truncate(2);
        assert_eq!(kv.reserve(3).unwrap(), 2..5);
    }

    #[test]
    fn no_two_slots_share_a_byte() {
        let mut kv = KvCache::new(LAYOUT, 3).unwrap();
        kv.reserve(3).unwrap();
        let mut mark = 0u16;
        for layer in 0..3 {
            for value in [false, true] {
                for head in 0..2 {
                    for position in 0..3 {
                        mark += 1;
                        kv.slot(layer, value, head, position).fill(mark);
                    }
                }
            }
        }
        let mut expected = 0u16;
        for layer in 0..3 {
            for value in [false, true] {
                for head in 0..2 {
                    let run = if value {
                        kv.values(layer, head)
                    } else {
                        kv.keys(layer, head)
                    }
                    .to_vec();
                    for position in 0..3 {
                        expected += 1;
                        assert_eq!(run[position * 4..][..4], [expected; 4]);
                    }
                }
            }
        }
        assert_eq!(kv.data.len() * 2, LAYOUT.bytes_per_token() * 3);
    }

    #[test]
    fn an_impossible_size_is_refused() {
        assert!(KvCache::new(LAYOUT, usize::MAX / 2).is_err());
    }
}
