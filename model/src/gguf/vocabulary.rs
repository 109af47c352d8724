//! Checks that the arrays of the vocabulary fit each other, before a tokenizer is made of them.

use super::value::{Array, Value, ValueType};
use super::{Gguf, GgufError};

const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
/// The largest value of `tokenizer.ggml.token_type`: undefined, normal, unknown, control, user-defined, unused or byte
/// (`llama.h`).
const MAX_TOKEN_TYPE: i64 = 6;

/// Checks the `tokenizer.ggml.*` arrays and ids that are there. What merges are made of is left to the tokenizer, which needs the
/// map of all tokens anyway: a file is opened more often than its tokenizer is built.
pub(super) fn check(file: &Gguf) -> Result<(), GgufError> {
    let Some(tokens) = array(file, "tokenizer.ggml.tokens", ValueType::Str)? else {
        return Ok(());
    };
    let types = array(file, TYPES, ValueType::I32)?;
    let scores = array(file, SCORES, ValueType::F32)?;
    for (key, array) in [(TYPES, types), (SCORES, scores)] {
        if let Some(len) = array.map(|array| array.len())
            && len != tokens.len()
        {
            let why = format_args!("has {len} values for {} tokens", tokens.len());
            return Err(GgufError::invalid(
                format_args!("metadata key `{key}`"),
                why,
            ));
        }
    }
    for (i, ty) in types.iter().flat_map(Array::iter).enumerate() {
        if !matches!(ty, Value::Int(0..=MAX_TOKEN_TYPE)) {
            let what = format_args!("metadata key `{TYPES}`");
            let why =
                format_args!("has an unknown type at token {i}, the limit is {MAX_TOKEN_TYPE}");
            return Err(GgufError::invalid(what, why));
        }
    }
    array(file, MERGES, ValueType::Str)?;
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

/// The array of a key, which may be missing but may not have elements of another type.
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
