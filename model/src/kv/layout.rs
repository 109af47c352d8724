//! What lies where in a page.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// Where the keys and values of a head lie in a page: for each layer the keys of all KV heads, then their values.
///
/// One head's part is [`KvFormat::head_bytes`] long. The format of the keys may differ from layer to layer: those with
/// a large bias lose too much in few bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvLayout {
    kv_heads: usize,
    head_dim: usize,
    k: Box<[KvFormat]>,
    v: KvFormat,
    /// where each layer starts in the page
    starts: Box<[usize]>,
    page_bytes: usize,
}

/// A page cannot be laid out so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Nothing to store.
    #[error("a model without layers, KV heads or values in a head has no keys to keep")]
    Empty,
    /// Every layer has one format for its keys.
    #[error("{formats} formats for the keys of {layers} layers")]
    Formats {
        /// formats given
        formats: usize,
        /// layers there are
        layers: usize,
    },
    /// Keys are ruined by four bits.
    #[error("keys cannot be kept as q4_0, only values can")]
    Keys,
    /// The format's blocks do not divide a head.
    #[error("{} does not take heads of {head_dim} values", .format.name())]
    Head {
        /// the format that was asked for
        format: KvFormat,
        /// values per head
        head_dim: usize,
    },
    /// No machine has this many bytes.
    #[error("the bytes of a page overflow")]
    Overflow,
}

impl KvLayout {
    /// Lays a page out. `k` holds one format per layer.
    ///
    /// # Errors
    /// What [`LayoutError`] names.
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
        // the largest format's part: the others cannot overflow where it does not
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

    /// Transformer blocks.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.k.len()
    }

    /// Key/value heads per block.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Values per head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How each layer's keys are stored.
    #[must_use]
    pub fn k(&self) -> &[KvFormat] {
        &self.k
    }

    /// How values are stored.
    #[must_use]
    pub fn v(&self) -> KvFormat {
        self.v
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes of keys and values of one token across all layers.
    #[must_use]
    pub fn bytes_per_token(&self) -> usize {
        // every head's part is PAGE_TOKENS rows, so this leaves nothing over
        self.page_bytes / PAGE_TOKENS
    }

    /// Where in a page a head's keys start.
    ///
    /// # Panics
    /// If there is no such layer or head.
    #[must_use]
    pub fn k_offset(&self, layer: usize, head: usize) -> usize {
        self.check_head(head);
        self.starts[layer] + head * self.k[layer].head_bytes(self.head_dim)
    }

    /// Where in a page a head's values start.
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
