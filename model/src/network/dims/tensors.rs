//! Checks the tensors of a file against those that its dimensions ask for.

use super::{Delta, Dims, DimsError, HeadNorm, Scaling};
use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{GgmlType, Gguf};
use crate::quant::TAPS;
use std::collections::HashSet;

/// Checks that every tensor of the network is in the file with the right shape and type, and that there is no other.
pub(super) fn check(dims: &Dims, file: &Gguf) -> Result<(), DimsError> {
    let mut tensors = Tensors {
        dims,
        file,
        known: HashSet::new(),
    };
    let (embed, vocab) = (dims.embed, dims.vocab);
    tensors.matrix("token_embd.weight", [embed, vocab])?;
    tensors.plain("output_norm.weight", &[embed])?;
    if !dims.tied_head {
        tensors.matrix("output.weight", [embed, vocab])?;
    }
    if dims.requantized_head {
        tensors.matrix(REQUANTIZED_HEAD, [embed, vocab])?;
    }
    if dims.rope.scaling == Scaling::Freqs {
        tensors.plain("rope_freqs.weight", &[dims.rope.dims / 2])?;
    }
    for layer in 0..dims.layers {
        match &dims.delta {
            Some(delta) if !dims.attends(layer) => tensors.delta(layer, delta)?,
            _ => tensors.attention(layer)?,
        }
        tensors.mlp(layer)?;
    }
    for layer in dims.layers..dims.layers + dims.draft_layers {
        tensors.attention(layer)?;
        tensors.mlp(layer)?;
        tensors.draft(layer)?;
    }
    let known = tensors.known;
    match file
        .tensors()
        .iter()
        .find(|tensor| !known.contains(&tensor.name))
    {
        Some(tensor) => Err(DimsError::UnexpectedTensor(tensor.name.clone())),
        None => check_frequencies(file),
    }
}

/// The tensors of a file, and those of them that have a place in the network.
struct Tensors<'a> {
    dims: &'a Dims,
    file: &'a Gguf,
    known: HashSet<String>,
}

impl Tensors<'_> {
    fn check(&mut self, name: &str, want: &[usize], plain: bool) -> Result<(), DimsError> {
        let tensor =
            (self.file.tensor(name)).ok_or_else(|| DimsError::MissingTensor(name.to_owned()))?;
        let want: Vec<u64> = want.iter().map(|&n| n as u64).collect();
        if tensor.dims != want {
            return Err(DimsError::Shape {
                tensor: name.to_owned(),
                got: tensor.dims.clone(),
                want,
            });
        }
        if plain && tensor.ty != GgmlType::F32 {
            return Err(DimsError::TensorType {
                tensor: name.to_owned(),
                got: tensor.ty,
            });
        }
        self.known.insert(name.to_owned());
        Ok(())
    }

    /// A matrix in any type.
    fn matrix(&mut self, name: &str, want: [usize; 2]) -> Result<(), DimsError> {
        self.check(name, &want, false)
    }

    /// A tensor that can only be F32.
    fn plain(&mut self, name: &str, want: &[usize]) -> Result<(), DimsError> {
        self.check(name, want, true)
    }

    fn attention(&mut self, layer: usize) -> Result<(), DimsError> {
        let dims = self.dims;
        let (embed, q, kv) = (dims.embed, dims.q_rows(), dims.kv_dim());
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.plain(&name(dims.arch.norm_names()[0]), &[embed])?;
        self.matrix(&name("attn_q.weight"), [embed, q])?;
        self.matrix(&name("attn_k.weight"), [embed, kv])?;
        self.matrix(&name("attn_v.weight"), [embed, kv])?;
        if dims.qkv_bias {
            self.plain(&name("attn_q.bias"), &[q])?;
            self.plain(&name("attn_k.bias"), &[kv])?;
            self.plain(&name("attn_v.bias"), &[kv])?;
        }
        if dims.qk_norm != HeadNorm::Absent {
            self.plain(&name("attn_q_norm.weight"), &[dims.head_dim])?;
            self.plain(&name("attn_k_norm.weight"), &[dims.head_dim])?;
        }
        self.matrix(&name("attn_output.weight"), [dims.q_dim(), embed])
    }

    fn delta(&mut self, layer: usize, delta: &Delta) -> Result<(), DimsError> {
        let (embed, heads) = (self.dims.embed, delta.value_heads);
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.plain(&name(self.dims.arch.norm_names()[0]), &[embed])?;
        self.matrix(&name("attn_qkv.weight"), [embed, delta.channels()])?;
        self.matrix(&name("attn_gate.weight"), [embed, delta.value_dim()])?;
        self.matrix(&name("ssm_alpha.weight"), [embed, heads])?;
        self.matrix(&name("ssm_beta.weight"), [embed, heads])?;
        self.plain(&name("ssm_conv1d.weight"), &[TAPS, delta.channels()])?;
        self.plain(&name("ssm_a"), &[heads])?;
        self.plain(&name("ssm_dt.bias"), &[heads])?;
        self.plain(&name("ssm_norm.weight"), &[delta.head_dim])?;
        self.matrix(&name("ssm_out.weight"), [delta.value_dim(), embed])
    }

    fn mlp(&mut self, layer: usize) -> Result<(), DimsError> {
        let (embed, ff) = (self.dims.embed, self.dims.ff);
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.plain(&name(self.dims.arch.norm_names()[1]), &[embed])?;
        self.matrix(&name("ffn_gate.weight"), [embed, ff])?;
        self.matrix(&name("ffn_up.weight"), [embed, ff])?;
        self.matrix(&name("ffn_down.weight"), [ff, embed])
    }

    /// What a layer that drafts has besides attention and MLP. Its embedding, head and norm may be those of the network.
    fn draft(&mut self, layer: usize) -> Result<(), DimsError> {
        let (embed, vocab) = (self.dims.embed, self.dims.vocab);
        let name = |part: &str| format!("blk.{layer}.nextn.{part}.weight");
        self.matrix(&name("eh_proj"), [2 * embed, embed])?;
        self.plain(&name("enorm"), &[embed])?;
        self.plain(&name("hnorm"), &[embed])?;
        for own in ["embed_tokens", "shared_head_head"] {
            if self.file.tensor(&name(own)).is_some() {
                self.matrix(&name(own), [embed, vocab])?;
            }
        }
        if self.file.tensor(&name("shared_head_norm")).is_some() {
            self.plain(&name("shared_head_norm"), &[embed])?;
        }
        Ok(())
    }
}

/// Checks that rope can divide by every value of the table of frequencies.
fn check_frequencies(file: &Gguf) -> Result<(), DimsError> {
    let table = file
        .tensor("rope_freqs.weight")
        .map(|tensor| file.data(tensor));
    let (values, _) = table.as_deref().unwrap_or_default().as_chunks::<4>();
    let ok = |value: &[u8; 4]| {
        let value = f32::from_le_bytes(*value);
        value.is_finite() && value > 0.0
    };
    if values.iter().all(ok) {
        Ok(())
    } else {
        Err(DimsError::Frequencies("rope_freqs.weight".into()))
    }
}
