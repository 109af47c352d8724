//! Checks the tensors of a file against those that its dimensions ask for.

use super::{Dims, DimsError, HeadNorm, Scaling};
use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{GgmlType, Gguf};
use std::collections::HashSet;

/// Checks that every tensor of the network is in the file with the right shape and type, and that there is no other.
pub(super) fn check(dims: &Dims, file: &Gguf) -> Result<(), DimsError> {
    let mut known = HashSet::new();
    let mut check = |name: String, want: &[usize], plain: bool| {
        let tensor = file
            .tensor(&name)
            .ok_or_else(|| DimsError::MissingTensor(name.clone()))?;
        let want: Vec<u64> = want.iter().map(|&n| n as u64).collect();
        if tensor.dims != want {
            let got = tensor.dims.clone();
            return Err(DimsError::Shape {
                tensor: name,
                got,
                want,
            });
        }
        if plain && tensor.ty != GgmlType::F32 {
            let got = tensor.ty;
            return Err(DimsError::TensorType { tensor: name, got });
        }
        known.insert(name);
        Ok(())
    };
    let (embed, ff, vocab) = (dims.embed, dims.ff, dims.vocab);
    let (q, kv) = (dims.q_dim(), dims.kv_dim());
    check("token_embd.weight".into(), &[embed, vocab], false)?;
    check("output_norm.weight".into(), &[embed], true)?;
    if !dims.tied_head {
        check("output.weight".into(), &[embed, vocab], false)?;
    }
    if dims.requantized_head {
        check(REQUANTIZED_HEAD.into(), &[embed, vocab], false)?;
    }
    if dims.rope.scaling == Scaling::Freqs {
        check("rope_freqs.weight".into(), &[dims.rope.dims / 2], true)?;
    }
    for layer in 0..dims.layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let [attn_norm, ffn_norm] = if dims.post_norm {
            ["post_attention_norm.weight", "post_ffw_norm.weight"]
        } else {
            ["attn_norm.weight", "ffn_norm.weight"]
        };
        check(name(attn_norm), &[embed], true)?;
        check(name("attn_q.weight"), &[embed, q], false)?;
        check(name("attn_k.weight"), &[embed, kv], false)?;
        check(name("attn_v.weight"), &[embed, kv], false)?;
        if dims.qkv_bias {
            check(name("attn_q.bias"), &[q], true)?;
            check(name("attn_k.bias"), &[kv], true)?;
            check(name("attn_v.bias"), &[kv], true)?;
        }
        if dims.qk_norm != HeadNorm::Absent {
            check(name("attn_q_norm.weight"), &[dims.head_dim], true)?;
            check(name("attn_k_norm.weight"), &[dims.head_dim], true)?;
        }
        check(name("attn_output.weight"), &[q, embed], false)?;
        check(name(ffn_norm), &[embed], true)?;
        check(name("ffn_gate.weight"), &[embed, ff], false)?;
        check(name("ffn_up.weight"), &[embed, ff], false)?;
        check(name("ffn_down.weight"), &[ff, embed], false)?;
    }
    match file
        .tensors()
        .iter()
        .find(|tensor| !known.contains(&tensor.name))
    {
        Some(tensor) => Err(DimsError::UnexpectedTensor(tensor.name.clone())),
        None => check_frequencies(file),
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
