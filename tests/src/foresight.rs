//! A model that says a fixed row of tokens, none of them twice, and whose layer that drafts knows the next one as often as is wanted.
//!
//! What comes next depends on the last token almost alone: the row of a token in the LM head is the embedding of the token before
//! it, as in [`crate::Tiny::saying`]. The layer that drafts has an embedding of its own, in which some tokens are taken for others.

use crate::GgufWriter;
use glowplug_model::gguf::GgmlType;
use std::ops::Range;

/// The number 1 as f16.
const ONE: [u8; 2] = [0x00, 0x3c];
/// Values of a block of Q8_0.
const BLOCK: usize = 32;

/// Teaches a file of qwen35 with a layer that drafts and an LM head of its own to say the tokens of a range, whose length is a power
/// of two, one after the other. Of each token the layer knows what follows if it is `known`. What other layers add, where it is
/// F32, becomes `part` of what it was, and else nothing.
///
/// # Panics
/// If it is another file.
pub fn foresee(w: &mut GgufWriter, range: Range<usize>, known: &dyn Fn(usize) -> bool, part: f32) {
    assert!(range.len().is_power_of_two());
    for tensor in &mut w.tensors {
        let ends = ["attn_output.weight", "ssm_out.weight", "ffn_down.weight"];
        if ends.iter().any(|end| tensor.name.ends_with(end)) {
            if tensor.ty == GgmlType::F32.id() {
                for value in tensor.data.as_chunks_mut::<4>().0 {
                    *value = (part * f32::from_le_bytes(*value)).to_le_bytes();
                }
            } else {
                tensor.data.fill(0);
            }
        }
    }
    let table = w.tensor("token_embd.weight").clone();
    let (embed, row) = (
        table.dims[0] as usize,
        table.data.len() / table.dims[1] as usize,
    );
    let at = |token: usize| token * row..(token + 1) * row;
    // a generator of full period: all tokens come before one comes again
    let next = |token: usize| range.start + (5 * (token - range.start) + 1) % range.len();
    let head = w.tensor("output.weight");
    assert_eq!((head.ty, &head.dims), (table.ty, &table.dims));
    head.data.fill(0);
    let mut own = table.clone();
    for token in range.clone() {
        head.data[at(next(token))].copy_from_slice(&table.data[at(token)]);
        if !known(token) {
            let other = range.start + (token - range.start + range.len() / 2) % range.len();
            own.data[at(token)].copy_from_slice(&table.data[at(other)]);
        }
    }
    let mut join = Vec::new();
    for value in 0..embed {
        for block in 0..2 * embed / BLOCK {
            join.extend(ONE);
            join.extend((0..BLOCK).map(|i| u8::from(block * BLOCK + i == value)));
        }
    }
    let of_draft = w
        .tensors
        .iter_mut()
        .find(|t| t.name.ends_with("nextn.eh_proj.weight"));
    let Some(tensor) = of_draft else {
        panic!("no layer drafts");
    };
    (tensor.ty, tensor.data) = (GgmlType::Q8_0.id(), join);
    let name = tensor.name.replace("eh_proj", "embed_tokens");
    w.add(&name, &own.dims, own.ty, own.data);
}
