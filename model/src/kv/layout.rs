//! What lies where in a page of keys and values.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// Where the keys and values of each head lie in a page: for each layer the keys of all KV heads, then their values.
///
/// One head's part is [`KvFormat::head_bytes`] long. The format of the keys may differ from layer to layer, because keys
/// with a large bias lose too much in few bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    kv_heads: usize,
    head_dim: usize,
    k: Box<[KvFormat]>,
    v: KvFormat,
    /// The byte of the page at which each layer starts.
    starts: Box<[usize]>,
    page_bytes: usize,
}

/// Why a page cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The model has no keys and values to store.
    #[error("a model without layers, KV heads or values in a head has no keys to keep")]
    Empty,
    /// There is not exactly one format of keys for each layer.
    #[error("{formats} formats for the keys of {layers} layers")]
    Formats {
        /// How many formats were given.
        formats: usize,
        /// How many layers there are.
        layers: usize,
    },
    /// Keys were to be stored in four bits, which ruins them.
    #[error("keys cannot be kept as q4_0, only values can")]
    Keys,
    /// A head is not a whole number of the format's blocks.
    #[error("{} does not take heads of {head_dim} values", .format.name())]
    Head {
        /// The format that was asked for.
        format: KvFormat,
        /// How many values a head has.
        head_dim: usize,
    },
    /// A page would have more bytes than any machine.
    #[error("the bytes of a page overflow")]
    Overflow,
}

impl KvLayout {
    /// Lays out a page. `k` has one format of keys for each layer.
    ///
    /// # Errors
    /// One of [`LayoutError`] if there is no such layout.
    pub fn new(
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        k: Box<[KvFormat]>,
        v: KvFormat,
    ) -> Result<Self, LayoutError> {
        if layers == 0 || kv_heads == 0 || head_dim == 0 {
            return Err(LayoutError::Empty);
        }
        if k.len() != layers {
            return Err(LayoutError::Formats {
                formats: k.len(),
                layers,
            });
        }
        if k.contains(&KvFormat::Q4_0) {
            return Err(LayoutError::Keys);
        }
        if let Some(&format) = k.iter().chain([&v]).find(|f| !f.takes(head_dim)) {
            return Err(LayoutError::Head { format, head_dim });
        }
        // the part of the largest format: where it does not overflow, none of the others does
        head_dim
            .checked_mul(2 * PAGE_TOKENS)
            .ok_or(LayoutError::Overflow)?;
        let mut starts = Vec::with_capacity(layers);
        let mut page_bytes = 0usize;
        for format in &k {
            starts.push(page_bytes);
            page_bytes = format
                .head_bytes(head_dim)
                .checked_add(v.head_bytes(head_dim))
                .and_then(|head| head.checked_mul(kv_heads))
                .and_then(|layer| layer.checked_add(page_bytes))
                .ok_or(LayoutError::Overflow)?;
        }
        Ok(Self {
            kv_heads,
            head_dim,
            k,
            v,
            starts: starts.into(),
            page_bytes,
        })
    }

    /// How many layers there are.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.k.len()
    }

    /// How many KV heads a layer has.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// How many values a head has.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The format of each layer's keys.
    #[must_use]
    pub fn k(&self) -> &[KvFormat] {
        &self.k
    }

    /// The format of the values of all layers.
    #[must_use]
    pub fn v(&self) -> KvFormat {
        self.v
    }

    /// How many bytes a page has.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// How many bytes the keys and values of one token have across all layers.
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        // every head's part is PAGE_TOKENS rows, so this leaves nothing over
        self.page_bytes / PAGE_TOKENS
    }

    /// The byte of a page at which a head's keys start.
    ///
    /// # Panics
    /// If there is no such layer or head.
    #[must_use]
    pub fn k_offset(&self, layer: usize, head: usize) -> usize {
        self.check_head(head);
        self.starts[layer] + head * self.k[layer].head_bytes(self.head_dim)
    }

    /// The byte of a page at which a head's values start.
    ///
    /// # Panics
    /// If there is no such layer or head.
    #[must_use]
    pub fn v_offset(&self, layer: usize, head: usize) -> usize {
        self.check_head(head);
        let keys = self.kv_heads * self.k[layer].head_bytes(self.head_dim);
        self.starts[layer] + keys + head * self.v.head_bytes(self.head_dim)
    }

    fn check_head(&self, head: usize) {
        assert!(
            head < self.kv_heads,
            "KV head {head} of {} in a layer",
            self.kv_heads
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use KvFormat::{F16, Q4_0, Q8_0};

    #[test]
    fn the_parts_of_a_page_fill_it_without_a_gap() {
        let k: Box<[_]> = [F16, Q8_0, Q8_0].into();
        let layout = KvLayout::new(3, 2, 64, k.clone(), Q4_0).unwrap();
        let mut at = 0;
        for (layer, k) in k.iter().enumerate() {
            for head in 0..2 {
                assert_eq!(layout.k_offset(layer, head), at);
                at += k.head_bytes(64);
            }
            for head in 0..2 {
                assert_eq!(layout.v_offset(layer, head), at);
                assert!(at.is_multiple_of(64));
                at += Q4_0.head_bytes(64);
            }
        }
        assert_eq!(layout.page_bytes(), at);
        assert_eq!(layout.bytes_per_token() * PAGE_TOKENS, at);
    }

    #[test]
    fn a_token_of_the_1_5b_costs_what_the_plan_says() {
        let layout = KvLayout::new(28, 2, 128, [Q8_0; 28].into(), Q8_0).unwrap();
        assert_eq!(layout.bytes_per_token(), 15_232);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let new = |layers, heads, dim, k: &[KvFormat], v| {
            KvLayout::new(layers, heads, dim, k.into(), v).unwrap_err()
        };
        assert_eq!(new(0, 1, 32, &[], F16), LayoutError::Empty);
        assert_eq!(new(1, 0, 32, &[F16], F16), LayoutError::Empty);
        assert_eq!(new(1, 1, 0, &[F16], F16), LayoutError::Empty);
        assert_eq!(
            new(2, 1, 32, &[F16], F16),
            LayoutError::Formats {
                formats: 1,
                layers: 2
            }
        );
        assert_eq!(new(2, 1, 32, &[F16, Q4_0], F16), LayoutError::Keys);
        for (k, v) in [(Q8_0, F16), (F16, Q8_0)] {
            let error = new(1, 1, 80, &[k], v);
            assert_eq!(
                error.to_string(),
                "q8_0 does not take heads of 80 values",
                "{k:?} {v:?}"
            );
        }
        let huge = usize::MAX / 64 + 1;
        assert_eq!(new(1, 1, huge, &[F16], F16), LayoutError::Overflow);
        assert_eq!(new(1, huge, 32, &[F16], F16), LayoutError::Overflow);
        let half = usize::MAX / (4 * 32 * 32) - 1;
        assert_eq!(new(2, half, 32, &[F16, F16], F16), LayoutError::Overflow);
    }
}
