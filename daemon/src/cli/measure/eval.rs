//! `glowplug eval MODEL`: the perplexity, and the distribution at every position.

use super::score::Scores;
use crate::cli::failure::{Failure, put_json, put_line};
use crate::cli::models;
use glowplug_model::engine::{Compute, Evaluator, KvFormats};
use glowplug_model::text::Tokenizer;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// A text is cut into sequences of so many tokens, and each is evaluated on its own.
const SEQUENCE: usize = 512;

/// Most bytes of `--text` or `--tokens` that are read.
const INPUT_MAX: u64 = 256 << 20;

/// Perplexity of a model on a text or on token ids
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    #[command(flatten)]
    input: Input,
    /// most likely tokens to write for each position
    #[arg(long, default_value_t = 16, value_name = "K")]
    top: usize,
    /// write tokens, most likely tokens and losses of each sequence to this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// the processor to compute on: `cpu`, or `gpu` in a program that was built with feature `wgpu`
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = models::compute)]
    device: Compute,
    /// how the KV cache is stored, as `memory.kv_format` has it [default: q8_0]
    #[arg(long, value_name = "FORMAT", value_parser = models::kv_format)]
    kv_format: Option<KvFormats>,
    /// print the perplexity as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// text, cut into sequences of 512 tokens (each begins with the BOS token if the model wants one)
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// a JSON list of token-id lists, each fed as it is, nothing added
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

/// Evaluates every sequence, writes `--out`, prints the perplexity.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let gguf = models::open(&args.model)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let vocab = tokenizer.vocab();
    if args.top == 0 || args.top > vocab {
        return Err(Failure::Use(format!(
            "--top {}: from 1 to {vocab}, the size of the vocabulary",
            args.top
        )));
    }
    let sequences = match (&args.input.text, &args.input.tokens) {
        (Some(path), _) => from_text(&read(path)?, path, &tokenizer)?,
        (_, Some(path)) => from_ids(&read(path)?, path, vocab)?,
        (None, None) => return Err(Failure::Use("one of --text and --tokens is needed".into())),
    };
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    if longest == 0 {
        return Err(Failure::Use("there are no tokens".into()));
    }
    let trained = models::trained_context(&gguf)?;
    if longest > trained {
        return Err(Failure::Use(format!(
            "a sequence has {longest} tokens, the model's context is {trained}"
        )));
    }

    let mut evaluator = Evaluator::load(
        &gguf,
        &models::engine_config(&gguf, longest, 1, None, args.kv_format, args.device)?,
    )?;
    let top = if args.out.is_some() { args.top } else { 0 };
    let mut all = Vec::with_capacity(sequences.len());
    for tokens in sequences {
        all.push(score(&mut evaluator, tokens, top)?);
    }
    if let Some(path) = &args.out {
        let text =
            serde_json::to_vec(&all).map_err(|error| Failure::Run(format!("--out: {error}")))?;
        fs::write(path, text).map_err(|error| Failure::io("write", path, &error))?;
    }

    let scored: usize = all.iter().map(|scores| scores.nll.len()).sum();
    let loss = all.iter().flat_map(|scores| &scores.nll).sum::<f64>() / scored as f64;
    if args.json {
        put_json(
            &json!({ "perplexity": loss.exp(), "nll": loss, "tokens": scored, "sequences": all.len() }),
        )
    } else {
        put_line(&format!(
            "perplexity {:.4} over {scored} tokens in {} sequences",
            loss.exp(),
            all.len()
        ))
    }
}

fn score(evaluator: &mut Evaluator, tokens: Vec<u32>, top: usize) -> Result<Scores, Failure> {
    let mut scores = Scores::default();
    let next = |position: usize| tokens.get(position + 1).copied();
    evaluator
        .logits(&tokens, &mut |position, logits| {
            scores.push(logits, top, next(position));
        })
        .map_err(|error| Failure::Run(error.to_string()))?;
    if !scores.nll.iter().all(|nll| nll.is_finite()) {
        return Err(Failure::Run("the model's logits are not finite".into()));
    }
    scores.tokens = tokens;
    Ok(scores)
}

/// Cuts a text into sequences. All but the last have [`SEQUENCE`] tokens.
fn from_text(text: &[u8], path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, Failure> {
    let text = std::str::from_utf8(text)
        .map_err(|error| Failure::Use(format!("{}: {error}", path.display())))?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let tokens = tokenizer.encode(text, false)?;
    let step = SEQUENCE - bos.iter().len();
    Ok(tokens
        .chunks(step)
        .map(|chunk| bos.iter().chain(chunk).copied().collect())
        .collect())
}

fn from_ids(text: &[u8], path: &Path, vocab: usize) -> Result<Vec<Vec<u32>>, Failure> {
    let bad = |why: &dyn std::fmt::Display| Failure::Use(format!("{}: {why}", path.display()));
    let sequences: Vec<Vec<u32>> = serde_json::from_slice(text)
        .map_err(|error| bad(&format!("not a JSON list of token-id lists: {error}")))?;
    if sequences.iter().any(Vec::is_empty) {
        return Err(bad(&"a sequence is empty"));
    }
    match sequences.iter().flatten().find(|&&id| id as usize >= vocab) {
        Some(id) => Err(bad(&format!("token id {id}, the vocabulary has {vocab}"))),
        None => Ok(sequences),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: std::io::Error| Failure::Use(format!("cannot read {}: {error}", path.display()));
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > INPUT_MAX {
        return Err(Failure::Use(format!(
            "{}: {length} bytes, the limit is {INPUT_MAX}",
            path.display()
        )));
    }
    fs::read(path).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn token_files() {
        let path = Path::new("ids.json");
        assert_eq!(
            from_ids(b"[[1, 2], [9]]", path, 10).unwrap(),
            [vec![1, 2], vec![9]]
        );
        for (text, says) in [
            ("[[1, 10]]", "token id 10, the vocabulary has 10"),
            ("[[1], []]", "a sequence is empty"),
            ("[1]", "not a JSON list of token-id lists"),
            ("[[-1]]", "not a JSON list of token-id lists"),
            ("[[1.5]]", "not a JSON list of token-id lists"),
        ] {
            let failure = from_ids(text.as_bytes(), path, 10).unwrap_err();
            assert!(
                matches!(&failure, Failure::Use(said) if said.contains(says)),
                "{text}: {failure}"
            );
        }
    }

    #[test]
    fn input_files_are_bad_input_when_they_cannot_be_read() {
        assert!(matches!(
            read(Path::new("/nonexistent/ids.json")),
            Err(Failure::Use(_))
        ));
    }
}
