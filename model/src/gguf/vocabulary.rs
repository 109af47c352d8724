//! What the arrays of the vocabulary have to be among themselves, checked before a tokenizer is made of them.

use super::value::{Array, Value, ValueType};
use super::{Gguf, GgufError};

/// Values of `tokenizer.ggml.token_type`: undefined, normal, unknown, control, user-defined, unused, byte (`llama.h`).
const MAX_TOKEN_TYPE: i64 = 6;

/// Checks the `tokenizer.ggml.*` arrays and ids that are there. That merges are made of tokens is for the tokenizer to
/// see, which needs the map of all tokens anyway.
pub(super) fn check(file: &Gguf) -> Result<(), GgufError> {
    let Some(tokens) = array(file, "tokenizer.ggml.tokens", ValueType::Str)? else {
        return Ok(());
    };
    for (key, element) in [
        ("tokenizer.ggml.token_type", ValueType::I32),
        ("tokenizer.ggml.scores", ValueType::F32),
    ] {
        if let Some(array) = array(file, key, element)?
            && array.len() != tokens.len()
        {
            let why = format_args!("has {} values for {} tokens", array.len(), tokens.len());
            return Err(GgufError::invalid(
                format_args!("metadata key `{key}`"),
                why,
            ));
        }
    }
    let types = array(file, "tokenizer.ggml.token_type", ValueType::I32)?;
    for (i, ty) in types.iter().flat_map(Array::iter).enumerate() {
        if !matches!(ty, Value::Int(0..=MAX_TOKEN_TYPE)) {
            let what = "metadata key `tokenizer.ggml.token_type`";
            let why =
                format_args!("has an unknown type at token {i}, the limit is {MAX_TOKEN_TYPE}");
            return Err(GgufError::invalid(what, why));
        }
    }
    let merges = array(file, "tokenizer.ggml.merges", ValueType::Str)?;
    for (i, merge) in merges.iter().flat_map(Array::iter).enumerate() {
        let parts = match merge {
            Value::Str(merge) => merge.split_once(' '),
            _ => None,
        };
        if !matches!(parts, Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains(' ')) {
            let what = "metadata key `tokenizer.ggml.merges`";
            let why = format_args!("has no pair of tokens at merge {i}");
            return Err(GgufError::invalid(what, why));
        }
    }
    for (key, _) in file.metadata() {
        if key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id") {
            let id = file.u32(key)?;
            if usize::try_from(id).map_or(true, |id| id >= tokens.len()) {
                let why = format_args!("is {id}, the vocabulary has {} tokens", tokens.len());
                return Err(GgufError::invalid(
                    format_args!("metadata key `{key}`"),
                    why,
                ));
            }
        }
    }
    Ok(())
}

/// The array of a key that may be missing, but not be of another type.
fn array<'a>(
    file: &'a Gguf,
    key: &str,
    element: ValueType,
) -> Result<Option<Array<'a>>, GgufError> {
    if !file.has(key) {
        return Ok(None);
    }
    let array = file.array(key)?;
    if array.element() != element {
        let (want, got) = (
            format!("array of {element}"),
            format!("array of {}", array.element()),
        );
        return Err(GgufError::wrong_type(key, want, got));
    }
    Ok(Some(array))
}
