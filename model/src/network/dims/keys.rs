//! Reads the metadata of one architecture, key by key.

use super::{Arch, DimsError, MAX_HEAD_DIM, MAX_VOCAB, Pairing, Rope, Scaling, shown};
use crate::gguf::{Gguf, GgufError};

/// Keys `{arch}.…` whose presence means a computation that this network does not do.
const FOREIGN_KEYS: [&str; 9] = [
    "attention.scale",
    "attention.sliding_window",
    "attention.clamp_kqv",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "embedding_scale",
    "residual_scale",
    "pooling_type",
];

/// The metadata of a file, and the architecture whose keys are read.
pub(super) struct Keys<'a> {
    file: &'a Gguf,
    pub(super) arch: Arch,
}

impl<'a> Keys<'a> {
    pub(super) fn new(file: &'a Gguf) -> Result<Self, DimsError> {
        let name = file.str("general.architecture")?;
        match [Arch::Qwen2, Arch::Qwen3, Arch::Llama]
            .into_iter()
            .find(|arch| arch.name() == name)
        {
            Some(arch) => Ok(Self { file, arch }),
            None => Err(DimsError::Architecture(shown(name))),
        }
    }

    fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.arch.name())
    }

    pub(super) fn inconsistent(&self, rest: &str, why: impl Into<String>) -> DimsError {
        DimsError::Inconsistent {
            key: self.key(rest),
            why: why.into(),
        }
    }

    /// Reads a required size from 1 to `limit`.
    pub(super) fn size(&self, rest: &str, limit: usize) -> Result<usize, DimsError> {
        let key = self.key(rest);
        let got = self.file.u32(&key)? as usize;
        if (1..=limit).contains(&got) {
            Ok(got)
        } else {
            Err(DimsError::Limit { key, got, limit })
        }
    }

    /// Reads a size from 1 to `limit` whose key may be missing.
    fn optional_size(&self, rest: &str, limit: usize) -> Result<Option<usize>, DimsError> {
        let there = self.file.has(&self.key(rest));
        there.then(|| self.size(rest, limit)).transpose()
    }

    /// Reads a required float that must be `ok`.
    pub(super) fn float(&self, rest: &str, ok: impl Fn(f32) -> bool) -> Result<f32, DimsError> {
        let value = self.file.f32(&self.key(rest))?;
        if ok(value) {
            Ok(value)
        } else {
            Err(self.inconsistent(rest, format!("is {value}, which is out of range")))
        }
    }

    pub(super) fn refuse_foreign(&self) -> Result<(), DimsError> {
        if let Some(rest) = FOREIGN_KEYS
            .iter()
            .find(|rest| self.file.has(&self.key(rest)))
        {
            return Err(DimsError::Unsupported {
                key: self.key(rest),
                value: "there".into(),
            });
        }
        let causal = self.key("attention.causal");
        if self.file.has(&causal) && !self.file.bool(&causal)? {
            return Err(DimsError::Unsupported {
                key: causal,
                value: "false".into(),
            });
        }
        Ok(())
    }

    /// The size of a head: `key_length`, or else the embedding divided by the heads. Values must be as long as keys.
    pub(super) fn head_dim(&self, embed: usize, heads: usize) -> Result<usize, DimsError> {
        let head_dim = match self.optional_size("attention.key_length", MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if embed.is_multiple_of(heads) && embed / heads <= MAX_HEAD_DIM => embed / heads,
            None => {
                let why =
                    format!("is {heads}, which makes no head size up to {MAX_HEAD_DIM} of {embed}");
                return Err(self.inconsistent("attention.head_count", why));
            }
        };
        match self.optional_size("attention.value_length", MAX_HEAD_DIM)? {
            Some(other) if other != head_dim => {
                let why = format!("is {other}, keys have {head_dim}");
                Err(self.inconsistent("attention.value_length", why))
            }
            _ => Ok(head_dim),
        }
    }

    pub(super) fn rope(&self, head_dim: usize) -> Result<Rope, DimsError> {
        let dims = self
            .optional_size("rope.dimension_count", MAX_HEAD_DIM)?
            .unwrap_or(head_dim);
        if dims > head_dim || !dims.is_multiple_of(2) {
            let why = format!("is {dims}, which is odd or more than the {head_dim} of a head");
            return Err(self.inconsistent("rope.dimension_count", why));
        }
        Ok(Rope {
            base: self.float("rope.freq_base", |base| base >= 1.0)?,
            dims,
            pairing: match self.arch {
                Arch::Qwen2 | Arch::Qwen3 => Pairing::Neox,
                Arch::Llama => Pairing::Norm,
            },
            scaling: self.scaling()?,
        })
    }

    /// How rope is scaled. Like llama.cpp, this takes a factor without a type for linear; `rope.scale_linear` is the older key
    /// of the factor.
    fn scaling(&self) -> Result<Scaling, DimsError> {
        let kind = self.key("rope.scaling.type");
        let kind_name = if self.file.has(&kind) {
            Some(self.file.str(&kind)?)
        } else {
            None
        };
        let factor = ["rope.scaling.factor", "rope.scale_linear"]
            .into_iter()
            .find(|rest| self.file.has(&self.key(rest)));
        // only llama files may have the table; in any other it is a tensor without a place
        let table = self.arch == Arch::Llama && self.file.tensor("rope_freqs.weight").is_some();
        match (kind_name, factor) {
            (Some("none"), _) | (None, None) if table => Ok(Scaling::Freqs),
            (Some("none"), _) | (None, None) => Ok(Scaling::None),
            (Some("linear"), None) => Err(GgufError::Missing {
                key: self.key("rope.scaling.factor"),
            }
            .into()),
            (Some("linear") | None, Some(_)) if table => Err(DimsError::Inconsistent {
                key: kind,
                why: "is linear beside a `rope_freqs.weight`".into(),
            }),
            (Some("linear") | None, Some(rest)) => {
                Ok(Scaling::Linear(self.float(rest, |factor| factor > 0.0)?))
            }
            (Some(other), _) => Err(DimsError::Unsupported {
                key: kind,
                value: shown(other),
            }),
        }
    }

    /// The number of rows of the embedding, with which the vocabulary and `vocab_size`, where it is there, must agree.
    pub(super) fn vocab(&self) -> Result<usize, DimsError> {
        let name = "token_embd.weight";
        let tensor = self
            .file
            .tensor(name)
            .ok_or_else(|| DimsError::MissingTensor(name.into()))?;
        let rows = tensor.dims.get(1).copied().unwrap_or(1);
        let vocab = usize::try_from(rows)
            .ok()
            .filter(|&rows| rows <= MAX_VOCAB)
            .ok_or_else(|| {
                let why = format!("has {rows} rows, the limit is {MAX_VOCAB}");
                DimsError::Inconsistent {
                    key: name.into(),
                    why,
                }
            })?;
        let tokens = self.file.array("tokenizer.ggml.tokens")?.len();
        if tokens != vocab {
            let why = format!("has {tokens} tokens, the embedding {vocab} rows");
            return Err(DimsError::Inconsistent {
                key: "tokenizer.ggml.tokens".into(),
                why,
            });
        }
        match self.optional_size("vocab_size", MAX_VOCAB)? {
            Some(other) if other != vocab => Err(self.inconsistent(
                "vocab_size",
                format!("is {other}, the embedding has {vocab} rows"),
            )),
            _ => Ok(vocab),
        }
    }
}
