//! Reads the metadata of one architecture, key by key.

use super::{Arch, DimsError, MAX_HEAD_DIM, MAX_VOCAB, shown};
use crate::gguf::Gguf;

/// Keys `{arch}.…` whose presence means a computation that this network does not do, with the architecture in which it does.
const FOREIGN_KEYS: [(&str, Option<Arch>); 16] = [
    ("attention.scale", Some(Arch::Granite)),
    ("logit_scale", Some(Arch::Granite)),
    ("embedding_scale", Some(Arch::Granite)),
    ("residual_scale", Some(Arch::Granite)),
    ("attention.temperature_scale", Some(Arch::Mistral3)),
    ("rope.scaling.alpha", Some(Arch::HunyuanDense)),
    // what programs make of these two differs; without them the magnitude follows from the factor
    ("rope.scaling.yarn_attn_factor", None),
    ("rope.scaling.yarn_ext_factor", None),
    ("rope.freq_base_swa", None),
    ("rope.dimension_count_swa", None),
    ("attention.key_length_swa", None),
    ("attention.value_length_swa", None),
    ("attention.clamp_kqv", None),
    ("attn_logit_softcapping", None),
    ("final_logit_softcapping", None),
    ("pooling_type", None),
];

/// The metadata of a file, and the architecture whose keys are read.
pub(super) struct Keys<'a> {
    pub(super) file: &'a Gguf,
    pub(super) arch: Arch,
}

impl<'a> Keys<'a> {
    pub(super) fn new(file: &'a Gguf) -> Result<Self, DimsError> {
        let name = file.str("general.architecture")?;
        match Arch::ALL.into_iter().find(|arch| arch.name() == name) {
            Some(arch) => Ok(Self { file, arch }),
            None => Err(DimsError::Architecture(shown(name))),
        }
    }

    pub(super) fn key(&self, rest: &str) -> String {
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
    pub(super) fn optional_size(
        &self,
        rest: &str,
        limit: usize,
    ) -> Result<Option<usize>, DimsError> {
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

    /// Reads a float that must be `ok` and whose key may be missing.
    pub(super) fn optional_float(
        &self,
        rest: &str,
        ok: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, DimsError> {
        let there = self.file.has(&self.key(rest));
        there.then(|| self.float(rest, ok)).transpose()
    }

    /// Reads a bool whose key may be missing.
    pub(super) fn optional_bool(&self, rest: &str) -> Result<Option<bool>, DimsError> {
        let key = self.key(rest);
        let there = self.file.has(&key);
        Ok(there.then(|| self.file.bool(&key)).transpose()?)
    }

    pub(super) fn refuse_foreign(&self) -> Result<(), DimsError> {
        // PrismML's files of Bonsai 2, and whatever else names a Hadamard matrix
        let transformed =
            |key: &&str| key.starts_with("prism.") || key.split('.').any(|part| part == "hadamard");
        if let Some(key) = self.file.keys().find(transformed) {
            return Err(DimsError::Transformed(key.to_owned()));
        }
        if let Some((rest, _)) = FOREIGN_KEYS
            .iter()
            .find(|(rest, reader)| *reader != Some(self.arch) && self.file.has(&self.key(rest)))
        {
            return Err(DimsError::Unsupported {
                key: self.key(rest),
                value: "there".into(),
            });
        }
        let causal = "attention.causal";
        if self.optional_bool(causal)? == Some(false) {
            return Err(DimsError::Unsupported {
                key: self.key(causal),
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

    /// How many positions back attention looks, with the own one; 0 in a file means all.
    pub(super) fn window(&self) -> Result<Option<usize>, DimsError> {
        let key = self.key("attention.sliding_window");
        if !self.file.has(&key) {
            return Ok(None);
        }
        let window = self.file.u32(&key)? as usize;
        // the layers without a window do not rotate, which no key says
        if window > 0 && self.arch == Arch::Exaone4 {
            let value = window.to_string();
            return Err(DimsError::Unsupported { key, value });
        }
        Ok(Some(window).filter(|&window| window > 0))
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
