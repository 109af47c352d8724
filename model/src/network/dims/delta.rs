//! The layers that keep a state of constant size instead of keys and values: gated delta nets (Yang et al., 2024,
//! <https://arxiv.org/abs/2412.06464>).

use super::keys::Keys;
use super::{Arch, DimsError, MAX_HEADS, MAX_LAYERS};
use crate::gguf::{Value, ValueType};
use crate::kv::StateLayout;
use crate::quant::{STATE_COLUMNS, TAPS};

/// Most values of a key, and of a value, of a delta net.
pub const MAX_STATE_DIM: usize = 256;

/// Which layers are delta nets, and their sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// Of each layer whether it attends; the others are delta nets.
    pub attends: Box<[bool]>,
    /// The number of heads of queries and keys.
    pub key_heads: usize,
    /// The number of heads of values, a multiple of `key_heads`. Value head `i` is looked up with key head `i % key_heads`.
    pub value_heads: usize,
    /// How many values a query, a key or a value has: a multiple of [`STATE_COLUMNS`], at most [`MAX_STATE_DIM`].
    pub head_dim: usize,
}

impl Delta {
    /// How many values the queries and keys of a position have: `key_heads * head_dim` each.
    #[must_use]
    pub fn key_dim(&self) -> usize {
        self.key_heads * self.head_dim
    }

    /// How many values the values of a position have: `value_heads * head_dim`.
    #[must_use]
    pub fn value_dim(&self) -> usize {
        self.value_heads * self.head_dim
    }

    /// How many values go through the convolution: queries, keys and values.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.key_dim() + self.value_dim()
    }

    /// How many values of a position go into the matrices: queries, keys and values, gates, and two numbers for each value head.
    #[must_use]
    pub fn width(&self) -> usize {
        self.channels() + self.value_dim() + 2 * self.value_heads
    }

    /// What a sequence keeps of all these layers, and `hidden` values of its last token.
    #[must_use]
    pub fn state(&self, hidden: usize) -> StateLayout {
        StateLayout {
            layers: self.attends.iter().filter(|attends| !**attends).count(),
            conv: (TAPS - 1) * self.channels(),
            delta: self.value_dim() * self.head_dim,
            width: self.width(),
            hidden,
        }
    }
}

impl Keys<'_> {
    /// How many of the layers that `block_count` counts only draft tokens (multi-token prediction) and are behind the others.
    pub(super) fn draft_layers(&self) -> Result<usize, DimsError> {
        let key = self.key("nextn_predict_layers");
        if self.arch != Arch::Qwen35 || !self.file.has(&key) {
            return Ok(0);
        }
        match self.file.u32(&key)? {
            more @ 2.. => Err(DimsError::Unsupported {
                key,
                value: more.to_string(),
            }),
            layers => Ok(layers as usize),
        }
    }

    /// The delta nets of an architecture that has them.
    pub(super) fn delta(
        &self,
        layers: usize,
        draft_layers: usize,
    ) -> Result<Option<Delta>, DimsError> {
        if self.arch != Arch::Qwen35 {
            return Ok(None);
        }
        let key_heads = self.size("ssm.group_count", MAX_HEADS)?;
        let value_heads = self.size("ssm.time_step_rank", MAX_HEADS)?;
        let head_dim = self.size("ssm.state_size", MAX_STATE_DIM)?;
        if !value_heads.is_multiple_of(key_heads) {
            let why =
                format!("is {value_heads}, which is no multiple of the {key_heads} key heads");
            return Err(self.inconsistent("ssm.time_step_rank", why));
        }
        if !head_dim.is_multiple_of(STATE_COLUMNS) {
            let why = format!("is {head_dim}, which is no multiple of {STATE_COLUMNS}");
            return Err(self.inconsistent("ssm.state_size", why));
        }
        let values = value_heads * head_dim;
        let inner = self.size("ssm.inner_size", MAX_HEADS * MAX_STATE_DIM)?;
        if inner != values {
            let why = format!("is {inner}, heads and their size make {values}");
            return Err(self.inconsistent("ssm.inner_size", why));
        }
        let kernel = self.size("ssm.conv_kernel", u32::MAX as usize)?;
        if kernel != TAPS {
            return Err(DimsError::Unsupported {
                key: self.key("ssm.conv_kernel"),
                value: kernel.to_string(),
            });
        }
        Ok(Some(Delta {
            attends: self.attends(layers, draft_layers)?,
            key_heads,
            value_heads,
            head_dim,
        }))
    }

    /// Which layers attend, by a flag for each layer or else by how often one does.
    fn attends(&self, layers: usize, draft_layers: usize) -> Result<Box<[bool]>, DimsError> {
        let flags = "attention.recurrent_layers";
        let (named, attends): (_, Box<[bool]>) = if self.file.has(&self.key(flags)) {
            let array = self.file.array(&self.key(flags))?;
            let all = layers + draft_layers;
            if array.element() != ValueType::Bool || array.len() != all {
                let why = format!(
                    "has {} x {}, not {all} x bool",
                    array.len(),
                    array.element()
                );
                return Err(self.inconsistent(flags, why));
            }
            let attends = array.iter().map(|value| value == Value::Bool(false));
            let mut attends: Vec<bool> = attends.collect();
            if attends.drain(layers..).any(|attends| !attends) {
                return Err(self.inconsistent(flags, "has a recurrent layer that drafts"));
            }
            (flags, attends.into())
        } else {
            let every = "full_attention_interval";
            let interval = self.size(every, MAX_LAYERS)?;
            let attends = (1..=layers).map(|layer| layer.is_multiple_of(interval));
            (every, attends.collect())
        };
        if attends.contains(&true) {
            Ok(attends)
        } else {
            Err(self.inconsistent(named, "leaves no layer that attends"))
        }
    }
}
